"""The journal: what was synced comes back, what was torn is cut, what is damaged is refused."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest

from lockd.raft.core.types import Entry, EntryKind, HardState, ReplicaId, Restored, SnapshotMeta, Write
from lockd.raft.disk import DirectoryInUseError, File, MemoryDisk, OsDisk
from lockd.raft.journal import JournalDamagedError, JournalFailedError, JournalForeignError, JournalOptions
from lockd.raft.journal_format import DATA_START
from tests.unit.raft_shell.support import FIRST, SMALL, copy_of, entry, noise, open_store, write

SEGMENT = "journal-0000000000000001"


def state_after(writes: list[Write]) -> tuple[HardState, list[Entry]]:
    """The rule of replay, written plainly."""
    hard, log = HardState(), list[Entry]()
    for item in writes:
        hard = item.hard_state or hard
        for each in item.entries:
            del log[each.index - 1 :]
            log.append(each)
    return hard, log


BATCHES = [
    [write(1, hard=HardState(1, ReplicaId("b"), 0))],
    [write(2, entry(1, 1, kind=EntryKind.NOOP), entry(2, 1, b"two"), entry(3, 1, b"three")), write(3, entry(4, 1, b"four"))],
    [write(4, entry(3, 2, b"other three"), entry(4, 3, b""), hard=HardState(3, None, 2))],
    [write(5, entry(5, 3, noise(1, 1500)))],
    [write(6, entry(6, 4, noise(2, 700)), entry(7, 5, b"seven"), hard=HardState(5, ReplicaId("c"), 4))],
]


def build() -> tuple[MemoryDisk, list[int]]:
    """A journal of all batches, and where each ends in the file."""
    disk = MemoryDisk()
    store, _ = open_store(disk)
    ends = [DATA_START]
    for batch in BATCHES:
        store.write_many(batch)
        ends.append(len(disk.files[SEGMENT].rstrip(b"\0")))
    store.close()
    return disk, ends


def check_equals(restored: Restored, batches: int) -> None:
    """What was recovered is what so many batches wrote."""
    hard, log = state_after([item for batch in BATCHES[:batches] for item in batch])
    assert restored.hard_state == hard
    assert list(restored.entries) == log


def test_a_first_start_begins_with_the_given_membership() -> None:
    """An empty directory becomes an empty log after a snapshot at index 0 that holds the membership."""
    disk = MemoryDisk()
    for _ in range(2):
        store, restored = open_store(disk)
        assert restored == Restored(HardState(), SnapshotMeta(0, 0, FIRST), ())
        store.close()


def test_what_was_written_comes_back() -> None:
    """Entries, truncations and the hard state are recovered as written, also when writes shared a batch."""
    disk, _ = build()
    _, restored = open_store(disk)
    check_equals(restored, len(BATCHES))


def test_writing_goes_on_after_recovery() -> None:
    """A recovered journal takes more, and gives all of it back."""
    disk, _ = build()
    store, _ = open_store(disk)
    more = entry(8, 5, b"eight")
    store.write_many([write(7, more)])
    store.close()
    _, restored = open_store(disk)
    assert restored.entries[-1] == more
    assert len(restored.entries) == 8


def test_a_batch_torn_at_any_byte_is_cut() -> None:
    """Whatever prefix of the last batch reached the disk, recovery gives the batches before it, and the journal goes on from there."""
    disk, ends = build()
    whole = bytes(disk.files[SEGMENT])
    for at in range(ends[-2], ends[-1]):
        torn = copy_of(disk)
        torn.files[SEGMENT][at:] = bytes(len(whole) - at)
        store, restored = open_store(torn)
        check_equals(restored, len(BATCHES) - 1)
        assert torn.files[SEGMENT][ends[-2] :].strip(b"\0") == b""
        store.write_many(BATCHES[-1])
        store.close()
        _, restored = open_store(torn)
        check_equals(restored, len(BATCHES))


def test_a_batch_of_which_any_sectors_are_missing_is_cut() -> None:
    """Later sectors of the last batch may be there without earlier ones: still a torn tail."""
    disk, ends = build()
    start, stop = ends[-2], ends[-1]
    sectors = sorted({start, *range(start - start % 512 + 512, stop, 512)})
    pieces = list(pairwise([*sectors, stop]))
    for missing in range(1, 1 << len(pieces)):
        torn = copy_of(disk)
        for k, (a, b) in enumerate(pieces):
            if missing >> k & 1:
                torn.files[SEGMENT][a:b] = bytes(b - a)
        _, restored = open_store(torn)
        check_equals(restored, len(BATCHES) - 1)


def test_a_flipped_byte_never_changes_what_was_synced() -> None:
    """A changed byte anywhere is refused with file and offset, or cuts the last batch, or was in unused space: never other data."""
    disk, ends = build()
    verdicts = {"refused": 0, "cut": 0, "unused": 0}
    last = ends[-2]
    for at in range(len(disk.files[SEGMENT])):
        used = at < 256 or DATA_START <= at < ends[-1]
        for change in (0x01, 0xFF) if used else (0x10,):
            flipped = copy_of(disk)
            flipped.files[SEGMENT][at] ^= change
            restored = None
            try:
                _, restored = open_store(flipped)
            except (JournalDamagedError, JournalForeignError) as caught:
                error: JournalDamagedError | JournalForeignError | None = caught
            else:
                error = None
            if isinstance(error, JournalDamagedError):
                assert error.file == SEGMENT
                assert error.offset <= at
                assert at < ends[-1], "unused space is nothing to refuse for"
                verdicts["refused"] += 1
            elif error is not None:
                assert error.file == SEGMENT
                assert at < DATA_START
                verdicts["refused"] += 1
            else:
                assert restored is not None
                whole = restored.entries[-1].index == 7
                assert whole or at >= last, "only the last batch may be cut"
                check_equals(restored, len(BATCHES) if whole else len(BATCHES) - 1)
                verdicts["unused" if whole else "cut"] += 1
    assert verdicts["refused"] > 2 * (last - DATA_START)


def test_a_damaged_last_batch_without_zeros_is_no_torn_tail() -> None:
    """A change in the middle of the last batch that no torn write explains is refused, not cut."""
    disk = MemoryDisk()
    store, _ = open_store(disk)
    store.write_many([write(1, entry(1, 1, b"x" * 100))])
    store.close()
    at = disk.files[SEGMENT].index(b"x" * 100) + 50
    disk.files[SEGMENT][at] = ord("y")
    with pytest.raises(JournalDamagedError, match="no torn write") as caught:
        open_store(disk)
    assert caught.value.offset == DATA_START


def test_a_header_forged_in_client_data_is_not_believed() -> None:
    """Data that looks like a later batch, but for the secret salt, does not turn a torn tail into damage."""
    honest = MemoryDisk()
    store, _ = open_store(honest, JournalOptions(8192, salt=lambda: 77))
    for number in range(1, 4):
        store.write_many([write(number, entry(number, 1, b"data"))])
    forged = bytes(honest.files[SEGMENT][DATA_START:]).rstrip(b"\0")
    disk = MemoryDisk()
    store, _ = open_store(disk)
    store.write_many([write(1, entry(1, 1, b"first"))])
    end = len(disk.files[SEGMENT].rstrip(b"\0"))
    store.write_many([write(2, entry(2, 1, forged))])
    disk.files[SEGMENT][end : end + 16] = bytes(16)
    _, restored = open_store(disk)
    assert [each.data for each in restored.entries] == [b"first"]


def fill(disk: MemoryDisk, upto: int) -> None:
    """Entries of 3 kB, two to a segment of 8 kB or one."""
    store, restored = open_store(disk)
    for index in range(len(restored.entries) + restored.snapshot.index + 1, upto + 1):
        store.write_many([write(index, entry(index, 1, noise(index, 3000)), hard=HardState(1, ReplicaId("a"), index - 1))])
    store.close()


def test_segments_follow_each_other() -> None:
    """A log over many segments comes back whole; the hard state survives although its record is in an older segment."""
    disk = MemoryDisk()
    fill(disk, 9)
    assert len([name for name in disk.files if name.startswith("journal")]) >= 5
    _, restored = open_store(disk)
    assert [each.data for each in restored.entries] == [noise(index, 3000) for index in range(1, 10)]
    assert restored.hard_state == HardState(1, ReplicaId("a"), 8)


def test_damage_at_the_end_of_an_older_segment_is_refused() -> None:
    """The last batch of a segment that another segment follows was durable: if it is not valid, that is damage, whatever it looks like."""
    disk = MemoryDisk()
    fill(disk, 9)
    names = sorted(name for name in disk.files if name.startswith("journal"))
    end = len(disk.files[names[1]].rstrip(b"\0"))
    disk.files[names[1]][end - 600 : end] = bytes(600)
    with pytest.raises(JournalDamagedError) as caught:
        open_store(disk)
    assert caught.value.file == names[1]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_missing_segment_is_refused(which: int) -> None:
    """A segment that the log needs cannot be absent without notice."""
    disk = MemoryDisk()
    fill(disk, 9)
    names = sorted(name for name in disk.files if name.startswith("journal"))
    del disk.files[names[which]]
    with pytest.raises(JournalDamagedError) as caught:
        open_store(disk)
    assert caught.value.file == names[which]


class Text:
    """A snapshot writer of fixed bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def write(self, sink: object) -> None:
        """Write them."""
        sink.write(self.data)  # type: ignore[attr-defined]


