"""One simulated replica: the production `Driver` and `Node` on a simulated clock, disk and network.

This is the simulation's `DriverIO`. It also shows what is sent and written to the invariants where it passes (see `tests.sim.probe`). What
the replica is a replica of is an `Application`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO, Protocol

from lockd.raft.core.config import CoreInvariantError
from lockd.raft.core.types import InstallSnapshot, Membership, Message, Nanos, ReplicaId, SnapshotMeta, Write
from lockd.raft.port import SnapshotWriter, StateMachine
from tests.sim.disk import PowerCutError
from tests.sim.probe import Probe
from tests.sim.storage import STORAGE_ERRORS, Storage
from tests.sim.world import MS, US, SimulationError

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

PPM = 1_000_000


class Application(Protocol):
    """What one process life of a replica runs on top of its driver."""

    @property
    def machine(self) -> StateMachine:
        """What the driver applies entries to."""

    def owes(self) -> str | None:
        """Whom answers are owed to at this moment; None if nobody."""


class Replica:
    """A member of the simulated cluster: process, clock, disk."""

    def __init__(self, cluster: Cluster, name: str, storage: Storage) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.name = name
        self.id = ReplicaId(name)
        self.storage = storage
        self.life = 0
        self.up = False
        self.paused = False
        self.expect_failure = False
        self.probe: Probe | None = None
        self.app: Application
        self._held: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        self._in_flight: list[Write] = []
        self._queue: list[Write] = []
        self._writing: list[Write] = []
        self._after_writes: list[Callable[[], None]] = []
        """What is to be done to the disk after all writes asked for before."""
        self._wake_at: int | None = None
        self._wake_event: int | None = None
        self._soon = False
        # the clock: local = base_local + (world - base_world) * rate / PPM
        self._rate = PPM
        self._base_world = 0
        self._base_local = cluster.rng.randrange(10**12)
        self.disk_min = 50 * US
        self.disk_max = cluster.setup.disk_max

    # --- life -------------------------------------------------------------------------------------------------------------------------

    def _start_again(self, life: int) -> None:
        if not self.up and life == self.life:
            self.start()

    def start(self, recovery_cut: float = 0.1) -> None:
        """A process starts from the disk; with some probability the power goes again while it recovers."""
        cluster = self.cluster
        self.life += 1
        self.up = True
        self.paused = False
        if self.cluster.rng.random() < recovery_cut:
            self.storage.arrange_power_cut(self.cluster.rng.randrange(8))
        try:
            restored = self.storage.recover()
        except PowerCutError:
            self.world.note("CRASH", self.name, "in recovery")
            self.up = False
            self.storage.crash(power=True)
            self.world.after(20 * MS, self._start_again, self.life)
            return
        except (ValueError, *STORAGE_ERRORS) as error:
            raise SimulationError("recovery", f"{self.name} cannot start: {type(error).__name__}: {error}") from error
        self.storage.arrange_power_cut(-1)
        previous = self.probe
        self.probe = Probe(self, restored)
        if previous is not None:
            cluster.invariants.restarted(self.name, previous.durable, self.probe.durable, self._in_flight)
        cluster.invariants.matching(self.name, restored.snapshot.term, restored.entries)
        cluster.durable[self.name] = self.probe.durable
        self.app = cluster.workload.application(self)
        config = cluster.node_config(self)
        node = cluster.parts.node(self.id, restored, self.now(), config)
        node.probe = self.probe
        self.driver = cluster.parts.driver(node, restored, self.app.machine, self, cluster.driver_config)
        self.world.note("START", self.name, restored.hard_state, f"log {restored.snapshot.index}+{len(restored.entries)}")
        try:
            self.driver.start()
        except (ValueError, *STORAGE_ERRORS) as error:
            raise SimulationError("recovery", f"{self.name} cannot restore: {type(error).__name__}: {error}") from error

    def crash(self, *, power: bool, within: bool = False) -> None:
        """The process dies at this moment, perhaps in the middle of a write; `within` says that the disk has seen to that already."""
        if not self.up:
            return
        self.world.note("CRASH", self.name, "power" if power else "process", f"writing {len(self._writing)}", "within" if within else "")
        self.cluster.statistics["crashes"] += 1
        self.up = False
        self.life += 1
        if self._writing and not self.expect_failure and not within:
            self.storage.crash_within(self._writing, self.cluster.rng)
        self.storage.crash(power=power)
        self._in_flight = self._writing
        self._forget()

    @property
    def writing(self) -> bool:
        """Whether the disk is at work on the journal."""
        return bool(self._writing)

    def stop(self) -> None:
        """An orderly stop: everybody who waits is told before the process ends."""
        if not self.up or self.paused or self.driver.failed is not None:
            return
        self.world.note("STOP", self.name)
        self.driver.close()
        owed = self.app.owes() or self.cluster.owes_change(self)
        if owed is not None:
            raise SimulationError("one answer", f"{self.name} stopped and owes answers to {owed}")
        self.crash(power=False)

    def _forget(self) -> None:
        self._queue, self._writing, self._after_writes = [], [], []
        self._wake_at = self._wake_event = None
        self._soon = self.paused = self.expect_failure = False
        self._held.clear()

    def pause(self) -> None:
        """SIGSTOP: nothing is handled until `resume`; it all waits."""
        if self.up:
            self.paused = True

    def resume(self) -> None:
        """SIGCONT."""
        if not self.paused:
            return
        self.paused = False
        held, self._held = self._held, []
        for action, arguments in held:
            self.event(self.life, action, *arguments)

    def event(self, life: int, action: Callable[..., None], *arguments: object) -> None:
        """An event for one process life: dropped if that is over, held while paused."""
        if life != self.life or not self.up:
            return
        if self.paused:
            self._held.append((action, arguments))
            return
        try:
            action(*arguments)
        except PowerCutError:
            self.crash(power=True, within=True)
            self.world.after(5 * MS + int(self.cluster.rng.random() * 400 * MS), self._start_again, self.life)

    def later(self, delay: int, action: Callable[..., None], *arguments: object) -> None:
        """An event of this process life, after `delay` nanoseconds of true time."""
        self.world.after(delay, self.event, self.life, action, *arguments)

    # --- clock ------------------------------------------------------------------------------------------------------------------------

    def now(self) -> Nanos:
        """This replica's monotonic clock: its own zero, its own speed."""
        return self._base_local + (self.world.now - self._base_world) * self._rate // PPM

    def set_rate(self, ppm: int) -> None:
        """Let the clock run at another speed from now on (parts per million of true time)."""
        self._base_local, self._base_world, self._rate = self.now(), self.world.now, ppm

    def _world_time(self, local: Nanos) -> int:
        return self._base_world + -(-(local - self._base_local) * PPM // self._rate)

    def wake(self, at: Nanos) -> None:
        """Tick at this local time. One event is under way at a time; it asks again if it comes too early."""
        self._wake_at = at
        event = self._wake_event
        when = self._world_time(at)
        if event is None or when < event:
            self._wake_event = max(when, self.world.now)
            self.world.at(when, self._wake, self.life, self._wake_event)

    def _wake(self, life: int, event: int) -> None:
        if life != self.life or event != self._wake_event:
            return
        self._wake_event = None
        self.event(life, self._tick)

    def _tick(self) -> None:
        at = self._wake_at
        if at is None:
            return
        if self.now() < at:
            self.wake(at)
            return
        self._wake_at = None
        self.driver.tick()

    # --- network ----------------------------------------------------------------------------------------------------------------------

    def send(self, messages: Sequence[Message]) -> None:
        """To the network, as it stands."""
        cluster = self.cluster
        probe = self.probe
        assert probe is not None
        for message in messages:
            cluster.invariants.sent(self.name, message, probe.durable)
            if message.sender != self.id:
                raise SimulationError("sender", f"{self.name} sends {message}")
            if not cluster.network.send(self.name, message.to, message) and cluster.rng.random() < 0.2:
                self.later(MS, self._unreachable, message.to)

    def _unreachable(self, peer: ReplicaId) -> None:
        self.driver.unreachable(peer)

    def arrive(self, message: Message) -> None:
        """From the network."""
        self.event(self.life, self._receive, message)

    def _receive(self, message: Message) -> None:
        self.world.note("RECV", self.name, message)
        self.driver.receive(message)

    # --- disk -------------------------------------------------------------------------------------------------------------------------

    def write(self, write: Write) -> None:
        """Queue; one write of all that has gathered is under way at a time."""
        self._queue.append(write)
        if not self._writing:
            self._begin_write()

    def _begin_write(self) -> None:
        self._writing, self._queue = self._queue, []
        self._later_disk(self._end_write)

    def _later_disk(self, action: Callable[..., None], *arguments: object) -> None:
        delay = self.disk_min + int(self.cluster.rng.random() * (self.disk_max - self.disk_min))
        # The disk works on while the process is stopped, but nobody hears of it.
        self.later(delay, action, *arguments)

    def _end_write(self) -> None:
        writes = self._writing
        try:
            self.storage.write_many(writes)
        except STORAGE_ERRORS as error:
            self._storage_failed(error)
            return
        self._written(writes)
        self._writing = []
        if self._queue:
            self._begin_write()
        else:
            due, self._after_writes = self._after_writes, []
            for action in due:
                action()
        self.driver.persisted(writes[-1].number)

    def _written(self, writes: Sequence[Write]) -> None:
        probe = self.probe
        assert probe is not None
        for write in writes:
            probe.durable.carry_out(write)

    def _storage_failed(self, error: Exception) -> None:
        if not self.expect_failure:
            raise SimulationError("no failure without a cause", f"{self.name}: {type(error).__name__}: {error}")
        self.world.note("DISK FAILED", self.name, str(error))
        self.driver.fail(str(error), error)

    def cut_power_within(self, operations: int) -> None:
        """The power goes in the middle of what the disk does next."""
        if self.up and not self.expect_failure:
            self.storage.arrange_power_cut(operations)

    def break_disk(self, operation: str, code: int) -> bool:
        """Arrange a failure of the disk; False if this storage knows none."""
        if not self.storage.arrange_failure(operation, code):
            return False
        self.expect_failure = True
        return True

    def compact(self, keep_from: int) -> None:
        """After all earlier writes."""
        self._in_turn(lambda: self.storage.compact(keep_from))

    def _in_turn(self, action: Callable[[], None]) -> None:
        def act() -> None:
            try:
                action()
            except STORAGE_ERRORS as error:
                self._storage_failed(error)

        if self._writing:
            self._after_writes.append(act)
        else:
            act()

    # --- the rest of DriverIO ---------------------------------------------------------------------------------------------------------

    def soon(self) -> None:
        """Flush when what is due now has been handled."""
        if not self._soon:
            self._soon = True
            self.later(0, self._flush)

    def _flush(self) -> None:
        self._soon = False
        self.driver.flush()

    @contextlib.contextmanager
    def open_snapshot(self, meta: SnapshotMeta) -> Iterator[BinaryIO]:
        """From the disk."""
        yield io.BytesIO(self.storage.read_snapshot(meta))

    def take_snapshot(self, meta: SnapshotMeta, writer: SnapshotWriter) -> None:
        """Frozen now, durable a little later."""
        sink = io.BytesIO()
        writer.write(sink)
        self.world.note("SNAPSHOT", self.name, meta)
        self._later_disk(self._snapshot_written, meta, sink.getvalue())

    def _snapshot_written(self, meta: SnapshotMeta, raw: bytes) -> None:
        if self.driver.failed is not None:
            return
        try:
            self.storage.keep_snapshot(meta, raw)
        except STORAGE_ERRORS as error:
            if not self.expect_failure:
                raise SimulationError("no failure without a cause", f"{self.name}: {error}") from None
            self.world.note("SNAPSHOT FAILED", self.name, str(error))
            self.driver.snapshot_failed(str(error))
            return
        self.cluster.statistics["snapshots taken"] += 1
        self.driver.snapshot_taken(meta)

    def stream_snapshot(self, message: InstallSnapshot) -> None:
        """The file travels as bulk, then the message; both may fail."""
        try:
            raw = self.storage.snapshot_file(message.meta)
        except (ValueError, KeyError, *STORAGE_ERRORS) as error:
            if self.expect_failure:
                self.later(MS, self._streamed, message.to, message.meta.index, False)
                return
            raise SimulationError("snapshots can be read", f"{self.name}: {message.meta}: {error}") from None
        self.world.note("STREAM", self.name, message)
        cluster = self.cluster
        chance = cluster.rng.random
        arrived = chance() > 0.1 and not cluster.network.is_cut(self.name, message.to)
        duration = 2 * MS + int(chance() * 20 * MS)
        if arrived:
            self.world.after(duration, cluster.snapshot_arrives, self.name, message, raw)
        if chance() < 0.2:  # a stream that the sender took for broken, or one of an earlier attempt, comes to its end much later
            self.world.after(duration + int(chance() * 500 * MS), cluster.snapshot_arrives, self.name, message, raw)
        self.later(duration + 2 * MS, self._streamed, message.to, message.meta.index, arrived)

    def _streamed(self, to: ReplicaId, index: int, arrived: bool) -> None:
        self.driver.snapshot_sent(to, index, arrived)

    def snapshot_arrives(self, message: InstallSnapshot, raw: bytes) -> None:
        """A whole file came in."""
        self.event(self.life, self._receive_snapshot, message, raw)

    def _receive_snapshot(self, message: InstallSnapshot, raw: bytes) -> None:
        if self.driver.failed is not None:
            return
        try:
            self.storage.receive_snapshot(message.meta, raw)
        except STORAGE_ERRORS as error:
            self._storage_failed(error)
            return
        self.cluster.statistics["snapshots received"] += 1
        self._receive(message)

    def discard_snapshot(self, meta: SnapshotMeta) -> None:
        """Not wanted."""
        self._in_turn(lambda: self.storage.discard_snapshot(meta))

    def membership_changed(self, membership: Membership) -> None:
        """Links exist between all anyway."""
        self.world.note("MEMBERS", self.name, membership)

    def failed(self, reason: str, error: BaseException | None) -> None:
        """The driver gave up."""
        if isinstance(error, CoreInvariantError) or not self.expect_failure:
            raise SimulationError("no internal error", f"{self.name}: {reason}") from error
