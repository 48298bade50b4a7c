# Generated from _async/_clock.py by tools/unasync.py: edit that.
"""The clock of a session: sends keepalives, ends overdue requests, declares the session lost, cuts a stream that is silent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lockd_client._core.validity import ANSWER_LIMIT
from lockd_client._sync._backend import Waiter, deliver
from lockd_client._sync._state import State, notify
from lockd_client.errors import DeadlineExceeded, Internal, LockdError, SessionLost, UnknownOutcome

if TYPE_CHECKING:
    from lockd_client._core.validity import Lease
    from lockd_client._core.window import Pending
    from lockd_client._sync._backend import Stream
    from lockd_client._sync._lock import Grant

STALL = 1_000_000_000
"""Nanoseconds without any answer after which a keepalive asks whether the stream still works."""
SHORTEST_TICK = 2_000_000
"""Nanoseconds: the clock does not wake more often."""
LONGEST_TICK = 60_000_000_000
"""Nanoseconds: it wakes at least this often."""


class Clock:
    """Works as long as the session does."""

    def __init__(self, state: State) -> None:
        self._state = state

    def run(self) -> None:
        """Look at what is due, sleep until something else is."""
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it, whatever it is
            self._state.stop(Internal(f"The client itself failed: {error!r}."))

    def _run(self) -> None:
        state = self._state
        while not state.closed:
            now = time.monotonic_ns()
            grants: list[Grant] = []
            cut: Stream | None = None
            with state.mutex:
                state.tick.clear()
                if state.end is not None:
                    # No keepalive asks any more whether the stream works: silence alone must tell.
                    silent = now - state.heard >= ANSWER_LIMIT
                    cut = state.stream if silent or not state.awaited() else None
                elif state.lease is not None:
                    if now >= state.lease.valid_until:
                        grants = state.lose(SessionLost("The session could not be kept alive: its validity is over."))
                    elif state.stream is not None:
                        cut = self._keep_alive(now, state.lease)
                self._resend(now)
                late, earliest = state.window.overdue(now)
                for pending in late:
                    self._expire(pending)
                state.next_tick = self._when(now, earliest)
                wait = state.next_tick - now
            notify(grants)
            if cut is not None:
                cut.cut()
            state.tick.wait(wait)

    def _when(self, now: int, earliest: int) -> int:
        """When the clock must look again."""
        state = self._state
        at = min([earliest, *(due for due, _ in state.delayed)])
        lease = state.lease
        if state.end is not None:
            at = min(at, state.heard + ANSWER_LIMIT) if state.stream is not None else at
        elif lease is not None:
            at = min(at, lease.valid_until)
            if state.stream is not None and state.keepalive is not None:
                at = min(at, max(state.keepalive.sent_at, state.heard) + lease.answer_limit)
            elif state.stream is not None:
                at = min(at, state.next_keepalive, now + STALL)
        return min(max(at, now + SHORTEST_TICK), now + LONGEST_TICK)

    def _resend(self, now: int) -> None:
        state = self._state
        due = [pending for at, pending in state.delayed if at <= now]
        if due:
            state.delayed = [(at, pending) for at, pending in state.delayed if at > now]
            for pending in due:
                state.window.queue_again(pending)
            state.outgoing.set()

    def _keep_alive(self, now: int, lease: Lease) -> Stream | None:
        """Send a keepalive when it is due or the stream is silent; returns the stream when it must be cut."""
        state = self._state
        waiting = state.keepalive
        if waiting is not None:
            silent_since = max(waiting.sent_at, state.heard)
            return state.stream if now - silent_since >= lease.answer_limit else None
        asked = now - state.heard >= STALL and any(p.waiter is not None and p.sent_at and not p.lock_wait for p in state.window)
        if asked or now >= state.next_keepalive:
            state.window.add(state.new_keepalive(now))
            state.outgoing.set()
        return None

    def _expire(self, pending: Pending[Waiter]) -> None:
        """The caller's deadline has passed."""
        state = self._state
        waiter = pending.waiter
        if waiter is None:
            return
        pending.waiter = None
        if not pending.sent_at and not pending.background:
            state.window.drop(pending)
        elif pending.lock_wait:
            # It stays until the waiter, on its way out, has cancelled it (Session.undo).
            pending.background = True
        deliver(waiter, self._overdue(pending))

    def _overdue(self, pending: Pending[Waiter]) -> LockdError:
        """What the caller is told."""
        state = self._state
        if pending.sent_at and pending.write and not pending.lock_wait:
            known = pending.decode is not None
            return UnknownOutcome(
                "The deadline passed while the request was under way: it may have been applied.",
                request_id=pending.request_id if known else 0,
                session_id=state.id,
                advice="" if known else "Read the state before you call again.",
            )
        if not pending.sent_at and pending.failure is not None:
            return pending.failure
        if not state.connected:
            return state.transport.unreachable()
        if pending.lock_wait:
            return DeadlineExceeded("The lock was not granted before the deadline; the request is being cancelled.")
        return DeadlineExceeded("The deadline passed before the service answered; nothing was applied.")
