"""Three engines in one process, over loopback and real files."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from lockd.raft.core.types import Member, ReplicaId
from lockd.raft.driver_io import DriverConfig
from lockd.raft.engine import RaftEngine
from lockd.raft.envelope import MAX_ENTRY, JoinRequest
from lockd.raft.port import NotLeaderError, OverloadedError, RaftError, UnavailableError
from tests.unit.raft_shell.cluster import SMALL_LOG, Appender, Cluster, until


@pytest.mark.parametrize("on_disk", [True, False])
async def test_a_cluster_elects_and_commits(tmp_path: Path, on_disk: bool) -> None:
    """Proposals of many tasks are committed in one order on all members, and each is answered with its own index."""
    async with Cluster(tmp_path if on_disk else None) as cluster:
        leader = await cluster.leader()
        indexes = await asyncio.gather(*[cluster.propose(leader, b"%d" % n) for n in range(300)])
        assert None not in indexes
        assert len(set(indexes)) == 300
        await cluster.alike(300)
        status = cluster.engines[leader].status()
        assert status.failed is None
        assert status.applied == status.commit
        assert {peer.state for peer in status.peers} == {"replicate"}
        others = [name for name in cluster.engines if name != leader]
        with pytest.raises(NotLeaderError) as refused:
            cluster.engines[others[0]].propose(b"x")
        assert refused.value.leader is not None
        assert refused.value.leader.id == leader


async def test_a_single_member_leads_itself(tmp_path: Path) -> None:
    """A cluster of one commits after its own sync, and finds everything again after a restart."""
    cluster = Cluster(tmp_path, "a")
    for round_ in range(3):
        await cluster.start()
        await cluster.leader()
        assert len(cluster.machines[ReplicaId("a")].items) == round_
        await cluster.commit(b"item")
        await cluster.stop()


async def test_a_follower_that_was_away_catches_up(tmp_path: Path) -> None:
    """What was committed while a member was stopped is there after its restart."""
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        away = next(name for name in cluster.engines if name != leader)
        await cluster.commit(b"before")
        await cluster.stop(away)
        for n in range(50):
            await cluster.commit(b"%d" % n)
        await cluster.start(away)
        await cluster.alike(51)


async def test_a_new_leader_takes_over(tmp_path: Path) -> None:
    """When the leader stops, another one leads, has applied everything acknowledged before it is told so, and takes proposals."""
    async with Cluster(tmp_path) as cluster:
        old = await cluster.leader()
        for n in range(20):
            await cluster.commit(b"%d" % n)
        await cluster.stop(old)
        new = await cluster.leader()
        assert new != old
        assert cluster.machines[new].led[-1] >= 20
        await cluster.commit(b"after")
        await cluster.start(old)
        await cluster.alike(21)


async def test_a_stopping_leader_abandons_what_is_outstanding(tmp_path: Path) -> None:
    """No proposal is left in silence: without a quorum it is abandoned when the engine stops."""
    cluster = Cluster(tmp_path)
    await cluster.start()
    leader = await cluster.leader()
    others = [name for name in cluster.engines if name != leader]
    await cluster.stop(*others)
    waiting = asyncio.gather(*[cluster.propose(leader, b"x") for _ in range(3)])
    await asyncio.sleep(0)
    await cluster.stop(leader)
    assert await waiting == [None, None, None]


async def test_a_leader_without_a_quorum_steps_down(tmp_path: Path) -> None:
    """Check-quorum ends its reign, and its proposals with it, though it still runs."""
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        await cluster.stop(*[name for name in cluster.engines if name != leader])
        assert await cluster.propose(leader, b"x") is None
        assert cluster.leading() is None
        with pytest.raises(UnavailableError):
            await cluster.engines[leader].read_barrier(0.3)


async def test_a_wiped_follower_gets_a_snapshot(tmp_path: Path) -> None:
    """A member whose log was compacted away elsewhere is brought back by a snapshot and the entries after it."""
    async with Cluster(tmp_path, driver=SMALL_LOG) as cluster:
        leader = await cluster.leader()
        away = next(name for name in cluster.engines if name != leader)
        await cluster.stop(away)
        shutil.rmtree(tmp_path / away)
        for n in range(60):
            await cluster.commit(b"%4d" % n * 250)
        await until(lambda: cluster.engines[leader].status().first_index > 2, "the leader has compacted its log")
        await cluster.start(away)
        await cluster.alike(60)
        assert cluster.machines[away].restored == 1
        assert cluster.engines[away].status().snapshot_index > 0
        await cluster.commit(b"after")
        await cluster.alike(61)
        await cluster.stop(away)
        await cluster.start(away)
        assert cluster.machines[away].restored == 1
        await cluster.alike(61)


async def test_snapshots_are_taken_by_a_child_and_bound_the_journal(tmp_path: Path) -> None:
    """Load beyond the trigger takes snapshots, removes old segments, and a restart begins from the latest."""
    async with Cluster(tmp_path, "a", driver=DriverConfig(snapshot_log_bytes=200_000, keep_log_bytes=0), segment_bytes=1 << 17) as cluster:
        engine = cluster.engines[ReplicaId("a")]
        for n in range(100):
            await cluster.commit(b"%5d" % n * 2000)
        await until(lambda: engine.status().snapshot_index > 0, "a snapshot was taken")
        index = await engine.snapshot()
        assert index == engine.status().applied
        assert await engine.snapshot() == index
        await until(lambda: len(list((tmp_path / "a").glob("journal-*"))) <= 2, "old segments are gone")
        assert len(list((tmp_path / "a").glob("snapshot-*"))) == 1
        await cluster.stop()
        await cluster.start()
        assert cluster.machines[ReplicaId("a")].restored == 1
        await cluster.alike(100)


class Unwritable(Appender):
    """Its snapshots cannot be written."""

    def snapshot_writer(self) -> Unwritable:  # type: ignore[override]
        """Itself."""
        return self

    def write(self, sink: object) -> None:
        """Never succeeds."""
        raise RuntimeError("no way to write this")


@pytest.mark.parametrize("fork", [True, False])
async def test_a_snapshot_that_fails_is_reported_and_costs_nothing(tmp_path: Path, fork: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The engine goes on, says why, and leaves no file behind after the next start."""
    cluster = Cluster(tmp_path, "a", fork=fork)
    machine = Unwritable()
    engine = RaftEngine(cluster.config(ReplicaId("a")), machine)
    await engine.start()
    await until(lambda: machine.led, "it leads")
    engine.propose(b"x")
    await until(lambda: machine.items, "it has applied")
    with pytest.raises(RaftError, match="could not be written"):
        await engine.snapshot()
    assert "RuntimeError: no way to write this" in caplog.text
    assert engine.status().extra["snapshots_failed"] == 1
    engine.propose(b"y")
    await until(lambda: len(machine.items) == 2, "it goes on")
    await engine.stop()
    await cluster.start()
    assert not list((tmp_path / "a").glob("*.tmp"))
    await cluster.stop()


