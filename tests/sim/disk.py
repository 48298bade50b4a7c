"""The simulated disk: remembers only what was synced.

The model is what POSIX and block devices promise, and no more:

- bytes written are durable once the file's `sync` returned. After a power cut, every 512-byte sector touched since then holds any one of
  the versions it had since then, each sector for itself; one sector may even be torn within (a prefix of one version, the rest of another);
- names are durable once the directory's `sync` returned. After a power cut any of the creations, renames and removals since then may be
  undone, each for itself where that makes sense;
- when the process alone dies, everything written is still there, but is no more durable than before;
- a write or sync may fail (EIO, ENOSPC). The disk then refuses everything until the power cut that follows, and what was not durable may
  be lost.
"""

from __future__ import annotations

import errno
import os
import random

SECTOR = 512
"""What a device writes as a whole, in bytes."""


class PowerCutError(BaseException):
    """The power went in the middle of a disk operation. Not an Exception, so that nothing under test can catch it by accident."""


class _Blob:
    """The contents of one file: what programs see, what is durable, and the writes between the two."""

    __slots__ = ("live", "pending", "safe")

    def __init__(self, size: int) -> None:
        self.live = bytearray(size)
        self.safe = bytearray(size)
        self.pending: list[tuple[int, bytes | None]] = []
        """(offset, bytes) for a write, (size, None) for a truncation or extension."""

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        if end > len(self.live):
            self.live.extend(bytes(end - len(self.live)))
        self.live[offset:end] = data
        self.pending.append((offset, data))

    def truncate(self, size: int) -> None:
        _resize(self.live, size)
        self.pending.append((size, None))

    def sync(self) -> None:
        for offset, data in self.pending:
            _apply(self.safe, offset, data)
        self.pending.clear()

    def power_cut(self, rng: random.Random) -> None:
        """Decide what survived, sector by sector."""
        if not self.pending:
            return
        versions = [bytes(self.safe)]
        image = bytearray(self.safe)
        dirty: set[int] = set()
        for offset, data in self.pending:
            before = len(image)
            _apply(image, offset, data)
            versions.append(bytes(image))
            first, last = (offset, offset + len(data)) if data is not None else (min(offset, before), max(offset, before))
            dirty.update(range(first // SECTOR, (last + SECTOR - 1) // SECTOR))
        size = len(rng.choice(versions))
        result = bytearray(versions[0])
        _resize(result, max(len(version) for version in versions))
        order = sorted(dirty)
        mode = rng.random()
        torn = rng.choice(order) if order and rng.random() < 0.3 else -1
        hole = rng.choice(order) if order else -1
        for sector in order:
            start, stop = sector * SECTOR, sector * SECTOR + SECTOR
            if mode < 0.15:
                chosen = versions[0]
            elif mode < 0.3 or (mode < 0.45 and sector != hole):
                chosen = versions[-1]
            elif mode < 0.45:  # all but one reached the disk
                chosen = versions[0]
            else:
                chosen = rng.choice(versions)
            part = chosen[start:stop].ljust(SECTOR, b"\0")
            if sector == torn:
                at = rng.randrange(SECTOR)
                part = part[:at] + rng.choice(versions)[start:stop].ljust(SECTOR, b"\0")[at:]
            result[start:stop] = part
        _resize(result, size)
        self.safe = result
        self.live = bytearray(result)
        self.pending.clear()


def _resize(image: bytearray, size: int) -> None:
    if size < len(image):
        del image[size:]
    else:
        image.extend(bytes(size - len(image)))


def _apply(image: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        _resize(image, offset)
        return
    end = offset + len(data)
    if end > len(image):
        _resize(image, end)
    image[offset:end] = data


class SimFile:
    """An open file of a `SimDisk` (protocol `lockd.raft.disk.File`)."""

    __slots__ = ("_blob", "_disk", "_name")

    def __init__(self, disk: SimDisk, name: str, blob: _Blob) -> None:
        self._disk = disk
        self._name = name
        self._blob = blob

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write without durability."""
        disk = self._disk
        raw = bytes(data)
        disk.bytes_written += len(raw)
        if disk.attention:
            try:
                disk.check("write")
            except OSError:
                self._blob.write(offset, raw[: disk.rng.randrange(len(raw) + 1)])
                raise
        self._blob.write(offset, raw)

    def read_at(self, offset: int, n: int) -> bytes:
        """Bytes as programs see them, fewer at the end of the file."""
        if self._disk.attention:
            self._disk.check("read")
        return bytes(self._blob.live[offset : offset + n])

    def size(self) -> int:
        """Length in bytes."""
        return len(self._blob.live)

    def truncate(self, n: int) -> None:
        """Cut or extend (with zeros), without durability."""
        if self._disk.attention:
            self._disk.check("write")
        self._blob.truncate(n)

    def sync(self) -> None:
        """Make what was written durable."""
        self._disk.syncs += 1
        if self._disk.attention:
            self._disk.check("sync")
        self._blob.sync()

    def close(self) -> None:
        """Nothing is held open."""


class SimDisk:
    """One directory of one replica (protocol `lockd.raft.disk.Disk`). Survives the replica's crashes."""

    __slots__ = ("_names", "_pending", "_safe", "attention", "broken", "bytes_written", "fail_at", "fuse", "rng", "syncs")

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self._names: dict[str, _Blob] = {}
        self._safe: dict[str, _Blob] = {}
        self._pending: list[tuple[str, str, str, _Blob | None]] = []
        self.attention = False
        """Whether an operation must look at the faults at all (kept out of the fast path)."""
        self.fuse: int | None = None
        self.fail_at: tuple[str, int] | None = None
        self.broken: int | None = None
        self.syncs = 0
        self.bytes_written = 0

    # --- the protocol -------------------------------------------------------------------------------------------------------------

    def create(self, name: str, size: int = 0) -> SimFile:
        """A new file of `size` zero bytes. The name is not durable before `sync`, the size not before the file's `sync`."""
        if self.attention:
            self.check("create")
        if name in self._names:
            raise FileExistsError(errno.EEXIST, "exists", name)
        blob = _Blob(0)
        if size:
            blob.truncate(size)
        self._names[name] = blob
        self._pending.append(("create", name, "", blob))
        return SimFile(self, name, blob)

    def open(self, name: str) -> SimFile:
        """An existing file."""
        if name not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        return SimFile(self, name, self._names[name])

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, replacing what has it."""
        if self.attention:
            self.check("rename")
        if old not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", old)
        self._names[new] = self._names.pop(old)
        self._pending.append(("rename", old, new, None))

    def remove(self, name: str) -> None:
        """Remove a name."""
        if self.attention:
            self.check("remove")
        if name not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        del self._names[name]
        self._pending.append(("remove", name, "", None))

    def list(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._names)

    def sync(self) -> None:
        """Make the names durable."""
        self.syncs += 1
        if self.attention:
            self.check("sync")
        self._safe = dict(self._names)
        self._pending.clear()

    # --- faults -------------------------------------------------------------------------------------------------------------------

    def check(self, operation: str) -> None:
        """Raise what is due: the power cut of the fuse, or the error that was arranged."""
        if self.broken is not None:
            raise OSError(self.broken, os.strerror(self.broken))
        if self.fuse is not None and operation != "read":
            if self.fuse == 0:
                raise PowerCutError
            self.fuse -= 1
        if self.fail_at is not None and self.fail_at[0] == operation:
            self.broken = self.fail_at[1]
            self.fail_at = None
            raise OSError(self.broken, os.strerror(self.broken))

    def arrange_power_cut(self, operations: int) -> None:
        """The power goes after so many more changing operations: they raise `PowerCutError`. Fewer than none: it does not."""
        self.fuse = operations if operations >= 0 else None
        self.attention = self.fuse is not None or self.fail_at is not None

    def arrange_failure(self, operation: str, code: int) -> None:
        """The next `operation` (write, sync, create, rename, remove) fails with this errno, and everything after it."""
        self.fail_at = (operation, code)
        self.attention = True

    def _clear_faults(self) -> None:
        self.fuse = self.fail_at = self.broken = None
        self.attention = False

    def process_died(self) -> None:
        """The process is gone, the machine is not: nothing is lost, nothing became durable."""
        self._clear_faults()

    def power_cut(self) -> None:
        """The machine lost power: keep what was durable, and any part of the rest."""
        self._clear_faults()
        rng = self.rng
        if self._pending:
            every = rng.random()
            names = dict(self._safe)
            for word, name, other, created in self._pending:
                if every < 0.15 or (every < 0.7 and rng.random() < 0.5):
                    continue
                if created is not None:
                    names[name] = created
                elif name in names:
                    blob = names.pop(name)
                    if word == "rename":
                        names[other] = blob
            self._names = names
            self._pending.clear()
        self._safe = dict(self._names)
        for name in sorted(self._names):
            self._names[name].power_cut(rng)

    def flip(self, name: str, offset: int, bit: int) -> None:
        """Damage one bit for good. Only for scenarios that expect to be refused."""
        blob = self._names[name]
        blob.live[offset] ^= 1 << bit
        blob.safe[offset] ^= 1 << bit
