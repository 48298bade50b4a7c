"""Backup files: one state snapshot with its log index, checksummed as a whole, independent of cluster and replica."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import BinaryIO

MAGIC = b"lockd-backup\x01"
_INDEX = struct.Struct("<Q")
_HASH_BYTES = 32
CHUNK = 1 << 20


class BackupError(ValueError):
    """The file is not a whole backup of a version that this release reads."""


def backup_chunks(index: int, state: BinaryIO) -> Iterator[bytes]:
    """The bytes of a backup of `state` (the stream of `lockd.codec.snapshots`) as of log index `index`."""
    checksum = hashlib.sha256()
    head = MAGIC + _INDEX.pack(index)
    checksum.update(head)
    yield head
    while chunk := state.read(CHUNK):
        checksum.update(chunk)
        yield chunk
    yield checksum.digest()


def verify_backup(file: BinaryIO) -> int:
    """Check a backup from its beginning to its end; returns its log index, with `file` standing at the state. Raises BackupError."""
    head = file.read(len(MAGIC) + _INDEX.size)
    if not head.startswith(MAGIC) or len(head) < len(MAGIC) + _INDEX.size:
        raise BackupError("not a lockd backup, or one of another version")
    size = file.seek(0, 2)
    state_bytes = size - len(head) - _HASH_BYTES
    if state_bytes < 0:
        raise BackupError("the file is cut short")
    file.seek(len(head))
    checksum = hashlib.sha256(head)
    left = state_bytes
    while left:
        chunk = file.read(min(CHUNK, left))
        if not chunk:
            raise BackupError("the file is cut short")
        checksum.update(chunk)
        left -= len(chunk)
    if file.read() != checksum.digest():
        raise BackupError("the checksum does not match: the file is damaged or cut short")
    file.seek(len(head))
    return int(_INDEX.unpack(head[len(MAGIC) :])[0])
