"""Properties of the consensus machine: no message breaks it, and clusters of it agree whatever the network and the disks do."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockd.raft.core.membership import encode_membership
from lockd.raft.core.node import Config, CoreInvariantError, Node
from lockd.raft.core.types import (
    AppendReply,
    AppendRequest,
    Entry,
    EntryKind,
    HardState,
    Input,
    InstallSnapshot,
    Member,
    Membership,
    Message,
    Output,
    Persisted,
    Propose,
    ProposeMembership,
    Read,
    ReadIndexReply,
    ReadIndexRequest,
    Receive,
    ReplicaId,
    Restored,
    Role,
    SnapshotMeta,
    SnapshotSent,
    SnapshotTaken,
    Tick,
    TimeoutNow,
    TransferLeadership,
    Unreachable,
    VoteReply,
    VoteRequest,
    Write,
)

MS = 1_000_000
NAMES = [ReplicaId(name) for name in ("a", "b", "c", "d", "")]


def membership_of(voters: str, learners: str = "") -> Membership:
    """A membership of one-letter ids."""
    return Membership(tuple(Member(ReplicaId(n), "", "", voter=n in voters) for n in sorted(voters + learners)))


# --- one machine, any message ---

_numbers = st.one_of(st.integers(-2, 12), st.sampled_from([1 << 31, (1 << 62), (1 << 63), 1 << 100, -(1 << 80)]))
_small = st.integers(0, 8)
_names = st.sampled_from(NAMES)
_memberships = st.builds(
    lambda pairs: Membership(tuple(Member(name, "", "", voter) for name, voter in pairs)),
    st.lists(st.tuples(_names, st.booleans()), max_size=4),
)
_data = st.one_of(st.binary(max_size=6), st.builds(encode_membership, _memberships))
_kinds = st.sampled_from([EntryKind.NORMAL, EntryKind.NORMAL, EntryKind.NOOP, EntryKind.MEMBERSHIP, 9])
_wild_entries = st.lists(st.builds(Entry, _numbers, _numbers, _kinds, _data), max_size=4).map(tuple)


@st.composite
def _sound_appends(draw: st.DrawFn) -> AppendRequest:
    """An append that makes sense: without these, little would ever be accepted."""
    prev, term = draw(_small), draw(st.integers(1, 6))
    terms = sorted(draw(st.lists(st.integers(1, term), max_size=5)))
    entries = []
    for index, each in enumerate(terms, prev + 1):
        if draw(st.integers(0, 4)) == 0:
            membership = membership_of(draw(st.sampled_from(["a", "abc", "bc"])), draw(st.sampled_from(["", "d"])))
            entries.append(Entry(index, each, EntryKind.MEMBERSHIP, encode_membership(membership)))
        else:
            entries.append(Entry(index, each, EntryKind.NORMAL, b"x"))
    prev_term = draw(st.integers(0, terms[0] if terms else term))
    return AppendRequest(draw(_names), NAMES[0], term, prev, prev_term, tuple(entries), draw(_small), draw(_small))


_to = st.sampled_from([NAMES[0]] * 8 + NAMES[1:2])
_messages = st.one_of(
    _sound_appends(),
    st.builds(AppendRequest, _names, _to, _numbers, _numbers, _numbers, _wild_entries, _numbers, _numbers),
    st.builds(AppendReply, _names, _to, _numbers, st.booleans(), _numbers, _numbers, _numbers, _numbers),
    st.builds(VoteRequest, _names, _to, _numbers, _numbers, _numbers, st.booleans(), st.booleans()),
    st.builds(VoteReply, _names, _to, _numbers, st.booleans(), st.booleans()),
    st.builds(InstallSnapshot, _names, _to, _numbers, st.builds(SnapshotMeta, _numbers, _numbers, _memberships)),
    st.builds(ReadIndexRequest, _names, _to, _numbers, _numbers),
    st.builds(ReadIndexReply, _names, _to, _numbers, _small, _numbers),
    st.builds(TimeoutNow, _names, _to, _numbers),
)
_HELP, _PERSIST, _COMPACT = "help", "persist", "compact"
_inputs = st.one_of(
    _messages.map(Receive),
    _messages.map(Receive),
    st.just(Tick()),
    st.just(_HELP),
    st.just(_PERSIST),
    st.just(_COMPACT),
    st.builds(Propose, st.lists(st.binary(max_size=3), max_size=3).map(tuple)),
    st.builds(ProposeMembership, _memberships),
    st.builds(Read, _small),
    st.builds(SnapshotSent, _names, _numbers, st.booleans()),
    st.builds(Unreachable, _names),
    st.builds(TransferLeadership, _names),
)


def _support(node: Node) -> Iterator[Input]:
    """Answers that help the machine on: votes, or acknowledgements of all that it has."""
    for name in NAMES[1:3]:
        if node.role is Role.PRE_CANDIDATE:
            yield Receive(VoteReply(name, node.id, node.term + 1, granted=True, pre=True))
        elif node.role is Role.CANDIDATE:
            yield Receive(VoteReply(name, node.id, node.term, granted=True, pre=False))
        elif node.role is Role.LEADER:
            yield Receive(AppendReply(name, node.id, node.term, accepted=True, match=node.last_index, hint_index=0, hint_term=0, round=1))


class Watched:
    """A machine, and what its outputs promised so far."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.now = 0
        self.writes = 0
        self.delivered = node.snapshot.index

    def step(self, given: Input) -> None:
        """Take a step, and check that nothing moved back, and that entries come once each and in order."""
        node = self.node
        term, commit, vote = node.term, node.commit, node.hard_state.vote
        out = node.step(self.now, given)
        assert node.term >= term
        assert node.commit >= commit
        if node.term == term and vote is not None:
            assert node.hard_state.vote == vote, "a vote is given once a term"
        assert node.commit <= node.last_index
        assert node.durable_index <= node.last_index
        assert node.deadline >= 0
        assert node.membership == node.membership_at(node.last_index)
        if out.write is not None:
            self.writes += 1
            assert out.write.number == self.writes
        if out.install is not None:
            assert out.write is not None
            assert out.write.snapshot == out.install
            assert out.install.index > self.delivered
            self.delivered = out.install.index
        for entry in out.committed or ():
            assert entry.index == self.delivered + 1
            self.delivered = entry.index
        assert self.delivered <= node.commit
        for message in out.messages:
            assert not (isinstance(message, VoteReply) and message.granted and not message.pre), "a vote left before it was durable"
            assert not (isinstance(message, AppendReply) and message.accepted), "an acknowledgement left before it was durable"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(_inputs, st.integers(0, 400)), max_size=60), st.booleans())
