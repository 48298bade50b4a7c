"""Snapshots of the machine <-> a byte stream: framed MessagePack arrays of rows.

The raft layer checksums the stream; this layer knows its version and its end, so that a cut stream is never taken for a whole one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, BinaryIO, TypeAlias

import msgspec

Row: TypeAlias = tuple[Any, ...]
"""One row of `Machine.export()`: a kind, then plain values."""

MAGIC = b"lockd-state\x01"
_LENGTH = struct.Struct("<I")
_ROWS_PER_FRAME = 512
_FRAME_BYTES_MAX = 1 << 30


class SnapshotError(ValueError):
    """The stream is not a whole snapshot of a version that this release reads."""


def write_rows(rows: Iterable[Row], sink: BinaryIO) -> None:
    """Write `rows` to `sink` in frames; an empty frame ends the stream."""
    encode = msgspec.msgpack.Encoder().encode
    sink.write(MAGIC)
    source = iter(rows)
    while frame := list(islice(source, _ROWS_PER_FRAME)):
        content = encode(frame)
        sink.write(_LENGTH.pack(len(content)))
        sink.write(content)
    sink.write(_LENGTH.pack(0))


def read_rows(source: BinaryIO) -> Iterator[Row]:
    """Yield the rows that `write_rows` wrote. Raises SnapshotError where the stream is foreign, damaged or cut."""
    if source.read(len(MAGIC)) != MAGIC:
        raise SnapshotError("not a lockd state snapshot, or one of another version")
    decode = msgspec.msgpack.Decoder().decode
    while length := _LENGTH.unpack(_exactly(source, _LENGTH.size))[0]:
        if length > _FRAME_BYTES_MAX:
            raise SnapshotError(f"frame of {length} bytes")
        try:
            frame = decode(_exactly(source, length))
        except msgspec.MsgspecError as error:
            raise SnapshotError(f"undecodable frame: {error}") from error
        if not isinstance(frame, list):
            raise SnapshotError("frame is not a list of rows")
        for row in frame:
            yield _tuples(row)


def _tuples(value: Any) -> Any:
    """MessagePack has one kind of array: the machine's rows are tuples throughout."""
    return tuple([_tuples(v) if type(v) is list else v for v in value])


def _exactly(source: BinaryIO, count: int) -> bytes:
    data = source.read(count)
    while len(data) < count:
        more = source.read(count - len(data))
        if not more:
            raise SnapshotError("the snapshot is cut short")
        data += more
    return data
