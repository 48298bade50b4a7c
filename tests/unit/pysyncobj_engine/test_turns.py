"""How the package is driven: what waits for the disk, what is dropped, and what stops a replica."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import cast

import pytest

from lockd.raft.core.types import ReplicaId, Role
from lockd.raft.disk import MemoryDisk
from lockd.raft.pysyncobj_engine import PySyncObjEngine, logfile
from lockd.raft.pysyncobj_engine.logfile import LogFile
from lockd.raft.pysyncobj_engine.settings import Settings
from lockd.raft.pysyncobj_engine.storage import recover
from lockd.raft.pysyncobj_engine.transport import Link, Peers
from lockd.raft.pysyncobj_engine.turns import Turns
from lockd.raft.pysyncobj_engine.wire import Append, BarrierReply, BarrierRequest, Body, Next, VoteGranted, VoteRequest
from tests.e2e.engine_port.harness import JournalMachine, until
from tests.unit.pysyncobj_engine.support import A, B, C, ManualExecutor, RecordedPeers, settings


@dataclass
class Bench:
    """One replica with a disk that waits to be told, peers that only listen, and elections that only happen on request."""

    size: int = 3
    machine: JournalMachine = field(default_factory=JournalMachine)
    disk: MemoryDisk = field(default_factory=MemoryDisk)

    def __post_init__(self) -> None:
        """Build it; timers are far away."""
        self.settings: Settings = settings(A, self.size, election_min=1000.0, election_max=2000.0, heartbeat=300.0)
        self.writer = ManualExecutor()
        self.failures: list[str] = []
        self.turns = Turns(self.settings, self.machine, recover(self.disk, self.settings), self.writer, self.failures.append)
        self.peers = RecordedPeers()
        self.turns.peers = cast("Peers", self.peers)

    async def begin(self) -> None:
        """Join, with all peers connected."""
        await self.turns.begin()
        for peer in (B, C)[: self.size - 1]:
            self.turns.connected(peer, Link.NEW)
        await self.settle()

    async def settle(self) -> None:
        """Let everything happen that is due."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def write(self) -> None:
        """Let the disk finish all it was given."""
        await self.settle()
        while self.writer.jobs:
            self.writer.run()
            await self.settle()

    async def hear(self, sender: ReplicaId, term: int, body: Body) -> None:
        """A message arrives."""
        self.turns.received(sender, term, body)
        await self.settle()

    def bodies(self, kind: type[Body]) -> list[tuple[ReplicaId, Body]]:
        """What was sent of this kind since the last look (the rest is forgotten)."""
        return [(peer, body) for peer, _, body in self.peers.take() if isinstance(body, kind)]

    async def lead(self) -> int:
        """Win an election and open the reign; returns the term."""
        self.turns.node._SyncObj__raftElectionDeadline = 0
        self.turns.wake()
        await self.write()
        term = self.turns.node.term
        await self.hear(B, term, VoteGranted(term))
        await self.write()
        await self.hear(B, term, Next(self.turns.journal.last_index + 1, reset=False, success=True))
        await self.write()
        assert self.turns.reign == term
        self.peers.take()
        return term

    def stored(self) -> list[int]:
        """Indexes of the entries that a restart would find."""
        return [row[1] for row in LogFile(self.disk, "cluster", A).read().rows]


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A replica of three."""
    monkeypatch.setattr(logfile, "ALLOCATE", 8192)
    built = Bench()
    await built.begin()
    yield built
    await close(built)


async def close(built: Bench) -> None:
    """End it, with whatever the disk still has to do."""
    ending = asyncio.ensure_future(built.turns.end())
    while not ending.done():
        await built.write()
    await ending


def entries(count: int, *, after: int = 1, term: int = 1) -> list[tuple[bytes, int, int]]:
    """Entries of some other process."""
    return [(b"\0" + bytes(16) + b"entry %d" % index, index, term) for index in range(after + 1, after + 1 + count)]


async def test_a_vote_leaves_when_it_is_durable(bench: Bench) -> None:
    """A granted vote is not sent before term and vote are on disk."""
    await bench.hear(B, 5, VoteRequest(5, 9, 4))
    assert bench.bodies(VoteGranted) == []
    await bench.write()
    assert bench.bodies(VoteGranted) == [(B, VoteGranted(5))]
    assert LogFile(bench.disk, "cluster", A).read().hard_state.vote == B


async def test_a_candidacy_leaves_when_it_is_durable(bench: Bench) -> None:
    """Votes are not asked for before the candidate's own vote is on disk."""
    bench.turns.node._SyncObj__raftElectionDeadline = 0
    bench.turns.wake()
    await bench.settle()
    assert bench.bodies(VoteRequest) == []
    await bench.write()
    assert [peer for peer, _ in bench.bodies(VoteRequest)].count(B) == 1