def test_compaction_removes_whole_segments_and_recovery_starts_at_the_snapshot() -> None:
    """After a snapshot the segments below it go; entries, hard state and the term at the snapshot are still known."""
    disk = MemoryDisk()
    fill(disk, 9)
    store, _ = open_store(disk)
    store.snapshots.take(SnapshotMeta(6, 1, FIRST), Text(b"state at six"))
    before = len(disk.files)
    store.compact(7)
    store.close()
    assert len(disk.files) < before
    store, restored = open_store(disk)
    assert restored.snapshot == SnapshotMeta(6, 1, FIRST)
    assert [each.index for each in restored.entries] == [7, 8, 9]
    assert restored.hard_state == HardState(1, ReplicaId("a"), 8)
    store.close()
    fill(disk, 12)
    _, restored = open_store(disk)
    assert [each.index for each in restored.entries] == [7, 8, 9, 10, 11, 12]


def test_segments_left_over_from_a_compaction_are_removed() -> None:
    """A crash may undo some of the removals of a compaction: what is not needed does not stop the start."""
    disk = MemoryDisk()
    fill(disk, 9)
    names = sorted(name for name in disk.files if name.startswith("journal"))
    first = bytearray(disk.files[names[0]])
    store, _ = open_store(disk)
    store.snapshots.take(SnapshotMeta(6, 1, FIRST), Text(b"state at six"))
    store.compact(7)
    store.close()
    disk.files[names[0]] = first
    _, restored = open_store(disk)
    assert [each.index for each in restored.entries] == [7, 8, 9]
    assert names[0] not in disk.files


