"""The driver over a world that the test moves by hand."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO

import pytest

from lockd.raft.core.config import MILLISECOND, Config
from lockd.raft.core.node import Node
from lockd.raft.core.types import (
    AppendReply,
    AppendRequest,
    HardState,
    InstallSnapshot,
    Membership,
    Message,
    Nanos,
    ReadIndexReply,
    ReadIndexRequest,
    Refusal,
    ReplicaId,
    Restored,
    Role,
    SnapshotMeta,
    VoteReply,
    VoteRequest,
    Write,
)
from lockd.raft.driver import ChangeResult, Driver, DriverConfig, Lost
from lockd.raft.port import Committed, Member, NotLeaderError, OverloadedError, SnapshotWriter, StorageFailedError, UnavailableError
from tests.unit.raft_shell.support import entry, membership

A, B, C = ReplicaId("a"), ReplicaId("b"), ReplicaId("c")
THREE = membership("a", "b", "c")


class World:
    """A DriverIO and a state machine in one; everything is remembered, nothing happens by itself."""

    def __init__(self, members: Membership = THREE, config: DriverConfig | None = None, restored: Restored | None = None) -> None:
        self.time: Nanos = 0
        self.sent: list[Message] = []
        self.writes: list[Write] = []
        self.log: list[str] = []
        self.applied: list[Committed] = []
        self.lost: list[int] = []
        self.asked_soon = 0
        self.taking: list[SnapshotMeta] = []
        self.streams: list[InstallSnapshot] = []
        self.compacted: list[int] = []
        self.discarded: list[SnapshotMeta] = []
        self.restored_at: list[int] = []
        self.failures: list[str] = []
        self.woken: Nanos = 0
        self.raises: Exception | None = None
        start = restored or Restored(HardState(), SnapshotMeta(0, 0, members), ())
        self.driver = Driver(Node(A, start, 0, Config()), start, self, self, config)
        self.driver.start()

    # DriverIO

    def now(self) -> Nanos:
        """By hand."""
        return self.time

    def send(self, messages: Sequence[Message]) -> None:
        """Remember."""
        self.sent += messages

    def write(self, write: Write) -> None:
        """Remember."""
        self.writes.append(write)

    def compact(self, keep_from: int) -> None:
        """Remember."""
        self.compacted.append(keep_from)

    def wake(self, at: Nanos) -> None:
        """Remember."""
        self.woken = at

    def soon(self) -> None:
        """Count."""
        self.asked_soon += 1

    def open_snapshot(self, meta: SnapshotMeta) -> AbstractContextManager[BinaryIO]:
        """Nothing in it."""
        return nullcontext(io.BytesIO(b""))

    def take_snapshot(self, meta: SnapshotMeta, writer: SnapshotWriter) -> None:
        """Remember."""
        self.taking.append(meta)

    def stream_snapshot(self, message: InstallSnapshot) -> None:
        """Remember."""
        self.streams.append(message)

    def discard_snapshot(self, meta: SnapshotMeta) -> None:
        """Remember."""
        self.discarded.append(meta)

    def membership_changed(self, membership: Membership) -> None:
        """Remember."""
        self.log.append("members " + "".join(member.id for member in membership.members))

    def failed(self, reason: str, error: BaseException | None) -> None:
        """Remember."""
        self.failures.append(reason)

    # StateMachine

    def apply(self, entries: Sequence[Committed]) -> None:
        """Remember."""
        if self.raises is not None:
            raise self.raises
        self.applied += entries
        self.log += [f"apply {each.index} {each.ticket}" for each in entries]

    def abandoned(self, tickets: Sequence[int]) -> None:
        """Remember."""
        self.lost += tickets
        self.log.append(f"abandoned {list(tickets)}")

    def role_changed(self, role: Role, term: int, leader: Member | None) -> None:
        """Remember."""
        self.log.append(f"{role.value} {term} {leader.id if leader else None}")

    def snapshot_writer(self) -> SnapshotWriter:
        """Nothing to write."""
        return self  # type: ignore[return-value]

    def restore(self, source: BinaryIO, index: int) -> None:
        """Remember."""
        self.restored_at.append(index)

    # what tests do

    def persist(self) -> None:
        """All writes are durable."""
        while self.writes:
            number = self.writes[-1].number
            self.writes.clear()
            self.driver.persisted(number)

    def deliver(self, *messages: Message) -> None:
        """These arrive."""
        for message in messages:
            self.driver.receive(message)

    def elect(self) -> None:
        """Win an election with the vote of b."""
        self.time = max(self.time, self.driver.node.deadline)
        self.driver.tick()
        for _ in range(2):
            self.persist()
            asked = [message for message in self.sent if isinstance(message, VoteRequest)]
            self.sent.clear()
            self.deliver(*[VoteReply(B, A, m.term, granted=True, pre=m.pre) for m in asked if m.to == B])
        assert self.driver.role is Role.LEADER

    def acknowledge(self) -> None:
        """Follower b has and confirms everything that was sent."""
        self.persist()
        node = self.driver.node
        appends = [message for message in self.sent if isinstance(message, AppendRequest) and message.to == B]
        self.sent.clear()
        last = max([node.last_index, *[m.prev_index for m in appends]])
        number = max([m.round for m in appends], default=0)
        self.deliver(AppendReply(B, A, node.term, True, last, 0, 0, number))
        self.persist()


def leading(config: DriverConfig | None = None) -> World:
    """A world that leads, whose first entry is committed, and whose log is empty."""
    world = World(config=config)
    world.elect()
    world.acknowledge()
    world.log.clear()
    return world


def test_proposals_of_one_turn_become_one_append() -> None:
    """They are gathered until flush, share one request per peer and one write, and come back in order with their tickets."""
    world = leading()
    tickets = [world.driver.propose(b"%d" % n) for n in range(5)]
    assert world.asked_soon == 1
    assert not world.sent
    world.driver.flush()
    appends = [message for message in world.sent if isinstance(message, AppendRequest)]
    assert [(m.to, len(m.entries)) for m in appends] == [(B, 5)], "c has not answered yet, and is not sent more"
    assert len(world.writes) == 1
    world.acknowledge()
    assert [(each.data, each.ticket) for each in world.applied] == [(b"%d" % n, tickets[n]) for n in range(5)]


def test_the_machine_leads_only_after_all_of_earlier_terms_is_applied() -> None:
    """It hears that it leads after the entries that its log held before, and after the one that opens its reign is committed."""
    restored = Restored(HardState(1, None, 0), SnapshotMeta(0, 0, THREE), (entry(1, 1, b"one"), entry(2, 1, b"two")))
    world = World(restored=restored)
    world.elect()
    assert "leader 2 a" not in world.log
    world.acknowledge()
    assert [line for line in world.log if line.startswith(("apply", "leader"))] == ["apply 1 None", "apply 2 None", "leader 2 a"]


def test_all_tickets_of_a_lost_reign_are_abandoned() -> None:
    """In the log or only gathered: after the reign each has an end, and before the machine hears of the new role."""
    world = leading()
    first = world.driver.propose(b"in the log")
    world.driver.flush()
    second = world.driver.propose(b"gathered")
    world.deliver(AppendRequest(C, A, 9, 0, 0, (), 0, 1))
    assert world.lost == [first, second]
    assert world.log == [f"abandoned [{first}, {second}]", "follower 9 c"]
    with pytest.raises(NotLeaderError) as caught:
        world.driver.propose(b"x")
    assert caught.value.leader is not None
    assert caught.value.leader.id == C
    world.driver.flush()
    assert world.lost == [first, second]


def test_only_what_the_next_leader_keeps_is_answered() -> None:
    """If the message that ends a reign commits a proposal of it, that one has its result; what another entry replaces is abandoned."""
    world = leading()
    world.driver.propose(b"kept")
    world.driver.propose(b"replaced")
    world.driver.flush()
    world.persist()
    world.deliver(AppendRequest(C, A, 9, 2, 1, (entry(3, 9, b"other"),), 3, 1))
    world.persist()
    assert [(each.data, each.ticket) for each in world.applied] == [(b"kept", 1), (b"other", None)]
    assert world.lost == [2]


def test_what_was_abandoned_may_still_commit_without_a_ticket() -> None:
    """The new leader may commit later what was abandoned: it is applied, and nobody is told twice."""
    world = leading()
    ticket = world.driver.propose(b"kept")
    world.driver.flush()
    world.persist()
    world.deliver(AppendRequest(C, A, 9, 2, 1, (), 1, 1))
    assert world.lost == [ticket]
    world.deliver(AppendRequest(C, A, 9, 2, 1, (), 2, 2))
    assert [(each.data, each.ticket) for each in world.applied] == [(b"kept", None)]
    assert world.lost == [ticket]


def test_acknowledgements_wait_for_the_disk_and_heartbeats_do_not() -> None:
    """An answer that promises durability leaves only after `persisted`; with nothing to write it leaves at once."""
    world = World()
    world.deliver(AppendRequest(B, A, 1, 0, 0, (entry(1, 1, b"x"),), 0, 1))
    assert not world.sent
    world.deliver(AppendRequest(B, A, 1, 1, 1, (), 0, 2))
    assert not world.sent, "not before what stands before it"
    world.persist()
    assert [m.match for m in world.sent if isinstance(m, AppendReply)] == [1, 1]
    world.sent.clear()
    world.deliver(AppendRequest(B, A, 1, 1, 1, (), 0, 3))
    assert not world.writes
    assert [m.round for m in world.sent if isinstance(m, AppendReply)] == [3]


def test_reads_that_wait_together_share_one_confirmation() -> None:
    """Many reads cost one round; each is answered with an applied index."""
    world = leading()
    answers: list[int | None] = []
    for _ in range(100):
        world.driver.read(answers.append)
    world.driver.flush()
    assert len([m for m in world.sent if isinstance(m, AppendRequest)]) == 2
    assert answers == []
    world.acknowledge()
    assert answers == [1] * 100


def test_a_read_waits_until_its_index_is_applied() -> None:
    """A confirmed read of a follower is answered when it has applied that far."""
    world = World()
    world.deliver(AppendRequest(B, A, 1, 0, 0, (entry(1, 1, b"x"),), 0, 1))
    world.persist()
    answers: list[int | None] = []
    world.driver.read(answers.append)
    world.driver.flush()
    (asked,) = [m for m in world.sent if isinstance(m, ReadIndexRequest)]
    world.deliver(ReadIndexReply(B, A, 1, asked.context, 1))
    assert answers == []
    world.deliver(AppendRequest(B, A, 1, 1, 1, (), 1, 2))
    assert answers == [1]


def test_a_read_without_a_leader_is_answered_with_none() -> None:
    """The caller may ask again."""
    world = World()
    answers: list[int | None] = []
    world.driver.read(answers.append)
    world.driver.flush()
    world.time = world.driver.node.deadline + 1000 * MILLISECOND
    world.driver.tick()
    assert answers == [None]


def test_changes_of_membership_tell_how_they_ended() -> None:
    """Committed, refused, or unknown after a lost reign."""
    world = leading()
    results: list[ChangeResult] = []
    wanted = membership("a", "b", "c", learners="d")
    world.driver.change_membership(wanted, results.append)
    assert results == []
    assert world.log == ["members abcd"]
    world.driver.change_membership(membership("a", "b"), results.append)
    assert results == [Refusal.CHANGE_PENDING]
    world.acknowledge()
    assert results == [Refusal.CHANGE_PENDING, wanted]
    world.driver.change_membership(THREE, results.append)
    world.deliver(AppendRequest(C, A, 9, 2, 1, (entry(3, 9, b"other"),), 2, 1))
    assert results[2] is Lost
    assert "follower 9 c" in world.log
    assert world.driver.node.membership == wanted


def test_a_snapshot_is_due_after_so_much_log_and_keeps_some_of_it() -> None:
    """The trigger counts what was applied; the log is kept for slow followers as far as asked; a failed one waits for as much again."""
    world = leading(DriverConfig(snapshot_log_bytes=10_000, keep_log_bytes=3_000))

    def commit(n: int) -> None:
        for _ in range(n):
            world.driver.propose(bytes(1000 - 32))
            world.driver.flush()
            world.acknowledge()

    commit(9)
    assert world.taking == []
    commit(1)
    (meta,) = world.taking
    assert meta == SnapshotMeta(11, 1, THREE)
    world.driver.snapshot_failed("no space")
    commit(9)
    assert len(world.taking) == 1
    commit(1)
    meta = world.taking[1]
    assert meta.index == 21
    commit(2)
    world.driver.snapshot_taken(meta)
    assert world.compacted == [19]
    assert world.driver.node.first_index == 19
    assert world.driver.snapshot == meta


def test_a_snapshot_on_demand_is_answered_when_durable() -> None:
    """Two that ask share one; who asks after more was applied gets a later one; without anything new the present one is named."""
    world = leading()
    world.driver.propose(b"x")
    world.driver.flush()
    world.acknowledge()
    answers: list[SnapshotMeta | None] = []
    world.driver.take_snapshot(answers.append)
    world.driver.take_snapshot(answers.append)
    assert len(world.taking) == 1
    assert answers == []
    world.driver.propose(b"y")
    world.driver.flush()
    world.acknowledge()
    world.driver.take_snapshot(answers.append)
    assert len(world.taking) == 1, "one at a time"
    world.driver.snapshot_taken(world.taking[0])
    assert answers == [SnapshotMeta(2, 1, THREE)] * 2
    world.driver.snapshot_taken(world.taking[1])
    world.driver.take_snapshot(answers.append)
    assert answers[2:] == [SnapshotMeta(3, 1, THREE)] * 2


def test_a_received_snapshot_replaces_the_state_before_what_follows() -> None:
    """Restore comes before the entries after it; the write carries the cut; an unwanted one is discarded."""
    world = World()
    meta = SnapshotMeta(10, 3, THREE)
    world.deliver(InstallSnapshot(B, A, 3, meta))
    assert world.restored_at == [10]
    assert [write.snapshot for write in world.writes] == [meta]
    assert world.driver.applied == 10
    world.persist()
    world.deliver(AppendRequest(B, A, 3, 10, 3, (entry(11, 3, b"x"),), 11, 1))
    world.persist()
    assert [each.index for each in world.applied] == [11]
    world.deliver(InstallSnapshot(B, A, 3, meta))
    assert world.discarded == [meta]
    assert world.restored_at == [10]


def test_more_than_the_bounds_is_refused_and_what_ends_makes_room() -> None:
    """Count and bytes of outstanding proposals are bounded; ended ones do not count."""
    world = leading(DriverConfig(max_outstanding=3, max_outstanding_bytes=10_000))
    for _ in range(3):
        world.driver.propose(b"x")
    with pytest.raises(OverloadedError):
        world.driver.propose(b"x")
    world.driver.flush()
    world.acknowledge()
    world.driver.propose(bytes(9_000))
    with pytest.raises(OverloadedError):
        world.driver.propose(bytes(1_000))
    world.driver.flush()
    world.acknowledge()
    assert len(world.applied) == 4
    world.driver.propose(bytes(9_000))


def test_a_proposal_from_within_apply_waits_for_its_turn() -> None:
    """The machine may propose while it applies: that goes into a later step, with its own ticket."""
    world = leading()
    tickets: list[int] = []
    original = world.apply

    def apply(entries: Sequence[Committed]) -> None:
        original(entries)
        if len(tickets) < 3:
            tickets.append(world.driver.propose(b"echo"))

    world.apply = apply  # type: ignore[method-assign]
    first = world.driver.propose(b"start")
    for _ in range(5):
        world.driver.flush()
        world.acknowledge()
    assert [each.ticket for each in world.applied] == [first, *tickets]


def test_a_failed_driver_acknowledges_nothing_any_more() -> None:
    """After a failure of the disk everything outstanding is ended, and no message leaves."""
    world = leading()
    answers: list[int | None] = []
    ticket = world.driver.propose(b"x")
    world.driver.flush()
    world.driver.read(answers.append)
    world.sent.clear()
    world.driver.fail("EIO")
    assert world.failures == ["EIO"]
    assert world.lost == [ticket]
    assert answers == [None]
    world.persist()
    world.deliver(AppendRequest(C, A, 9, 0, 0, (entry(1, 9, b"x"),), 0, 1))
    world.driver.tick()
    world.driver.flush()
    assert world.sent == []
    assert world.applied == []
    with pytest.raises(StorageFailedError, match="EIO"):
        world.driver.propose(b"x")


def test_a_machine_that_raises_halts_the_replica() -> None:
    """Nothing is applied after an entry that could not be, and the reason is told."""
    world = leading()
    world.raises = KeyError("broken")
    world.driver.propose(b"x")
    world.driver.flush()
    world.acknowledge()
    assert world.failures == ["KeyError: 'broken'"]
    assert world.driver.failed is not None


def test_a_closed_driver_does_nothing_and_says_so() -> None:
    """Close abandons and silences."""
    world = leading()
    ticket = world.driver.propose(b"x")
    world.driver.close()
    world.driver.close()
    assert world.lost == [ticket]
    world.sent.clear()
    world.driver.tick()
    world.driver.flush()
    assert world.sent == []
    with pytest.raises(UnavailableError):
        world.driver.read(lambda _: None)
