"""The clock of a session: sends keepalives, ends overdue requests, declares the session lost, cuts a stream that is silent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lockd_client._async._backend import Waiter, deliver
from lockd_client._async._core import Core, notify
from lockd_client._core.validity import ANSWER_LIMIT
from lockd_client.errors import DeadlineExceeded, LockdError, SessionLost, UnknownOutcome

if TYPE_CHECKING:
    from lockd_client._async._backend import Stream
    from lockd_client._async._lock import Grant
    from lockd_client._core.validity import Lease
    from lockd_client._core.window import Pending

STALL = 1_000_000_000
"""Nanoseconds without any answer after which a keepalive asks whether the stream still works."""
SHORTEST_TICK = 2_000_000
"""Nanoseconds: the clock does not wake more often."""
LONGEST_TICK = 60_000_000_000
"""Nanoseconds: it wakes at least this often."""


class Clock:
    """Works as long as the session does."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def run(self) -> None:
        """Look at what is due, sleep until something else is."""
        core = self._core
        while not core.closed:
            now = time.monotonic_ns()
            grants: list[Grant] = []
            cut: Stream | None = None
            with core.mutex:
                core.tick.clear()
                if core.end is not None:
                    # No keepalive asks any more whether the stream works: silence alone must tell.
                    silent = now - core.heard >= ANSWER_LIMIT
                    cut = core.stream if silent or not core.awaited() else None
                elif core.lease is not None:
                    if now >= core.lease.valid_until:
                        grants = core.lose(SessionLost("The session could not be kept alive: its validity is over."))
                    elif core.stream is not None:
                        cut = self._keep_alive(now, core.lease)
                self._resend(now)
                late, earliest = core.window.overdue(now)
                for pending in late:
                    self._expire(pending)
                core.next_tick = self._when(now, earliest)
                wait = core.next_tick - now
            notify(grants)
            if cut is not None:
                cut.cut()
            await core.tick.wait(wait)

    def _when(self, now: int, earliest: int) -> int:
        """When the clock must look again."""
        core = self._core
        at = min([earliest, *(due for due, _ in core.delayed)])
        lease = core.lease
        if core.end is not None:
            at = min(at, core.heard + ANSWER_LIMIT) if core.stream is not None else at
        elif lease is not None:
            at = min(at, lease.valid_until)
            if core.stream is not None and core.keepalive is not None:
                at = min(at, max(core.keepalive.sent_at, core.heard) + lease.answer_limit)
            elif core.stream is not None:
                at = min(at, core.next_keepalive, now + STALL)
        return min(max(at, now + SHORTEST_TICK), now + LONGEST_TICK)

    def _resend(self, now: int) -> None:
        core = self._core
        due = [pending for at, pending in core.delayed if at <= now]
        if due:
            core.delayed = [(at, pending) for at, pending in core.delayed if at > now]
            for pending in due:
                core.window.queue_again(pending)
            core.outgoing.set()

    def _keep_alive(self, now: int, lease: Lease) -> Stream | None:
        """Send a keepalive when it is due or the stream is silent; returns the stream when it must be cut."""
        core = self._core
        waiting = core.keepalive
        if waiting is not None:
            silent_since = max(waiting.sent_at, core.heard)
            return core.stream if now - silent_since >= lease.answer_limit else None
        asked = now - core.heard >= STALL and any(p.waiter is not None and p.sent_at and not p.lock_wait for p in core.window)
        if asked or now >= core.next_keepalive:
            core.window.add(core.new_keepalive(now))
            core.outgoing.set()
        return None

    def _expire(self, pending: Pending[Waiter]) -> None:
        """The caller's deadline has passed."""
        core = self._core
        waiter = pending.waiter
        if waiter is None:
            return
        pending.waiter = None
        if not pending.sent_at and not pending.background:
            core.window.drop(pending)
        elif pending.lock_wait:
            # It stays until the waiter, on its way out, has cancelled it (Session.undo).
            pending.background = True
        deliver(waiter, self._overdue(pending))

    def _overdue(self, pending: Pending[Waiter]) -> LockdError:
        """What the caller is told."""
        core = self._core
        if pending.sent_at and pending.write and not pending.lock_wait:
            known = pending.decode is not None
            return UnknownOutcome(
                "The deadline passed while the request was under way: it may have been applied.",
                request_id=pending.request_id if known else 0,
                session_id=core.id,
                advice="" if known else "Read the state before you call again.",
            )
        if not pending.sent_at and pending.failure is not None:
            return pending.failure
        if not core.connected:
            return core.transport.unreachable()
        if pending.lock_wait:
            return DeadlineExceeded("The lock was not granted before the deadline; the request is being cancelled.")
        return DeadlineExceeded("The deadline passed before the service answered; nothing was applied.")
