"""What the tests of the shell share."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lockd.raft.core.types import Entry, EntryKind, HardState, Member, Membership, Message, ReplicaId, Restored, SnapshotMeta, Write
from lockd.raft.disk import Disk, MemoryDisk
from lockd.raft.journal import JournalOptions
from lockd.raft.recovery import Store

CLUSTER = "test"
ME = ReplicaId("a")
SMALL = JournalOptions(segment_bytes=8192, salt=lambda: 0x5A17_0F5A_170F_5A17)


def membership(*ids: str, learners: Sequence[str] = ()) -> Membership:
    """Members with made-up addresses."""
    everyone = sorted({*ids, *learners})
    return Membership(tuple(Member(ReplicaId(each), f"{each}:1", f"{each}:2", voter=each in ids) for each in everyone))


FIRST = membership("a", "b", "c")


def entry(index: int, term: int, data: bytes = b"", kind: EntryKind = EntryKind.NORMAL) -> Entry:
    """One entry."""
    return Entry(index, term, kind, data)


def write(
    number: int,
    *entries: Entry,
    hard: HardState | None = None,
    snapshot: SnapshotMeta | None = None,
    then: tuple[Message, ...] = (),
) -> Write:
    """One write."""
    return Write(number, hard, entries, snapshot, then)


def open_store(disk: Disk, options: JournalOptions = SMALL, cluster: str = CLUSTER, me: ReplicaId = ME) -> tuple[Store, Restored]:
    """Open the directory as the replica of these tests."""
    return Store.open(disk, cluster, me, FIRST, options)


def copy_of(disk: MemoryDisk) -> MemoryDisk:
    """An independent copy of all files."""
    copy = MemoryDisk()
    copy.files = {name: bytearray(data) for name, data in disk.files.items()}
    return copy


def noise(seed: int, n: int) -> bytes:
    """Reproducible bytes."""
    return random.Random(seed).randbytes(n)
