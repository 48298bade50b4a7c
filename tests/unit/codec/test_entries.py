"""Log entries and snapshots as bytes."""

from __future__ import annotations

import io

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from lockd.codec.entries import FORMAT, decode_entry, encode_entry
from lockd.codec.snapshots import MAGIC, SnapshotError, read_rows, write_rows
from lockd.log.v1 import entry_pb2
from lockd.machine import commands as c
from lockd.machine.types import FOREVER, LockMode
from lockd.v1 import common_pb2, lock_pb2, row_pb2, session_pb2


def batch(*commands: session_pb2.StreamCommand, session: int = 7, acknowledged: int = 3) -> bytes:
    """A client's message."""
    return session_pb2.StreamRequest(session_id=session, acknowledged=acknowledged, commands=commands).SerializeToString()


def test_the_framing_is_the_protobuf_encoding() -> None:
    """An entry that was framed by hand parses as a lockd.log.v1.Entry with the batches in it, byte by byte."""
    first = batch(session_pb2.StreamCommand(request_id=1, keep_alive=session_pb2.KeepAliveRequest()))
    large = batch(
        session_pb2.StreamCommand(request_id=2, transact=row_pb2.TransactRequest(guards=[common_pb2.Guard(resource="x" * 70_000)]))
    )
    entry = entry_pb2.Entry.FromString(encode_entry(123, [first, large], leader_term=9))
    assert (entry.format, entry.log_time, entry.leader_term) == (FORMAT, 123, 9)
    assert [b.SerializeToString() for b in entry.batches] == [first, large]


def test_every_command_of_the_wire_has_a_machine_value() -> None:
    """Each command that is logged decodes to its own value; only reads are passed over."""
    message = session_pb2.StreamRequest(session_id=1)
    kinds = [f.name for f in session_pb2.StreamCommand.DESCRIPTOR.oneofs_by_name["command"].fields]
    for number, kind in enumerate(kinds, 1):
        command = message.commands.add(request_id=number)
        getattr(command, kind).SetInParent()
    requests = decode_entry(encode_entry(5, [message.SerializeToString()])).requests
    assert len(requests) == len(kinds) - 3
    assert not [r for r in requests if isinstance(r.command, c.Unknown)]
    assert len({type(r.command) for r in requests}) == len(requests)


def test_acquire_decodes_with_its_waits_and_modes() -> None:
    """Unset mode is EXCLUSIVE, unset wait is a try, forever is FOREVER, a timeout is nanoseconds."""
    cases = [
        (lock_pb2.AcquireRequest(claims=[lock_pb2.Claim(resource="a/b")]), LockMode.EXCLUSIVE, 0),
        (
            lock_pb2.AcquireRequest(
                claims=[lock_pb2.Claim(resource="a/b", mode=lock_pb2.LOCK_MODE_SHARED)], wait=lock_pb2.Wait(forever=True)
            ),
            LockMode.SHARED,
            FOREVER,
        ),
        (
            lock_pb2.AcquireRequest(claims=[lock_pb2.Claim(resource="a/b")], wait=lock_pb2.Wait(timeout=Duration(seconds=1, nanos=5))),
            LockMode.EXCLUSIVE,
            1_000_000_005,
        ),
    ]
    for message, mode, wait in cases:
        (request,) = decode_entry(encode_entry(1, [batch(session_pb2.StreamCommand(request_id=4, acquire=message))])).requests
        assert isinstance(request.command, c.Acquire)
        assert (request.session, request.request_id, request.acknowledged) == (7, 4, 3)
        assert (request.command.claims[0].mode, request.command.wait) == (mode, wait)


def test_an_unknown_lock_mode_reaches_the_machine_as_its_number() -> None:
    """A mode of a later version is not silently another one: the machine sees the number, and refuses it."""
    message = lock_pb2.AcquireRequest(claims=[lock_pb2.Claim(resource="a", mode=99)])  # type: ignore[arg-type]
    (request,) = decode_entry(encode_entry(1, [batch(session_pb2.StreamCommand(acquire=message))])).requests
    assert isinstance(request.command, c.Acquire)
    assert request.command.claims[0].mode == 99


def test_an_unknown_command_keeps_its_place() -> None:
    """A command without a kind that this version knows becomes Unknown, with a digest of its bytes."""
    (request,) = decode_entry(encode_entry(1, [batch(session_pb2.StreamCommand(request_id=8))])).requests
    assert isinstance(request.command, c.Unknown)
    assert (request.session, request.request_id, len(request.command.digest)) == (7, 8, 32)


def test_an_entry_of_another_format_is_one_unknown_request() -> None:
    """A format that this version does not read is refused as a whole, not read halfway."""
    data = entry_pb2.Entry(format=FORMAT + 1, log_time=77).SerializeToString()
    entry = decode_entry(data)
    assert entry.log_time == 0
    assert [type(r.command) for r in entry.requests] == [c.Unknown]


@given(st.binary(max_size=300))
def test_decoding_never_raises(data: bytes) -> None:
    """Any bytes decode to an entry."""
    decode_entry(data)


VALUES = st.recursive(
    st.one_of(st.integers(-(2**63), 2**64 - 1), st.binary(max_size=20), st.text(max_size=10), st.none(), st.booleans()),
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=8,
)


@given(st.lists(st.lists(VALUES, max_size=6).map(tuple), max_size=1200))
def test_rows_survive_the_stream(rows: list[tuple[object, ...]]) -> None:
    """What is written is what is read, types included."""
    stream = io.BytesIO()
    write_rows(rows, stream)
    stream.seek(0)
    assert list(read_rows(stream)) == rows


def test_a_cut_stream_is_refused_at_every_length() -> None:
    """No prefix of a snapshot passes for a whole one."""
    stream = io.BytesIO()
    write_rows([("a", 1), ("b", b"xy")], stream)
    whole = stream.getvalue()
    for length in range(len(whole)):
        with pytest.raises((SnapshotError, ValueError)):
            list(read_rows(io.BytesIO(whole[:length])))


def test_a_foreign_stream_is_refused() -> None:
    """Bytes that are not a snapshot, or not of this version, are refused at once."""
    for data in (b"", b"PK\x03\x04" + bytes(40), MAGIC[:-1] + b"\x02" + bytes(8)):
        with pytest.raises(SnapshotError):
            list(read_rows(io.BytesIO(data)))
