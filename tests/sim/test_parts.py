"""The parts of the simulation, each for itself: a disk that forgets just what it may, a checker that sees what it must."""

from __future__ import annotations

import errno
import random

import pytest

from tests.sim.disk import SECTOR, PowerCutError, SimDisk
from tests.sim.history import History
from tests.sim.world import SimulationError, World


def test_what_was_synced_survives_a_power_cut() -> None:
    """Bytes and names that were synced are there after any power cut."""
    for seed in range(50):
        disk = SimDisk(random.Random(seed))
        file = disk.create("a", 4 * SECTOR)
        file.write_at(100, b"x" * 1000)
        file.sync()
        disk.sync()
        file.write_at(2000, b"y" * 40)
        disk.power_cut()
        assert disk.open("a").read_at(100, 1000) == b"x" * 1000


def test_what_was_not_synced_may_be_lost_sector_by_sector() -> None:
    """Of an unsynced write any sectors may survive: over many power cuts all, none, and some without those before them."""
    shapes: set[tuple[bool, ...]] = set()
    for seed in range(300):
        disk = SimDisk(random.Random(seed))
        file = disk.create("a", 4 * SECTOR)
        file.sync()
        disk.sync()
        file.write_at(0, b"z" * 3 * SECTOR)
        disk.power_cut()
        raw = disk.open("a").read_at(0, 3 * SECTOR)
        shapes.add(tuple(raw[at : at + SECTOR] == b"z" * SECTOR for at in range(0, 3 * SECTOR, SECTOR)))
    assert {(True, True, True), (False, False, False), (False, True, False), (True, False, True)} <= shapes


def test_names_not_synced_may_be_undone() -> None:
    """A rename without a sync of the directory may be gone after a power cut, or not."""
    names: set[tuple[str, ...]] = set()
    for seed in range(100):
        disk = SimDisk(random.Random(seed))
        disk.create("old").sync()
        disk.sync()
        disk.rename("old", "new")
        disk.power_cut()
        names.add(tuple(disk.list()))
    assert names == {("old",), ("new",)}


def test_a_process_that_dies_loses_nothing_and_gains_nothing() -> None:
    """After the process alone died its writes are visible, and a later power cut may still take them."""
    lost = 0
    for seed in range(40):
        disk = SimDisk(random.Random(seed))
        file = disk.create("a", SECTOR)
        file.sync()
        disk.sync()
        file.write_at(0, b"x")
        disk.process_died()
        assert disk.open("a").read_at(0, 1) == b"x"
        disk.power_cut()
        lost += disk.open("a").read_at(0, 1) == b"\0"
    assert 0 < lost < 40


def test_the_fuse_cuts_in_the_middle() -> None:
    """The power goes after so many operations, and only operations that change something count."""
    disk = SimDisk(random.Random(1))
    file = disk.create("a", SECTOR)
    disk.arrange_power_cut(1)
    file.write_at(0, b"x")
    file.read_at(0, 1)
    with pytest.raises(PowerCutError):
        file.sync()


def test_a_failed_disk_fails_for_good() -> None:
    """After an arranged EIO everything is refused until the power cut."""
    disk = SimDisk(random.Random(1))
    file = disk.create("a", SECTOR)
    disk.arrange_failure("sync", errno.EIO)
    file.write_at(0, b"x")
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    with pytest.raises(OSError, match="Input/output"):
        file.write_at(1, b"y")
    disk.power_cut()
    assert disk.list() in ([], ["a"])


def _history() -> History:
    history = History()
    for number in (1, 2):
        history.request((1, number))
        history.executed("n1", (1, number), number)
    return history


def test_a_stale_read_is_seen() -> None:
    """A read that began after position 2 was answered and sees 1 is not linearizable; one that began before is."""
    history = _history()
    history.write_answered((1, 2), 2, 0)
    history.read_answered(1, 0)
    with pytest.raises(SimulationError, match="linearizable reads"):
        history.read_answered(1, 2)


def test_a_read_of_the_future_is_seen() -> None:
    """A read cannot see more writes than were executed."""
    with pytest.raises(SimulationError, match="linearizable reads"):
        _history().read_answered(3, 0)


def test_a_write_out_of_order_is_seen() -> None:
    """A write that began after position 2 was answered cannot get position 1."""
    history = _history()
    with pytest.raises(SimulationError, match="linearizable writes"):
        history.write_answered((1, 1), 1, 2)


def test_a_write_executed_twice_is_seen() -> None:
    """One request has one position."""
    history = _history()
    with pytest.raises(SimulationError, match="applied once"):
        history.executed("n1", (1, 1), 3)


def test_a_lost_write_is_seen() -> None:
    """A final state without an acknowledged write is an error that names the write."""
    history = _history()
    history.write_answered((1, 2), 2, 0)
    with pytest.raises(SimulationError, match="nothing acknowledged is lost"):
        history.final("n2", [(1, 1)])


def test_replicas_that_execute_differently_are_seen() -> None:
    """Two replicas with different writes at one position break state machine safety."""
    history = _history()
    with pytest.raises(SimulationError, match="state machine safety"):
        history.executed("n2", (1, 2), 1)


def test_events_at_one_time_keep_their_order() -> None:
    """The queue is deterministic: by time, then by order of arrival."""
    world = World(1)
    seen: list[int] = []
    world.at(5, seen.append, 2)
    world.at(5, seen.append, 3)
    world.at(1, seen.append, 1)
    world.run_until(10)
    assert seen == [1, 2, 3]
    assert world.now == 10