async def test_read_barriers_hold_on_every_member(tmp_path: Path) -> None:
    """After a barrier on any member, everything acknowledged before it was asked for has been applied there."""
    async with Cluster(tmp_path) as cluster:
        await cluster.leader()
        index = 0
        for n in range(30):
            index = await cluster.commit(b"%d" % n)
            for name, engine in cluster.engines.items():
                assert await engine.read_barrier(5) >= index
                assert len(cluster.machines[name].items) > n
        many = await asyncio.gather(*[engine.read_barrier(5) for engine in cluster.engines.values() for _ in range(200)])
        assert min(many) >= index


async def test_a_new_replica_joins_catches_up_and_votes(tmp_path: Path) -> None:
    """A replica that knows one address becomes a learner, gets snapshot and entries, and is made a voter; another stays a learner."""
    async with Cluster(tmp_path, driver=SMALL_LOG) as cluster:
        leader = await cluster.leader()
        for n in range(60):
            await cluster.commit(b"%4d" % n * 250)
        follower = next(name for name in cluster.engines if name != leader)
        await cluster.start("d", members=(), join=(cluster.addresses[follower],))
        await cluster.start("e", members=(), join=(cluster.addresses[leader],), learner=True)
        await cluster.alike(60)

        def voters() -> set[str]:
            return {member.id for member in cluster.engines[leader].status().membership.members if member.voter}

        await until(lambda: voters() == {"a", "b", "c", "d"}, "d votes")
        everyone = {member.id for member in cluster.engines[leader].status().membership.members}
        assert everyone == {"a", "b", "c", "d", "e"}
        await cluster.commit(b"after")
        await cluster.alike(61)
        await cluster.stop("d")
        await cluster.start("d", members=(), join=(cluster.addresses[follower],))
        await cluster.commit(b"again")
        await cluster.alike(62)


