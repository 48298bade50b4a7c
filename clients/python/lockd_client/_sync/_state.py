# Generated from _async/_state.py by tools/unasync.py: edit that.
"""What the parts of a session share, guarded by one mutex, and how it ends.

The session (callers' side), its pump (the stream) and its clock (deadlines, keepalives) all work on one `State`. Rules: state
changes only with the mutex; nothing waits while it holds it; grants are told of a loss without it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lockd.v1 import session_pb2
from lockd_client._core.turns import Turns
from lockd_client._core.validity import Lease
from lockd_client._core.window import NEVER, Background, Pending
from lockd_client._sync._backend import Event, Mutex, SessionWindow, Stream, Waiter, deliver
from lockd_client.errors import ClientClosed, LockdError, SessionLost, UnknownOutcome

if TYPE_CHECKING:
    from lockd_client._core.failures import Failure
    from lockd_client._sync._lock import Grant
    from lockd_client._sync._transport import Transport

LATE_REPLIES = 1_024
"""Replies that came after their caller had given up, kept for `resolve`."""


class NotApplied(SessionLost):
    """The session was gone before the request: nothing was applied, so that a new session may take it over."""


class State:
    """The state of one session."""

    def __init__(self, transport: Transport, owner: str, ttl: int, first_id: int) -> None:
        self.transport = transport
        self.owner = owner
        self.ttl = ttl
        self.mutex = Mutex()
        self.window: SessionWindow = SessionWindow(first_id)
        self.unanswered = self.window.unanswered
        self.outgoing = Event()
        """Something waits to be sent, or the stream changed: for whoever feeds the stream."""
        self.tick = Event()
        """The clock must look again."""
        self.room = Event()
        """The window may have room again."""
        self.next_tick = 0
        self.stream: Stream | None = None
        self.heard = 0
        """When the stream last brought something."""
        self.connected = False
        """Whether the stream has brought an answer."""
        self.proven = False
        """Whether the stream may carry requests."""
        self.delayed: list[tuple[int, Pending[Waiter]]] = []
        """Requests to be sent again, and when."""
        self.late: dict[int, Pending[Waiter]] = {}
        """Answered after their callers had given up."""
        self.keepalive: Pending[Waiter] | None = None
        """The keepalive that is under way."""
        self.next_keepalive = NEVER
        self.lease: Lease | None = None
        self.end: LockdError | None = None
        """Why no new request is taken; None while they are."""
        self.closed = False
        """Nothing is sent or received any more."""
        self.turns: Turns[Event] = Turns()
        """Which of the client's own tasks may ask for a lock now."""
        self.id = 0
        self.grants: dict[int, Grant] = {}
        """By the request id of their acquire."""

    def submit(self, pending: Pending[Waiter]) -> None:
        """Number and queue a request.

        Raises:
            LockdError: The session is over.
        """
        with self.mutex:
            if self.end is not None and not pending.background:
                raise self.not_taken()
            if self.closed:
                return
            first = self.window.add(pending)
        if first:
            # Whoever finds something queued already need not wake the writer: the one before has.
            self.outgoing.set()
        if pending.deadline < self.next_tick:
            self.tick.set()

    def not_taken(self) -> LockdError:
        """The error for what came after the end."""
        if self.end is None or isinstance(self.end, SessionLost):
            return NotApplied(self.end.message if self.end is not None else "The session is over.")
        return self.end

    def background(self, command: session_pb2.StreamCommand, target: Pending[Waiter] | None = None) -> None:
        """Send something that nobody waits for; it is sent again until it is answered or the session is over."""
        pending: Pending[Waiter] = Background(command, None, NEVER, 64)
        pending.target = target
        self.submit(pending)

    def new_keepalive(self, now: int) -> Pending[Waiter]:
        """A keepalive, not yet numbered; with the mutex."""
        command = session_pb2.StreamCommand(keep_alive=session_pb2.KeepAliveRequest())
        pending: Pending[Waiter] = Pending(command, None, NEVER, 16)
        pending.write = False
        pending.ephemeral = True
        self.keepalive = pending
        if self.lease is not None:
            self.next_keepalive = now + self.lease.interval
        return pending

    def keep_late(self, pending: Pending[Waiter]) -> None:
        """Keep an outcome for `resolve`; with the mutex."""
        self.late[pending.request_id] = pending
        while len(self.late) > LATE_REPLIES:
            del self.late[next(iter(self.late))]

    def refuse(self, pending: Pending[Waiter], failure: Failure) -> None:
        """Tell the waiter of a request that is no longer in the window of its refusal; with the mutex."""
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
            self.window.drop(pending.target)
        elif pending.decode is not None:
            pending.failure = error
            self.keep_late(pending)

    # The end.

    def lose(self, why: LockdError) -> list[Grant]:
        """The session is lost, as far as may be relied on: its locks are gone, its writes still look for their outcome.

        Called with the mutex; the returned grants are to be told without it.
        """
        if self.end is not None:
            return []
        self.end = why
        for pending in self.window:
            if pending.lock_wait and pending.waiter is not None:
                deliver(pending.waiter, why)
        self.turns.end()
        grants = list(self.grants.values())
        self.grants.clear()
        self.room.set()
        self.tick.set()
        return grants

    def gone(self, failure: Failure) -> None:
        """The service knows the session no more: everything that is under way in it is refused."""
        with self.mutex:
            grants = self.lose(SessionLost(failure.message or "The session has expired.", reason=failure.reason))
            for pending in self.window:
                self.window.answered(pending.request_id)
                self.refuse(pending, failure)
        notify(grants)

    def awaited(self) -> bool:
        """Whether somebody waits for an answer; with the mutex."""
        return any(pending.waiter is not None for pending in self.unanswered.values())

    def finished(self) -> bool:
        """Whether a session that is over has nothing left to learn."""
        with self.mutex:
            return self.closed or (self.end is not None and not self.awaited())

    def stop(self, why: LockdError | None) -> None:
        """Nothing more is sent or received; whoever waits is told."""
        error = why or ClientClosed("The client was closed.")
        with self.mutex:
            if self.closed:
                return
            self.closed = True
            if self.end is None:
                self.end = error
            stream = self.stream
            for pending in self.window:
                if pending.waiter is not None:
                    deliver(pending.waiter, self._last_word(pending, error))
            self.turns.end()
            grants = list(self.grants.values())
            self.grants.clear()
        notify(grants)
        self.room.set()
        self.outgoing.set()
        self.tick.set()
        if stream is not None:
            stream.cut()

    def _last_word(self, pending: Pending[Waiter], error: LockdError) -> LockdError:
        if pending.write and not pending.lock_wait and pending.sent_at:
            return UnknownOutcome("The client was closed while the request was under way: it may have been applied.", session_id=self.id)
        return error

    def remaining(self) -> float:
        """Seconds for which the session, and with it every lock, is certainly alive."""
        lease = self.lease
        if lease is None or self.end is not None:
            return 0.0
        left = lease.valid_until - time.monotonic_ns()
        return left / 1e9 if left > 0 else 0.0


def notify(grants: list[Grant]) -> None:
    """Tell grants that their session is over."""
    for grant in grants:
        grant.session_ended()