def test_no_input_breaks_a_machine(inputs: list[tuple[Input | str, int]], alone: bool) -> None:
    """Any messages in any order: no exception, terms, commits and votes never move back, entries are handed out once and in order."""
    start = Restored(HardState(), SnapshotMeta(0, 0, membership_of("a" if alone else "abc")), ())
    watched = Watched(Node(NAMES[0], start, 0, Config(max_append_bytes=40, max_inflight_messages=2, max_uncommitted_bytes=400)))
    node = watched.node
    for given_input, milliseconds in inputs:
        watched.now += milliseconds * MS
        if given_input == _HELP:
            for each in list(_support(node)):
                watched.step(each)
        elif given_input == _PERSIST:
            watched.step(Persisted(watched.writes))
        elif given_input == _COMPACT:
            index = watched.delivered
            term = node.term_at(index)
            if index > 0 and term is not None:
                watched.step(SnapshotTaken(SnapshotMeta(index, term, node.membership_at(index)), max(index - milliseconds % 4, 1)))
        else:
            assert not isinstance(given_input, str)
            watched.step(given_input)


# --- a cluster, any schedule ---


class BrokenError(AssertionError):
    """A safety property does not hold."""


class Replica:
    """A machine with its disk: what was persisted, and the writes under way."""

    def __init__(self, name: ReplicaId, membership: Membership) -> None:
        self.name = name
        self.hard = HardState()
        self.snapshot = SnapshotMeta(0, 0, membership)
        self.entries: list[Entry] = []
        self.pending: list[Write] = []

    def start(self, now: int, config: Config) -> None:
        """Start from the disk."""
        self.pending.clear()
        self.node = Node(self.name, Restored(self.hard, self.snapshot, tuple(self.entries)), now, config)
        self.delivered = self.snapshot.index

    def carry_out(self, write: Write) -> None:
        """Make a write durable."""
        if write.hard_state is not None:
            self.hard = write.hard_state
        if write.snapshot is not None:
            self.snapshot, self.entries = write.snapshot, []
        if write.entries:
            self.entries[write.entries[0].index - self.snapshot.index - 1 :] = write.entries