async def test_members_are_removed_and_leadership_is_handed_over(tmp_path: Path) -> None:
    """A transfer makes the named member lead; a removed one is parted from, and the rest goes on."""
    async with Cluster(tmp_path) as cluster:
        old = await cluster.leader()
        await cluster.commit(b"one")
        to = next(name for name in cluster.engines if name != old)
        await cluster.engines[old].transfer_leadership(to)
        await until(lambda: cluster.leading() == to, "the other one leads")
        engine = cluster.engines[to]
        with pytest.raises(NotLeaderError):
            await cluster.engines[old].transfer_leadership(old)
        with pytest.raises(RaftError, match="no such voting member"):
            await engine.transfer_leadership(ReplicaId("z"))
        with pytest.raises(NotLeaderError):
            await cluster.engines[old].change_member(None, remove=old)
        membership = await engine.change_member(None, remove=old)
        assert old not in {member.id for member in membership.members}
        assert await engine.change_member(None, remove=old) == membership
        await cluster.commit(b"two")
        with pytest.raises(RaftError, match="has not caught up"):
            await engine.change_member(Member(ReplicaId("d"), "127.0.0.1:1", "d"), timeout=1)
        with pytest.raises(ValueError, match="either a member"):
            await engine.change_member(None)


async def test_an_address_that_peers_cannot_use_is_refused(tmp_path: Path) -> None:
    """Without TLS no member outside this machine can be added, by order or by its own request; the cluster is not harmed by the attempt."""
    async with Cluster(tmp_path, "a") as cluster:
        leader = await cluster.leader()
        engine = cluster.engines[leader]
        for address in ("10.1.1.1:7000", "nowhere"):
            with pytest.raises(RaftError, match="address"):
                await engine.change_member(Member(ReplicaId("d"), address, "d", voter=False))
            reply = await engine.join(JoinRequest("test", Member(ReplicaId("d"), address, "d", voter=False), promote=False))
            assert reply.membership is None
            assert "address" in reply.reason
        await cluster.commit(b"x")
        assert len(engine.status().membership.members) == 1


async def test_too_much_at_once_is_refused_and_not_appended(tmp_path: Path) -> None:
    """Beyond the bound `propose` raises; what was accepted is committed; entries that are too large are refused for good."""
    async with Cluster(tmp_path, driver=DriverConfig(max_outstanding_bytes=100_000)) as cluster:
        leader = await cluster.leader()
        engine = cluster.engines[leader]
        accepted = 90
        for _ in range(accepted):
            engine.propose(b"x" * 1000)
        with pytest.raises(OverloadedError):
            engine.propose(b"x" * 20_000)
        await cluster.alike(accepted)
        assert await cluster.propose(leader, b"and on it goes") is not None
        with pytest.raises(ValueError, match="bytes"):
            engine.propose(bytes(MAX_ENTRY + 1))


async def test_large_entries_pass(tmp_path: Path) -> None:
    """Entries of several MiB are committed and applied everywhere."""
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        await asyncio.gather(*[cluster.propose(leader, bytes([n]) * (4 << 20)) for n in range(4)])
        assert await cluster.propose(leader, bytes(MAX_ENTRY)) is not None
        await cluster.alike(5)
