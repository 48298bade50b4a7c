"""The package's journal over ours: what is durable when, and what is noticed."""

from __future__ import annotations

import pytest

from lockd.raft.core.types import ReplicaId
from lockd.raft.disk import MemoryDisk
from lockd.raft.pysyncobj_engine.journal import DivergedError, DurableJournal
from lockd.raft.pysyncobj_engine.logfile import LogContent, LogFile
from lockd.raft.pysyncobj_engine.storage import FIRST_ROW


def fresh() -> tuple[DurableJournal, MemoryDisk]:
    """An empty journal."""
    disk = MemoryDisk()
    log = LogFile(disk, "cluster", ReplicaId("a"))
    content = LogContent(rows=[FIRST_ROW])
    log.replace(content)
    return DurableJournal(log, content), disk


def durable(disk: MemoryDisk) -> LogContent:
    """What a restart would find."""
    return LogFile(disk, "cluster", ReplicaId("a")).read()


def sync(journal: DurableJournal) -> None:
    """Run one job."""
    journal.take()()
    journal.done()


def test_nothing_is_durable_before_its_mark() -> None:
    """What was added is on disk exactly when `durable` has reached the mark that was given for it."""
    journal, disk = fresh()
    assert journal.mark <= journal.durable
    journal.add(b"\0x", 2, 1)
    mark = journal.mark
    assert mark > journal.durable
    assert len(durable(disk).rows) == 1
    job = journal.take()
    assert journal.mark == mark
    journal.add(b"\0y", 3, 1)
    assert journal.mark == mark + 1
    job()
    journal.done()
    assert journal.durable == mark
    assert [row[1] for row in durable(disk).rows] == [1, 2]
    sync(journal)
    assert [row[1] for row in durable(disk).rows] == [1, 2, 3]
    assert not journal.dirty


def test_term_and_vote_are_durable_with_their_mark() -> None:
    """A vote is on disk once its job has ended; the commit index goes along without a job of its own."""
    journal, disk = fresh()
    journal.setRaftCommitIndex(1)
    assert journal.mark == journal.durable
    journal.setCurrentTerm(5, "b")
    assert journal.mark > journal.durable
    sync(journal)
    assert durable(disk).hard_state.term == 5
    assert durable(disk).hard_state.vote == "b"
    journal.setRaftCommitIndex(2)
    journal.add(b"\0x", 2, 5)
    sync(journal)
    assert durable(disk).hard_state.commit == 2


def test_truncation_reaches_the_disk_in_order() -> None:
    """Cut and re-added entries are on disk as they are in memory."""
    journal, disk = fresh()
    for index in range(2, 7):
        journal.add(b"\0old", index, 1)
    sync(journal)
    journal.deleteEntriesFrom(3)
    journal.add(b"\0new", 4, 2)
    sync(journal)
    assert durable(disk).rows == journal[:] == [FIRST_ROW, (b"\0old", 2, 1), (b"\0old", 3, 1), (b"\0new", 4, 2)]
    assert journal.truncations == 1


def test_a_dropped_beginning_replaces_the_file() -> None:
    """After `deleteEntriesTo` the file holds what is left, with what was added since, and the term."""
    journal, disk = fresh()
    journal.setCurrentTerm(3, None)
    for index in range(2, 7):
        journal.add(b"\0x", index, 3)
    journal.deleteEntriesTo(4)
    journal.add(b"\0y", 7, 3)
    sync(journal)
    assert durable(disk).rows == [(b"\0x", 5, 3), (b"\0x", 6, 3), (b"\0y", 7, 3)]
    assert durable(disk).hard_state.term == 3
    assert (journal.first_index, journal.last_index) == (5, 7)


def test_an_installed_snapshot_replaces_the_file() -> None:
    """`clear`, and the two entries that the package adds then, are the whole log."""
    journal, disk = fresh()
    journal.add(b"\0x", 2, 1)
    sync(journal)
    journal.clear()
    journal.add(b"\0p", 41, 3)
    journal.add(b"\0l", 42, 3)
    sync(journal)
    assert [row[1] for row in durable(disk).rows] == [41, 42]


def test_an_applied_entry_may_come_back_but_not_change() -> None:
    """The package cuts entries that were applied and adds them again; if another one takes the place, that is divergence."""
    journal, _ = fresh()
    for index in range(2, 6):
        journal.add(b"\0x", index, 1)
    journal.applied = 4
    journal.deleteEntriesFrom(2)
    journal.add(b"\0x", 3, 1)
    with pytest.raises(DivergedError, match="entry 4 of term 1"):
        journal.add(b"\0x", 4, 2)


def test_an_entry_that_was_not_applied_may_change() -> None:
    """Replacing what was never applied is ordinary."""
    journal, _ = fresh()
    for index in range(2, 6):
        journal.add(b"\0x", index, 1)
    journal.applied = 4
    journal.deleteEntriesFrom(4)
    journal.add(b"\0other", 5, 2)
    assert journal.row_at(5) == (b"\0other", 5, 2)
    assert journal.row_at(6) is None


def test_the_commit_hint_never_exceeds_the_log() -> None:
    """A hint that the log does not cover is cut back to it."""
    journal, _ = fresh()
    journal.setRaftCommitIndex(50)
    assert journal.getRaftCommitIndex() == 1
