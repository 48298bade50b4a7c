"""What a simulated replica keeps over its crashes, behind one small interface.

`ModelStorage` is the ideal: every write is atomic, and done or not done. It isolates the consensus from the journal.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from lockd.raft.core.types import Entry, HardState, Restored, SnapshotMeta, Write


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

    def receive_snapshot(self, meta: SnapshotMeta, raw: bytes) -> None:
        """Make a received snapshot durable aside; a write adopts it, or `discard_snapshot` drops it."""

    def discard_snapshot(self, meta: SnapshotMeta) -> None:
        """Drop a received snapshot that was not wanted."""

    def read_snapshot(self, meta: SnapshotMeta) -> bytes:
        """The application's part of the snapshot `meta`, current or received. Raises an error if it is not there, whole."""

    def crash(self, *, power: bool) -> None:
        """The process died; with `power`, the machine too."""

    def crash_within(self, writes: Sequence[Write], rng: random.Random) -> None:
        """Begin `write_many` and die somewhere in it. `crash` follows."""


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