async def test_an_acknowledgement_leaves_when_the_entries_are_durable(bench: Bench) -> None:
    """A follower answers an append only after its entries are on disk; several appends share one write."""
    await bench.hear(B, 1, Append(1, 1, 1, 0, entries(3)))
    await bench.hear(B, 1, Append(1, 1, 4, 1, entries(3, after=4)))
    assert bench.bodies(Next) == []
    assert bench.stored() == [1]
    bench.writer.run()
    await bench.settle()
    assert bench.bodies(Next) == [(B, Next(5, reset=False, success=True))]
    await bench.write()
    assert bench.bodies(Next) == [(B, Next(8, reset=False, success=True))]
    assert bench.stored() == list(range(1, 8))


async def test_a_leader_sends_while_its_disk_works_but_does_not_count_itself(bench: Bench) -> None:
    """Entries go to the followers at once; even if they all answer first, nothing is committed before it is durable here."""
    term = await bench.lead()
    ticket = bench.turns.proposals.add(b"x")
    bench.turns.wake()
    await bench.settle()
    sent = bench.bodies(Append)
    assert sorted(peer for peer, _ in sent) == [B, C]
    last = bench.turns.journal.last_index
    for peer in (B, C):
        await bench.hear(peer, term, Next(last + 1, reset=False, success=True))
    assert bench.machine.tickets == {}
    await bench.write()
    assert bench.machine.tickets == {ticket: last}


async def test_proposals_gather_while_the_disk_works(bench: Bench) -> None:
    """What is proposed during one write goes out in one append and one write after it."""
    await bench.lead()
    bench.turns.proposals.add(b"first")
    bench.turns.wake()
    await bench.settle()
    bench.peers.take()
    for n in range(5):
        bench.turns.proposals.add(b"%d" % n)
        bench.turns.wake()
    await bench.settle()
    assert bench.bodies(Append) == []
    bench.writer.run()
    await bench.settle()
    (append,) = [body for peer, body in bench.bodies(Append) if peer == B]
    assert isinstance(append, Append)
    assert len(append.entries) == 5
    assert len(bench.writer.jobs) == 1


async def test_a_leader_with_a_slow_disk_still_sends_heartbeats(bench: Bench) -> None:
    """When a heartbeat is due while a write is under way it is sent, and still nothing is counted that is not durable."""
    term = await bench.lead()
    ticket = bench.turns.proposals.add(b"x")
    bench.turns.wake()
    await bench.settle()
    last = bench.turns.journal.last_index
    await bench.hear(B, term, Next(last + 1, reset=False, success=True))
    bench.peers.take()
    bench.turns.node._SyncObj__newAppendEntriesTime = 0
    bench.turns.wake()
    await bench.settle()
    assert sorted(peer for peer, _ in bench.bodies(Append)) == [B, C]
    assert bench.machine.tickets == {}
    await bench.write()
    assert bench.machine.tickets == {ticket: last}


async def test_acknowledgements_of_another_term_are_dropped(bench: Bench) -> None:
    """An answer that was sent in an older term commits nothing, though the package cannot tell it from a new one."""
    term = await bench.lead()
    bench.turns.proposals.add(b"x")
    bench.turns.wake()
    await bench.write()
    last = bench.turns.journal.last_index
    before = bench.turns.node.commit
    await bench.hear(B, term - 1, Next(last + 1, reset=False, success=True))
    assert bench.turns.node.commit == before
    assert bench.turns.stale_dropped == 1
    await bench.hear(B, term, Next(last + 1, reset=False, success=True))
    assert bench.turns.node.commit == last


