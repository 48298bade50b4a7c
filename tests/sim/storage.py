"""What a simulated replica keeps over its crashes, behind one small interface.

`JournalStorage` is the production journal, snapshots and recovery over a simulated disk. `ModelStorage` is the ideal: every write is
atomic, and done or not done; it isolates the consensus from the journal.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import BinaryIO, Protocol

from lockd.raft.core.types import Entry, HardState, ReplicaId, Restored, SnapshotMeta, Write
from lockd.raft.journal import JournalOptions
from lockd.raft.journal_format import JournalError
from lockd.raft.recovery import Store
from lockd.raft.snapshots import SnapshotFile
from tests.sim.disk import PowerCutError, SimDisk

STORAGE_ERRORS = (OSError, JournalError)
"""What the storage raises when the disk fails."""


class Storage(Protocol):
    """The durable side of one replica."""

    def recover(self) -> Restored:
        """What the disk holds, as a starting process reads it."""

    def write_many(self, writes: Sequence[Write]) -> None:
        """Carry out writes in order and make them durable. Raises OSError or the journal's error after a failure of the disk."""

    def compact(self, keep_from: int) -> None:
        """Drop what lies below this index, if that is convenient."""

    def keep_snapshot(self, meta: SnapshotMeta, raw: bytes) -> None:
        """Make a snapshot of the application durable and current."""

    def snapshot_file(self, meta: SnapshotMeta) -> bytes:
        """The current snapshot as it travels to another replica."""

    def receive_snapshot(self, meta: SnapshotMeta, raw: bytes) -> None:
        """Make what travelled durable aside; a write adopts it, or `discard_snapshot` drops it."""

    def discard_snapshot(self, meta: SnapshotMeta) -> None:
        """Drop a received snapshot that was not wanted."""

    def read_snapshot(self, meta: SnapshotMeta) -> bytes:
        """The application's part of the snapshot `meta`, current or received. Raises an error if it is not there, whole."""

    def crash(self, *, power: bool) -> None:
        """The process died; with `power`, the machine too."""

    def crash_within(self, writes: Sequence[Write], rng: random.Random) -> None:
        """Begin `write_many` and die somewhere in it. `crash` follows."""

    def arrange_power_cut(self, operations: int) -> None:
        """Let the power go after so many more operations of the disk."""

    def arrange_failure(self, operation: str, code: int) -> bool:
        """Let the next such operation of the disk fail; False if there is no disk."""


class ModelStorage:
    """Atomic writes, nothing torn, nothing lost that was written."""

    __slots__ = ("_entries", "_first", "_hard_state", "_received", "_snapshot", "_snapshots")

    def __init__(self, genesis: SnapshotMeta) -> None:
        self._hard_state = HardState()
        self._snapshot = genesis
        self._first = genesis.index + 1
        self._entries: list[Entry] = []
        self._snapshots: dict[tuple[int, int], bytes] = {(genesis.index, genesis.term): b""}
        self._received: dict[tuple[int, int], bytes] = {}

    def recover(self) -> Restored:
        """As it was written."""
        after = [entry for entry in self._entries if entry.index > self._snapshot.index]
        self._received.clear()
        return Restored(self._hard_state, self._snapshot, tuple(after))

    def write_many(self, writes: Sequence[Write]) -> None:
        """Each write takes effect at once."""
        for write in writes:
            if write.hard_state is not None:
                self._hard_state = write.hard_state
            if write.snapshot is not None:
                meta = write.snapshot
                key = (meta.index, meta.term)
                self._snapshots = {key: self._received.pop(key)}
                self._snapshot = meta
                self._entries = []
                self._first = meta.index + 1
            if write.entries:
                first = write.entries[0].index
                if not self._first <= first <= self._first + len(self._entries):
                    raise ValueError(f"a write at {first} leaves a gap in {self._first}..{self._first + len(self._entries)}")
                del self._entries[first - self._first :]
                self._entries.extend(write.entries)

    def compact(self, keep_from: int) -> None:
        """Drop the head."""
        if keep_from > self._first:
            del self._entries[: keep_from - self._first]
            self._first = keep_from

    def keep_snapshot(self, meta: SnapshotMeta, raw: bytes) -> None:
        """The newest stays."""
        if meta.index > self._snapshot.index:
            self._snapshots = {(meta.index, meta.term): raw}
            self._snapshot = meta

    def snapshot_file(self, meta: SnapshotMeta) -> bytes:
        """As it is."""
        return self._snapshots[meta.index, meta.term]

    def receive_snapshot(self, meta: SnapshotMeta, raw: bytes) -> None:
        """Aside."""
        self._received[meta.index, meta.term] = raw

    def discard_snapshot(self, meta: SnapshotMeta) -> None:
        """Gone."""
        self._received.pop((meta.index, meta.term), None)

    def read_snapshot(self, meta: SnapshotMeta) -> bytes:
        """From either place."""
        key = (meta.index, meta.term)
        return self._snapshots[key] if key in self._snapshots else self._received[key]

    def crash(self, *, power: bool) -> None:
        """Nothing is lost."""

    def crash_within(self, writes: Sequence[Write], rng: random.Random) -> None:
        """Any number of whole writes."""
        self.write_many(writes[: rng.randrange(len(writes) + 1)])

    def arrange_power_cut(self, operations: int) -> None:
        """There is no disk."""

    def arrange_failure(self, operation: str, code: int) -> bool:
        """There is no disk."""
        return False


