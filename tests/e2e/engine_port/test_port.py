"""What `lockd.raft.port` promises, on every engine that implements it: real directories, loopback ports, no mocks."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lockd.raft.disk import DirectoryInUseError
from lockd.raft.journal_format import JournalForeignError
from lockd.raft.port import EngineStatus, NotLeaderError, RaftError, ReplicaId, Role, UnavailableError
from tests.e2e.engine_port.harness import FACTORIES, Cluster, Factory, JournalMachine, until


@pytest.fixture(params=sorted(FACTORIES))
def factory(request: pytest.FixtureRequest) -> Factory:
    """Each engine in turn."""
    return FACTORIES[request.param]


@pytest.fixture
async def three(factory: Factory, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Three running replicas."""
    async with Cluster(factory, tmp_path, 3) as cluster:
        yield cluster


@pytest.fixture
async def one(factory: Factory, tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster of one running replica."""
    async with Cluster(factory, tmp_path, 1) as cluster:
        yield cluster


async def test_one_leader_is_elected_and_known_to_all(three: Cluster) -> None:
    """Exactly one replica says LEADER; the others name it, and every machine was told so in the same term."""
    leader = await three.leader()
    term = leader.engine.status().term

    def told() -> bool | None:
        return all(replica.machine.roles and replica.machine.roles[-1][1:] == (term, leader.id) for replica in three.running) or None

    await until(told, "all to be told of the leader")
    for replica in three.running:
        assert replica.machine.roles[-1][0] is (Role.LEADER if replica is leader else Role.FOLLOWER)


async def test_entries_are_applied_in_one_order_everywhere(three: Cluster) -> None:
    """What is proposed in a row at one leader is applied in that order, with equal indexes and terms, on all replicas."""
    sent = [f"entry {n}".encode() for n in range(200)]
    leader = await three.leader()
    tickets = [leader.engine.propose(data) for data in sent]
    await three.applied_everywhere(sent)
    first = leader.machine.rows
    assert all(replica.machine.rows == first for replica in three.running)
    assert [leader.machine.tickets[ticket] for ticket in tickets] == [index for index, _, _ in first]


async def test_tickets_come_back_to_the_proposer_only(three: Cluster) -> None:
    """`apply` carries the ticket on the replica that proposed, and none on the others."""
    leader = await three.leader()
    await three.commit(b"mine")
    await three.applied_everywhere([b"mine"])
    assert len(leader.machine.tickets) == 1
    assert all(not replica.machine.tickets for replica in three.running if replica is not leader)


async def test_a_follower_refuses_and_names_the_leader(three: Cluster) -> None:
    """`propose` on a follower raises NotLeaderError with the leader, and nothing is appended anywhere."""
    leader = await three.leader()
    for follower in await three.followers():
        with pytest.raises(NotLeaderError) as refused:
            follower.engine.propose(b"never")
        assert refused.value.leader is not None
        assert refused.value.leader.id == leader.id
    await three.commit(b"after")
    await three.applied_everywhere([b"after"])


async def test_the_largest_entries_travel_whole(three: Cluster) -> None:
    """Entries of several megabytes, which need more than one message's usual room, arrive as they were sent."""
    sent = [bytes([n]) * (4 << 20) for n in range(3)]
    for data in sent:
        await three.commit(data)
    await three.applied_everywhere(sent)


async def test_a_restarted_follower_recovers_and_catches_up(three: Cluster) -> None:
    """A replica that was down replays its disk into a fresh machine and gets what it missed, once each and in order."""
    sent = [f"before {n}".encode() for n in range(20)]
    for data in sent:
        await three.commit(data)
    await three.applied_everywhere(sent)
    follower = (await three.followers())[0]
    await three.stop(follower.id)
    for data in (missed := [f"missed {n}".encode() for n in range(20)]):
        await three.commit(data)
    await three.start(follower.id)
    await three.applied_everywhere(sent + missed)


async def test_a_new_leader_keeps_what_was_acknowledged(three: Cluster) -> None:
    """When the leader is gone another one takes over, and has applied every earlier entry by the time it says LEADER."""
    sent = [f"kept {n}".encode() for n in range(20)]
    for data in sent:
        await three.commit(data)
    old = await three.leader()
    await three.stop(old.id)
    new = await three.leader()
    assert new.id != old.id
    assert new.engine.status().term > old.engine.status().term
    assert await until(lambda: new.machine.rows_at_reign or None, "the reign to be told") == [len(sent)]
    await three.commit(b"after")
    await three.applied_everywhere([*sent, b"after"])


async def test_all_restart_from_disk(three: Cluster) -> None:
    """After every replica was down at once, all that was acknowledged is there again, under the same indexes."""
    sent = [f"durable {n}".encode() for n in range(30)]
    for data in sent:
        await three.commit(data)
    await three.applied_everywhere(sent)
    rows = (await three.leader()).machine.rows
    await three.stop()
    await three.start()
    await three.commit(b"after")
    await three.applied_everywhere([*sent, b"after"])
    assert all(replica.machine.rows[: len(rows)] == rows for replica in three.running)


async def test_tickets_are_abandoned_when_the_engine_stops(three: Cluster) -> None:
    """Proposals without an outcome are abandoned, never left in silence: each ticket ends in exactly one of two ways."""
    leader = await three.leader()
    for follower in await three.followers():
        await three.stop(follower.id)
    tickets = [leader.engine.propose(b"stranded %d" % n) for n in range(5)]
    await three.stop(leader.id)
    assert sorted([*leader.machine.abandoned_tickets, *leader.machine.tickets]) == tickets
    assert leader.machine.abandoned_tickets


async def test_tickets_are_abandoned_when_leadership_is_lost(three: Cluster) -> None:
    """A leader that loses its majority steps down by itself, abandons what it could not commit, and takes no more."""
    leader = await three.leader()
    for follower in await three.followers():
        await three.stop(follower.id)
    tickets = [leader.engine.propose(b"stranded %d" % n) for n in range(5)]
    await until(lambda: True if leader.machine.abandoned_tickets == tickets else None, "the tickets to be abandoned")
    with pytest.raises(NotLeaderError):
        leader.engine.propose(b"too late")
    assert leader.machine.roles[-1][0] is not Role.LEADER


async def test_a_barrier_waits_for_everything_acknowledged_before(three: Cluster) -> None:
    """After `read_barrier` returned, on any role, the local machine holds every entry that was acknowledged before the call."""
    for n in range(10):
        data = b"read %d" % n
        await three.commit(data)
        for replica in three.running:
            index = await replica.engine.read_barrier(10.0)
            assert data in replica.machine.data
            assert replica.engine.status().applied >= index


async def test_many_barriers_at_once(three: Cluster) -> None:
    """Concurrent barriers on all replicas all return."""
    await three.leader()
    waits = [replica.engine.read_barrier(10.0) for replica in three.running for _ in range(20)]
    assert len(await asyncio.gather(*waits)) == 60


async def test_a_barrier_without_a_quorum_times_out(three: Cluster) -> None:
    """Without a majority a barrier raises UnavailableError, on the old leader too, in about the time that was given."""
    leader = await three.leader()
    for follower in await three.followers():
        await three.stop(follower.id)
    began = asyncio.get_running_loop().time()
    with pytest.raises(UnavailableError):
        await leader.engine.read_barrier(0.5)
    assert asyncio.get_running_loop().time() - began < 5.0


async def test_a_snapshot_replaces_the_log_at_a_restart(one: Cluster) -> None:
    """A snapshot is durable when `snapshot` returns; a restart restores it and replays only what followed."""
    sent = [f"state {n}".encode() for n in range(50)]
    for data in sent:
        await one.commit(data)
    replica = await one.leader()
    index = await replica.engine.snapshot()
    assert index == replica.engine.status().snapshot_index
    assert index >= replica.machine.rows[-1][0]
    await one.commit(b"tail")
    await one.stop()
    await one.start()
    restarted = await one.leader()
    assert restarted.machine.restored[-1] == index
    await one.applied_everywhere([*sent, b"tail"])
    assert restarted.machine.applied_here == 1
    await one.commit(b"later")


async def test_a_saved_state_can_be_read(one: Cluster) -> None:
    """`saved_state` hands out the newest durable snapshot as the machine wrote it; before there is one it raises RaftError."""
    for n in range(20):
        await one.commit(b"saved %d" % n)
    replica = await one.leader()
    with pytest.raises(RaftError), replica.engine.saved_state():
        pass
    taken = await replica.engine.snapshot()
    await one.commit(b"not in it")
    copy = JournalMachine()
    with replica.engine.saved_state() as (index, state):
        await asyncio.to_thread(copy.restore, state, index)
    assert index == taken
    assert copy.rows == replica.machine.rows[:20]


async def test_a_replica_without_the_old_log_gets_the_snapshot(three: Cluster) -> None:
    """A follower that was away while the others cut their logs is brought up to date by the leader's snapshot."""
    follower = (await three.followers())[0]
    await three.stop(follower.id)
    sent = [bytes(200_000) + b"%d" % n for n in range(100)]
    for data in sent:
        await three.commit(data)
    for replica in three.running:
        await replica.engine.snapshot()
    await three.start(follower.id)
    await three.applied_everywhere(sent)
    restarted = three.replicas[follower.id]
    assert restarted.machine.restored[-1] >= 100
    await three.commit(b"after")
    await three.applied_everywhere([*sent, b"after"])


async def test_a_directory_of_another_replica_is_refused(one: Cluster, factory: Factory) -> None:
    """An engine does not start on the directory of another cluster, or of another replica."""
    await one.commit(b"mine")
    await one.stop()
    config = one.config(ReplicaId("r1"))
    for foreign in (
        dataclasses.replace(config, cluster_id="another"),
        dataclasses.replace(config, id=ReplicaId("r2"), members=(dataclasses.replace(one.members[0], id=ReplicaId("r2")),)),
    ):
        with pytest.raises(JournalForeignError):
            await factory(foreign, JournalMachine()).start()
    await one.start()
    await one.applied_everywhere([b"mine"])


async def test_a_directory_in_use_is_refused(one: Cluster, factory: Factory) -> None:
    """Two engines never share a directory, and the first one does not suffer from the attempt."""
    await one.commit(b"first")
    with pytest.raises(DirectoryInUseError):
        await factory(one.config(ReplicaId("r1")), JournalMachine()).start()
    await one.commit(b"second")
    await one.applied_everywhere([b"first", b"second"])


async def test_leadership_is_handed_over(three: Cluster) -> None:
    """After `transfer_leadership` the named replica leads, and the log goes on."""
    await three.commit(b"before")
    leader = await three.leader()
    to = (await three.followers())[0].id
    await leader.engine.transfer_leadership(to, timeout=10.0)
    assert (await three.leader()).id == to
    await three.commit(b"after")
    await three.applied_everywhere([b"before", b"after"])


async def test_leadership_is_not_handed_to_a_stranger(three: Cluster) -> None:
    """A transfer to somebody who is no member raises, and the leader stays."""
    leader = await three.leader()
    with pytest.raises(RaftError):
        await leader.engine.transfer_leadership(ReplicaId("nobody"), timeout=1.0)
    assert (await three.leader()).id == leader.id


async def test_a_follower_cannot_hand_leadership_over(three: Cluster) -> None:
    """Only the leader may transfer leadership; others name it."""
    follower = (await three.followers())[0]
    with pytest.raises(NotLeaderError):
        await follower.engine.transfer_leadership(follower.id, timeout=1.0)


async def test_stop_is_idempotent_and_final(one: Cluster) -> None:
    """A stopped engine can be stopped again, and takes nothing any more."""
    replica = await one.leader()
    await one.stop()
    await replica.engine.stop()
    with pytest.raises(RaftError):
        replica.engine.propose(b"late")


async def test_status_tells_the_log(three: Cluster) -> None:
    """The counters agree with what happened: everything is committed and applied, and the leader knows its peers' positions."""
    await three.commit(b"counted")
    await three.applied_everywhere([b"counted"])
    leader = await three.leader()

    def settled() -> EngineStatus | None:
        status = leader.engine.status()
        return status if status.commit == status.applied == status.last_index and all(p.match == p.next - 1 for p in status.peers) else None

    status = await until(settled, "the log to be at rest")
    assert status.id == status.leader == leader.id
    assert [peer.match for peer in status.peers if peer.id != leader.id] == [status.last_index] * 2
    assert tuple(member.id for member in status.membership.members) == ("r1", "r2", "r3")
    assert status.failed is None
    assert status.log_bytes > 0
