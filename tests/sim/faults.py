"""The nemesis: carries out the faults of a plan on a running cluster."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from lockd.raft.core.types import AppendReply, AppendRequest, Member, Membership, Refusal, ReplicaId, VoteReply
from lockd.raft.driver import Lost
from lockd.raft.port import RaftError
from tests.sim.cluster import Cluster
from tests.sim.plans import Fault
from tests.sim.replica import Replica
from tests.sim.world import MS, SECOND


class Nemesis:
    """Carries out faults on a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.world = cluster.world

    def schedule(self, faults: tuple[Fault, ...]) -> None:
        """Put every fault into the world's queue."""
        for fault in faults:
            self.world.at(fault.at, self.strike, fault)

    def strike(self, fault: Fault) -> None:
        """One fault happens."""
        self.cluster.statistics["fault: " + fault.kind] += 1
        self.world.note("FAULT", fault.kind, f"{fault.a:.4f} {fault.b:.4f} {fault.c:.4f}")
        KINDS[fault.kind](self, fault)

    # --- whom -------------------------------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        return list(self.cluster.replicas)

    def _any(self, number: float) -> Replica:
        """Some replica: the leader more often than others."""
        leader = self.cluster.leader()
        if leader is not None and number < 0.4:
            return leader
        names = self._names()
        return self.cluster.replicas[names[int(number * 997) % len(names)]]

    def _leader(self, number: float) -> Replica:
        return self.cluster.leader() or self._any(number)

    def _others(self, name: str) -> list[str]:
        return [other for other in self._names() if other != name]

    def _later(self, low: int, high: int, number: float, action: Callable[..., None], *arguments: object) -> None:
        self.world.after(low + int(number * (high - low)), action, *arguments)

    # --- network ----------------------------------------------------------------------------------------------------------------------

    def _isolate(self, fault: Fault, replica: Replica) -> None:
        others = self._others(replica.name)
        self.cluster.network.partition([replica.name], others)
        self._later(100 * MS, 900 * MS, fault.b, self._rejoin, replica.name)

    def _rejoin(self, name: str) -> None:
        for other in self._others(name):
            self.cluster.network.join(name, other)
            self.cluster.network.join(other, name)

    def isolate(self, fault: Fault) -> None:
        """One replica alone, for a while."""
        self._isolate(fault, self._any(fault.a))

    def isolate_leader(self, fault: Fault) -> None:
        """The leader alone, for a while."""
        self._isolate(fault, self._leader(fault.a))

    def one_way_leader(self, fault: Fault) -> None:
        """The leader is heard and does not hear, or hears and is not heard."""
        leader = self._leader(fault.a)
        for other in self._others(leader.name):
            self.cluster.network.cut(*((leader.name, other) if fault.c < 0.5 else (other, leader.name)))
        self._later(100 * MS, 700 * MS, fault.b, self._rejoin, leader.name)

    def come_back(self, fault: Fault) -> None:
        """The leader and a minority are cut off and work on; others elect and overwrite; then the old leader is to lead again.

        It is not heard by the old minority at first: what that said before is the only news of it.
        """
        leader = self._leader(fault.a)
        others = self._others(leader.name)
        friends = [leader.name, *others[: (len(others) - 1) // 2]]
        self.cluster.network.partition(friends, [name for name in others if name not in friends])
        self._later(250 * MS, 500 * MS, fault.b, self.cluster.network.heal)
        for delay in (550, 650, 800):
            self.world.after(delay * MS, self._transfer, leader.id)
        for friend in friends[1:]:
            self.world.after(540 * MS, self.cluster.network.cut, leader.name, friend)
            self.world.after(1000 * MS, self.cluster.network.join, leader.name, friend)

    def cut(self, fault: Fault) -> None:
        """One direction of one link."""
        replica = self._any(fault.a)
        others = self._others(replica.name)
        if others:
            other = others[int(fault.b * len(others))]
            pair = (replica.name, other) if fault.c < 0.5 else (other, replica.name)
            self.cluster.network.cut(*pair)
            self._later(50 * MS, 900 * MS, fault.c, self.cluster.network.join, *pair)

    def partition(self, fault: Fault) -> None:
        """Two groups."""
        names = self._names()
        ordered = random.Random(fault.a).sample(names, len(names))
        middle = 1 + int(fault.b * (len(names) - 1))
        self.cluster.network.partition(ordered[:middle], ordered[middle:])
        self._later(150 * MS, 800 * MS, fault.c, self.cluster.network.heal)

    def mend(self, _fault: Fault) -> None:
        """All links are whole again."""
        self.cluster.network.heal()

    def storm(self, fault: Fault) -> None:
        """Loss, duplicates, stragglers, for a while."""
        weather = self.cluster.network.weather
        weather.drop = fault.a * 0.3
        weather.duplicate = fault.b * 0.3
        weather.straggle = fault.c * 0.3
        weather.delay_max = (2 + int(fault.b * 20)) * MS
        self._later(200 * MS, 900 * MS, fault.c, self._calm)

    def echo(self, fault: Fault) -> None:
        """From now on many messages come again, or come only, when the world has moved on."""
        weather = self.cluster.network.weather
        weather.late = (VoteReply, AppendReply, AppendReply, AppendRequest)[int(fault.a * 4)]
        weather.duplicate = fault.b * 0.1
        weather.straggle = fault.c * 0.05
        weather.straggle_max = 1500 * MS

    def lag(self, fault: Fault) -> None:
        """A follower is cut off, while the others are kept busy."""
        leader = self.cluster.leader()
        others = self._others(leader.name) if leader is not None else self._names()
        if others:
            replica = self.cluster.replicas[others[int(fault.a * len(others))]]
            self.cluster.network.partition([replica.name], self._others(replica.name))
            self._later(100 * MS, 500 * MS, fault.b, self._rejoin, replica.name)
        self.burst(fault)

    def _calm(self) -> None:
        weather = self.cluster.network.weather
        if weather.straggle_max < SECOND:
            weather.duplicate = weather.straggle = 0.0
        weather.drop = 0.0
        weather.delay_max = 2 * MS

    # --- processes, clocks, disks -------------------------------------------------------------------------------------------------------

    def _crash(self, fault: Fault, replica: Replica) -> None:
        replica.crash(power=fault.b < 0.6)
        self._later(5 * MS, 700 * MS, fault.c * fault.c, self._restart, replica)

    def _restart(self, replica: Replica) -> None:
        if not replica.up:
            replica.start()

    def crash(self, fault: Fault) -> None:
        """One replica dies and comes back."""
        self._crash(fault, self._any(fault.a))

    def double_crash(self, fault: Fault) -> None:
        """The process dies, comes back from what it finds, and soon after the machine loses power."""
        self._crash_while_writing(fault, self._any(fault.a), 200)

    def _crash_while_writing(self, fault: Fault, replica: Replica, patience: int) -> None:
        if patience and not (replica.up and replica.writing):
            self.world.after(MS // 4, self._crash_while_writing, fault, replica, patience - 1)
            return
        replica.crash(power=False)
        self.world.after(MS, self._restart, replica)
        self.world.after(2 * MS + int(fault.b * fault.b * 60 * MS), self._crash, fault, replica)

    def stop(self, fault: Fault) -> None:
        """An operator stops one replica, and starts it again."""
        replica = self._any(fault.a)
        replica.stop()
        self._later(5 * MS, 500 * MS, fault.c, self._restart, replica)

    def crash_leader(self, fault: Fault) -> None:
        """The leader dies and comes back."""
        self._crash(fault, self._leader(fault.a))

    def power(self, fault: Fault) -> None:
        """One machine loses power in the middle of a write, a snapshot, a compaction, whatever its disk does next."""
        self._any(fault.a).cut_power_within(int(fault.b * 12))

    def blackout(self, fault: Fault) -> None:
        """Everything loses power at once."""
        for replica in list(self.cluster.replicas.values()):
            replica.crash(power=fault.b < 0.8)
            self._later(5 * MS, 300 * MS, self.cluster.rng.random(), self._restart, replica)

    def _pause(self, fault: Fault, replica: Replica) -> None:
        replica.pause()
        self._later(20 * MS, 600 * MS, fault.b, replica.resume)

    def pause(self, fault: Fault) -> None:
        """One process is stopped for a while."""
        self._pause(fault, self._any(fault.a))

    def pause_leader(self, fault: Fault) -> None:
        """The leader's process is stopped for a while."""
        self._pause(fault, self._leader(fault.a))

    def clock(self, fault: Fault) -> None:
        """One monotonic clock runs up to a fifth too fast or too slow."""
        self._any(fault.a).set_rate(800_000 + int(fault.b * 400_000))

    def wall(self, fault: Fault) -> None:
        """The wall clock jumps by up to an hour, either way."""
        self.cluster.wall_skew = int((fault.a - 0.5) * 7200 * SECOND)

    def slow_disk(self, fault: Fault) -> None:
        """One disk takes long for each write, for a while."""
        replica = self._any(fault.a)
        replica.disk_max = int((5 + fault.b * 150) * MS)
        self._later(100 * MS, 900 * MS, fault.c, self._fast_disk, replica)

    @staticmethod
    def _fast_disk(replica: Replica) -> None:
        replica.disk_max = replica.cluster.setup.disk_max

    def _break_disk(self, fault: Fault, code: int) -> None:
        replica = self._any(fault.a)
        if replica.up and replica.break_disk(("write", "sync", "create", "rename")[int(fault.b * 4)], code):
            self._later(50 * MS, 800 * MS, fault.c, self._replace_machine, replica)

    def disk_error(self, fault: Fault) -> None:
        """The next operation of a kind fails with EIO: the replica stops for good, and is started again after a power cycle."""
        self._break_disk(fault, errno.EIO)

    def disk_full(self, fault: Fault) -> None:
        """The same with ENOSPC."""
        self._break_disk(fault, errno.ENOSPC)

    @staticmethod
    def _replace_machine(replica: Replica) -> None:
        replica.crash(power=True)
        if not replica.up:
            replica.start()

    # --- operators ----------------------------------------------------------------------------------------------------------------------

    def burst(self, fault: Fault) -> None:
        """Every idle client gets more to do at once."""
        self.cluster.workload.urge(2 + int(fault.a * 3), int((1 + fault.b * 20) * MS))

    def snapshot(self, fault: Fault) -> None:
        """A replica takes a snapshot now."""
        replica = self._any(fault.a)
        if replica.up and not replica.paused and replica.driver.failed is None:
            replica.driver.take_snapshot(lambda _meta: None)

    def transfer(self, fault: Fault) -> None:
        """The leader hands over to another voter."""
        leader = self.cluster.leader()
        if leader is None or leader.paused:
            return
        voters = [member.id for member in leader.driver.node.membership.members if member.voter and member.id != leader.name]
        if voters:
            self._transfer(voters[int(fault.b * len(voters))])

    def _transfer(self, to: ReplicaId) -> None:
        leader = self.cluster.leader()
        if leader is not None and not leader.paused and leader.id != to:
            leader.driver.transfer(to, lambda _refusal: None)

    def _change(self, leader: Replica | None, edit: Callable[[Membership], Membership | None]) -> None:
        if leader is None or leader.paused or not leader.up:
            return
        wanted = edit(leader.driver.node.membership)
        if wanted is None:
            return
        self.world.note("CHANGE", leader.name, wanted)
        life = leader.life
        owed = self.cluster.owed_changes
        key = (leader.name, life, len(owed), self.world.now)
        owed.add(key)

        def ended(result: Membership | Refusal | type[Lost]) -> None:
            owed.remove(key)
            word = "committed" if isinstance(result, Membership) else result.value if isinstance(result, Refusal) else "unknown"
            self.cluster.statistics[f"membership changes ended: {word}"] += 1

        try:
            leader.driver.change_membership(wanted, ended)
        except RaftError:
            owed.remove(key)

    def _added(self, membership: Membership, *, voter: bool = False) -> Membership | None:
        if len(membership.members) >= 6:
            return None
        member = self.cluster.new_member(voter=voter)
        return _sorted((*membership.members, member))

    @staticmethod
    def _promoted(membership: Membership, number: float) -> Membership | None:
        learners = [member for member in membership.members if not member.voter]
        if not learners:
            return None
        chosen = learners[int(number * len(learners))]
        return _sorted(tuple(replace(member, voter=True) if member.id == chosen.id else member for member in membership.members))

    @staticmethod
    def _removed(membership: Membership, number: float) -> Membership | None:
        members = membership.members
        chosen = members[int(number * len(members))]
        if chosen.voter and sum(member.voter for member in members) <= 2:
            return None
        return Membership(tuple(member for member in members if member.id != chosen.id))

    def add(self, fault: Fault) -> None:
        """A new learner starts with an empty disk and is added; it asks to be promoted a little later."""
        self._change(self.cluster.leader(), self._added)
        if fault.b < 0.7:
            self._later(50 * MS, 500 * MS, fault.c, self.promote, fault)

    def promote(self, fault: Fault) -> None:
        """A learner becomes a voter, if it has caught up."""
        self._change(self.cluster.leader(), lambda membership: self._promoted(membership, fault.b))

    def remove(self, fault: Fault) -> None:
        """A member is removed, maybe the leader."""
        self._change(self.cluster.leader(), lambda membership: self._removed(membership, fault.b))

    def lonely_change(self, fault: Fault) -> None:
        """A leader is cut off and asked for a change, which it appends and cannot commit; then it comes back."""
        leader = self.cluster.leader()
        if leader is None:
            return
        self._isolate(fault, leader)
        self._change(leader, lambda membership: self._removed(membership, fault.c) if fault.a < 0.6 else self._added(membership))

    def two_changes(self, fault: Fault) -> None:
        """Changes back to back, each from what the leader then believes: one at a time must be let through."""
        self._change(self.cluster.leader(), lambda membership: self._removed(membership, fault.a))
        self._change(self.cluster.leader(), lambda membership: self._removed(membership, fault.b))
        self._change(self.cluster.leader(), lambda membership: self._promoted(membership, fault.c))


def _sorted(members: tuple[Member, ...]) -> Membership:
    return Membership(tuple(sorted(members, key=lambda member: ReplicaId(member.id))))


_Kind: TypeAlias = Callable[[Nemesis, Fault], None]
KINDS: dict[str, _Kind] = {
    "isolate": Nemesis.isolate,
    "isolate leader": Nemesis.isolate_leader,
    "one-way leader": Nemesis.one_way_leader,
    "come back": Nemesis.come_back,
    "cut": Nemesis.cut,
    "double crash": Nemesis.double_crash,
    "partition": Nemesis.partition,
    "mend": Nemesis.mend,
    "storm": Nemesis.storm,
    "echo": Nemesis.echo,
    "lag": Nemesis.lag,
    "crash": Nemesis.crash,
    "stop": Nemesis.stop,
    "crash leader": Nemesis.crash_leader,
    "power": Nemesis.power,
    "blackout": Nemesis.blackout,
    "pause": Nemesis.pause,
    "pause leader": Nemesis.pause_leader,
    "clock": Nemesis.clock,
    "wall": Nemesis.wall,
    "slow disk": Nemesis.slow_disk,
    "disk error": Nemesis.disk_error,
    "disk full": Nemesis.disk_full,
    "burst": Nemesis.burst,
    "snapshot": Nemesis.snapshot,
    "transfer": Nemesis.transfer,
    "add": Nemesis.add,
    "promote": Nemesis.promote,
    "remove": Nemesis.remove,
    "lonely change": Nemesis.lonely_change,
    "two changes": Nemesis.two_changes,
}