class _Raw:
    """Bytes as a snapshot writer."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def write(self, sink: BinaryIO) -> None:
        """All of it."""
        sink.write(self._raw)


class JournalStorage:
    """The production `Store` over a `SimDisk`."""

    __slots__ = ("_first", "_id", "_options", "_store", "disk")

    def __init__(self, replica: str, genesis: SnapshotMeta, rng: random.Random, segment_bytes: int) -> None:
        self.disk = SimDisk(rng)
        self._id = ReplicaId(replica)
        self._first = genesis.membership
        self._options = JournalOptions(segment_bytes=segment_bytes, salt=lambda: rng.getrandbits(64))
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """The open store of this process life."""
        if self._store is None:
            raise JournalError("the store is not open")
        return self._store

    def recover(self) -> Restored:
        """Recovery of production."""
        self._store, restored = Store.open(self.disk, "sim", self._id, self._first, self._options)
        return restored

    def write_many(self, writes: Sequence[Write]) -> None:
        """One batch."""
        self.store.write_many(writes)

    def compact(self, keep_from: int) -> None:
        """Segments go."""
        self.store.compact(keep_from)

    def keep_snapshot(self, meta: SnapshotMeta, raw: bytes) -> None:
        """Write aside and publish."""
        self.store.snapshots.take(meta, _Raw(raw))

    def snapshot_file(self, meta: SnapshotMeta) -> bytes:
        """The file."""
        return b"".join(self.store.snapshots.pieces(SnapshotFile(meta.index, meta.term), 1000))

    def receive_snapshot(self, meta: SnapshotMeta, raw: bytes) -> None:
        """In a few pieces."""
        receiver = self.store.snapshots.receive(meta)
        for at in range(0, len(raw), 1000):
            receiver.write(raw[at : at + 1000])
        receiver.finish()

    def discard_snapshot(self, meta: SnapshotMeta) -> None:
        """Drop the file."""
        self.store.snapshots.discard(meta)

    def read_snapshot(self, meta: SnapshotMeta) -> bytes:
        """Verified."""
        with self.store.snapshots.open(meta) as source:
            return source.read()

    def crash(self, *, power: bool) -> None:
        """The disk decides what stays."""
        self._store = None
        if power:
            self.disk.power_cut()
        else:
            self.disk.process_died()

    def crash_within(self, writes: Sequence[Write], rng: random.Random) -> None:
        """Up to a few operations of the disk."""
        self.disk.arrange_power_cut(rng.choice((0, 1, 1, 1, 2, 3, 4, 5)))
        try:
            self.write_many(writes)
        except (PowerCutError, *STORAGE_ERRORS):
            return

    def arrange_power_cut(self, operations: int) -> None:
        """Light the fuse."""
        self.disk.arrange_power_cut(operations)

    def arrange_failure(self, operation: str, code: int) -> bool:
        """Break it."""
        self.disk.arrange_failure(operation, code)
        return True
