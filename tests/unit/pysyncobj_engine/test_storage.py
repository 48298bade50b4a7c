"""Recovery: a directory is set up, recovered, or refused."""

from __future__ import annotations

import pytest

from lockd.raft.core.types import Membership
from lockd.raft.disk import MemoryDisk
from lockd.raft.journal_format import JournalDamagedError, JournalForeignError
from lockd.raft.pysyncobj_engine import logfile
from lockd.raft.pysyncobj_engine.directory import IDENTITY_NAME
from lockd.raft.pysyncobj_engine.logfile import LOG_NAME, LOG_UNFINISHED, LogContent, Row
from lockd.raft.pysyncobj_engine.snapshots import SNAPSHOT_NAME, SnapshotStore
from lockd.raft.pysyncobj_engine.storage import FIRST_ROW, recover
from tests.unit.pysyncobj_engine.support import A, B, Bytes, settings

ROWS: list[Row] = [FIRST_ROW, *((b"\0%d" % n, n, 1) for n in range(2, 12))]


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files are quick."""
    monkeypatch.setattr(logfile, "ALLOCATE", 8192)


def prepared(rows: list[Row], snapshot: tuple[Row, Row] | None = None) -> MemoryDisk:
    """A directory with this log and this snapshot."""
    disk = MemoryDisk()
    recovered = recover(disk, settings())
    recovered.log.replace(LogContent(rows=rows))
    if snapshot is not None:
        store = SnapshotStore(disk, "cluster", Membership(()))
        store.write(Bytes(b"state"), *snapshot)
        store.publish()
    return disk


def test_an_empty_directory_is_set_up_and_found_again() -> None:
    """The first start makes a log with the package's first entry; the second one finds it."""
    disk = MemoryDisk()
    assert recover(disk, settings()).content.rows == [FIRST_ROW]
    assert recover(disk, settings()).content.rows == [FIRST_ROW]


@pytest.mark.parametrize("left", [[], [LOG_UNFINISHED], [LOG_NAME], [LOG_NAME, IDENTITY_NAME + ".tmp"]])
def test_an_unfinished_set_up_is_begun_again(left: list[str]) -> None:
    """A crash at any point before the identity is in place leaves a directory that can be set up."""
    disk = MemoryDisk()
    for name in left:
        disk.files[name] = bytearray(b"half")
    assert recover(disk, settings()).content.rows == [FIRST_ROW]


def test_a_directory_with_other_files_is_refused() -> None:
    """Files that this engine did not make, such as the core engine's, are not written beside."""
    disk = MemoryDisk()
    disk.files["journal-0000000000000001"] = bytearray(b"core")
    with pytest.raises(JournalForeignError, match="journal-0000000000000001"):
        recover(disk, settings())
    assert disk.list() == ["journal-0000000000000001"]


def test_a_foreign_identity_is_refused() -> None:
    """A directory of another replica is refused, and one whose identity cannot be read is damaged."""
    ports = [7001, 7002, 7003]
    disk = MemoryDisk()
    recover(disk, settings(A, ports=ports))
    with pytest.raises(JournalForeignError, match="replica 'a'"):
        recover(disk, settings(B, ports=ports))
    disk.files[IDENTITY_NAME] = bytearray(b'{"engine":"core","format":1,"cluster_id":"cluster","replica_id":"a"}')
    with pytest.raises(JournalForeignError, match="engine 'core'"):
        recover(disk, settings(A, ports=ports))
    disk.files[IDENTITY_NAME] = bytearray(b"{")
    with pytest.raises(JournalDamagedError, match=IDENTITY_NAME):
        recover(disk, settings(A, ports=ports))


def test_a_missing_log_is_refused() -> None:
    """Without its log a replica has forgotten its votes: it does not start as if it were new."""
    disk = prepared(ROWS)
    disk.remove(LOG_NAME)
    with pytest.raises(JournalDamagedError, match="missing"):
        recover(disk, settings())


def test_a_missing_snapshot_is_refused() -> None:
    """A log that begins behind a snapshot is of no use without it."""
    disk = prepared(ROWS[5:])
    with pytest.raises(JournalDamagedError, match="no snapshot"):
        recover(disk, settings())


@pytest.mark.parametrize("rows", [ROWS, ROWS[4:], ROWS[5:], ROWS[6:]])
def test_the_log_behind_a_snapshot_is_kept(rows: list[Row]) -> None:
    """However far back the log reaches, it is made to begin with the snapshot's two entries, and nothing behind them is lost."""
    disk = prepared(rows, (ROWS[5], ROWS[6]))
    recovered = recover(disk, settings())
    assert recovered.content.rows == ROWS[5:]
    assert recovered.snapshot_index == 7
    assert recover(disk, settings()).content.rows == ROWS[5:]


@pytest.mark.parametrize("rows", [ROWS[:4], [*ROWS[:6], (b"\0other", 7, 2), (b"\0other", 8, 2)]])
def test_a_received_snapshot_replaces_a_log_that_it_contradicts(rows: list[Row]) -> None:
    """A crash between the rename of a received snapshot and the cut of the log ends with the snapshot's log."""
    disk = prepared(rows, (ROWS[5], ROWS[6]))
    assert recover(disk, settings()).content.rows == ROWS[5:7]


def test_a_gap_between_snapshot_and_log_is_refused() -> None:
    """A log that begins behind the snapshot's end misses entries."""
    disk = prepared(ROWS[8:], (ROWS[5], ROWS[6]))
    with pytest.raises(JournalDamagedError, match="begins with entry 9"):
        recover(disk, settings())


def test_a_damaged_snapshot_is_refused_with_file_and_offset() -> None:
    """A flipped bit anywhere in the snapshot stops the start."""
    disk = prepared(ROWS, (ROWS[5], ROWS[6]))
    whole = bytes(disk.files[SNAPSHOT_NAME])
    for at in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[at] ^= 4
        disk.files[SNAPSHOT_NAME] = damaged
        with pytest.raises((JournalDamagedError, JournalForeignError), match=SNAPSHOT_NAME):
            recover(disk, settings())
    for stop in range(0, len(whole), 7):
        disk.files[SNAPSHOT_NAME] = bytearray(whole[:stop])
        with pytest.raises(JournalDamagedError, match=SNAPSHOT_NAME):
            recover(disk, settings())


def test_leftovers_of_snapshots_are_removed() -> None:
    """What an earlier process did not finish is gone after recovery."""
    disk = prepared(ROWS, (ROWS[5], ROWS[6]))
    disk.files[SNAPSHOT_NAME + ".tmp"] = bytearray(b"half")
    disk.files[SNAPSHOT_NAME + ".received.tmp"] = bytearray(b"half")
    recover(disk, settings())
    assert disk.list() == sorted([IDENTITY_NAME, LOG_NAME, SNAPSHOT_NAME])