def test_a_log_truncated_below_a_segments_start_is_replayed() -> None:
    """Entries that replace others of an older segment come back as the newer ones, also after compaction."""
    disk = MemoryDisk()
    fill(disk, 6)
    store, _ = open_store(disk)
    store.write_many([write(50, entry(4, 2, b"new four"), entry(5, 2, b"new five"), entry(6, 2, b"new six"), entry(7, 2, b"new seven"))])
    for index in range(8, 12):
        store.write_many([write(index + 50, entry(index, 2, noise(index, 3000)))])
    store.snapshots.take(SnapshotMeta(6, 2, FIRST), Text(b"state at six"))
    store.compact(7)
    store.close()
    _, restored = open_store(disk)
    assert [(each.index, each.term) for each in restored.entries] == [(7, 2), (8, 2), (9, 2), (10, 2), (11, 2)]


class FailingDisk(MemoryDisk):
    """Fails one kind of call of its files after so many."""

    def __init__(self, call: str, after: int, code: int) -> None:
        super().__init__()
        self.call, self.left, self.code = call, after, code

    def count(self, call: str) -> None:
        """Raise when due."""
        if call == self.call:
            self.left -= 1
            if self.left < 0:
                raise OSError(self.code, "injected")

    def create(self, name: str, size: int = 0) -> File:
        """A file that fails with the disk."""
        return FailingFile(self, super().create(name, size))


