"""The replica between its log and its senders: gathering, routing, time, and what it says when leadership ends."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import pytest

from lockd.codec.commands import decode_batch
from lockd.codec.entries import decode_entry
from lockd.machine import results as r
from lockd.machine.types import RequestId
from lockd.raft.port import (
    Committed,
    Member,
    NotLeaderError,
    OverloadedError,
    RaftError,
    ReplicaId,
    Role,
    UnknownOutcomeError,
)
from lockd.replica import Batch, Replica, ReplicaLimits
from lockd.v1 import lock_pb2, session_pb2

SECOND = 1_000_000_000
ME = Member(ReplicaId("n1"), "p", "c1")
OTHER = Member(ReplicaId("n2"), "p", "c2")


class FakeClock:
    """Time that only the test moves."""

    def __init__(self) -> None:
        self.now = 1_000 * SECOND
        self.wall_offset = 10**18
        self.soon: list[Callable[[], None]] = []
        self.timers: list[tuple[int, Callable[[], None]]] = []

    def wall(self) -> int:
        """Epoch time."""
        return self.wall_offset + self.now

    def monotonic(self) -> int:
        """Steady time."""
        return self.now

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Remember it for the end of the turn."""
        self.soon.append(callback)

    def call_at(self, when: int, callback: Callable[[], None]) -> None:
        """Remember it for its time."""
        self.timers.append((when, callback))

    def end_turn(self) -> None:
        """Run what was asked to come soon."""
        while self.soon:
            self.soon.pop(0)()

    def ring_early(self, nanoseconds: int) -> None:
        """Let time pass until just before the first timer, and ring it then."""
        self.timers.sort(key=lambda timer: timer[0])
        when, callback = self.timers.pop(0)
        self.now = when - nanoseconds
        callback()

    def advance(self, nanoseconds: int) -> None:
        """Let time pass, and ring what is due."""
        self.now += nanoseconds
        due = [timer for timer in self.timers if timer[0] <= self.now]
        self.timers = [timer for timer in self.timers if timer[0] > self.now]
        for _, callback in sorted(due, key=lambda timer: timer[0]):
            callback()
        self.end_turn()


class FakeEngine:
    """A log that commits when the test says so."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.proposed: list[tuple[int, bytes]] = []
        self.refuse: RaftError | None = None
        self.index = 0
        self.ticket = 0
        self.committed: list[Committed] = []

    def propose(self, data: bytes) -> int:
        """Remember it."""
        if self.refuse is not None:
            raise self.refuse
        self.ticket += 1
        self.proposed.append((self.ticket, data))
        return self.ticket

    def commit(self, count: int | None = None) -> None:
        """Commit the oldest proposals."""
        taken = self.proposed[:count]
        del self.proposed[: len(taken)]
        entries = []
        for ticket, data in taken:
            self.index += 1
            entries.append(Committed(self.index, 1, data, ticket))
        self.committed += entries
        self.replica.apply(entries)

    def lose(self) -> None:
        """Lose leadership with everything in flight."""
        tickets = [ticket for ticket, _ in self.proposed]
        self.proposed.clear()
        self.replica.abandoned(tickets)
        self.replica.role_changed(Role.FOLLOWER, 2, OTHER)


class Sink:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.replies: list[tuple[RequestId, r.Result]] = []
        self.lost: list[tuple[RequestId, type[RaftError]]] = []

    def deliver(self, replies: Sequence[tuple[RequestId, r.Result]]) -> None:
        """Results: never an empty delivery, for a sender may wait for exactly one."""
        assert replies
        self.replies += replies

    def unknown(self, request_ids: Sequence[RequestId], error: RaftError) -> None:
        """Lost ones."""
        self.lost += [(request_id, type(error)) for request_id in request_ids]


class World:
    """One replica that leads, with its fakes."""

    def __init__(self, limits: ReplicaLimits | None = None) -> None:
        self.clock = FakeClock()
        self.replica = Replica(self.clock, limits=limits)
        self.engine = FakeEngine(self.replica)
        self.replica.attach(self.engine)

    def lead(self) -> None:
        """Win an election, and commit the entry that opens the reign."""
        self.replica.role_changed(Role.LEADER, 1, ME)
        self.engine.commit()

    def submit(self, sink: Sink, *commands: session_pb2.StreamCommand, session: int = 0) -> None:
        """One batch of one sender."""
        batch = session_pb2.StreamRequest(session_id=session, commands=commands)
        self.replica.submit(Batch(batch.SerializeToString(), decode_batch(batch), sink))

    def open_session(self, seconds: int = 10) -> int:
        """A new session's id."""
        sink = Sink()
        command = session_pb2.StreamCommand(open_session=session_pb2.OpenSessionRequest())
        command.open_session.ttl.seconds = seconds
        self.submit(sink, command)
        self.clock.end_turn()
        self.engine.commit()
        ((_, result),) = sink.replies
        assert isinstance(result, r.SessionOpened)
        return result.session


