"""The disk as the log sees it: flat names inside one directory, and nothing durable before it was synced.

`Disk` and `File` are what the journal and the snapshots are written against; `OsDisk` is the real one, `MemoryDisk` keeps everything in
memory (for `lockd dev --memory` and tests), and the simulation has its own, which forgets what was not synced.

Durability, as every implementation must give it (and may give no more): the content and the size of a file are durable once `File.sync`
returned; that a name exists, is gone, or stands for another file is durable once `Disk.sync` returned. `Disk.rename` replaces atomically.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Protocol

__all__ = ["DirectoryInUseError", "Disk", "File", "MemoryDisk", "OsDisk"]

LOCK_NAME = "LOCK"


class DirectoryInUseError(RuntimeError):
    """Another process holds the directory; two replicas never share one."""


class File(Protocol):
    """One open file. Every method may raise OSError."""

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data` at `offset`, growing the file if it ends before."""

    def read_at(self, offset: int, n: int) -> bytes:
        """Up to `n` bytes from `offset`; fewer only at the end of the file."""

    def size(self) -> int:
        """Length in bytes."""

    def truncate(self, n: int) -> None:
        """Make the file exactly `n` bytes long; what is added reads as zeros (and is allocated, as far as the disk can)."""

    def sync(self) -> None:
        """Make content and size durable. After an error nothing about earlier writes may be assumed, and it must not be tried again."""

    def close(self) -> None:
        """Close without syncing. Idempotent."""


class Disk(Protocol):
    """One directory. Names hold no slash. Every method may raise OSError."""

    def create(self, name: str, size: int = 0) -> File:
        """Create a file of `size` zero bytes, allocated in advance. Raises FileExistsError if the name is taken."""

    def open(self, name: str) -> File:
        """Open an existing file for reading and writing. Raises FileNotFoundError."""

    def rename(self, old: str, new: str) -> None:
        """Let `new` stand for what `old` stood for, replacing what it stood for before."""

    def remove(self, name: str) -> None:
        """Take the name away; files that are open stay readable."""

    def list(self) -> list[str]:
        """The names, sorted."""

    def sync(self) -> None:
        """Make the names durable."""


class _OsFile:
    """A file descriptor."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of it, however many calls that takes."""
        written = os.pwrite(self._fd, data, offset)
        if written == len(data):
            return
        view = memoryview(data)
        while written < len(view):
            written += os.pwrite(self._fd, view[written:], offset + written)

    def read_at(self, offset: int, n: int) -> bytes:
        """Read as much as there is."""
        first = os.pread(self._fd, n, offset)
        if len(first) == n or not first:
            return first
        pieces = [first]
        got = len(first)
        while got < n:
            piece = os.pread(self._fd, n - got, offset + got)
            if not piece:
                break
            pieces.append(piece)
            got += len(piece)
        return b"".join(pieces)

    def size(self) -> int:
        """Length in bytes."""
        return os.fstat(self._fd).st_size

    def truncate(self, n: int) -> None:
        """Cut, or extend with zeros."""
        size = self.size()
        if n > size:
            os.posix_fallocate(self._fd, size, n - size)
        else:
            os.ftruncate(self._fd, n)

    def sync(self) -> None:
        """fdatasync: content, and the size if it changed."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Close. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class OsDisk:
    """A directory of the operating system, locked against a second process for as long as the object lives."""

    def __init__(self, path: str | Path) -> None:
        """Create the directory if need be, and lock it.

        Raises DirectoryInUseError if another process (or another OsDisk of this one) holds it, and OSError.
        """
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            self._lock = -1
            raise DirectoryInUseError(f"{self.path} is in use by another process") from error
        self.sync()
        self._sync_parent()

    def _sync_parent(self) -> None:
        _sync_directory(self.path.parent)

    def create(self, name: str, size: int = 0) -> File:
        """Create and allocate."""
        fd = os.open(self._at(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if size:
            try:
                os.posix_fallocate(fd, 0, size)
            except OSError:
                os.close(fd)
                with contextlib.suppress(OSError):
                    self._at(name).unlink()
                raise
        return _OsFile(fd)

    def open(self, name: str) -> File:
        """Open for reading and writing."""
        return _OsFile(os.open(self._at(name), os.O_RDWR | os.O_CLOEXEC))

    def rename(self, old: str, new: str) -> None:
        """Replace atomically."""
        self._at(old).rename(self._at(new))

    def remove(self, name: str) -> None:
        """Unlink."""
        self._at(name).unlink()

    def list(self) -> list[str]:
        """All names but the lock, sorted."""
        return sorted(path.name for path in self.path.iterdir() if path.name != LOCK_NAME)

    def sync(self) -> None:
        """Fsync of the directory."""
        _sync_directory(self.path)

    def close(self) -> None:
        """Give up the lock. Idempotent."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _at(self, name: str) -> Path:
        if "/" in name or name in ("", ".", "..", LOCK_NAME):
            raise ValueError(f"not a name of a file here: {name!r}")
        return self.path / name


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _MemoryFile:
    """A growing buffer, shared by all who have it open."""

    __slots__ = ("_data",)

    def __init__(self, data: bytearray) -> None:
        self._data = data

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of it, however many calls that takes."""
        if offset > len(self._data):
            self._data.extend(bytes(offset - len(self._data)))
        self._data[offset : offset + len(data)] = data

    def read_at(self, offset: int, n: int) -> bytes:
        """Read as much as there is."""
        return bytes(self._data[offset : offset + n])

    def size(self) -> int:
        """Length in bytes."""
        return len(self._data)

    def truncate(self, n: int) -> None:
        """Cut, or extend with zeros."""
        if n < len(self._data):
            del self._data[n:]
        else:
            self._data.extend(bytes(n - len(self._data)))

    def sync(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class MemoryDisk:
    """Files in memory; nothing outlives the process. `files` may be looked at and damaged by tests."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}

    def create(self, name: str, size: int = 0) -> File:
        """Create and allocate."""
        if name in self.files:
            raise FileExistsError(name)
        self.files[name] = bytearray(size)
        return _MemoryFile(self.files[name])

    def open(self, name: str) -> File:
        """Open for reading and writing."""
        if name not in self.files:
            raise FileNotFoundError(name)
        return _MemoryFile(self.files[name])

    def rename(self, old: str, new: str) -> None:
        """Replace atomically."""
        if old not in self.files:
            raise FileNotFoundError(old)
        self.files[new] = self.files.pop(old)

    def remove(self, name: str) -> None:
        """Unlink."""
        if name not in self.files:
            raise FileNotFoundError(name)
        del self.files[name]

    def list(self) -> list[str]:
        """All names but the lock, sorted."""
        return sorted(self.files)

    def sync(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to give up."""
