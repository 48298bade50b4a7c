"""Waits: who stands in line, when they are looked at again, and who must go. The second layer of the lock table.

A request is granted when no other session holds, and nobody ahead in line waits for, what conflicts with it on any of its resources, the
ancestors included. Until then it holds nothing and stands in line at all of them. Changes mark resources dirty; `settle` looks again at
those who are parked there, and only at the part of each line that can be granted. A grant turns a waiter into a holder of the same mode,
so that it never unblocks another session: what is granted does not depend on the order in which dirty resources are looked at.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence

from lockd.machine import events, refusals
from lockd.machine.deadlock import Node, Step, find_cycle
from lockd.machine.holds import NEW, PERMITS, Lock
from lockd.machine.modes import SUPREMUM
from lockd.machine.moment import Moment
from lockd.machine.results import Completion, Granted, Refused, Result
from lockd.machine.sessions import Session
from lockd.machine.table import HoldTable
from lockd.machine.types import Limits, Nanos
from lockd.machine.waiting import Waiter


class WaitTable(HoldTable):
    """Locks with lines of waiters."""

    __slots__ = ("_deadlines", "current", "outcome", "stirred", "suspects")

    def __init__(self, limits: Limits, moment: Moment) -> None:
        super().__init__(limits, moment)
        self._deadlines: list[tuple[Nanos, int]] = []
        self.stirred: deque[Waiter] = deque()
        # Nodes of the wait-for graph through which the command in hand may have closed a cycle.
        self.suspects: dict[Node, None] = {}
        # The waiter that the command in hand has just made: its outcome, if it is known at once, is the command's own result.
        self.current: Waiter | None = None
        self.outcome: Result | None = None

    # --- joining and leaving ---------------------------------------------------------------------------------------------------

    def join(self, waiter: Waiter, parked: int, fresh: Sequence[bool] | None = None) -> None:
        """Put a request into all its lines, parked at one of them. `fresh` is given for one that has waited before."""
        self.waiters[waiter.ticket] = waiter
        waiter.session.waits[waiter.request_id] = waiter
        for place, need in enumerate(waiter.needs):
            lock = self.locks.get(need.resource)
            if lock is None:
                lock = self.locks[need.resource] = Lock(need.resource)
            lock.waiting += 1
            if need.claimed and need.permits:
                lock.pooled += 1
                lock.limit = need.limit
            elif need.claimed:
                lock.claims += 1
            waiter.locks.append(lock)
            waiter.fresh.append(self._effective(waiter.session, lock) == 0 if fresh is None else fresh[place])
            waiter.keys.append(self._key(waiter, place))
            if waiter.keys[place]:
                lock.enter(waiter.keys[place], waiter.ticket)
        waiter.parked = parked
        if parked >= 0:
            waiter.locks[parked].park(waiter.keys[parked], waiter.ticket)
        if waiter.deadline:
            heapq.heappush(self._deadlines, (waiter.deadline, waiter.ticket))

    def _effective(self, session: Session, lock: Lock) -> int:
        holding = lock.holders.get(session.id)
        return 0 if holding is None else holding.effective

    def _key(self, waiter: Waiter, place: int) -> int:
        """The line that a need belongs into; 0 if the session has it already."""
        need = waiter.needs[place]
        if need.permits:
            return NEW | PERMITS
        effective = self._effective(waiter.session, waiter.locks[place])
        if effective == 0:
            # What goes before others is a conversion, and there is nothing left to convert. The other way round a newcomer stays one: a
            # grant to its session must not put it before those who were ahead of it.
            waiter.fresh[place] = True
        target = SUPREMUM[effective][need.mode]
        return 0 if target == effective else target | NEW * waiter.fresh[place]

    def leave(self, waiter: Waiter) -> None:
        """Take a request out of all its lines."""
        del self.waiters[waiter.ticket], waiter.session.waits[waiter.request_id]
        self._unpark(waiter)
        for need, lock, key in zip(waiter.needs, waiter.locks, waiter.keys, strict=True):
            if key:
                lock.leave(key, waiter.ticket)
            lock.waiting -= 1
            if need.claimed and need.permits:
                lock.pooled -= 1
                if not lock.pooled:
                    lock.limit = 0
            elif need.claimed:
                lock.claims -= 1
            if lock.waiting:
                self.touch(lock)
            elif not lock.holders:
                del self.locks[lock.name]

    def _unpark(self, waiter: Waiter) -> None:
        place = waiter.parked
        if place >= 0:
            waiter.locks[place].unpark(waiter.keys[place], waiter.ticket)
            waiter.parked = -1

    def refile(self, session: Session, lock: Lock) -> None:
        """Bring the session's own waiters into the lines that its new effective mode here puts them in."""
        for waiter in session.waits.values():
            for place, need in enumerate(waiter.needs):
                if waiter.locks[place] is lock and need.mode:
                    self._move(waiter, place, self._key(waiter, place))
        # What it now waits for, or holds, may close a cycle that was not there before.
        self.suspects[session] = None

    def _move(self, waiter: Waiter, place: int, key: int) -> None:
        old, lock = waiter.keys[place], waiter.locks[place]
        if key == old:
            return
        if waiter.parked == place:
            self._unpark(waiter)
        if old:
            lock.leave(old, waiter.ticket)
        if key:
            lock.enter(key, waiter.ticket)
        waiter.keys[place] = key
        self.stirred.append(waiter)
        self.suspects[waiter] = None
        self.touch(lock)

    # --- looking again ---------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Grant all that can be granted, and break the cycles that this command has closed."""
        while self.dirty or self.stirred or self.suspects:
            if self.stirred:
                waiter = self.stirred.popleft()
                if waiter.ticket in self.waiters:
                    self._look_at(waiter)
            elif self.dirty:
                lock = self.dirty.popleft()
                lock.dirty = False
                self._wake(lock)
            else:
                node = next(iter(self.suspects))
                waiting = node.waits if isinstance(node, Session) else node.ticket in self.waiters
                if not (waiting and self._break_cycle(node)):
                    del self.suspects[node]

    def _wake(self, lock: Lock) -> None:
        """Look at those parked here, in the order of their tickets, each line up to the first who must still wait."""
        closed = 0
        while parked := lock.parked:
            best, best_key = 0, -1
            for key, line in parked.items():
                # Conversions go first, then the smallest ticket.
                if not closed >> key & 1 and (best_key < 0 or (key & NEW, line[0]) < (best_key & NEW, best)):
                    best, best_key = line[0], key
            if best_key < 0:
                return
            waiter = self.waiters[best]
            if self.held(lock, waiter, waiter.parked) or not self._look_at(waiter):
                closed |= 1 << best_key

    def _look_at(self, waiter: Waiter) -> bool:
        """Grant the waiter, or park it where it is blocked. Returns whether it left the place where it was parked."""
        if waiter.session.expires_at <= self.moment.log_time:
            # Its session is over, but its end has not been carried out yet: until then it keeps its place in line, and that is all.
            self._unpark(waiter)
            return True
        for place in range(len(waiter.needs) - 1, -1, -1):
            if self.held(waiter.locks[place], waiter, place):
                if place == waiter.parked:
                    return False
                self._unpark(waiter)
                self._park(waiter, place)
                return True
        self._grant(waiter)
        return True

    def _park(self, waiter: Waiter, place: int) -> None:
        waiter.parked = place
        waiter.locks[place].park(waiter.keys[place], waiter.ticket)

    def _grant(self, waiter: Waiter) -> None:
        session = waiter.session
        self.leave(waiter)
        if waiter.token is None:
            holds = tuple([self.take(session, want, waiter.lock_delay) for want in waiter.wants])
        else:
            holds = (self.convert(session, waiter.wants[0].lineage, waiter.wants[0].mode),)
        self.answer(waiter, Granted(holds, self.moment.index))

    def answer(self, waiter: Waiter, result: Result) -> None:
        """The waiter, which has left its lines, has its result."""
        waiter.session.resolve(waiter.request_id, result)
        if waiter is self.current:
            self.outcome = result
        else:
            self.moment.completions.append(Completion(waiter.session.id, waiter.request_id, result))

    # --- giving up -------------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> tuple[Nanos, int] | None:
        """When the next timed wait ends, and its ticket."""
        heap, waiters = self._deadlines, self.waiters
        while heap and heap[0][1] not in waiters:
            heapq.heappop(heap)
        return heap[0] if heap else None

    def time_out(self, ticket: int) -> None:
        """A timed wait is over."""
        waiter, moment = self.waiters[ticket], self.moment
        self.leave(waiter)
        self.answer(waiter, refusals.WAIT_TIMEOUT)
        session = waiter.session
        moment.events.append(
            events.WaitTimedOut(moment.index, len(moment.events), session.id, session.owner, waiter.request_id, waiter.resources)
        )

    def _break_cycle(self, node: Node) -> bool:
        """Refuse the youngest request of a cycle through the node; False if there is no cycle."""
        cycle = find_cycle(self, node)
        if cycle is None:
            return False
        victim = max([step.waiter for step in cycle], key=lambda waiter: waiter.ticket)
        moment, steps = self.moment, tuple([(step.waiter.session.id, step.resource) for step in cycle])
        self.leave(victim)
        self.answer(victim, _deadlock(cycle))
        moment.events.append(
            events.DeadlockResolved(moment.index, len(moment.events), victim.session.id, victim.session.owner, victim.request_id, steps)
        )
        return True


def _deadlock(cycle: list[Step]) -> Refused:
    steps = [("cycle", f"session {step.waiter.session.id} waits for {step.resource}") for step in cycle]
    return refusals.aborted("DEADLOCK", "the request closed a cycle of sessions that wait for one another", tuple(steps))
