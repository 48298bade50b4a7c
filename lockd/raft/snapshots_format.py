"""The bytes of a snapshot file.

The file (little-endian): magic 8, version u32, length u32 of what follows, that (cluster id, index, term, membership), CRC32C of all
before; then chunks: length u32 (more than 0), CRC32C of the data, data; then length 0, length of all data u64, CRC32C of all data, CRC32C
of these 16 bytes, and nothing after.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import google_crc32c

from lockd.raft.core.membership import decode_membership, encode_membership
from lockd.raft.core.types import SnapshotMeta
from lockd.raft.disk import File
from lockd.raft.journal_format import JournalDamagedError, JournalForeignError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["CHUNK", "SnapshotDamagedError", "SnapshotSink", "SnapshotSource", "encode_header", "read_header"]

MAGIC = b"lockdsnp"
VERSION = 1
CHUNK = 256 << 10
"""Bytes of data that go into one chunk."""
SYNC_EVERY = 16 << 20
"""So many bytes are synced at a time: a gigabyte at once would hold up the journal's syncs on the same disk."""
MAX_CHUNK = 16 << 20
"""The largest chunk that is read."""

_HEAD = struct.Struct("<8sII")
_POSITION = struct.Struct("<QQ")
_CHUNK = struct.Struct("<II")
_TRAILER = struct.Struct("<IQI")
_CRC = struct.Struct("<I")
_MAX_HEADER = 16 << 20


class SnapshotDamagedError(JournalDamagedError, ValueError):
    """A snapshot's bytes are not what was written."""


class SnapshotSink(io.RawIOBase):
    """Writes the application's bytes into a new snapshot file; `finish` makes it whole and durable."""

    def __init__(self, file: File, head: bytes) -> None:
        super().__init__()
        self._file = file
        self._gathered = bytearray()
        self._length = 0
        self._crc = 0
        self._unsynced = 0
        file.write_at(0, head)
        self._offset = len(head)

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Take all of `data`. Raises OSError."""
        view = memoryview(data).cast("B")
        size = len(view)
        if not self._gathered and size >= CHUNK:
            for at in range(0, size, CHUNK):
                self._chunk(bytes(view[at : at + CHUNK]))
        else:
            self._gathered += view
            if len(self._gathered) >= CHUNK:
                whole, self._gathered = self._gathered, bytearray()
                for at in range(0, len(whole), CHUNK):
                    self._chunk(bytes(whole[at : at + CHUNK]))
        return size

    def _chunk(self, data: bytes) -> None:
        self._file.write_at(self._offset, b"".join((_CHUNK.pack(len(data), google_crc32c.value(data)), data)))
        self._offset += _CHUNK.size + len(data)
        self._length += len(data)
        self._crc = google_crc32c.extend(self._crc, data)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_EVERY:
            self._file.sync()
            self._unsynced = 0

    def finish(self) -> None:
        """Write what is left and the trailer, sync and close. Raises OSError."""
        if self._gathered:
            whole, self._gathered = self._gathered, bytearray()
            self._chunk(bytes(whole))
        trailer = _TRAILER.pack(0, self._length, self._crc)
        self._file.write_at(self._offset, trailer + _CRC.pack(google_crc32c.value(trailer)))
        self._file.sync()
        self._file.close()

    def abandon(self) -> None:
        """Close; the file is of no use."""
        self._file.close()


class SnapshotSource(io.RawIOBase):
    """Reads the application's bytes out of a snapshot file, verifies every chunk and the whole. Raises SnapshotDamagedError."""

    def __init__(self, file: File, name: str, offset: int) -> None:
        super().__init__()
        self._file = file
        self._name = name
        self._offset = offset
        self._data = memoryview(b"")
        self._length = 0
        self._crc = 0
        self._ended = False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Some bytes; 0 at the end, when all was found to be whole."""
        if not self._data:
            self._next()
        target = memoryview(buffer).cast("B")
        n = min(len(target), len(self._data))
        target[:n] = self._data[:n]
        self._data = self._data[n:]
        return n

    def verify(self) -> None:
        """Read on to the end. Raises SnapshotDamagedError."""
        while not self._ended:
            self._next()

    def _next(self) -> None:
        if self._ended:
            return
        start = self._offset
        head = self._file.read_at(start, _CHUNK.size)
        if len(head) < _CHUNK.size:
            raise SnapshotDamagedError(self._name, start, "it is cut short")
        length, crc = _CHUNK.unpack(head)
        if length == 0:
            self._end(start)
            return
        if length > MAX_CHUNK:
            raise SnapshotDamagedError(self._name, start, f"a chunk of {length} bytes")
        data = self._file.read_at(start + _CHUNK.size, length)
        if len(data) < length or google_crc32c.value(data) != crc:
            raise SnapshotDamagedError(self._name, start, "a chunk does not match its checksum")
        self._offset = start + _CHUNK.size + length
        self._length += length
        self._crc = google_crc32c.extend(self._crc, data)
        self._data = memoryview(data)

    def _end(self, start: int) -> None:
        size = _TRAILER.size + _CRC.size
        raw = self._file.read_at(start, size + 1)
        if len(raw) != size or google_crc32c.value(raw[: _TRAILER.size]) != _CRC.unpack_from(raw, _TRAILER.size)[0]:
            raise SnapshotDamagedError(self._name, start, "the trailer does not match its checksum, or something follows it")
        if _TRAILER.unpack_from(raw) != (0, self._length, self._crc):
            raise SnapshotDamagedError(self._name, start, "the whole does not match its length and checksum")
        self._ended = True


def encode_header(meta: SnapshotMeta, cluster_id: str) -> bytes:
    """The first bytes of a snapshot file."""
    cluster = cluster_id.encode()
    body = b"".join((struct.pack("<H", len(cluster)), cluster, _POSITION.pack(meta.index, meta.term), encode_membership(meta.membership)))
    head = _HEAD.pack(MAGIC, VERSION, len(body)) + body
    return head + _CRC.pack(google_crc32c.value(head))


def read_header(name: str, file: File, cluster_id: str) -> tuple[SnapshotMeta, int]:
    """The header's content, and where the data begins. Raises SnapshotDamagedError and JournalForeignError."""
    start = file.read_at(0, _HEAD.size)
    if len(start) < _HEAD.size:
        raise SnapshotDamagedError(name, 0, "the header is cut short")
    magic, version, length = _HEAD.unpack(start)
    if length > _MAX_HEADER:
        raise SnapshotDamagedError(name, 0, "an impossible header")
    stop = _HEAD.size + length
    raw = file.read_at(0, stop + _CRC.size)
    if len(raw) < stop + _CRC.size or google_crc32c.value(raw[:stop]) != _CRC.unpack_from(raw, stop)[0]:
        raise SnapshotDamagedError(name, 0, "the header does not match its checksum")
    if magic != MAGIC or version != VERSION:
        raise JournalForeignError(name, f"it is of format {magic!r}, version {version}; this program knows {MAGIC!r}, {VERSION}")
    try:
        (size,) = struct.unpack_from("<H", raw, _HEAD.size)
        at = _HEAD.size + 2 + size
        found = raw[_HEAD.size + 2 : at].decode()
        index, term = _POSITION.unpack_from(raw, at)
        membership = decode_membership(raw[at + _POSITION.size : stop])
    except (ValueError, struct.error) as error:
        raise SnapshotDamagedError(name, 0, f"the header cannot be read: {error}") from error
    if found != cluster_id:
        raise JournalForeignError(name, f"it belongs to cluster {found!r}, not to {cluster_id!r}")
    return SnapshotMeta(index, term, membership), stop + _CRC.size