def acquire(request_id: int, resource: str = "a/b", wait: int | None = None) -> session_pb2.StreamCommand:
    """An exclusive acquire; `wait` in seconds, None is a try."""
    message = lock_pb2.AcquireRequest(claims=[lock_pb2.Claim(resource=resource)])
    if wait is not None:
        message.wait.timeout.seconds = wait
    return session_pb2.StreamCommand(request_id=request_id, acquire=message)


@pytest.fixture
def world() -> World:
    """A replica that leads."""
    made = World()
    made.lead()
    return made


def test_the_first_entry_of_a_reign_says_so() -> None:
    """A new leader opens its reign in the log, before any request: that extends the sessions (section 2)."""
    world = World()
    world.replica.role_changed(Role.LEADER, 7, ME)
    ((_, data),) = world.engine.proposed
    assert decode_entry(data).leader_term == 7
    assert decode_entry(data).requests == ()


def test_what_arrives_in_one_turn_shares_an_entry(world: World) -> None:
    """Three senders in one turn of the loop make one log entry; nothing waits for a timer."""
    sinks = [Sink() for _ in range(3)]
    for sink in sinks:
        world.submit(sink, session_pb2.StreamCommand(request_id=1, open_session=session_pb2.OpenSessionRequest()))
    assert world.engine.proposed == []
    world.clock.end_turn()
    assert len(world.engine.proposed) == 1
    world.engine.commit()
    assert [len(sink.replies) for sink in sinks] == [1, 1, 1]
    assert len({sink.replies[0][1] for sink in sinks}) == 3


def test_the_log_in_flight_is_bounded_and_refilled(world: World) -> None:
    """At most `entries_in_flight` entries are on their way; what gathered meanwhile goes together when one commits."""
    for _ in range(10):
        world.submit(Sink(), session_pb2.StreamCommand(open_session=session_pb2.OpenSessionRequest()))
        world.clock.end_turn()
    assert len(world.engine.proposed) == 4
    world.engine.commit(1)
    world.clock.end_turn()
    assert len(world.engine.proposed) == 4
    assert len(decode_entry(world.engine.proposed[-1][1]).requests) == 6


def test_a_full_queue_is_refused_early() -> None:
    """Beyond its bound the queue takes nothing more, and says so before anything is logged."""
    world = World(ReplicaLimits(entries_in_flight=1, queued_requests=2))
    world.lead()
    command = session_pb2.StreamCommand(open_session=session_pb2.OpenSessionRequest())
    world.submit(Sink(), command, command)
    with pytest.raises(OverloadedError):
        world.submit(Sink(), command)


def test_a_follower_takes_nothing(world: World) -> None:
    """Who does not lead names who does."""
    world.engine.lose()
    with pytest.raises(NotLeaderError) as refused:
        world.submit(Sink(), acquire(1))
    assert refused.value.leader == OTHER


def test_a_wait_is_answered_when_the_lock_comes_free(world: World) -> None:
    """The waiter's reply goes to the sink of its request, in the entry that releases."""
    first, second = world.open_session(), world.open_session()
    holder, waiter = Sink(), Sink()
    world.submit(holder, acquire(1), session=first)
    world.submit(waiter, acquire(1, wait=60), session=second)
    world.clock.end_turn()
    world.engine.commit()
    assert waiter.replies == []
    ((_, granted),) = holder.replies
    assert isinstance(granted, r.Granted)
    release = session_pb2.StreamCommand(request_id=2, release=lock_pb2.ReleaseRequest())
    release.release.holds.add(resource="a/b", token=granted.holds[0].token)
    world.submit(holder, release, session=first)
    world.clock.end_turn()
    world.engine.commit()
    ((request_id, result),) = waiter.replies
    assert request_id == 1
    assert isinstance(result, r.Granted)
    assert result.holds[0].token > granted.holds[0].token


