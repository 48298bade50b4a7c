"""The log on disk: what was written comes back, what was torn is cut, what is damaged is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from lockd.raft.core.types import HardState, ReplicaId
from lockd.raft.disk import MemoryDisk, OsDisk
from lockd.raft.journal_format import JournalDamagedError, JournalForeignError
from lockd.raft.pysyncobj_engine import logfile
from lockd.raft.pysyncobj_engine.logfile import LOG_NAME, LOG_UNFINISHED, LogContent, LogFile, Row
from lockd.raft.pysyncobj_engine.storage import FIRST_ROW

ME = ReplicaId("a")
ROWS: list[Row] = [FIRST_ROW, *((b"\0payload %d" % n * 20, n, 1) for n in range(2, 12))]


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files grow in small steps, so that growing is tested too and reading is quick."""
    monkeypatch.setattr(logfile, "ALLOCATE", 8192)


def opened(disk: MemoryDisk | OsDisk, content: LogContent | None = None) -> LogFile:
    """A new log with this content."""
    log = LogFile(disk, "cluster", ME)
    log.replace(content or LogContent(rows=[FIRST_ROW]))
    return log


def read(disk: MemoryDisk | OsDisk) -> LogContent:
    """What a process that starts now finds."""
    return LogFile(disk, "cluster", ME).read()


def written(disk: MemoryDisk) -> list[int]:
    """Write the rows one by one; returns where each batch ended."""
    log = opened(disk)
    ends = [log.used]
    for row in ROWS[1:]:
        log.write([row])
        ends.append(log.used)
    return ends


def test_entries_and_hard_state_come_back(tmp_path: Path) -> None:
    """A second process reads what a first one wrote, on a real disk."""
    disk = OsDisk(tmp_path)
    log = opened(disk)
    state = HardState(4, ReplicaId("b"), 7)
    log.write([*ROWS[1:], HardState(4, ReplicaId("b"), 0)])
    log.write([state])
    log.close()
    disk.close()
    disk = OsDisk(tmp_path)
    content = read(disk)
    disk.close()
    assert content.rows == ROWS
    assert content.hard_state == state


def test_a_cut_comes_back() -> None:
    """Entries that were cut are gone after a restart; what followed them is there."""
    disk = MemoryDisk()
    log = opened(disk)
    log.write(ROWS[1:])
    log.write([5])
    assert read(disk).rows == ROWS[:4]
    log.write([(b"\0other", 5, 2)])
    assert read(disk).rows == [*ROWS[:4], (b"\0other", 5, 2)]


def test_a_replacement_is_whole_and_goes_on() -> None:
    """`replace` makes the log exactly what it is given, and later writes follow it."""
    disk = MemoryDisk()
    log = opened(disk)
    log.write(ROWS[1:])
    log.replace(LogContent(HardState(3, None, 9), ROWS[7:]))
    log.write([(b"\0next", 12, 3)])
    content = read(disk)
    assert content.rows == [*ROWS[7:], (b"\0next", 12, 3)]
    assert content.hard_state.term == 3
    assert log.grown < 200


def test_an_unfinished_replacement_is_not_seen() -> None:
    """A crash before the rename leaves the old log in force, and the next replacement does not stumble over what is left."""
    disk = MemoryDisk()
    log = opened(disk)
    log.write(ROWS[1:])
    disk.files[LOG_UNFINISHED] = bytearray(b"half")
    assert read(disk).rows == ROWS
    log.replace(LogContent(rows=ROWS[:3]))
    assert read(disk).rows == ROWS[:3]


def test_a_torn_tail_is_cut_at_every_length() -> None:
    """Whatever part of the last batch reached the disk, the batches before it come back."""
    disk = MemoryDisk()
    ends = written(disk)
    whole = bytes(disk.files[LOG_NAME])
    for stop in range(ends[-2], ends[-1]):
        disk.files[LOG_NAME] = bytearray(whole[:stop] + bytes(len(whole) - stop))
        assert read(disk).rows == ROWS[:-1]
        disk.files[LOG_NAME] = bytearray(whole[:stop])
        assert read(disk).rows == ROWS[:-1]


def test_damage_before_the_end_is_refused_with_file_and_offset() -> None:
    """A flipped bit in any batch but the last stops the start, and the error names the file and where the batch begins."""
    disk = MemoryDisk()
    ends = written(disk)
    whole = bytes(disk.files[LOG_NAME])
    for number, (start, stop) in enumerate(pairwise(ends[:-1])):
        for at in (start, start + 9, (start + stop) // 2, stop - 1):
            damaged = bytearray(whole)
            damaged[at] ^= 0x10
            disk.files[LOG_NAME] = damaged
            with pytest.raises(JournalDamagedError) as refused:
                read(disk)
            assert (refused.value.file, refused.value.offset) == (LOG_NAME, start), f"batch {number}, byte {at}"


@pytest.mark.parametrize("at", [0, 9, 30])
def test_a_damaged_header_is_refused(at: int) -> None:
    """A flipped bit in the header stops the start."""
    disk = MemoryDisk()
    written(disk)
    disk.files[LOG_NAME][at] ^= 1
    with pytest.raises((JournalDamagedError, JournalForeignError)):
        read(disk)


def test_a_foreign_log_is_refused() -> None:
    """The log of another cluster or replica is not read."""
    disk = MemoryDisk()
    written(disk)
    with pytest.raises(JournalForeignError, match="another"):
        LogFile(disk, "another", ME).read()
    with pytest.raises(JournalForeignError, match="'z'"):
        LogFile(disk, "cluster", ReplicaId("z")).read()


def test_the_file_grows(tmp_path: Path) -> None:
    """A log longer than what was allocated at first comes back whole."""
    disk = OsDisk(tmp_path)
    log = opened(disk)
    big: list[Row] = [(b"\0" + bytes([n]) * (3 << 20), n, 1) for n in range(2, 8)]
    for row in big:
        log.write([row])
    log.close()
    assert read(disk).rows == [FIRST_ROW, *big]
    disk.close()


def test_a_closed_log_takes_nothing() -> None:
    """Writing after `close` is an error, not silence."""
    log = opened(MemoryDisk())
    log.close()
    with pytest.raises(OSError, match="closed"):
        log.write([ROWS[1]])
