"""What travels between replicas that run PySyncObj: a closed set of plain messages in MessagePack, and nothing else.

PySyncObj's own transport unpickles what it reads from the network. Here every message that its core may send has a struct of its own, and
what does not fit one of them, field by field, is refused: unknown kinds, extra fields, entries that carry a pickled command, indexes with
gaps.

Every message travels in an envelope that names the cluster, the sender, its term and the connection, because the core's acknowledgements
carry no term of their own.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec

__all__ = [
    "COMMAND_NOOP",
    "COMMAND_REGULAR",
    "Append",
    "BarrierReply",
    "BarrierRequest",
    "Body",
    "Envelope",
    "Next",
    "SnapshotPart",
    "TimeoutNow",
    "VoteGranted",
    "VoteRequest",
    "WireError",
    "decode",
    "encode",
    "from_package",
    "to_package",
]

COMMAND_REGULAR = 0
"""First byte of an entry that carries a payload (the package's `_COMMAND_TYPE.REGULAR`)."""
COMMAND_NOOP = 1
"""First byte of an entry that carries none. The package's other kinds (membership, code version) are pickled and are refused."""

Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 62))]
Command: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=1)]
Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class WireError(ValueError):
    """Bytes or values that are no message of this protocol. The connection they came from is closed."""


class VoteRequest(msgspec.Struct, frozen=True, array_like=True, tag=1, forbid_unknown_fields=True):
    """The package's `request_vote`."""

    term: Number
    last_log_index: Number
    last_log_term: Number


class VoteGranted(msgspec.Struct, frozen=True, array_like=True, tag=2, forbid_unknown_fields=True):
    """The package's `response_vote`; a refusal is silence."""

    term: Number


class Append(msgspec.Struct, frozen=True, array_like=True, tag=3, forbid_unknown_fields=True):
    """The package's `append_entries` with entries (command, index, term). `prev_*` are None when the leader's log ends before them."""

    term: Number
    commit_index: Number
    prev_index: Number | None
    prev_term: Number | None
    entries: list[tuple[Command, Number, Number]]


class SnapshotPart(msgspec.Struct, frozen=True, array_like=True, tag=4, forbid_unknown_fields=True):
    """The package's `append_entries` with a piece of a snapshot: (bytes, is first, is last), or None while there is none to send."""

    term: Number
    commit_index: Number
    part: tuple[bytes, bool, bool] | None


class Next(msgspec.Struct, frozen=True, array_like=True, tag=5, forbid_unknown_fields=True):
    """The package's `next_node_idx`: the answer to an append."""

    next_index: Number
    reset: bool
    success: bool


class TimeoutNow(msgspec.Struct, frozen=True, array_like=True, tag=6, forbid_unknown_fields=True):
    """The package's `timeout_now`: the receiver starts an election at once."""

    term: Number


class BarrierRequest(msgspec.Struct, frozen=True, array_like=True, tag=7, forbid_unknown_fields=True):
    """Ours: a follower asks its leader to commit an empty entry, for a read barrier."""

    context: Number


class BarrierReply(msgspec.Struct, frozen=True, array_like=True, tag=8, forbid_unknown_fields=True):
    """Ours: the index of that entry, once it is committed. 0 means refused: ask again."""

    context: Number
    index: Number


Body: TypeAlias = VoteRequest | VoteGranted | Append | SnapshotPart | Next | TimeoutNow | BarrierRequest | BarrierReply


class Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One message and where it comes from. `term` is the sender's as it sent; `epoch` numbers the sender's connections."""

    cluster_id: Name
    sender: Name
    epoch: Number
    term: Number
    body: Body


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


def encode(envelope: Envelope) -> bytes:
    """The envelope as bytes."""
    return _encoder.encode(envelope)


def decode(raw: bytes | bytearray | memoryview) -> Envelope:
    """The inverse of `encode`. Raises WireError for anything else."""
    try:
        envelope = _decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a message of this protocol: {error}") from error
    if isinstance(envelope.body, Append):
        _check_entries(envelope.body)
    return envelope


def _check_entries(body: Append) -> None:
    if not body.entries:
        return
    if body.prev_index is None or body.prev_term is None:
        raise WireError("entries that follow nothing")
    index, term = body.prev_index, body.prev_term
    for command, at, entry_term in body.entries:
        index += 1
        if at != index:
            raise WireError(f"entry {at} where {index} is due")
        if not term <= entry_term <= body.term:
            raise WireError(f"entry {at} has term {entry_term}, after term {term} and in an append of term {body.term}")
        if command[0] > COMMAND_NOOP:
            raise WireError(f"entry {at} is of kind {command[0]}, which this program does not run")
        term = entry_term


def from_package(message: dict[str, Any]) -> Body:
    """The struct of a message that PySyncObj's core wants to send. Raises WireError for kinds that never travel here."""
    kind = message["type"]
    if kind == "append_entries" and "transmission" not in message:
        if "prevLogIdx" in message:
            return Append(message["term"], message["commit_index"], message["prevLogIdx"], message["prevLogTerm"], message["entries"])
        return SnapshotPart(message["term"], message["commit_index"], message["serialized"])
    if kind == "next_node_idx":
        return Next(message["next_node_idx"], message["reset"], message["success"])
    if kind == "request_vote":
        return VoteRequest(message["term"], message["last_log_index"], message["last_log_term"])
    if kind == "response_vote":
        return VoteGranted(message["term"])
    if kind == "timeout_now":
        return TimeoutNow(message["term"])
    raise WireError(f"PySyncObj wants to send {kind!r}, which never travels here")


def to_package(body: Body) -> dict[str, Any]:
    """The message as PySyncObj's core reads it. Not for the two kinds that are ours."""
    match body:
        case Append():
            return {
                "type": "append_entries",
                "term": body.term,
                "commit_index": body.commit_index,
                "entries": body.entries,
                "prevLogIdx": body.prev_index,
                "prevLogTerm": body.prev_term,
            }
        case SnapshotPart():
            return {"type": "append_entries", "term": body.term, "commit_index": body.commit_index, "serialized": body.part}
        case Next():
            return {"type": "next_node_idx", "next_node_idx": body.next_index, "reset": body.reset, "success": body.success}
        case VoteRequest():
            return {
                "type": "request_vote",
                "term": body.term,
                "last_log_index": body.last_log_index,
                "last_log_term": body.last_log_term,
            }
        case VoteGranted():
            return {"type": "response_vote", "term": body.term}
        case TimeoutNow():
            return {"type": "timeout_now", "term": body.term}
        case _:
            raise WireError(f"{type(body).__name__} is not a message of PySyncObj")
