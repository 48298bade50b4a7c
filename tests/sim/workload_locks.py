"""Locks as a workload: the production replica and machine behind the log; clients that open sessions, lock, convert, wait and vanish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from lockd.codec.commands import decode_batch
from lockd.machine.digest import digest_rows
from lockd.machine.results import Granted, KeptAlive, Refused, Released, Result, SessionOpened
from lockd.machine.types import LockMode, RequestId
from lockd.raft.port import Committed, NotLeaderError, RaftError
from lockd.replica import Batch
from lockd.replica import Replica as LockReplica
from lockd.v1 import common_pb2, lock_pb2, session_pb2
from tests.sim.locks_history import LockHistory
from tests.sim.world import MS, SECOND, SimulationError

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.replica import Replica

EPOCH = 1_700_000_000 * SECOND
RESOURCES = ("a", "b", "c")


class _Clock:
    """A replica's clocks (protocol `lockd.replica.Clock`): wall clocks jump, and not alike."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        number = int(replica.name[1:])
        self._sign = 1 if number % 2 else -1
        self._offset = number * 7 * MS

    def wall(self) -> int:
        """True time, and an error."""
        replica = self._replica
        return EPOCH + replica.world.now + self._offset + self._sign * replica.cluster.wall_skew

    def monotonic(self) -> int:
        """The replica's own."""
        return self._replica.now()

    def call_soon(self, callback: Callable[[], None]) -> None:
        """After what is due at this moment."""
        self._replica.later(0, callback)

    def call_at(self, when: int, callback: Callable[[], None]) -> None:
        """At a time of the replica's clock; a little late if its speed changes meanwhile."""
        self._replica.later(max(0, when - self._replica.now()), self._at, when, callback)

    def _at(self, when: int, callback: Callable[[], None]) -> None:
        if self._replica.now() < when:
            self.call_at(when, callback)
        else:
            callback()


class _Engine:
    """As much of the engine as the replica uses: it proposes."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def propose(self, data: bytes) -> int:
        """To the driver."""
        self._replica.cluster.statistics["proposals"] += 1
        return self._replica.driver.propose(data)


class CheckedLockReplica(LockReplica):
    """The production replica, shown to the history."""

    name: str
    history: LockHistory

    def apply(self, entries: Sequence[Committed]) -> None:
        """One by one, so that every state between is seen."""
        for entry in entries:
            super().apply((entry,))
            self.history.applied(self.name, entry.index, self.machine)

    def restore(self, source: BinaryIO, index: int) -> None:
        """Restore, and look."""
        super().restore(source, index)
        self.history.restored(self.name, self.machine)

    def owed(self) -> int:
        """Entries and batches whose end is not known."""
        return len(self._in_flight) + len(self._queue.batches)


class LockApp:
    """One process life of a replica of the locks."""

    def __init__(self, workload: LockWorkload, replica: Replica) -> None:
        self.machine = machine = CheckedLockReplica(_Clock(replica))
        machine.name = replica.name
        machine.history = workload.history
        machine.attach(_Engine(replica))
        machine.on_events = lambda index, entry, facts: workload.history.happened(replica.name, index, entry, facts)

    def owes(self) -> str | None:
        """Proposals without an end."""
        owed = self.machine.owed()
        return f"{owed} proposals" if owed else None


class _Sink:
    """Where the answer to one attempt goes (protocol `lockd.replica.Sink`)."""

    def __init__(self, client: LockClient, attempt: int, asked: Asked) -> None:
        self._client = client
        self._attempt = attempt
        self._asked = asked

    def deliver(self, replies: Sequence[tuple[RequestId, Result]]) -> None:
        """The answer travels."""
        for _, result in replies:
            self._client.travels(self._attempt, self._asked, result)

    def unknown(self, request_ids: Sequence[RequestId], error: RaftError) -> None:
        """So does the bad news."""
        leader = getattr(error, "leader", None)
        self._client.travels(self._attempt, self._asked, leader.id if leader is not None else None)


class Asked:
    """One operation of a client: what it asked, under which identity, and since when."""

    __slots__ = ("acknowledged", "command", "floor", "request", "session", "since")

    def __init__(self, session: int, request: int, acknowledged: int, command: dict[str, Any], floor: int, since: int) -> None:
        self.session = session
        self.request = request
        self.acknowledged = acknowledged
        self.command = command
        self.floor = floor
        self.since = since

    def encode(self) -> bytes:
        """As a client's batch."""
        command = session_pb2.StreamCommand(request_id=self.request, **self.command)
        batch = session_pb2.StreamRequest(session_id=self.session, acknowledged=self.acknowledged, commands=[command])
        return batch.SerializeToString(deterministic=True)