async def test_a_vote_counts_once() -> None:
    """The same voter's second vote is not another voter's, though the package counts it."""
    names = (A, B, C, ReplicaId("d"), ReplicaId("e"))
    bench = Bench()
    base = bench.settings.members[0]
    members = tuple(dataclasses.replace(base, id=name) for name in names)
    five = dataclasses.replace(bench.settings, members=members)
    bench.turns = Turns(five, bench.machine, recover(MemoryDisk(), five), bench.writer, bench.failures.append)
    bench.turns.peers = cast("Peers", bench.peers)
    await bench.begin()
    bench.turns.node._SyncObj__raftElectionDeadline = 0
    bench.turns.wake()
    await bench.write()
    led = []
    for voter in (B, B, B, B, C):
        await bench.hear(voter, 1, VoteGranted(1))
        led.append(bench.turns.node.leads)
    assert led == [False, False, False, False, True]
    await close(bench)


async def test_the_reign_opens_when_everything_earlier_is_applied(bench: Bench) -> None:
    """The state machine hears LEADER after the entries that the former leader left were committed and applied."""
    await bench.hear(B, 1, Append(1, 1, 1, 0, entries(3)))
    await bench.write()
    bench.turns.node._SyncObj__raftElectionDeadline = 0
    bench.turns.wake()
    await bench.write()
    await bench.hear(C, 2, VoteGranted(2))
    await bench.write()
    assert bench.turns.node.leads
    reigns = [bench.turns.reign]
    assert bench.machine.rows_at_reign == []
    await bench.hear(C, 2, Next(6, reset=False, success=True))
    reigns.append(bench.turns.reign)
    assert reigns == [None, 2]
    assert bench.machine.rows_at_reign == [3]
    assert [index for index, _, _ in bench.machine.rows] == [2, 3, 4]


async def test_a_newer_term_ends_the_reign(bench: Bench) -> None:
    """A leader that hears of a newer term abandons its tickets and refuses its barriers at once."""
    term = await bench.lead()
    ticket = bench.turns.proposals.add(b"x")
    answers: list[int] = []
    assert bench.turns.barrier(answers.append)
    await bench.write()
    await bench.hear(C, term + 1, VoteRequest(term + 1, 100, term))
    assert bench.machine.abandoned_tickets == [ticket]
    assert answers == [0]
    assert bench.machine.roles[-1] == (Role.FOLLOWER, term + 1, None)


async def test_a_barrier_of_a_follower_is_answered_by_the_leader(bench: Bench) -> None:
    """The leader answers with the index of an empty entry once that is applied; one that is no leader answers 0."""
    await bench.hear(B, 0, BarrierRequest(7))
    assert bench.bodies(BarrierReply) == [(B, BarrierReply(7, 0))]
    term = await bench.lead()
    await bench.hear(C, term, BarrierRequest(8))
    await bench.write()
    assert bench.bodies(BarrierReply) == []
    last = bench.turns.journal.last_index
    await bench.hear(C, term, Next(last + 1, reset=False, success=True))
    assert bench.bodies(BarrierReply) == [(C, BarrierReply(8, last))]


async def test_a_follower_asks_its_leader_for_a_barrier(bench: Bench) -> None:
    """The answer comes back to who asked; when the leader changes, whoever waits is told to ask again."""
    answers: list[int] = []
    assert not bench.turns.barrier(answers.append)
    await bench.hear(B, 1, Append(1, 1, 1, 0, []))
    assert bench.turns.barrier(answers.append)
    assert bench.turns.barrier(answers.append)
    (first, _) = bench.bodies(BarrierRequest)
    assert isinstance(first[1], BarrierRequest)
    await bench.hear(B, 1, BarrierReply(first[1].context, 4))
    assert answers == [4]
    await bench.hear(C, 2, Append(2, 1, 1, 0, []))
    assert answers == [4, 0]