class FailingFile:
    """A file of a FailingDisk."""

    def __init__(self, disk: FailingDisk, file: File) -> None:
        self.disk, self.file = disk, file
        self.read_at, self.size, self.truncate, self.close = file.read_at, file.size, file.truncate, file.close

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write or fail."""
        self.disk.count("write")
        self.file.write_at(offset, data)

    def sync(self) -> None:
        """Sync or fail."""
        self.disk.count("sync")
        self.file.sync()


@pytest.mark.parametrize("call", ["write", "sync"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failed_write_or_sync_poisons_the_journal_for_good(call: str, code: int) -> None:
    """After one error nothing more is written, even if the disk would take it again: a failed sync is never repeated."""
    disk = FailingDisk(call, 1000, code)
    store, _ = open_store(disk)
    store.write_many([write(1, entry(1, 1, b"x"))])
    disk.left = 0
    with pytest.raises(JournalFailedError, match="injected"):
        store.write_many([write(2, entry(2, 1, b"x"))])
    disk.left = 1000
    before = {name: bytes(data) for name, data in disk.files.items()}
    with pytest.raises(JournalFailedError, match="injected"):
        store.write_many([write(9, entry(4, 1, b"x"))])
    with pytest.raises(JournalFailedError, match="injected"):
        store.compact(3)
    assert {name: bytes(data) for name, data in disk.files.items()} == before


@pytest.mark.parametrize(
    ("cluster", "me", "reason"),
    [("other", "a", "belongs to cluster 'test', not to 'other'"), ("test", "b", "belongs to replica 'a', not to 'b'")],
)
def test_a_foreign_directory_is_refused_and_left_alone(cluster: str, me: str, reason: str) -> None:
    """Another cluster's or replica's directory is refused with the reason, and not a byte of it changes."""
    disk, _ = build()
    disk.files["journal-0000000000000002.tmp"] = bytearray(b"unfinished")
    before = {name: bytes(data) for name, data in disk.files.items()}
    with pytest.raises(JournalForeignError, match=reason):
        open_store(disk, SMALL, cluster, ReplicaId(me))
    assert {name: bytes(data) for name, data in disk.files.items()} == before


@pytest.mark.parametrize("name", ["notes.txt", "journal-1", "snapshot-1-1", "journal-0000000000000001.bak", "received-x.tmp"])
def test_a_file_that_is_not_ours_is_refused_by_name(name: str) -> None:
    """A directory that holds anything unknown is not used."""
    disk, _ = build()
    disk.files[name] = bytearray(b"?")
    with pytest.raises(JournalForeignError, match=name):
        open_store(disk)


def test_an_unknown_version_is_refused() -> None:
    """A segment of a later format is not guessed at."""
    disk, _ = build()
    disk.files[SEGMENT][8] = 9
    with pytest.raises(JournalForeignError, match="version 9"):
        open_store(disk)


def test_a_journal_without_its_snapshot_is_refused() -> None:
    """And the other way round: neither half is taken for a first start."""
    disk, _ = build()
    lonely = copy_of(disk)
    del lonely.files["snapshot-0000000000000000-0000000000000000"]
    with pytest.raises(JournalDamagedError, match="no snapshot"):
        open_store(lonely)
    store, _ = open_store(disk)
    store.snapshots.take(SnapshotMeta(5, 3, FIRST), Text(b"five"))
    del disk.files[SEGMENT]
    with pytest.raises(JournalDamagedError, match="the journal is missing"):
        open_store(disk)


def test_a_first_start_that_was_interrupted_begins_again() -> None:
    """A crash before the first segment was finished leaves nothing that counts."""
    disk = MemoryDisk()
    store, _ = open_store(disk)
    store.close()
    disk.rename(SEGMENT, SEGMENT + ".tmp")
    _, restored = open_store(disk)
    assert restored == Restored(HardState(), SnapshotMeta(0, 0, FIRST), ())


def test_a_batch_larger_than_a_segment_gets_a_segment_of_its_own() -> None:
    """The segment size is no bound on what can be written."""
    disk = MemoryDisk()
    store, _ = open_store(disk)
    data = noise(3, 100_000)
    store.write_many([write(1, entry(1, 1, data))])
    store.write_many([write(2, entry(2, 1, b"after"))])
    store.close()
    _, restored = open_store(disk)
    assert [each.data for each in restored.entries] == [data, b"after"]


def test_the_real_disk_keeps_a_journal(tmp_path: object) -> None:
    """The same on the operating system's files, whose directory no second one can take."""
    disk = OsDisk(str(tmp_path) + "/data")
    store, _ = open_store(disk)
    for batch in BATCHES:
        store.write_many(batch)
    with pytest.raises(DirectoryInUseError):
        OsDisk(str(tmp_path) + "/data")
    store.close()
    disk.close()
    disk = OsDisk(str(tmp_path) + "/data")
    store, restored = open_store(disk)
    check_equals(restored, len(BATCHES))
    store.close()
    disk.close()