def test_a_wait_ends_by_a_tick_and_never_early(world: World) -> None:
    """When nothing else comes, the leader proposes a Tick at the due time; the wait ends there, not before."""
    first, second = world.open_session(100), world.open_session(100)
    waiter = Sink()
    world.submit(Sink(), acquire(1), session=first)
    world.submit(waiter, acquire(1, wait=5), session=second)
    world.clock.end_turn()
    world.engine.commit()
    world.clock.advance(5 * SECOND - SECOND // 100)
    assert world.engine.proposed == []
    world.clock.advance(SECOND // 10)
    ((_, tick),) = world.engine.proposed
    assert decode_entry(tick).requests == ()
    world.engine.commit()
    ((_, result),) = waiter.replies
    assert isinstance(result, r.Refused)
    assert result.reason == "WAIT_TIMEOUT"


def test_a_timer_that_rings_early_is_set_again(world: World) -> None:
    """An event loop's timers may ring a millisecond early: the Tick still comes, at its time."""
    first, second = world.open_session(100), world.open_session(100)
    waiter = Sink()
    world.submit(Sink(), acquire(1), session=first)
    world.submit(waiter, acquire(1, wait=5), session=second)
    world.clock.end_turn()
    world.engine.commit()
    world.clock.ring_early(SECOND // 1000)
    assert world.engine.proposed == []
    world.clock.advance(6 * SECOND)
    assert len(world.engine.proposed) == 1


def test_every_request_hears_when_leadership_is_lost(world: World) -> None:
    """In the log, in the queue or waiting for a lock: each sender is told, none is left in silence."""
    first, second = world.open_session(), world.open_session()
    waiter, in_log, queued = Sink(), Sink(), Sink()
    world.submit(Sink(), acquire(1), session=first)
    world.submit(waiter, acquire(1, wait=60), session=second)
    world.clock.end_turn()
    world.engine.commit()
    world.submit(in_log, acquire(2, "x"), session=first)
    world.clock.end_turn()
    world.submit(queued, acquire(3, "y"), session=first)
    world.engine.lose()
    assert waiter.lost == [(1, UnknownOutcomeError)]
    assert in_log.lost == [(2, UnknownOutcomeError)]
    assert queued.lost == [(3, NotLeaderError)]


def test_log_time_never_goes_back_when_the_wall_clock_does(world: World) -> None:
    """Within a reign log time follows the monotonic clock; at the next election it starts from what the log has seen."""
    world.open_session(3600)
    before = world.replica.machine.log_time
    world.clock.wall_offset -= 3600 * SECOND
    world.clock.advance(SECOND)
    world.open_session()
    # Stamps grow by at least a nanosecond an entry, so the one before may be a little ahead of the clock.
    assert world.replica.machine.log_time > before + SECOND - 10
    before = world.replica.machine.log_time
    world.engine.lose()
    world.lead()
    assert world.replica.machine.log_time > before


def test_a_wall_clock_far_ahead_at_an_election_expires_nobody(world: World) -> None:
    """A leader whose clock is an hour ahead extends every session from its own time: none dies early."""
    session = world.open_session(5)
    world.engine.lose()
    world.clock.wall_offset += 3600 * SECOND
    world.lead()
    sink = Sink()
    world.submit(sink, acquire(1), session=session)
    world.clock.end_turn()
    world.engine.commit()
    ((_, result),) = sink.replies
    assert isinstance(result, r.Granted)


def test_a_snapshot_restores_the_same_state(world: World) -> None:
    """What is written is what another replica becomes, to the hash."""
    session = world.open_session()
    world.submit(Sink(), acquire(1), session=session)
    world.clock.end_turn()
    world.engine.commit()
    stream = io.BytesIO()
    world.replica.snapshot_writer().write(stream)
    stream.seek(0)
    other = World()
    other.replica.restore(stream, world.replica.applied_index)
    assert other.replica.machine.state_hash() == world.replica.machine.state_hash()
    assert other.replica.applied_index == world.replica.applied_index


def test_a_follower_that_decodes_reaches_the_leaders_state(world: World) -> None:
    """The leader applies what it has in memory, a follower what it reads from the log: the same state."""
    session = world.open_session()
    world.submit(Sink(), acquire(1), acquire(2, "c/d"), session=session)
    world.clock.end_turn()
    world.engine.commit()
    follower = World()
    follower.replica.apply([Committed(e.index, e.term, e.data, None) for e in world.engine.committed])
    assert follower.replica.machine.state_hash() == world.replica.machine.state_hash()


def test_a_sender_that_left_is_not_called(world: World) -> None:
    """After `forget`, a grant that comes later goes nowhere; the state has it all the same."""
    first, second = world.open_session(100), world.open_session(100)
    waiter = Sink()
    world.submit(Sink(), acquire(1), session=first)
    world.submit(waiter, acquire(1, wait=3), session=second)
    world.clock.end_turn()
    world.engine.commit()
    world.replica.forget(waiter)
    world.clock.advance(4 * SECOND)
    world.engine.commit()
    assert waiter.replies == []
