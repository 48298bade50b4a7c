"""The simulated cluster: replicas, network, workload, and what is checked at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lockd.raft.core.config import Config
from lockd.raft.core.types import InstallSnapshot, Member, Membership, ReplicaId, Role, SnapshotMeta
from lockd.raft.driver import Driver, DriverConfig
from tests.sim.invariants import Invariants, Shadow
from tests.sim.network import Network
from tests.sim.probe import CheckedNode
from tests.sim.replica import Application, Replica
from tests.sim.storage import JournalStorage, ModelStorage, Storage
from tests.sim.workload_locks import LockWorkload
from tests.sim.workload_register import RegisterWorkload
from tests.sim.world import MS, SECOND, SimulationError, World


@dataclass(frozen=True, slots=True)
class Setup:
    """How a cluster is built. Everything else is drawn from the seed."""

    voters: int = 3
    learners: int = 0
    clients: int = 4
    operations: int = 10
    """Per client."""
    reads: float = 0.4
    think: int = 40 * MS
    padding: int = 60
    loss: float = 0.03
    duration: int = 2 * SECOND
    snapshot_log_bytes: int = 4000
    keep_log_bytes: int = 1000
    max_append_bytes: int = 600
    max_inflight_messages: int = 8
    locks: bool = False
    """Whether the application is the production machine with its locks; else it is the register."""
    disk_max: int = 2 * MS
    """How long a write to the disk may take."""
    segment_bytes: int = 16384
    """Of the journal; 0 for the ideal storage."""


@dataclass(slots=True)
class Parts:
    """What the cluster is made of; a mutation exchanges one of them."""

    node: type[CheckedNode] = CheckedNode
    driver: type[Driver] = Driver
    dedup: bool = True


class Workload(Protocol):
    """What the cluster is used for: clients, the application behind the log, and the judgement of what they saw."""

    def start(self) -> None:
        """The clients begin."""

    def urge(self, more: int, think: int) -> None:
        """Every client gets so many more operations, and thinks so long between them."""

    def application(self, replica: Replica) -> Application:
        """What a starting replica runs."""

    def final(self, replicas: Sequence[Replica]) -> None:
        """Judge the states of the members after convergence."""

    def count(self, statistics: Counter[str]) -> None:
        """Add what happened."""


class Cluster:
    """All replicas of one run."""

    def __init__(self, seed: int, setup: Setup, parts: Parts | None = None) -> None:
        parts = parts or Parts()
        self.world = World(seed)
        self.rng = self.world.rng
        self.setup = setup
        self.seed = seed
        self.parts = parts
        self.invariants = Invariants()
        self.network = Network(self.world, self._arrive)
        self.durable: dict[str, Shadow] = {}
        self.statistics: Counter[str] = Counter()
        self.driver_config = DriverConfig(snapshot_log_bytes=setup.snapshot_log_bytes, keep_log_bytes=setup.keep_log_bytes)
        self.replicas: dict[str, Replica] = {}
        self.wall_skew = 0
        self.owed_changes: set[tuple[str, int, int, int]] = set()
        """Membership changes whose end has not been told yet: (replica, its life, ...)."""
        self._next_name = 1
        members = [self._member(self._new_name(), voter=True) for _ in range(setup.voters)]
        members += [self._member(self._new_name(), voter=False) for _ in range(setup.learners)]
        self.genesis = SnapshotMeta(0, 0, Membership(tuple(sorted(members, key=lambda member: member.id))))
        for member in self.genesis.membership.members:
            self._add_replica(member.id, self.genesis)
        self.workload: Workload = LockWorkload(self) if setup.locks else RegisterWorkload(self)

    # --- building ---------------------------------------------------------------------------------------------------------------------

    def _new_name(self) -> str:
        name = f"n{self._next_name}"
        self._next_name += 1
        return name

    @staticmethod
    def _member(name: str, *, voter: bool) -> Member:
        return Member(ReplicaId(name), name, name, voter)

    def new_member(self, *, voter: bool) -> Member:
        """A new replica with an empty disk, already running; who adds it is another matter."""
        member = self._member(self._new_name(), voter=voter)
        replica = self._add_replica(member.id, SnapshotMeta(0, 0, Membership(())))
        replica.start()
        return member

    def _add_replica(self, name: str, genesis: SnapshotMeta) -> Replica:
        replica = Replica(self, name, self._storage(name, genesis))
        self.replicas[name] = replica
        return replica

    def _storage(self, name: str, genesis: SnapshotMeta) -> Storage:
        if self.setup.segment_bytes:
            return JournalStorage(name, genesis, self.rng, self.setup.segment_bytes)
        return ModelStorage(genesis)

    def node_config(self, replica: Replica) -> Config:
        """Settings of one process life."""
        return Config(
            seed=self.seed * 1000 + replica.life,
            max_append_bytes=self.setup.max_append_bytes,
            max_inflight_messages=self.setup.max_inflight_messages,
        )

    def wall(self) -> int:
        """The wall clock, which may jump."""
        return max(0, self.world.now + self.wall_skew)

    def start(self) -> None:
        """Start every replica, and the workload."""
        for replica in self.replicas.values():
            replica.start()
        self.workload.start()

    # --- the network's side --------------------------------------------------------------------------------------------

    def _arrive(self, _sender: str, to: str, message: object) -> None:
        replica = self.replicas.get(to)
        if replica is not None and replica.up:
            replica.arrive(message)  # type: ignore[arg-type]

    def snapshot_arrives(self, sender: str, message: InstallSnapshot, raw: bytes) -> None:
        """The end of a stream."""
        replica = self.replicas.get(message.to)
        if replica is not None and replica.up and not self.network.is_cut(sender, message.to):
            replica.snapshot_arrives(message, raw)

    # --- views ------------------------------------------------------------------------------------------------------------------------

    def leader(self) -> Replica | None:
        """The running leader of the highest term."""
        best: Replica | None = None
        for replica in self.replicas.values():
            leads = replica.up and replica.driver.failed is None and replica.driver.node.role is Role.LEADER
            if leads and (best is None or replica.driver.node.term > best.driver.node.term):
                best = replica
        return best

    def _unsettled(self) -> str | None:
        """Why the cluster has not converged yet; None if it has."""
        leader = self.leader()
        if leader is None:
            return "no leader"
        node = leader.driver.node
        if node.commit != node.last_index:
            return f"{leader.name} has committed {node.commit} of {node.last_index}"
        for member in node.membership.members:
            replica = self.replicas[member.id]
            if not replica.up or replica.driver.failed is not None:
                return f"{member.id} is down"
            if replica.driver.applied != node.last_index:
                return f"{member.id} has applied {replica.driver.applied} of {node.last_index}"
            owed = replica.app.owes()
            if owed is not None:
                return f"{member.id} owes answers to {owed}"
        for replica in self.replicas.values():
            owed = self.owes_change(replica)
            if owed is not None:
                return f"{replica.name} owes the end of {owed}"
        return None

    def owes_change(self, replica: Replica) -> str | None:
        """Whether this process life owes the end of a membership change."""
        return "a membership change" if any(key[:2] == (replica.name, replica.life) for key in self.owed_changes) else None

    # --- the end ----------------------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Make everything whole: links, weather, clocks, disks, processes."""
        self.world.note("HEAL")
        self.network.heal()
        weather = self.network.weather
        weather.delay_min, weather.delay_max = MS // 5, 2 * MS
        weather.drop = weather.duplicate = weather.straggle = 0.0
        weather.straggle_max = 400 * MS
        weather.late = None
        for replica in list(self.replicas.values()):
            replica.set_rate(1_000_000)
            replica.disk_min, replica.disk_max = MS // 20, 2 * MS
            replica.resume()
            if replica.up and replica.driver.failed is not None:
                replica.crash(power=True)
            if not replica.up:
                replica.start(recovery_cut=0.0)

    def converge(self, within: int) -> None:
        """Wait for convergence, and judge the final state."""
        end = self.world.now + within
        settled: Callable[[], bool] = lambda: self._unsettled() is None  # noqa: E731
        reason: str | None = "nothing happened"
        while self.world.now < end:
            self.world.run_until(min(end, self.world.now + 20 * MS))
            if settled():
                reason = None
                break
            reason = self._unsettled()
        if reason is not None:
            raise SimulationError("convergence", f"{within // MS} ms after healing: {reason}")
        leader = self.leader()
        assert leader is not None
        self.workload.final([self.replicas[member.id] for member in leader.driver.node.membership.members])
        self.workload.count(self.statistics)
        self.statistics["elections"] += self.invariants.elections
        self.statistics["entries committed"] += self.invariants.frontier
        self.statistics["messages"] += self.network.carried
        self.statistics["events"] += self.world.events
