"""What is committed is applied in slices, and no order suffers from that."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lockd.raft.core.config import MILLISECOND
from lockd.raft.core.types import AppendRequest, Entry, HardState, InstallSnapshot, ReadIndexReply, ReadIndexRequest, Restored, SnapshotMeta
from lockd.raft.driver_backlog import FIRST_SLICE, Backlog
from lockd.raft.driver_io import DriverConfig
from lockd.raft.port import Committed
from tests.unit.raft_shell.support import entry
from tests.unit.raft_shell.test_driver import THREE, A, B, C, World, leading

ONE_BY_ONE = DriverConfig(apply_entries=1, apply_time=0)


def catching_up(count: int, config: DriverConfig) -> World:
    """A follower that has just heard that `count` entries are committed."""
    world = World(config=config)
    world.log.clear()
    world.deliver(AppendRequest(B, A, 1, 0, 0, tuple(entry(n, 1, b"%d" % n) for n in range(1, count + 1)), count, 1))
    world.persist()
    return world


def test_catching_up_takes_a_bounded_slice_of_each_turn() -> None:
    """However much is committed at once, one turn applies no more than its bound, and asks for the next turn until all is done."""
    world = catching_up(10, DriverConfig(apply_entries=4, apply_time=0))
    turns = [world.driver.applied]
    while world.asked_soon:
        world.asked_soon = 0
        world.driver.flush()
        turns.append(world.driver.applied)
    assert turns == [4, 8, 10]
    assert [each.index for each in world.applied] == list(range(1, 11))


def test_a_turn_ends_when_its_time_is_used_up() -> None:
    """A slow machine is given fewer entries at a time, so that a turn takes little more than it may; a quick one gets all at once."""
    cost = 0
    longest = 0

    class Slow(World):
        def apply(self, entries: Sequence[Committed]) -> None:
            super().apply(entries)
            self.time += cost * len(entries)

    def feed(world: World, first: int, count: int) -> None:
        nonlocal longest
        world.deliver(
            AppendRequest(B, A, 1, first - 1, min(first - 1, 1), tuple(entry(first + n, 1) for n in range(count)), first + count - 1, 1)
        )
        world.persist()
        while world.asked_soon:
            world.asked_soon = 0
            began = world.time
            world.driver.flush()
            longest = max(longest, world.time - began)

    world = Slow()
    feed(world, 1, 3000)
    assert (world.driver.applied, longest) == (3000, 0), "all in the turn in which they were committed"
    cost = 3 * MILLISECOND
    feed(world, 3001, 400)
    longest = 0
    feed(world, 3401, 400)
    assert world.driver.applied == 3800
    assert longest <= 20 * MILLISECOND


def test_slices_are_bounded_by_bytes_but_never_empty() -> None:
    """Large entries go one at a time."""
    backlog = Backlog(DriverConfig(apply_bytes=100))
    backlog.add([entry(1, 1, bytes(60)), entry(2, 1, bytes(60)), entry(3, 1, bytes(500)), entry(4, 1, bytes(40)), entry(5, 1, bytes(60))])
    taken: list[list[int]] = []
    while backlog:
        taken.append([each.index for each in backlog.take()])
    assert taken == [[1], [2], [3], [4, 5]]


def test_what_is_added_while_slices_are_taken_keeps_its_place() -> None:
    """No entry is lost, doubled or moved, however adding and taking alternate."""
    backlog = Backlog(DriverConfig(apply_entries=3))
    taken: list[int] = []
    following = 1
    for added in (5, 0, 7, 1, 0, 0, 11, 2):
        backlog.add([entry(following + n, 1) for n in range(added)])
        following += added
        taken += [each.index for each in backlog.take()]
        assert len(taken) + len(backlog) == following - 1
    while len(backlog):
        taken += [each.index for each in backlog.take()]
    assert taken == list(range(1, following))


def test_slices_follow_what_entries_cost() -> None:
    """They double while they are quick, up to the bound, and halve when they are slow, down to one."""
    config = DriverConfig()
    backlog = Backlog(config)

    def next_size() -> int:
        backlog.add([Entry(n, 1, entry(1, 1).kind, b"") for n in range(1000)])
        count = len(backlog.take())
        backlog.clear()
        return count

    sizes = []
    for _ in range(8):
        sizes.append(next_size())
        backlog.took(sizes[-1], 0)
    assert sizes == [FIRST_SLICE, 32, 64, 128, 256, 256, 256, 256]
    for _ in range(12):
        backlog.took(next_size(), config.apply_time + 1)
    assert next_size() == 1


def test_a_read_waits_for_the_slice_that_applies_its_index() -> None:
    """A confirmed read is answered neither before its index is applied nor later than the turn that applies it."""
    world = catching_up(4, ONE_BY_ONE)
    answers: list[int | None] = []
    world.driver.read(answers.append)
    world.driver.flush()
    (asked,) = [m for m in world.sent if isinstance(m, ReadIndexRequest)]
    world.deliver(ReadIndexReply(B, A, 1, asked.context, 4))
    assert (world.driver.applied, answers) == (2, [])
    world.driver.flush()
    assert (world.driver.applied, answers) == (3, [])
    world.driver.flush()
    assert (world.driver.applied, answers) == (4, [4])


def test_a_received_snapshot_drops_what_waits() -> None:
    """What it covers is not applied after it; what follows it is."""
    world = catching_up(5, ONE_BY_ONE)
    world.deliver(InstallSnapshot(B, A, 3, SnapshotMeta(10, 3, THREE)))
    assert (world.driver.applied, world.restored_at) == (10, [10])
    for _ in range(10):
        world.driver.flush()
    world.persist()
    world.deliver(AppendRequest(B, A, 3, 10, 3, (entry(11, 3),), 11, 1))
    world.persist()
    assert [each.index for each in world.applied] == [1, 11]


def test_a_leader_is_announced_after_the_backlog() -> None:
    """The machine hears that it leads only once everything of earlier terms is applied, however many turns that takes."""
    restored = Restored(HardState(1, None, 0), SnapshotMeta(0, 0, THREE), tuple(entry(n, 1) for n in (1, 2, 3)))
    world = World(config=ONE_BY_ONE, restored=restored)
    world.elect()
    world.acknowledge()
    for _ in range(2):
        world.driver.flush()
        assert "leader 2 a" not in world.log
    world.driver.flush()
    assert [line for line in world.log if line.startswith(("apply", "leader"))] == [
        "apply 1 None", "apply 2 None", "apply 3 None", "leader 2 a",
    ]  # fmt: skip


def test_tickets_keep_their_entries_through_a_backlog() -> None:
    """Each proposal is answered with its own entry and ticket, in order, over several turns."""
    world = leading(ONE_BY_ONE)
    tickets = [world.driver.propose(b"%d" % n) for n in range(4)]
    world.driver.flush()
    world.acknowledge()
    for _ in range(4):
        world.driver.flush()
    assert [(each.data, each.ticket) for each in world.applied] == [(b"%d" % n, tickets[n]) for n in range(4)]
    assert world.lost == []


def test_a_reign_that_ends_with_a_backlog_abandons_what_was_not_applied() -> None:
    """What waits is still applied, without a ticket: the machine hears of each proposal once, and before it hears of the new role."""
    world = leading(ONE_BY_ONE)
    tickets = [world.driver.propose(b"%d" % n) for n in range(3)]
    world.driver.flush()
    world.acknowledge()
    world.deliver(AppendRequest(C, A, 9, 4, 1, (), 4, 1))
    for _ in range(3):
        world.driver.flush()
    assert [(each.data, each.ticket) for each in world.applied] == [(b"0", tickets[0]), (b"1", None), (b"2", None)]
    assert world.lost == tickets[1:]
    told = [line for line in world.log if line.startswith(("abandoned", "follower"))]
    assert told == [f"abandoned {tickets[1:]}", "follower 9 c"]


def test_a_snapshot_covers_what_is_applied_and_no_more() -> None:
    """One that is taken in the midst of a backlog is of the last applied index."""
    world = catching_up(5, ONE_BY_ONE)
    world.driver.flush()
    world.driver.take_snapshot(lambda _: None)
    assert [meta.index for meta in world.taking] == [2]
    world.driver.snapshot_taken(world.taking[0])
    for _ in range(5):
        world.driver.flush()
    assert [each.index for each in world.applied] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("stop", ["close", "fail", "raise"])
def test_nothing_more_of_a_backlog_is_applied_after_the_end(stop: str) -> None:
    """Closed, failed, or broken by a machine that raised: the rest stays unapplied."""
    world = catching_up(5, ONE_BY_ONE)
    if stop == "close":
        world.driver.close()
    elif stop == "fail":
        world.driver.fail("EIO")
    else:
        world.raises = KeyError("broken")
        world.driver.flush()
        world.raises = None
        assert world.failures == ["KeyError: 'broken'"]
    for _ in range(5):
        world.driver.flush()
    assert [each.index for each in world.applied] == [1]
