"""What replicas say to each other, as bytes: frames of messages, the head of a snapshot stream, and the request to join.

Every gRPC message of a peer connection is one frame: a preamble (magic, version, epoch of the connection, cluster id, sender, receiver,
address of the sender) that is the same bytes for as long as the connection lives, then any number of messages, each with its type and
length. A late frame of an older connection carries an older epoch and is dropped by the receiver. Integers are little-endian. Nothing but
these layouts is accepted, and what is decoded takes a bounded multiple of the bytes that came.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from lockd.raft.core.membership import decode_membership, encode_membership
from lockd.raft.core.types import (
    AppendReply,
    AppendRequest,
    InstallSnapshot,
    Member,
    Membership,
    Message,
    ReadIndexReply,
    ReadIndexRequest,
    ReplicaId,
    SnapshotMeta,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from lockd.raft.envelope_entries import decode_entries, encode_entries

__all__ = [
    "MAX_ENTRY",
    "MAX_FRAME",
    "JoinReply",
    "JoinRequest",
    "Preamble",
    "decode_join_reply",
    "decode_join_request",
    "decode_messages",
    "decode_preamble",
    "encode_join_reply",
    "encode_join_request",
    "encode_message",
    "encode_preamble",
]

MAX_FRAME = (8 << 20) + (64 << 10)
"""The largest frame that is accepted, in bytes."""
MAX_ENTRY = 7 << 20
"""The largest entry that surely fits in one, in bytes."""

MAGIC = b"lkr"
VERSION = 1
_MAX_TEXT = 1024

_PREAMBLE = struct.Struct("<3sBQ")
_LENGTH = struct.Struct("<H")
_MESSAGE = struct.Struct("<BI")
_VOTE_REQUEST = struct.Struct("<QQQB")
_VOTE_REPLY = struct.Struct("<QB")
_APPEND_REQUEST = struct.Struct("<QQQQQ")
_APPEND_REPLY = struct.Struct("<QQQQQB")
_INSTALL = struct.Struct("<QQQ")
_READ_REQUEST = struct.Struct("<QQ")
_READ_REPLY = struct.Struct("<QQQ")
_TIMEOUT_NOW = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Preamble:
    """What a connection says of itself in every frame."""

    epoch: int
    """Rises with every connection that a process opens to the same peer."""
    cluster_id: str
    sender: ReplicaId
    to: ReplicaId
    address: str
    """Where the sender listens to peers: a replica that has just joined does not know yet."""


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """A replica asks to become a learner, or, when `promote`, to be made a voter now that it has caught up."""

    cluster_id: str
    member: Member
    promote: bool


@dataclass(frozen=True, slots=True)
class JoinReply:
    """`membership` if it was done (or was so already); else why not, and where the leader listens, if known."""

    membership: Membership | None
    reason: str = ""
    leader: ReplicaId | None = None
    leader_address: str = ""


def _text(value: str) -> bytes:
    raw = value.encode()
    if len(raw) > _MAX_TEXT:
        raise ValueError("an id or address is too long")
    return _LENGTH.pack(len(raw)) + raw


def _read_text(raw: bytes, at: int) -> tuple[str, int]:
    if len(raw) - at < _LENGTH.size:
        raise ValueError("cut short")
    (length,) = _LENGTH.unpack_from(raw, at)
    at += _LENGTH.size
    if length > _MAX_TEXT or len(raw) - at < length:
        raise ValueError("a text that is too long or cut short")
    return raw[at : at + length].decode(), at + length


def encode_preamble(preamble: Preamble) -> bytes:
    """The first bytes of every frame of one connection. Raises ValueError if an id is too long."""
    texts = (preamble.cluster_id, preamble.sender, preamble.to, preamble.address)
    return _PREAMBLE.pack(MAGIC, VERSION, preamble.epoch) + b"".join([_text(text) for text in texts])


def decode_preamble(raw: bytes) -> tuple[Preamble, int]:
    """The preamble and where it ends. Raises ValueError."""
    if len(raw) < _PREAMBLE.size:
        raise ValueError("a frame that is cut short")
    magic, version, epoch = _PREAMBLE.unpack_from(raw)
    if magic != MAGIC or version != VERSION:
        raise ValueError(f"a frame of unknown format {magic!r}, version {version}")
    at = _PREAMBLE.size
    cluster_id, at = _read_text(raw, at)
    sender, at = _read_text(raw, at)
    to, at = _read_text(raw, at)
    address, at = _read_text(raw, at)
    return Preamble(epoch, cluster_id, ReplicaId(sender), ReplicaId(to), address), at


# --- messages ----------------------------------------------------------------------------------------------------------------------------


def encode_message(message: Message, out: list[bytes]) -> int:
    """Append the pieces of one message to `out`; returns how many bytes they are. Bulk data is not copied."""
    if isinstance(message, AppendRequest):
        m = message
        slot = len(out)
        fixed = _APPEND_REQUEST.pack(m.term, m.prev_index, m.prev_term, m.commit, m.round)
        out += (b"", fixed)
        size = len(fixed) + (encode_entries(m.entries, out) if m.entries else 0)
        out[slot] = _MESSAGE.pack(_APPEND_REQUEST_TYPE, size)
        return size + _MESSAGE.size
    kind, body = _encode_small(message)
    out += (_MESSAGE.pack(kind, len(body)), body)
    return len(body) + _MESSAGE.size


def _encode_small(m: Message) -> tuple[int, bytes]:
    if isinstance(m, AppendReply):
        return 4, _APPEND_REPLY.pack(m.term, m.match, m.hint_index, m.hint_term, m.round, m.accepted)
    if isinstance(m, VoteRequest):
        return 1, _VOTE_REQUEST.pack(m.term, m.last_index, m.last_term, m.pre | m.transfer << 1)
    if isinstance(m, VoteReply):
        return 2, _VOTE_REPLY.pack(m.term, m.granted | m.pre << 1)
    if isinstance(m, InstallSnapshot):
        return 5, _INSTALL.pack(m.term, m.meta.index, m.meta.term) + encode_membership(m.meta.membership)
    if isinstance(m, ReadIndexRequest):
        return 6, _READ_REQUEST.pack(m.term, m.context)
    if isinstance(m, ReadIndexReply):
        return 7, _READ_REPLY.pack(m.term, m.context, m.index)
    if isinstance(m, TimeoutNow):
        return 8, _TIMEOUT_NOW.pack(m.term)
    raise TypeError(f"not a message: {m!r}")


def decode_messages(raw: bytes, at: int, sender: ReplicaId, to: ReplicaId) -> list[Message]:
    """The messages of a frame whose preamble ends at `at`. Raises ValueError on anything malformed."""
    messages: list[Message] = []
    total = len(raw)
    while at < total:
        if total - at < _MESSAGE.size:
            raise ValueError("a message that is cut short")
        kind, length = _MESSAGE.unpack_from(raw, at)
        at += _MESSAGE.size
        end = at + length
        if end > total:
            raise ValueError("a message that is cut short")
        decode = _DECODERS.get(kind)
        if decode is None:
            raise ValueError(f"a message of unknown type {kind}")
        messages.append(decode(raw, at, end, sender, to))
        at = end
    return messages


def _fixed(layout: struct.Struct, raw: bytes, at: int, end: int) -> tuple[int, ...]:
    if end - at != layout.size:
        raise ValueError("a message of a wrong length")
    return layout.unpack_from(raw, at)


def _flag(value: int) -> bool:
    if value > 1:
        raise ValueError("an unknown flag")
    return value == 1


def _flags(value: int) -> tuple[bool, bool]:
    if value > 3:
        raise ValueError("an unknown flag")
    return bool(value & 1), bool(value & 2)


def _vote_request(raw: bytes, at: int, end: int, sender: ReplicaId, to: ReplicaId) -> Message:
    term, last_index, last_term, flags = _fixed(_VOTE_REQUEST, raw, at, end)
    pre, transfer = _flags(flags)
    return VoteRequest(sender, to, term, last_index, last_term, pre, transfer)


def _vote_reply(raw: bytes, at: int, end: int, sender: ReplicaId, to: ReplicaId) -> Message:
    term, flags = _fixed(_VOTE_REPLY, raw, at, end)
    granted, pre = _flags(flags)
    return VoteReply(sender, to, term, granted, pre)


def _append_request(raw: bytes, at: int, end: int, sender: ReplicaId, to: ReplicaId) -> Message:
    if end - at < _APPEND_REQUEST.size:
        raise ValueError("a message of a wrong length")
    term, prev_index, prev_term, commit, number = _APPEND_REQUEST.unpack_from(raw, at)
    at += _APPEND_REQUEST.size
    entries = decode_entries(raw, at, end) if at < end else ()
    if entries and entries[0].index != prev_index + 1:
        raise ValueError("entries that do not follow their predecessor")
    return AppendRequest(sender, to, term, prev_index, prev_term, entries, commit, number)


def _append_reply(raw: bytes, at: int, end: int, sender: ReplicaId, to: ReplicaId) -> Message:
    term, match, hint_index, hint_term, number, accepted = _fixed(_APPEND_REPLY, raw, at, end)
    return AppendReply(sender, to, term, _flag(accepted), match, hint_index, hint_term, number)


def _install(raw: bytes, at: int, end: int, sender: ReplicaId, to: ReplicaId) -> Message:
    if end - at < _INSTALL.size:
        raise ValueError("a message of a wrong length")
    term, index, snapshot_term = _INSTALL.unpack_from(raw, at)
    if max(index, snapshot_term) >= 10**16:
        raise ValueError("a snapshot of an impossible position")
    return InstallSnapshot(sender, to, term, SnapshotMeta(index, snapshot_term, decode_membership(raw[at + _INSTALL.size : end])))


def _read_request(raw: bytes, at: int, end: int, sender: ReplicaId, to: ReplicaId) -> Message:
    term, context = _fixed(_READ_REQUEST, raw, at, end)
    return ReadIndexRequest(sender, to, term, context)


def _read_reply(raw: bytes, at: int, end: int, sender: ReplicaId, to: ReplicaId) -> Message:
    term, context, index = _fixed(_READ_REPLY, raw, at, end)
    return ReadIndexReply(sender, to, term, context, index)


def _timeout_now(raw: bytes, at: int, end: int, sender: ReplicaId, to: ReplicaId) -> Message:
    (term,) = _fixed(_TIMEOUT_NOW, raw, at, end)
    return TimeoutNow(sender, to, term)


_APPEND_REQUEST_TYPE = 3
_DECODERS: dict[int, Callable[[bytes, int, int, ReplicaId, ReplicaId], Message]] = {
    1: _vote_request,
    2: _vote_reply,
    _APPEND_REQUEST_TYPE: _append_request,
    4: _append_reply,
    5: _install,
    6: _read_request,
    7: _read_reply,
    8: _timeout_now,
}


# --- joining -----------------------------------------------------------------------------------------------------------------------------


def encode_join_request(request: JoinRequest) -> bytes:
    """A join request. Raises ValueError if an id is too long."""
    member = request.member
    head = _PREAMBLE.pack(MAGIC, VERSION, request.promote)
    return head + b"".join([_text(text) for text in (request.cluster_id, member.id, member.peer_address, member.client_address)])


def decode_join_request(raw: bytes) -> JoinRequest:
    """The inverse. Raises ValueError."""
    if len(raw) < _PREAMBLE.size:
        raise ValueError("a join request that is cut short")
    magic, version, promote = _PREAMBLE.unpack_from(raw)
    if magic != MAGIC or version != VERSION:
        raise ValueError(f"a join request of unknown format {magic!r}, version {version}")
    at = _PREAMBLE.size
    texts = []
    for _ in range(4):
        text, at = _read_text(raw, at)
        texts.append(text)
    if at != len(raw) or not texts[1] or not texts[2]:
        raise ValueError("a join request with nothing or too much in it")
    return JoinRequest(texts[0], Member(ReplicaId(texts[1]), texts[2], texts[3], voter=False), _flag(promote))


def encode_join_reply(reply: JoinReply) -> bytes:
    """A join reply."""
    head = _PREAMBLE.pack(MAGIC, VERSION, reply.membership is not None)
    texts = (reply.reason[:200], reply.leader or "", reply.leader_address)
    return head + b"".join([_text(text) for text in texts]) + (encode_membership(reply.membership) if reply.membership is not None else b"")


def decode_join_reply(raw: bytes) -> JoinReply:
    """The inverse. Raises ValueError."""
    if len(raw) < _PREAMBLE.size:
        raise ValueError("a join reply that is cut short")
    magic, version, done = _PREAMBLE.unpack_from(raw)
    if magic != MAGIC or version != VERSION:
        raise ValueError(f"a join reply of unknown format {magic!r}, version {version}")
    at = _PREAMBLE.size
    reason, at = _read_text(raw, at)
    leader, at = _read_text(raw, at)
    address, at = _read_text(raw, at)
    membership = decode_membership(raw[at:]) if _flag(done) else None
    return JoinReply(membership, reason, ReplicaId(leader) if leader else None, address)
