"""The messages between replicas: a closed set, and nothing that runs when it is read."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockd.raft.pysyncobj_engine import wire

BODIES: tuple[wire.Body, ...] = (
    wire.VoteRequest(3, 7, 2),
    wire.VoteGranted(3),
    wire.Append(3, 5, 6, 2, [(b"\0one", 7, 2), (b"\1", 8, 3)]),
    wire.Append(3, 5, None, None, []),
    wire.SnapshotPart(3, 5, (b"piece", True, False)),
    wire.SnapshotPart(3, 5, None),
    wire.Next(8, reset=True, success=False),
    wire.TimeoutNow(3),
    wire.BarrierRequest(1),
    wire.BarrierReply(1, 9),
)


def pack(body: Any, *, term: Any = 3, cluster: Any = "c") -> bytes:
    """An envelope with any body."""
    return msgspec.msgpack.encode([cluster, "a", 4, term, body])


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_every_message_survives_the_wire(body: wire.Body) -> None:
    """Decoding gives back what was encoded."""
    envelope = wire.Envelope("c", "a", 4, 3, body)
    assert wire.decode(wire.encode(envelope)) == envelope


@pytest.mark.parametrize("body", [body for body in BODIES if not isinstance(body, wire.BarrierRequest | wire.BarrierReply)])
def test_every_package_message_has_a_struct(body: wire.Body) -> None:
    """What the package reads of a message is what it wrote."""
    assert wire.from_package(wire.to_package(body)) == body


@pytest.mark.parametrize(
    "message",
    [
        {"type": "apply_command", "command": b"\0x"},
        {"type": "apply_command_response", "request_id": 1},
        {"type": "append_entries", "transmission": "start", "data": b"", "term": 1, "commit_index": 1, "prevLogIdx": 1, "prevLogTerm": 0},
        {"type": "anything"},
    ],
    ids=lambda message: message["type"],
)
def test_messages_that_would_need_pickle_are_not_sent(message: dict[str, Any]) -> None:
    """Forwarded commands and entries in pieces, which the package pickles, never reach the wire."""
    with pytest.raises(wire.WireError):
        wire.from_package(message)


def test_own_messages_never_reach_the_package() -> None:
    """Barriers are ours: the package gets no message of a kind that it does not know."""
    with pytest.raises(wire.WireError):
        wire.to_package(wire.BarrierRequest(1))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        pickle.dumps({"type": "request_vote"}),
        pack([99, 1]),
        pack([1, 3, 7]),
        pack([1, 3, 7, 2, 0]),
        pack([1, -1, 7, 2]),
        pack([1, 1 << 63, 7, 2]),
        pack([1, "3", 7, 2]),
        pack([2, 3.0]),
        pack([2, 3], term=-1),
        pack([2, 3], cluster=""),
        pack([2, 3], cluster="c" * 257),
        pack({"type": "request_vote"}),
        pack([2, 3]) + b"\0",
        pack([5, 8, 1, 0]),
    ],
)
def test_what_is_no_message_is_refused(raw: bytes) -> None:
    """Unknown kinds, missing and extra fields, wrong types, impossible numbers and trailing bytes raise WireError."""
    with pytest.raises(wire.WireError):
        wire.decode(raw)


@pytest.mark.parametrize(
    ("prev", "entries"),
    [
        ((6, 2), [(b"\2pickled", 7, 3)]),
        ((6, 2), [(b"\3pickled", 7, 3)]),
        ((6, 2), [(b"", 7, 3)]),
        ((6, 2), [(b"\0", 8, 3)]),
        ((6, 2), [(b"\0", 7, 3), (b"\0", 7, 3)]),
        ((6, 2), [(b"\0", 7, 1)]),
        ((6, 2), [(b"\0", 7, 4)]),
        ((None, None), [(b"\0", 7, 3)]),
    ],
    ids=["membership", "code version", "empty", "gap", "twice", "term falls", "term of the future", "after nothing"],
)
def test_entries_that_no_leader_sends_are_refused(prev: tuple[Any, Any], entries: list[Any]) -> None:
    """Pickled kinds of entries, gaps and impossible terms raise WireError."""
    with pytest.raises(wire.WireError):
        wire.decode(pack([3, 3, 5, *prev, entries]))


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_decode_or_be_refused(raw: bytes) -> None:
    """Any bytes either are an envelope or raise WireError."""
    try:
        envelope = wire.decode(raw)
    except wire.WireError:
        return
    assert isinstance(envelope, wire.Envelope)


@given(st.binary(max_size=40), st.integers(0, 60), st.integers(0, 255))
def test_no_flipped_byte_does_anything_else(data: bytes, at: int, value: int) -> None:
    """A message with any one byte changed either is an envelope or raises WireError."""
    raw = bytearray(wire.encode(wire.Envelope("c", "a", 4, 3, wire.Append(3, 5, 6, 2, [(b"\0" + data, 7, 3)]))))
    raw[at % len(raw)] = value
    try:
        envelope = wire.decode(bytes(raw))
    except wire.WireError:
        return
    assert isinstance(envelope, wire.Envelope)
