# Generated from _async/_session.py by tools/unasync.py: edit that.
"""One session: a stream to the leader that carries its requests in batches, kept alive, resumed after every loss.

Two workers serve it. The pump opens the session, connects its stream, hands replies to their waiters, and connects again after
a loss, sending every unanswered request again with the same id. The clock sends keepalives, ends overdue requests, declares the
session lost when its validity is over, and cuts a stream on which nothing comes back.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import grpc

from lockd.v1 import common_pb2, session_pb2
from lockd_client._core.failures import Disposition, Failure, from_status
from lockd_client._core.methods import CLOSE_SESSION, OPEN_SESSION
from lockd_client._core.rpc import RpcFailed
from lockd_client._core.validity import Lease
from lockd_client._core.window import NEVER, Pending
from lockd_client._sync._backend import (
    Event,
    Mutex,
    SessionWindow,
    Stream,
    Waiter,
    Worker,
    abandon,
    deliver,
    make_waiter,
    sleep,
    wait_for,
)
from lockd_client._sync._transport import ATTEMPT_LIMIT
from lockd_client.errors import ClientClosed, DeadlineExceeded, LockdError, SessionLost, UnknownOutcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from lockd_client._sync._lock import Grant
    from lockd_client._sync._transport import Transport

WINDOW = 16_384
"""Unanswered requests of a session; more wait for room."""
LATE_REPLIES = 1_024
"""Replies that came after their caller had given up, kept for `resolve`."""
STALL = 1_000_000_000
"""Nanoseconds without any answer after which a keepalive asks whether the stream still works."""
SHORTEST_TICK = 2_000_000
"""Nanoseconds: the clock does not wake more often."""
KEEPALIVE_RETRY = 200_000_000
"""Nanoseconds after a refused keepalive until the next."""
FIRST_RESEND_PAUSE = 10_000_000
"""Nanoseconds, doubled with each attempt up to 64 times, before a refused request is sent again."""

_FATAL = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
"""Refusals of the session or its stream that another attempt would meet again."""


class NotApplied(SessionLost):
    """The session was gone before the request: nothing was applied, so that a new session may take it over."""


class Session:
    """One session of a client. Made at once, opened by its pump; requests may be submitted meanwhile."""

    def __init__(self, transport: Transport, owner: str, ttl: int, first_id: int) -> None:
        self._transport = transport
        self._owner = owner
        self._ttl = ttl
        self._mutex = Mutex()
        self._window: SessionWindow = SessionWindow(first_id)
        self._outgoing = Event()
        self._tick = Event()
        self._room = Event()
        self._next_tick = 0
        self._stream: Stream | None = None
        self._generation = 0
        self._heard = 0
        self._delayed: list[tuple[int, Pending[Waiter]]] = []
        self._late: dict[int, Pending[Waiter]] = {}
        self._keepalive: Pending[Waiter] | None = None
        self._next_keepalive = NEVER
        self._lease: Lease | None = None
        self._end: LockdError | None = None
        self._closed = False
        self._connected = False
        """Whether the stream has brought an answer."""
        self._proven = False
        """Whether the stream may carry requests."""
        self.id = 0
        self.grants: dict[int, Grant] = {}
        """By the request id of their acquire."""
        self._pump = Worker(self._run_pump, "lockd-session-pump")
        self._clock = Worker(self._run_clock, "lockd-session-clock")

    # What callers ask.

    @property
    def usable(self) -> bool:
        """Whether new requests may be given to it."""
        return self._end is None

    @property
    def next_id(self) -> int:
        """The number of the next request; a later session goes on from here, so that numbers are unique within a client."""
        return self._window.next_id

    @property
    def ended_by(self) -> LockdError | None:
        """Why it is over, or None."""
        return self._end

    def remaining(self) -> float:
        """Seconds for which the session, and with it every lock, is certainly alive."""
        lease = self._lease
        if lease is None or self._end is not None:
            return 0.0
        return lease.remaining(time.monotonic_ns()) / 1e9

    def submit(self, pending: Pending[Waiter]) -> None:
        """Queue a request.

        Raises:
            LockdError: The session is over.
        """
        with self._mutex:
            if self._end is not None and not pending.background:
                raise NotApplied(self._end.message) if isinstance(self._end, SessionLost) else self._end
            if self._closed:
                return
            self._window.add(pending)
        if not self._outgoing.is_set():
            self._outgoing.set()
        if pending.deadline < self._next_tick:
            self._tick.set()

    def call(
        self,
        command: session_pb2.StreamCommand,
        deadline: int,
        size: int,
        *,
        write: bool = True,
        decode: Callable[[session_pb2.StreamReply], Any] | None = None,
    ) -> session_pb2.StreamReply:
        """Send one request and wait for its reply.

        Raises:
            NotApplied: The session had ended before; a new one may take the request over.
            LockdError: Every other failure.
        """
        if len(self._window) >= WINDOW:
            self._wait_for_room(deadline)
        waiter = make_waiter()
        pending = Pending(command, waiter, deadline, size, write=write)
        pending.decode = decode
        self.submit(pending)
        try:
            return wait_for(waiter)
        except BaseException:
            self._detach(pending)
            raise

    def acquire(self, command: session_pb2.StreamCommand, deadline: int, size: int) -> tuple[int, session_pb2.StreamReply]:
        """Send an acquire or conversion and wait for the grant; whoever stops waiting leaves neither a waiter nor a holder behind.

        Returns:
            The request's number and the reply.

        Raises:
            NotApplied: The session had ended before; a new one may take the request over.
            LockdError: Every other failure.
        """
        if len(self._window) >= WINDOW:
            self._wait_for_room(deadline)
        waiter = make_waiter()
        pending = Pending(command, waiter, deadline, size, write=True)
        pending.lock_wait = True
        self.submit(pending)
        try:
            return pending.request_id, wait_for(waiter)
        except BaseException:
            self._undo(pending)
            raise

    def release(self, command: session_pb2.StreamCommand, deadline: int, size: int) -> session_pb2.StreamReply:
        """Send a release and wait for its reply; it goes on in the background when the caller stops waiting.

        Raises:
            LockdError: It failed, or has not been answered by the deadline.
        """
        waiter = make_waiter()
        pending = Pending(command, waiter, deadline, size, write=False)
        pending.background = True
        self.submit(pending)
        try:
            return wait_for(waiter)
        except BaseException:
            self._detach(pending)
            raise

    def release_in_background(self, holds: list[common_pb2.Guard]) -> None:
        """Give locks back without waiting; sent again until it is answered or the session is over."""
        command = session_pb2.StreamCommand()
        command.release.holds.extend(holds)
        self._background(command, None)

    def resolve(self, request_id: int, deadline: int) -> Any:
        """The outcome of an earlier request whose caller had given up.

        Raises:
            KeyError: The number is not known here.
            LockdError: The request was refused, or its outcome still cannot be known.
        """
        with self._mutex:
            late = self._late.pop(request_id, None)
            pending = None if late is not None else self._window.get(request_id)
            if pending is not None and pending.waiter is None and pending.decode is not None and not self._closed:
                pending.waiter = make_waiter()
                pending.deadline = deadline
                self._window.queue_again(pending)
            elif late is None:
                raise KeyError(request_id)
        if late is not None:
            return _outcome(late)
        assert pending is not None  # noqa: S101 - for the type checker: the branch above raised
        waiter = pending.waiter
        assert waiter is not None  # noqa: S101 - set above
        self._outgoing.set()
        self._tick.set()
        try:
            pending.reply = wait_for(waiter)
        except BaseException:
            self._detach(pending, keep=True)
            raise
        return _outcome(pending)

    def close(self, nanos: int) -> None:
        """End the session at the service if that can be done in time, and every request that is still under way."""
        with self._mutex:
            known = self.id != 0 and self._end is None
            if self._end is None:
                self._end = ClientClosed("The client was closed.")
            alive = not self._closed
        if known and alive:
            command = session_pb2.StreamCommand(close_session=session_pb2.CloseSessionRequest())
            waiter = make_waiter()
            pending = Pending(command, waiter, time.monotonic_ns() + nanos, 16, write=False)
            pending.background = True
            self.submit(pending)
            self._tick.set()
            with contextlib.suppress(LockdError):  # if it cannot be told, it expires by itself
                wait_for(waiter)
        self._stop(ClientClosed("The client was closed."))
        self._pump.join(nanos)
        self._clock.join(nanos)

    def register(self, request_id: int, grant: Grant) -> None:
        """From now on the grant is told when the session is lost; at once, if that has happened."""
        with self._mutex:
            if self._end is None:
                self.grants[request_id] = grant
                return
        grant.session_ended()

    def fenced(self, tokens: frozenset[int]) -> None:
        """The service said that these tokens are no longer the current grants: tell the grants that rely on them."""
        with self._mutex:
            hit = [request_id for request_id, grant in self.grants.items() if any(h.token in tokens for h in grant.holds)]
            grants = [self.grants.pop(request_id) for request_id in hit]
        for grant in grants:
            grant.taken_away()

    # Leaving early.

    def _detach(self, pending: Pending[Waiter], *, keep: bool = False) -> None:
        """Nobody waits for this request any more: what never left does not leave; `keep`: its outcome may still be asked for."""
        waiter = pending.waiter
        with self._mutex:
            if waiter is not None:
                abandon(waiter)
                if not keep:
                    pending.decode = None
            pending.waiter = None
            if not (pending.sent_at or pending.background):
                self._window.drop(pending)

    def _undo(self, pending: Pending[Waiter]) -> None:
        """Nobody waits for this acquire any more: drop it, cancel it, or give back what it got."""
        waiter = pending.waiter
        cancel = False
        with self._mutex:
            if waiter is not None:
                abandon(waiter)
            pending.waiter = None
            reply = pending.reply
            if reply is None and self._window.get(pending.request_id) is pending:
                if pending.sent_at:
                    # It stays, and is sent again before its cancellation: so the service meets them in this order.
                    pending.background = cancel = True
                else:
                    self._window.drop(pending)
        if reply is not None and reply.HasField("acquire"):
            self.release_in_background([common_pb2.Guard(resource=h.resource, token=h.token) for h in reply.acquire.holds])
        elif cancel:
            command = session_pb2.StreamCommand()
            command.cancel_acquire.target_request_id = pending.request_id
            self._background(command, pending)

    def _background(self, command: session_pb2.StreamCommand, target: Pending[Waiter] | None) -> None:
        pending: Pending[Waiter] = Pending(command, None, NEVER, 64, write=False)
        pending.background = True
        pending.target = target
        self.submit(pending)

    def _wait_for_room(self, deadline: int) -> None:
        """Wait until the window has room: backpressure.

        Raises:
            DeadlineExceeded: It stayed full until the deadline.
        """
        while len(self._window) >= WINDOW:
            with self._mutex:
                if self._end is not None:
                    raise self._end
                self._window.forget_old()
                if len(self._window) < WINDOW:
                    return
                self._room.clear()
            now = time.monotonic_ns()
            if now >= deadline:
                raise DeadlineExceeded(f"{WINDOW} requests were unanswered until the deadline, and this one never left.")
            self._room.wait(None if deadline == NEVER else deadline - now)

    # The pump.

    def _run_pump(self) -> None:
        while not self._closed:
            if self.id == 0 and self._idle():
                self._outgoing.wait()
                continue
            if self._finished():
                break
            address = self._transport.choose()
            try:
                if self.id == 0:
                    self._open(address)
                else:
                    self._serve(address)
            except RpcFailed as error:
                self._connected = False
                failure = error.failure
                if failure.disposition is Disposition.SESSION_GONE:
                    self._gone(failure)
                elif failure.disposition is Disposition.FAIL and failure.code in _FATAL:
                    self._stop(failure.to_error())
                else:
                    self._transport.failed(address, failure)
                    if not self._finished():
                        sleep(max(self._transport.pause(), failure.retry_after or 0))
        if not self._closed:
            self._say_goodbye()
            self._stop(self._end)

    def _idle(self) -> bool:
        with self._mutex:
            if len(self._window):
                return False
            self._outgoing.clear()
            return not self._closed and self._end is None

    def _say_goodbye(self) -> None:
        """A session that is over here may live on at the service for a while: one attempt to end it there, so that its locks go now."""
        request = session_pb2.CloseSessionRequest()
        request.context.session_id = self.id
        try:
            if self.id:
                self._transport.channel(self._transport.choose()).unary(CLOSE_SESSION, request, STALL)
        except RpcFailed:
            return

    def _open(self, address: str) -> None:
        """Open the session at the service.

        Raises:
            RpcFailed: It did not open.
        """
        request = session_pb2.OpenSessionRequest(owner=self._owner)
        request.ttl.FromNanoseconds(self._ttl)
        sent = time.monotonic_ns()
        response = self._transport.channel(address).unary(OPEN_SESSION, request, ATTEMPT_LIMIT)
        with self._mutex:
            self._lease = Lease(response.ttl.ToNanoseconds() or self._ttl, sent)
            self._next_keepalive = sent + self._lease.interval
            self.id = response.session_id
        self._tick.set()

    def _serve(self, address: str) -> None:
        """Carry requests and replies until the stream is over.

        Raises:
            RpcFailed: Always: the stream is over.
        """
        with self._mutex:
            self._generation += 1
            generation = self._generation
            self._window.rewind()
            self._delayed.clear()
            self._keepalive = None
            self._heard = time.monotonic_ns()
            # The first keepalive shows whether this node serves the session. Nothing else is sent before its answer: what never went to a
            # leader has certainly not been applied. A session that is over is not kept alive; it only looks for outcomes.
            self._proven = self._end is not None
            if not self._proven:
                self._window.number(self._new_keepalive(self._heard))

        def batches() -> session_pb2.StreamRequest | None:
            return self._next_batch(generation)

        self._outgoing.set()
        stream = Stream(self._transport.channel(address), batches)
        self._stream = stream
        self._tick.set()
        try:
            while not self._closed:
                response = stream.read()
                failure = self._take(response)
                if failure is not None:
                    raise RpcFailed(failure)
                if not self._connected:
                    self._connected = self._proven = True
                    self._transport.succeeded(address)
                    self._outgoing.set()
                if self._end is not None and self._finished():
                    break
        finally:
            with self._mutex:
                self._generation += 1
                self._stream = None
            self._outgoing.set()
            stream.close()
        raise RpcFailed(Failure(grpc.StatusCode.UNAVAILABLE, "the session is over"))

    def _next_batch(self, generation: int) -> session_pb2.StreamRequest | None:
        """All that waits, as soon as something does; None when this stream is over."""
        while True:
            with self._mutex:
                if generation != self._generation:
                    return None
                now = time.monotonic_ns()
                if self._proven:
                    batch = self._window.take(self.id, now)
                    if batch is not None:
                        return batch
                elif self._keepalive is not None and not self._keepalive.sent_at:
                    return self._window.take_only(self._keepalive, self.id, now)
                self._outgoing.clear()
            self._outgoing.wait()

    def _take(self, response: session_pb2.StreamResponse) -> Failure | None:
        """Hand replies to their waiters; a failure that needs another connection is returned."""
        lost: Failure | None = None
        reconnect: Failure | None = None
        window = self._window
        with self._mutex:
            now = self._heard = time.monotonic_ns()
            for reply in response.replies:
                request_id = reply.request_id
                if reply.HasField("error"):
                    pending = window.get(request_id)
                    if pending is None:
                        continue
                    failure = from_status(reply.error)
                    disposition = failure.disposition
                    if pending.ephemeral and disposition is not Disposition.SESSION_GONE:
                        self._keepalive_failed(pending, now)
                    if disposition is Disposition.RECONNECT:
                        reconnect = failure
                    elif pending.ephemeral and disposition is Disposition.RESEND:
                        continue
                    elif disposition is Disposition.RESEND:
                        self._delay(pending, failure, now)
                    else:
                        if disposition is Disposition.SESSION_GONE:
                            lost = failure
                        window.answered(request_id)
                        self._refuse(pending, failure)
                    continue
                pending = window.answered(request_id)
                if pending is None:
                    continue
                pending.reply = reply
                waiter = pending.waiter
                if waiter is None or pending.background:
                    self._answer_unwatched(pending)
                if waiter is not None and not waiter.done():
                    waiter.set_result(reply)
            if not self._room.is_set():
                self._room.set()
            grants = self._lose(SessionLost(lost.message or "The session has expired.", reason=lost.reason)) if lost is not None else []
        _notify(grants)
        return reconnect

    def _answer_unwatched(self, pending: Pending[Waiter]) -> None:
        """A reply that nobody waits for: a keepalive's, a cancellation's, or one that came too late."""
        if pending.ephemeral:
            if self._keepalive is pending:
                self._keepalive = None
            if self._lease is not None:
                self._lease.renew(pending.sent_at)
        elif pending.target is not None:
            self._window.drop(pending.target)
        elif pending.decode is not None:
            self._keep_late(pending)

    def _keepalive_failed(self, pending: Pending[Waiter], now: int) -> None:
        """Refused: another one goes out soon. The same one must not: if it was applied after all, its repetition prolongs nothing."""
        self._window.drop(pending)
        if self._keepalive is pending:
            self._keepalive = None
            self._next_keepalive = now + KEEPALIVE_RETRY
            self._tick.set()

    def _keep_late(self, pending: Pending[Waiter]) -> None:
        self._late[pending.request_id] = pending
        while len(self._late) > LATE_REPLIES:
            del self._late[next(iter(self._late))]

    def _delay(self, pending: Pending[Waiter], failure: Failure, now: int) -> None:
        """Send it again later."""
        if not failure.certainly_not_applied:
            pending.ambiguous = True
        pause = failure.retry_after or FIRST_RESEND_PAUSE << min(pending.attempts, 6)
        self._delayed.append((now + pause, pending))
        self._tick.set()

    def _refuse(self, pending: Pending[Waiter], failure: Failure) -> None:
        """Tell the waiter of a refusal."""
        error = failure.to_error()
        if isinstance(error, SessionLost):
            if pending.write and not pending.lock_wait and pending.ambiguous:
                error = UnknownOutcome(
                    "The session ended while the request was under way: it may have been applied.",
                    metadata=failure.metadata,
                    session_id=self.id,
                    advice="Read the state; ledger transfers may simply be sent again with the same ids.",
                )
            else:
                error = NotApplied(error.message, reason=error.reason, metadata=error.metadata)
        if pending.waiter is not None:
            deliver(pending.waiter, error)
        elif pending.target is not None:
            self._window.drop(pending.target)
        elif pending.decode is not None:
            pending.failure = error
            self._keep_late(pending)

    def _gone(self, failure: Failure) -> None:
        """The service knows the session no more: everything that is under way in it is refused."""
        with self._mutex:
            grants = self._lose(SessionLost(failure.message or "The session has expired.", reason=failure.reason))
            for pending in self._window:
                self._window.answered(pending.request_id)
                self._refuse(pending, failure)
        _notify(grants)

    # The clock.

    def _run_clock(self) -> None:
        while not self._closed:
            now = time.monotonic_ns()
            grants: list[Grant] = []
            cut: Stream | None = None
            with self._mutex:
                self._tick.clear()
                lease = self._lease
                if lease is not None and self._end is None:
                    if now >= lease.valid_until:
                        grants = self._lose(SessionLost("The session could not be kept alive: its validity is over."))
                    elif self._stream is not None:
                        cut = self._keep_alive(now, lease)
                elif self._end is not None and not self._awaited():
                    cut = self._stream
                due = [p for at, p in self._delayed if at <= now]
                if due:
                    self._delayed = [(at, p) for at, p in self._delayed if at > now]
                    for pending in due:
                        self._window.queue_again(pending)
                    self._outgoing.set()
                late, earliest = self._window.overdue(now)
                for pending in late:
                    self._expire(pending)
                self._next_tick = self._when(now, earliest)
                wait = self._next_tick - now
            _notify(grants)
            if cut is not None:
                cut.cut()
            self._tick.wait(wait)

    def _when(self, now: int, earliest: int) -> int:
        """When the clock must look again."""
        at = earliest
        if self._delayed:
            at = min(at, min(due for due, _ in self._delayed))
        lease = self._lease
        if lease is not None and self._end is None:
            at = min(at, lease.valid_until)
            if self._stream is not None:
                if self._keepalive is not None:
                    at = min(at, (self._keepalive.sent_at or now) + lease.answer_limit)
                else:
                    at = min(at, self._next_keepalive, now + STALL)
        return max(at, now + SHORTEST_TICK) if at != NEVER else now + 60_000_000_000

    def _keep_alive(self, now: int, lease: Lease) -> Stream | None:
        """Send a keepalive when it is due or the stream is silent; returns the stream when it must be cut."""
        waiting = self._keepalive
        if waiting is not None:
            since = waiting.sent_at or self._heard
            if now - max(since, self._heard) >= lease.answer_limit:
                return self._stream
            return None
        silent = now - self._heard >= STALL and any(p.waiter is not None and p.sent_at and not p.lock_wait for p in self._window)
        if silent or now >= self._next_keepalive:
            self._window.add(self._new_keepalive(now))
            self._outgoing.set()
        return None

    def _new_keepalive(self, now: int) -> Pending[Waiter]:
        pending: Pending[Waiter] = Pending(
            session_pb2.StreamCommand(keep_alive=session_pb2.KeepAliveRequest()), None, NEVER, 16, write=False
        )
        pending.ephemeral = True
        self._keepalive = pending
        if self._lease is not None:
            self._next_keepalive = now + self._lease.interval
        return pending

    def _expire(self, pending: Pending[Waiter]) -> None:
        """The caller's deadline has passed."""
        waiter = pending.waiter
        if waiter is None:
            return
        if pending.lock_wait:
            # The waiter itself cancels it on its way out.
            error: LockdError = DeadlineExceeded("The lock was not granted before the deadline; the request is being cancelled.")
            if not self._connected:
                error = self._transport.unreachable()
        elif pending.sent_at and pending.write:
            known = pending.decode is not None
            error = UnknownOutcome(
                "The deadline passed while the request was under way: it may have been applied.",
                request_id=pending.request_id if known else 0,
                session_id=self.id,
                advice="" if known else "Read the state before you call again.",
            )
        elif self._connected:
            error = DeadlineExceeded("The deadline passed before the service answered; nothing was applied.")
        else:
            error = self._transport.unreachable()
        if pending.sent_at or pending.background:
            pending.waiter = None
        else:
            self._window.drop(pending)
        deliver(waiter, error)

    # The end.

    def _lose(self, why: LockdError) -> list[Grant]:
        """The session is lost, as far as may be relied on: its locks are gone, its writes still look for their outcome.

        Called with the mutex; the returned grants are to be told without it.
        """
        if self._end is not None:
            return []
        self._end = why
        for pending in self._window:
            if pending.lock_wait and pending.waiter is not None:
                deliver(pending.waiter, why)
        grants = list(self.grants.values())
        self.grants.clear()
        self._room.set()
        self._tick.set()
        return grants

    def _finished(self) -> bool:
        """Whether a session that is over has nothing left to learn."""
        with self._mutex:
            return self._closed or (self._end is not None and not self._awaited())

    def _awaited(self) -> bool:
        return any(p.waiter is not None for p in self._window)

    def _stop(self, why: LockdError | None) -> None:
        """Nothing more is sent or received."""
        error = why or ClientClosed("The client was closed.")
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            if self._end is None:
                self._end = error
            self._generation += 1
            stream = self._stream
            for pending in self._window:
                if pending.waiter is not None:
                    deliver(pending.waiter, self._last_word(pending, error))
            grants = list(self.grants.values())
            self.grants.clear()
        _notify(grants)
        self._room.set()
        self._outgoing.set()
        self._tick.set()
        if stream is not None:
            stream.cut()

    def _last_word(self, pending: Pending[Waiter], error: LockdError) -> LockdError:
        if pending.write and not pending.lock_wait and pending.sent_at:
            return UnknownOutcome("The client was closed while the request was under way: it may have been applied.", session_id=self.id)
        return error


def _outcome(pending: Pending[Waiter]) -> Any:
    if pending.failure is not None:
        raise pending.failure
    assert pending.decode is not None  # noqa: S101 - only such requests can be resolved
    assert pending.reply is not None  # noqa: S101
    return pending.decode(pending.reply)


def _notify(grants: list[Grant]) -> None:
    for grant in grants:
        grant.session_ended()
