"""What goes wrong, and when: a plan drawn from a seed before the run, so that a failing run can be cut down fault by fault."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from lockd.raft.core.types import AppendReply, AppendRequest, Member, Membership, Refusal, ReplicaId, VoteReply
from lockd.raft.driver import Lost
from lockd.raft.port import RaftError
from tests.sim.cluster import Cluster, Setup
from tests.sim.replica import Replica
from tests.sim.world import MS, SECOND


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: when, what, and a few numbers in [0, 1) that say to whom and how much."""

    at: int
    kind: str
    a: float
    b: float
    c: float

    def __str__(self) -> str:
        return f"{self.at / MS:9.3f} ms  {self.kind}({self.a:.4f}, {self.b:.4f}, {self.c:.4f})"


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run, as data."""

    seed: int
    profile: str
    setup: Setup
    faults: tuple[Fault, ...]


PROFILES: dict[str, dict[str, int]] = {
    "calm": {"transfer": 2, "snapshot": 2, "burst": 2, "crash": 1},
    "network": {"isolate": 4, "cut": 4, "partition": 3, "mend": 3, "storm": 3, "burst": 2, "clock": 1, "pause": 1},
    "crashes": {
        "crash": 3, "double crash": 3, "power": 4, "blackout": 1, "burst": 3, "slow disk": 2, "isolate": 1, "mend": 1, "storm": 1,
    },
    "leaders": {
        "isolate leader": 4, "transfer": 3, "crash leader": 3, "pause leader": 2, "mend": 2, "burst": 2, "storm": 1, "one-way leader": 2,
    },
    "members": {
        "add": 5, "promote": 4, "remove": 4, "two changes": 2, "crash": 2, "isolate": 2, "mend": 2, "transfer": 1, "isolate leader": 1,
        "lonely change": 3,
    },
    "echoes": {"isolate leader": 3, "crash leader": 2, "transfer": 2, "crash": 1, "one-way leader": 2, "burst": 2, "come back": 4},
    "returns": {"come back": 5, "burst": 3, "transfer": 1, "isolate leader": 1, "lag": 1},
    "elections": {"crash leader": 5, "isolate leader": 4, "partition": 4, "pause leader": 1, "cut": 4, "one-way leader": 2},
    "slow disks": {"slow disk": 5, "isolate leader": 4, "transfer": 2, "burst": 4, "crash": 1, "one-way leader": 2},
    "snapshots": {"snapshot": 4, "power": 3, "burst": 5, "lag": 8, "crash": 4, "storm": 1, "slow disk": 1, "crash leader": 1},
    "disks": {"power": 3, "disk error": 3, "disk full": 2, "crash": 3, "slow disk": 3, "blackout": 1, "burst": 2, "snapshot": 2},
    "everything": {
        "isolate": 2, "cut": 2, "partition": 2, "mend": 3, "storm": 2, "burst": 2, "clock": 1, "pause": 1, "crash": 3, "power": 2,
        "blackout": 1, "slow disk": 1, "isolate leader": 2, "transfer": 2, "pause leader": 1, "add": 2, "promote": 2, "remove": 1,
        "two changes": 1, "snapshot": 2, "disk error": 1, "disk full": 1, "wall": 1, "one-way leader": 1,
    },
}  # fmt: skip
"""Profile -> how often each kind of fault is drawn."""


def plan(seed: int, profile: str | None = None) -> Plan:
    """The plan of this seed."""
    rng = random.Random(seed * 7919 + 13)
    name = profile or rng.choice(sorted(PROFILES))
    weights = PROFILES[name]
    setup = Setup(
        voters=rng.choice((3, 3, 5) if name in ("leaders", "slow disks", "echoes") else (3, 3, 3, 5, 5, 4, 2, 1)),
        learners=rng.choice((0, 0, 0, 1)),
        clients=rng.choice((3, 4, 6)),
        operations=rng.choice((6, 8, 10)),
        reads=rng.choice((0.2, 0.4, 0.6)),
        think=rng.choice((10, 30, 60)) * MS,
        padding=rng.choice((20, 80, 300)),
        duration=rng.choice((1200, 1600, 2200)) * MS,
        snapshot_log_bytes=rng.choice((1000, 3000, 100_000)),
        keep_log_bytes=rng.choice((100, 1000, 4000)),
        max_append_bytes=rng.choice((200, 600, 4000)),
        max_inflight_messages=rng.choice((2, 8, 64)),
        disk_max=rng.choice((1, 2, 10, 30)) * MS,
        segment_bytes=rng.choice((4600, 8192, 32768)),
    )
    count = rng.choice((4, 7, 10, 14))
    if name == "snapshots":
        setup = replace(
            setup,
            snapshot_log_bytes=rng.choice((500, 1000)),
            keep_log_bytes=100,
            operations=12,
            reads=0.2,
            segment_bytes=rng.choice((4600, 8192)),
        )
    if name == "crashes":  # writes of several sectors
        setup = replace(setup, padding=rng.choice((300, 1500, 3000)), max_append_bytes=6000, disk_max=rng.choice((10, 40)) * MS)
    if name == "returns":
        setup = replace(setup, voters=5, operations=12, reads=0.1, duration=2200 * MS)
    if name == "elections":
        setup = replace(setup, voters=rng.choice((3, 4, 5, 5)), operations=6, think=80 * MS)
        count = 14
    if name in ("echoes", "slow disks"):
        setup = replace(setup, operations=10, reads=0.2)
    kinds, odds = list(weights), list(weights.values())
    faults = [
        Fault(rng.randrange(250 * MS, setup.duration), kind, rng.random(), rng.random(), rng.random())
        for kind in rng.choices(kinds, odds, k=count)
    ]
    if name == "echoes":  # all the time, what was sent long ago keeps coming in
        faults.append(Fault(200 * MS, "echo", rng.random(), rng.random(), rng.random()))
    if name == "returns":  # acknowledgements come late, and again
        faults.append(Fault(200 * MS, "echo", 0.3, 0.3, 0.3))
    if name == "elections":  # answers to candidates come late, and again, and votes take long
        faults.append(Fault(0, "echo", 0.0, 0.3, 0.5 * rng.random()))
    if name in ("slow disks", "elections"):
        faults += [Fault(200 * MS, "slow disk", rng.random(), rng.random(), 1.0) for _ in range(setup.voters)]
    return Plan(seed, name, setup, tuple(sorted(faults, key=lambda fault: fault.at)))


def without(whole: Plan, faults: tuple[Fault, ...]) -> Plan:
    """The same plan with these faults only."""
    return replace(whole, faults=faults)


class Nemesis:
    """Carries out faults on a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.changes = 0
        """Membership changes whose end is still owed."""

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
        """The leader and a minority are cut off and work on; others elect and overwrite; then the old leader is to lead again."""
        leader = self._leader(fault.a)
        others = self._others(leader.name)
        friends = [leader.name, *others[: (len(others) - 1) // 2]]
        self.cluster.network.partition(friends, [name for name in others if name not in friends])
        self._later(250 * MS, 500 * MS, fault.b, self.cluster.network.heal)
        for delay in (550, 650, 800):
            self.world.after(delay * MS, self._transfer, leader.id)

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
        replica = self._any(fault.a)
        replica.crash(power=False)
        self.world.after(MS, self._restart, replica)
        self.world.after(2 * MS + int(fault.b * fault.b * 60 * MS), self._crash, fault, replica)

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
        for client in self.cluster.clients:
            client.budget += 2 + int(fault.a * 3)
            client.think = int((1 + fault.b * 20) * MS)

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