class World:
    """Replicas under a random schedule of delays, losses, duplicates, crashes, and slow disks; safety is checked after every step."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0
        self.config = Config(seed=seed, max_append_bytes=60, max_inflight_messages=3)
        voters = self.random.choice(["a", "ab", "abc", "abc", "abcd", "abcde"])
        learners = self.random.choice(["", "f"])
        self.replicas = {name: Replica(name, membership_of(voters, learners)) for name in map(ReplicaId, sorted(voters + learners))}
        for replica in self.replicas.values():
            replica.start(0, self.config)
        self.network: list[Message] = []
        self.leaders: dict[int, ReplicaId] = {}
        self.chosen: dict[int, Entry] = {}
        self.reads: dict[int, int] = {}
        self.served = 0
        self.lossy = True

    def step(self, replica: Replica, given: Input) -> None:
        """Give a machine an input, carry out its output, and check it."""
        self.take(replica, replica.node.step(self.now, given))

    def take(self, replica: Replica, out: Output) -> None:
        """Carry out an output."""
        node = replica.node
        self.network += out.messages
        if out.write is not None:
            replica.pending.append(out.write)
        if out.install is not None:
            replica.delivered = out.install.index
        if node.role is Role.LEADER and self.leaders.setdefault(node.term, node.id) != node.id:
            raise BrokenError(f"two leaders of term {node.term}")
        for entry in out.committed or ():
            if entry.index != replica.delivered + 1:
                raise BrokenError("entries handed out with a gap, or twice")
            replica.delivered = entry.index
            if self.chosen.setdefault(entry.index, entry) != entry:
                raise BrokenError(f"two entries committed at {entry.index}")
        for read in out.reads or ():
            self.served += 1
            if read.index < self.reads[read.context]:
                raise BrokenError("a stale read")
        for name in out.send_snapshot or ():
            self.network.append(InstallSnapshot(node.id, name, node.term, node.snapshot))

    def act(self) -> None:
        """One random event."""
        rng = self.random
        replica = rng.choice(list(self.replicas.values()))
        what = rng.random()
        if what < 0.50 and self.network:
            self.deliver(rng.randrange(len(self.network)) if self.lossy and rng.random() < 0.3 else 0)
        elif what < 0.70:
            self.persist(replica)
        elif what < 0.85:
            self.now += rng.randrange(1, 30 if rng.random() < 0.9 else 400) * MS
            for each in self.replicas.values():
                if self.now >= each.node.deadline:
                    self.step(each, Tick())
        elif what < 0.92:
            self.step(replica, Propose(tuple(rng.randbytes(rng.randrange(9)) for _ in range(rng.randrange(1, 4)))))
        elif what < 0.95:
            context = len(self.reads)
            self.reads[context] = max(self.chosen, default=0)
            self.step(replica, Read(context))
        elif what < 0.965:
            self.change_member(replica)
        elif what < 0.975:
            self.step(replica, TransferLeadership(rng.choice(list(self.replicas))))
        elif what < 0.985:
            self.compact(replica)
        elif what < 0.99:
            self.step(replica, Unreachable(rng.choice(list(self.replicas))))
        elif self.lossy:
            replica.start(self.now, self.config)

    def deliver(self, at: int) -> None:
        """Deliver, lose or duplicate one message."""
        message = self.network.pop(at)
        if self.lossy and self.random.random() < 0.1:
            self.lost(message)
            return
        if self.lossy and self.random.random() < 0.05:
            self.network.append(message)
        target = self.replicas[message.to]
        self.step(target, Receive(message))
        if isinstance(message, InstallSnapshot):
            self.step(self.replicas[message.sender], SnapshotSent(message.to, message.meta.index, ok=True))

    def lost(self, message: Message) -> None:
        """A lost stream is noticed by its sender."""
        if isinstance(message, InstallSnapshot):
            self.step(self.replicas[message.sender], SnapshotSent(message.to, message.meta.index, ok=False))

    def persist(self, replica: Replica) -> None:
        """End the oldest write of a replica."""
        if replica.pending:
            write = replica.pending.pop(0)
            replica.carry_out(write)
            self.step(replica, Persisted(write.number))
            self.network += write.then_send

    def change_member(self, replica: Replica) -> None:
        """Propose to make a voter a learner, a learner a voter, or to take a member out or back in."""
        name = self.random.choice(list(self.replicas))
        members = {member.id: member for member in replica.node.membership.members}
        old = members.pop(name, None)
        if old is None:
            members[name] = Member(name, "", "", voter=False)
        elif self.random.random() < 0.6:
            members[name] = replace(old, voter=not old.voter)
        self.step(replica, ProposeMembership(Membership(tuple(members.values()))))

    def compact(self, replica: Replica) -> None:
        """Take a snapshot of what was handed out."""
        node, index = replica.node, replica.delivered
        term = node.term_at(index)
        if index > replica.snapshot.index and term is not None and not replica.pending:
            meta = SnapshotMeta(index, term, node.membership_at(index))
            self.step(replica, SnapshotTaken(meta, max(1, index - self.random.randrange(4))))
            replica.entries = replica.entries[index - replica.snapshot.index :]
            replica.snapshot = meta

    def heal(self) -> None:
        """End the faults, and let the replicas come to agreement."""
        self.lossy = False
        for _ in range(400):
            for replica in self.replicas.values():
                while replica.pending:
                    self.persist(replica)
            for _ in range(len(self.network)):
                self.deliver(0)
            if not self.network and self.random.random() < 0.7:
                self.now = max(self.now, min(r.node.deadline for r in self.replicas.values()))
                for each in self.replicas.values():
                    if self.now >= each.node.deadline:
                        self.step(each, Tick())

    def members(self) -> list[Replica]:
        """The replicas of the membership of the latest leader."""
        leader = self.replicas[self.leaders[max(self.leaders)]]
        return [self.replicas[member.id] for member in leader.node.membership.members]


def run(seed: int, steps: int = 1500) -> World:
    """One history."""
    world = World(seed)
    for _ in range(steps):
        world.act()
    world.heal()
    logs: dict[tuple[int, int], Entry] = {}
    for replica in world.replicas.values():
        for entry in replica.node.entries(replica.node.first_index, replica.node.last_index + 1):
            if logs.setdefault((entry.index, entry.term), entry) != entry:
                raise BrokenError("log matching")
    members = world.members()
    commits = {replica.node.commit for replica in members}
    if len(commits) != 1 or {replica.delivered for replica in members} != commits:
        raise BrokenError(f"the members did not converge: {commits}")
    if len({replica.node.leader for replica in members}) != 1:
        raise BrokenError("the members do not agree on a leader")
    return world


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 32))
def test_clusters_agree_under_any_schedule(seed: int) -> None:
    """One leader a term, one log, no stale read, whatever is lost, reordered, duplicated, crashed, slow, changed or compacted.

    And when the faults end, the members agree on a leader and have everything.
    """
    run(seed)


def test_the_schedules_do_reach_what_they_are_meant_to_test() -> None:
    """Over some seeds: many entries are committed, reads are served, leaders change, snapshots are installed, memberships change."""
    worlds = [run(seed) for seed in range(12)]
    assert sum(len(world.chosen) for world in worlds) > 500
    assert sum(world.served for world in worlds) > 50
    assert sum(len(world.leaders) for world in worlds) > 30
    assert sum(entry.kind is EntryKind.MEMBERSHIP for world in worlds for entry in world.chosen.values()) > 5


def test_a_schedule_is_reproduced_by_its_seed() -> None:
    """The same seed gives the same history: nothing in the machine depends on anything but its inputs."""
    assert list(run(7).chosen.values()) == list(run(7).chosen.values())


def test_an_invariant_that_breaks_is_told() -> None:
    """A shell that reports what was never written is stopped by an error that is not a message's fault."""
    node = Node(NAMES[0], Restored(HardState(), SnapshotMeta(0, 0, membership_of("a")), ()), 0, Config())
    with pytest.raises(CoreInvariantError):
        node.step(0, Persisted(3))
