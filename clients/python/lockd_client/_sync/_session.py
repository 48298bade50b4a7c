# Generated from _async/_session.py by tools/unasync.py: edit that.
"""One session, as its callers see it: a stream to the leader that carries requests in batches, kept alive, resumed after every loss.

Two workers serve it: the pump opens the session, connects its stream and hands replies to their waiters; the clock sees to
deadlines, keepalives and validity.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from lockd.v1 import session_pb2
from lockd_client._core.turns import Turn, steps
from lockd_client._core.window import NEVER, Background, LockWait, Pending
from lockd_client._sync._backend import Event, Waiter, Worker, abandon, make_waiter, wait_for
from lockd_client._sync._clock import Clock
from lockd_client._sync._pump import Pump
from lockd_client._sync._state import State
from lockd_client.errors import ClientClosed, DeadlineExceeded, Deadlock, InvalidArgument, LockdError, LockHeld, WaitTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lockd_client._sync._lock import Grant
    from lockd_client._sync._transport import Transport
    from lockd_client.model import Claim, LockMode

WINDOW = 16_384
"""Unanswered requests of a session; more wait for room."""
WINDOW_BYTES = 64 << 20
"""Their size, estimated; more wait for room."""
LARGEST = 15 << 20
"""Bytes of one request: what fits into a message."""


class Session:
    """One session of a client. Made at once, opened by its pump; requests may be submitted meanwhile."""

    def __init__(self, transport: Transport, owner: str, ttl: int, first_id: int) -> None:
        self.state = State(transport, owner, ttl, first_id)
        self.grants = self.state.grants
        self.remaining = self.state.remaining
        self._pump = Worker(Pump(self.state).run, "lockd-session-pump")
        self._clock = Worker(Clock(self.state).run, "lockd-session-clock")

    @property
    def id(self) -> int:
        """The session's number at the service; 0 until it is open."""
        return self.state.id

    @property
    def usable(self) -> bool:
        """Whether new requests may be given to it."""
        return self.state.end is None

    @property
    def next_id(self) -> int:
        """The number of the next request; a later session goes on from here, so that numbers are unique within a client."""
        return self.state.window.next_id

    @property
    def ended_by(self) -> LockdError | None:
        """Why it is over, or None."""
        return self.state.end

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
        state = self.state
        if size > LARGEST:
            raise InvalidArgument(f"The request has about {size} bytes; at most {LARGEST} can be sent at once.")
        if len(state.unanswered) >= WINDOW or state.window.bytes >= WINDOW_BYTES:
            self._wait_for_room(deadline)
        waiter = make_waiter()
        pending = Pending(command, waiter, deadline, size)
        pending.write = write
        pending.decode = decode
        state.submit(pending)
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
        state = self.state
        if len(state.unanswered) >= WINDOW:
            self._wait_for_room(deadline)
        waiter = make_waiter()
        pending: Pending[Waiter] = LockWait(command, waiter, deadline, size)
        state.submit(pending)
        try:
            return pending.request_id, wait_for(waiter)
        except BaseException:
            self._undo(pending)
            raise

    def turn(self, owner: object, claims: Sequence[str | Claim], mode: LockMode) -> Turn[Event]:
        """The turn of one of the client's own tasks; `wait_for_turn` if it is not had at once."""
        state = self.state
        turn: Turn[Event] = Turn(owner, steps(claims, mode))
        with state.mutex:
            state.turns.take(turn)
        return turn

    def wait_for_turn(self, turn: Turn[Event], wait: float | None, deadline: int) -> None:
        """Wait until other tasks of this client have given back what is in the way.

        Raises:
            LockHeld: It would have to wait, and `wait` is 0.
            WaitTimeout: The wait is over.
            Deadlock: A circle of this client's own tasks.
            LockdError: The session is over.
        """
        state = self.state
        came = Event()
        until = deadline if wait is None else min(deadline, time.monotonic_ns() + int(wait * 1e9))
        with state.mutex:
            if wait == 0:
                raise LockHeld("Another task of this client holds the lock.")
            if state.end is not None:
                raise state.not_taken()
            if not state.turns.wait(turn, came):
                raise Deadlock("Tasks of this client would wait for each other in a circle.")
        try:
            came.wait(None if until == NEVER else until - time.monotonic_ns())
        except BaseException:
            self.give(turn)
            raise
        if turn.had:
            return
        self.give(turn)
        if state.end is not None:
            raise state.not_taken()
        raise WaitTimeout("Another task of this client held the lock for the whole wait.")

    def only(self, turn: Turn[Event]) -> bool:
        """Whether this is the only turn that its owner has."""
        state = self.state
        with state.mutex:
            return state.turns.only(turn)

    def give(self, turn: Turn[Event]) -> None:
        """Give a turn back, or leave the line."""
        state = self.state
        with state.mutex:
            state.turns.give(turn)

    def release(self, command: session_pb2.StreamCommand, turn: Turn[Event], deadline: int, size: int) -> session_pb2.StreamReply:
        """Send a release and wait for its reply; it goes on in the background when the caller stops waiting.

        The turn is given back as soon as the release is queued: whatever the next task asks for is sent after it.

        Raises:
            LockdError: It failed, or has not been answered by the deadline.
        """
        waiter = make_waiter()
        pending: Pending[Waiter] = Background(command, waiter, deadline, size)
        self.state.submit(pending)
        self.give(turn)
        try:
            return wait_for(waiter)
        except BaseException:
            self._detach(pending)
            raise

    def register(self, request_id: int, grant: Grant) -> None:
        """From now on the grant is told when the session is lost; at once, if that has happened."""
        state = self.state
        state.grants[request_id] = grant
        if state.end is not None:
            state.grants.pop(request_id, None)
            grant.session_ended()

    def fenced(self, tokens: frozenset[int]) -> None:
        """The service said that these tokens are no longer the current grants: tell the grants that rely on them."""
        state = self.state
        with state.mutex:
            hit = [request_id for request_id, grant in state.grants.items() if grant.relies_on(tokens)]
            grants = [state.grants.pop(request_id) for request_id in hit]
        for grant in grants:
            grant.taken_away()

    def resolve(self, request_id: int, deadline: int) -> Any:
        """The outcome of an earlier request whose caller had given up.

        Raises:
            KeyError: The number is not known here.
            LockdError: The request was refused, or its outcome still cannot be known.
        """
        state = self.state
        waiter = make_waiter()
        with state.mutex:
            late = state.late.pop(request_id, None)
            if late is not None:
                return _outcome(late)
            pending = state.unanswered.get(request_id)
            if pending is None or pending.waiter is not None or pending.decode is None or state.closed:
                raise KeyError(request_id)
            pending.waiter = waiter
            pending.deadline = deadline
            state.window.queue_again(pending)
        state.outgoing.set()
        state.tick.set()
        try:
            pending.reply = wait_for(waiter)
        except BaseException:
            self._detach(pending, keep=True)
            raise
        return _outcome(pending)

    def close(self, nanos: int) -> None:
        """End the session at the service if that can be done in time, and every request that is still under way."""
        state = self.state
        with state.mutex:
            known = state.id != 0 and state.end is None and not state.closed
            if state.end is None:
                state.end = ClientClosed("The client was closed.")
        if known:
            waiter = make_waiter()
            command = session_pb2.StreamCommand(close_session=session_pb2.CloseSessionRequest())
            pending: Pending[Waiter] = Background(command, waiter, time.monotonic_ns() + nanos, 16)
            state.submit(pending)
            state.tick.set()
            with contextlib.suppress(LockdError):  # if it cannot be told, it expires by itself
                wait_for(waiter)
        state.stop(ClientClosed("The client was closed."))
        self._pump.join(nanos)
        self._clock.join(nanos)

    # Leaving early.

    def _detach(self, pending: Pending[Waiter], *, keep: bool = False) -> None:
        """Nobody waits for this request any more: what never left does not leave; `keep`: its outcome may still be asked for."""
        state = self.state
        with state.mutex:
            waiter = pending.waiter
            if waiter is not None:
                abandon(waiter)
                if not keep:
                    pending.decode = None
            pending.waiter = None
            if not (pending.sent_at or pending.background):
                state.window.drop(pending)

    def _undo(self, pending: Pending[Waiter]) -> None:
        """Nobody waits for this acquire any more: drop it, cancel it, or give back what it got."""
        state = self.state
        command = session_pb2.StreamCommand()
        target: Pending[Waiter] | None = None
        with state.mutex:
            waiter = pending.waiter
            if waiter is not None:
                abandon(waiter)
            pending.waiter = None
            reply = pending.reply
            if reply is None and state.unanswered.get(pending.request_id) is pending:
                if not pending.sent_at:
                    state.window.drop(pending)
                    return
                # It stays, and is sent again before its cancellation: so the service meets them in this order.
                pending.background = pending.cancelling = True
                target = pending
        if target is not None:
            command.cancel_acquire.target_request_id = pending.request_id
            state.background(command, target)
        elif reply is not None and reply.HasField("acquire"):
            for hold in reply.acquire.holds:
                command.release.holds.add(resource=hold.resource, token=hold.token)
            state.background(command)

    def _wait_for_room(self, deadline: int) -> None:
        """Wait until the window has room: backpressure.

        Raises:
            DeadlineExceeded: It stayed full until the deadline.
        """
        state = self.state
        while True:
            with state.mutex:
                if state.end is not None:
                    raise state.not_taken()
                state.window.forget_old()
                if len(state.unanswered) < WINDOW and state.window.bytes < WINDOW_BYTES:
                    return
                state.room.clear()
            now = time.monotonic_ns()
            if now >= deadline:
                raise DeadlineExceeded("Too many requests were unanswered until the deadline, and this one never left.")
            state.room.wait(None if deadline == NEVER else deadline - now)


def _outcome(pending: Pending[Waiter]) -> Any:
    if pending.reply is None or pending.decode is None:
        raise pending.failure or ClientClosed("The client was closed.")
    return pending.decode(pending.reply)
