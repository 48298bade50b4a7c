"""Log entries <-> bytes (lockd.log.v1.Entry).

The batches of an entry are the very bytes that clients sent: the leader frames them, and nobody serialises them again.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from lockd.codec.commands import decode_batch, unknown
from lockd.log.v1 import entry_pb2
from lockd.machine.commands import LogEntry, Request
from lockd.machine.types import Nanos, RequestId, SessionId

FORMAT = 1
"""The entry format that this version writes; it reads this one and no other."""

# Field 4, wire type 2 (length-delimited): `repeated StreamRequest batches`.
_BATCH_TAG = b"\x22"


def encode_entry(log_time: Nanos, batches: Iterable[bytes] = (), leader_term: int = 0) -> bytes:
    """Bytes of one entry; `batches` are serialised lockd.v1.StreamRequest messages, in order of application."""
    parts = [entry_pb2.Entry(format=FORMAT, log_time=log_time, leader_term=leader_term).SerializeToString()]
    for batch in batches:
        parts += (_BATCH_TAG, _varint(len(batch)), batch)
    return b"".join(parts)


def decode_entry(data: bytes) -> LogEntry:
    """The entry that `encode_entry` made. Anything else becomes one `Unknown` request at log time 0."""
    try:
        entry = entry_pb2.Entry.FromString(data)
    except DecodeError:
        return _refused("undecodable entry", data)
    if entry.format != FORMAT:
        return _refused(f"entry format {entry.format}", data)
    requests: list[Request] = []
    for batch in entry.batches:
        requests += decode_batch(batch)
    return LogEntry(entry.log_time, tuple(requests), entry.leader_term)


def _refused(kind: str, data: bytes) -> LogEntry:
    return LogEntry(0, (Request(SessionId(0), RequestId(0), RequestId(0), unknown(kind, data)),))


def _varint(number: int) -> bytes:
    """Protobuf's base-128 encoding."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
