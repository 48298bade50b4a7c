"""How holds end against the will of their holders, or without them: lost sessions, lock delays, operators."""

from __future__ import annotations

import heapq

from lockd.machine import events, refusals
from lockd.machine.commands import ForceRelease
from lockd.machine.holds import Holding, Lock
from lockd.machine.modes import INTENTION, IX
from lockd.machine.moment import MAX_TIME, Moment
from lockd.machine.paths import Lineage, PathError, parse_path
from lockd.machine.queueing import WaitTable
from lockd.machine.results import Refused, Released
from lockd.machine.sessions import Session
from lockd.machine.table import Ghost
from lockd.machine.types import FencingToken, Limits, Nanos, Resource


class EndTable(WaitTable):
    """Locks whose holders may go."""

    __slots__ = ("_delays",)

    def __init__(self, limits: Limits, moment: Moment) -> None:
        super().__init__(limits, moment)
        self._delays: list[tuple[Nanos, int]] = []

    def tell_released(self, session: Session, resource: Resource, token: int) -> None:
        """Record a release."""
        moment = self.moment
        moment.events.append(
            events.LockReleased(moment.index, len(moment.events), resource, session.id, session.owner, FencingToken(token))
        )

    def fail_conversions(self, session: Session, lineage: Lineage) -> None:
        """The session's hold is gone: its conversions that wait have nothing left to convert."""
        if not session.waits:
            return
        for waiter in list(session.waits.values()):
            if waiter.token is not None and waiter.wants[0].lineage == lineage:
                self.leave(waiter)
                why = "the hold is gone that the request wanted to convert"
                self.answer(waiter, refusals.precondition("NOT_HOLDER", why, ("resource", lineage[-1])))

    def end_session(self, session: Session, *, lost: bool) -> None:
        """Take a session's waits and holds away; the holds of a lost one leave their lock delay behind. Not settled."""
        for waiter in list(session.waits.values()):
            self.leave(waiter)
            self.answer(waiter, refusals.SESSION_EXPIRED)
        for holding in list(session.holds.values()):
            if not holding.claimed:
                continue
            lineage = parse_path(holding.lock.name, self.limits)
            if lost:
                self._lose(session, holding, lineage)
            else:
                self.tell_released(session, holding.lock.name, holding.token)
                self.drop(session, holding, lineage)

    def _lose(self, session: Session, holding: Holding, lineage: Lineage) -> None:
        moment, delay, resource = self.moment, holding.lock_delay, lineage[-1]
        until = min(moment.log_time + delay, MAX_TIME) if delay else 0
        moment.events.append(
            events.LockLost(moment.index, len(moment.events), resource, session.id, session.owner, FencingToken(holding.token), until)
        )
        if until:
            intention = INTENTION[holding.mode] if holding.grants is None else IX
            self.haunt(Ghost(moment.next_order(), lineage, until, intention, holding.permits, holding.lock.limit))
        self.drop(session, holding, lineage)

    def haunt(self, ghost: Ghost) -> None:
        """Keep a resource unavailable, and know until when."""
        super().haunt(ghost)
        heapq.heappush(self._delays, (ghost.until, ghost.order))

    def next_delay(self) -> tuple[Nanos, int] | None:
        """When the next lock delay ends, and its number."""
        return self._delays[0] if self._delays else None

    def end_delay(self) -> None:
        """Carry out the end of the next lock delay. Not settled."""
        _, order = heapq.heappop(self._delays)
        moment = self.moment
        moment.events.append(events.LockDelayEnded(moment.index, len(moment.events), self.exorcise(order)))

    def delayed_until(self, lock: Lock) -> Nanos:
        """Log time until which lost holds keep the resource itself unavailable; 0 if none does."""
        ghosts = [self.ghosts[holding.order] for holding in lock.holders.values() if holding.session is None]
        return max((ghost.until for ghost in ghosts if ghost.lineage[-1] == lock.name), default=0)

    def force_release(self, command: ForceRelease) -> Released | Refused:
        """Take a resource away from all who hold it, and end its lock delays."""
        limits, moment = self.limits, self.moment
        try:
            lineage = parse_path(command.resource, limits)
        except PathError as error:
            return refusals.invalid_path(command.resource, str(error))
        for field, text, most in (("by", command.by, limits.owner_bytes), ("reason", command.reason, limits.reason_bytes)):
            if len(text) > most or len(text.encode("utf-8", "replace")) > most:
                return refusals.invalid("INVALID_TEXT", f"{field} has more than {most} bytes", ("field", field))
        lock = self.locks.get(lineage[-1])
        if lock is None:
            return Released((), moment.index)
        taken = [holding for holding in lock.holders.values() if holding.claimed]
        for holding in taken:
            session = holding.session
            if session is None:
                self._delays.remove((self.ghosts[holding.order].until, holding.order))
                heapq.heapify(self._delays)
                self.exorcise(holding.order)
                moment.events.append(events.LockDelayEnded(moment.index, len(moment.events), lineage[-1]))
                continue
            token = FencingToken(holding.token)
            moment.events.append(
                events.LockForced(
                    moment.index, len(moment.events), lineage[-1], session.id, session.owner, token, command.by, command.reason
                )
            )
            self.drop(session, holding, lineage)
            self.fail_conversions(session, lineage)
        self.settle()
        return Released(tuple([True for holding in taken if holding.session is not None]), moment.index)