class LockClient:
    """Opens a session; takes, converts, releases; sometimes goes silent until its session is lost, and begins anew."""

    def __init__(self, workload: LockWorkload, number: int) -> None:
        self._workload = workload
        self._world = workload.cluster.world
        self._rng = workload.cluster.rng
        self.number = number
        self.budget = 10
        self.think = 40 * MS
        self.until = 0
        self.given_up = 0
        self._session = 0
        self._request = 0
        self._attempt = 0
        self._asked: Asked | None = None
        self._target: str | None = None
        self._holds: dict[str, int] = {}
        self._alive_at = 0

    def start(self) -> None:
        """Begin."""
        self._world.after(int(self._rng.random() * self.think), self._next)

    def _next(self) -> None:
        now = self._world.now
        if self.budget == 0 or now >= self.until:
            return
        self.budget -= 1
        self._ask(*self._choose())

    def _choose(self) -> tuple[dict[str, Any], bool]:
        """The next command, and whether it is remembered under a request id."""
        chance = self._rng.random
        if not self._session:
            self._holds.clear()
            self._request = 0
            opening = session_pb2.OpenSessionRequest(owner=f"client {self.number}")
            opening.ttl.seconds = 1
            return {"open_session": opening}, False
        if self._world.now - self._alive_at > 300 * MS:
            return {"keep_alive": session_pb2.KeepAliveRequest()}, False
        if self._holds and chance() < 0.65:
            if chance() < 0.2:
                resource = min(self._holds)
                mode = lock_pb2.LockMode.Value("LOCK_MODE_SHARED") if chance() < 0.5 else lock_pb2.LockMode.Value("LOCK_MODE_EXCLUSIVE")
                return {
                    "convert": lock_pb2.ConvertRequest(resource=resource, token=self._holds[resource], mode=mode, wait=_wait(chance()))
                }, True
            guards = [common_pb2.Guard(resource=resource, token=token) for resource, token in sorted(self._holds.items())]
            return {"release": lock_pb2.ReleaseRequest(holds=guards)}, True
        if chance() < 0.06:
            return {"close_session": session_pb2.CloseSessionRequest()}, True
        if chance() < 0.06 and self._request:
            return {"cancel_acquire": lock_pb2.CancelAcquireRequest(target_request_id=self._request)}, True
        names = self._rng.sample(RESOURCES, 1 if chance() < 0.7 else 2)
        modes = (LockMode.EXCLUSIVE, LockMode.EXCLUSIVE, LockMode.SHARED)
        claims = [lock_pb2.Claim(resource=name, mode=int(modes[int(chance() * 3)])) for name in sorted(names)]  # type: ignore[arg-type]
        message = lock_pb2.AcquireRequest(claims=claims, wait=_wait(chance()))
        if chance() < 0.3:
            message.lock_delay.nanos = 200 * MS
        return {"acquire": message}, True

    def _ask(self, command: dict[str, Any], remembered: bool) -> None:
        if remembered:
            self._request += 1
        request = self._request if remembered else 0
        # What is acknowledged: everything before this request has been answered, or given up for good.
        acknowledged = self._request if remembered else self._request + 1
        self._asked = Asked(
            self._session, request, acknowledged if self._session else 0, command, self._workload.history.floor, self._world.now
        )
        self._try()

    def _try(self) -> None:
        asked = self._asked
        if asked is None:
            return
        rng, world = self._rng, self._world
        self._attempt += 1
        self._target = self._target or rng.choice(list(self._workload.cluster.replicas))
        world.after(150 * MS + int(rng.random() * 300 * MS), self._timed_out, self._attempt)
        if rng.random() < 0.03:
            return
        replica = self._workload.cluster.replicas[self._target]
        sink = _Sink(self, self._attempt, asked)
        world.after(MS // 10 + int(rng.random() * 2 * MS), self._workload.submit, replica, asked.encode(), sink)

    def _timed_out(self, attempt: int) -> None:
        if attempt == self._attempt and self._asked is not None:
            self._target = None
            self._retry(attempt)

    def _retry(self, attempt: int) -> None:
        asked = self._asked
        if attempt != self._attempt or asked is None:
            return
        if self._world.now - asked.since > 1200 * MS:
            self.given_up += 1
            self._asked = None
            self._session = 0
            self._next()
            return
        self._try()

    def travels(self, attempt: int, asked: Asked, answer: Result | str | None) -> None:
        """An answer is on its way, or the news that there is none: the name of who leads, or None."""
        if self._rng.random() >= 0.03:
            self._world.after(MS // 10 + int(self._rng.random() * 2 * MS), self._arrives, attempt, asked, answer)

    def _arrives(self, attempt: int, asked: Asked, answer: Result | str | None) -> None:
        if answer is None or isinstance(answer, str):
            if attempt == self._attempt and asked is self._asked:
                self._attempt += 1
                self._target = answer
                self._world.after(MS + int(self._rng.random() * 20 * MS), self._retry, self._attempt)
            return
        self._workload.history.answer(asked.session, asked.request, answer, asked.floor)
        if asked is not self._asked:
            return
        self._asked = None
        self._attempt += 1
        self._learn(answer)
        pause = int(self._rng.random() * 2 * self.think)
        if self._rng.random() < 0.03:
            pause = 1500 * MS  # long enough for the session to be lost
        self._world.after(pause, self._next)

    def _learn(self, result: Result) -> None:
        if isinstance(result, SessionOpened):
            self._session = result.session
            self._alive_at = self._world.now
        elif isinstance(result, KeptAlive):
            self._alive_at = self._world.now
        elif isinstance(result, Granted):
            self._holds.update({hold.resource: hold.token for hold in result.holds})
        elif isinstance(result, Released):
            self._holds.clear()
        elif isinstance(result, Refused):
            self._workload.refused[result.reason] += 1
            if result.reason.startswith("SESSION"):
                self._session = 0
        else:
            self._holds.clear()
            if type(result).__name__ == "SessionClosed":
                self._session = 0


class LockWorkload:
    """Clients, and the judgement."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.history = LockHistory()
        self.refused: Counter[str] = Counter()
        self.clients = [LockClient(self, number) for number in range(1, cluster.setup.clients + 1)]
        for client in self.clients:
            client.budget = 3 * cluster.setup.operations
            client.think = cluster.setup.think
            client.until = cluster.setup.duration

    def start(self) -> None:
        """The clients begin."""
        for client in self.clients:
            client.start()

    def urge(self, more: int, think: int) -> None:
        """Every client gets more to do."""
        for client in self.clients:
            client.budget += more
            client.think = think

    def application(self, replica: Replica) -> LockApp:
        """What a starting replica runs."""
        return LockApp(self, replica)

    def submit(self, replica: Replica, data: bytes, sink: _Sink) -> None:
        """A client's request arrives."""
        replica.event(replica.life, self._submit, replica, data, sink)

    @staticmethod
    def _submit(replica: Replica, data: bytes, sink: _Sink) -> None:
        app = replica.app
        assert isinstance(app, LockApp)
        requests = decode_batch(session_pb2.StreamRequest.FromString(data))
        try:
            app.machine.submit(Batch(data, requests, sink))
        except NotLeaderError as error:
            sink.unknown([request.request_id for request in requests], error)

    def final(self, replicas: Sequence[Replica]) -> None:
        """All members hold the same state, and it does not contradict itself."""
        digests = set()
        for replica in replicas:
            app = replica.app
            assert isinstance(app, LockApp)
            machine = app.machine.machine
            machine.check_invariants()
            digests.add(digest_rows(machine.export()))
        if len(digests) != 1:
            raise SimulationError("state machine safety", f"{len(digests)} different final states")

    def count(self, statistics: Counter[str]) -> None:
        """Add what happened."""
        statistics["locks granted"] += len(self.history.granted)
        statistics["lock answers"] += self.history.answered
        statistics["operations given up"] += sum(client.given_up for client in self.clients)
        statistics["lock requests refused"] += sum(self.refused.values())
        statistics["sessions expired"] += sum(
            type(fact).__name__ == "SessionExpired" for facts in self.history.facts.values() for fact in facts
        )


def _wait(number: float) -> lock_pb2.Wait | None:
    """No wait, a short one, or one without end."""
    if number < 0.3:
        return None
    wait = lock_pb2.Wait()
    if number < 0.7:
        wait.timeout.nanos = int(number * 500) * MS
    else:
        wait.forever = True
    return wait