async def test_a_barrier_returns_when_its_index_is_applied_here(bench: Bench) -> None:
    """The leader's answer alone is not enough: the entries up to it must have been applied on the replica that reads."""
    engine = PySyncObjEngine(bench.settings, bench.machine)
    engine._turns = bench.turns
    await bench.hear(B, 1, Append(1, 1, 1, 0, entries(3)))
    await bench.write()
    reading = asyncio.ensure_future(engine.read_barrier(20.0))
    await bench.settle()
    ((_, asked),) = bench.bodies(BarrierRequest)
    assert isinstance(asked, BarrierRequest)
    await bench.hear(B, 1, BarrierReply(asked.context, 4))
    done = [reading.done()]
    await bench.hear(B, 1, Append(1, 3, 4, 1, []))
    done.append(reading.done())
    await bench.hear(B, 1, Append(1, 4, 4, 1, []))
    done.append(reading.done())
    assert done == [False, False, True]
    assert await reading == 4
    assert len(bench.machine.rows) == 3


async def test_an_entry_is_applied_once_even_if_that_raises(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A state machine that raises stops the replica; the entry is not applied a second time, as the package would."""
    seen: list[int] = []

    def poison(batch: object) -> None:
        seen.append(1)
        raise RuntimeError("poison")

    bench.machine.apply = poison  # type: ignore[method-assign,assignment]
    with caplog.at_level(logging.CRITICAL):
        await bench.hear(B, 1, Append(1, 4, 1, 0, entries(3)))
        await bench.write()
    bench.turns.wake()
    await bench.settle()
    assert seen == [1]
    assert bench.failures == ["RuntimeError: poison"]
    assert bench.turns.failed == "RuntimeError: poison"


@pytest.mark.parametrize("role", [Role.LEADER, Role.FOLLOWER])
async def test_a_failed_write_stops_the_replica(bench: Bench, role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed write nothing is acknowledged, committed or sent any more, and every ticket is abandoned."""

    def refuse(self: LogFile, records: object) -> None:
        raise OSError(28, "No space left on device")

    tickets: list[int] = []
    term = 1
    if role is Role.LEADER:
        term = await bench.lead()
        tickets.append(bench.turns.proposals.add(b"x"))
        bench.turns.wake()
    else:
        await bench.hear(B, 1, Append(1, 4, 1, 0, entries(3)))
    monkeypatch.setattr(LogFile, "write", refuse)
    await bench.write()
    bench.peers.take()
    assert bench.failures == ["OSError: [Errno 28] No space left on device"]
    assert bench.machine.abandoned_tickets == tickets
    assert bench.machine.roles[-1][0] is Role.FOLLOWER
    await bench.hear(B, term, Next(bench.turns.journal.last_index + 1, reset=False, success=True))
    await bench.hear(C, term + 1, VoteRequest(term + 1, 100, term))
    assert bench.peers.take() == []
    assert bench.machine.tickets == {}


async def test_divergence_stops_the_replica(bench: Bench) -> None:
    """When the package replaces an applied entry by another one, the replica stops and says which."""
    await bench.hear(B, 1, Append(1, 3, 1, 0, entries(2)))
    await bench.write()
    assert len(bench.machine.rows) == 2
    await bench.hear(C, 2, Append(2, 3, 1, 0, entries(2, term=2)))
    assert bench.failures
    assert "entry 2 of term 1 was applied here" in bench.failures[0]


async def test_an_idle_replica_sleeps(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing happens between timers: no turn is had without a reason."""
    await bench.lead()
    await bench.settle()
    ticks: list[int] = []
    tick: Callable[[], None] = bench.turns.node.tick

    def counted() -> None:
        ticks.append(1)
        tick()

    monkeypatch.setattr(bench.turns.node, "tick", counted)
    await asyncio.sleep(0.1)
    assert ticks == []
    bench.turns.wake()
    bench.turns.wake()
    await bench.settle()
    assert ticks == [1]


async def test_a_cluster_of_one_commits_what_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, a replica commits a proposal when its own write has ended, not before."""
    monkeypatch.setattr(logfile, "ALLOCATE", 8192)
    bench = Bench(1)
    await bench.begin()
    bench.turns.node._SyncObj__raftElectionDeadline = 0
    bench.turns.wake()
    await bench.write()
    await until(lambda: bench.turns.reign, "the reign")
    ticket = bench.turns.proposals.add(b"x")
    bench.turns.wake()
    await bench.settle()
    assert bench.machine.tickets == {}
    await bench.write()
    assert list(bench.machine.tickets) == [ticket]
    await close(bench)
