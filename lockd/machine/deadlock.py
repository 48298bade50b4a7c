"""The wait-for graph, and cycles in it.

Sessions are the nodes: one waits for another if one of its requests cannot be granted before the other gives something back or leaves a
line. Semaphores count only where that is certain: where a session has so many permits that the request does not fit beside them.
The search goes from both ends at once, an edge at a time: whom the session waits for, and who waits for it. It costs twice the smaller of
the two neighbourhoods, which is next to nothing for the usual newcomer, behind whom nobody waits.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from lockd.machine.holds import NEW, PERMITS, Lock
from lockd.machine.modes import CONFLICTS
from lockd.machine.sessions import Session
from lockd.machine.types import Resource
from lockd.machine.waiting import Waiter

if TYPE_CHECKING:
    from lockd.machine.table import HoldTable

POOL = NEW | PERMITS


@dataclass(frozen=True, slots=True)
class Step:
    """A request that waits for `resource`, because of the session of the next step."""

    waiter: Waiter
    resource: Resource


_Edge: TypeAlias = tuple[Session, Waiter, Resource]
"""Another session, and the waiter and resource that tie it to this one."""


def waits_for(table: HoldTable, session: Session) -> Iterator[_Edge | None]:
    """For whom the session waits, because of which of its requests. None stands for a look that found nothing."""
    for waiter in session.waits.values():
        for place, lock in enumerate(waiter.locks):
            key = waiter.keys[place]
            if key == POOL:
                yield from _before_in_pool(table, waiter, lock, waiter.needs[place].permits)
            elif key:
                yield from _before(table, waiter, lock, key)


def _before(table: HoldTable, waiter: Waiter, lock: Lock, key: int) -> Iterator[_Edge | None]:
    conflicts, me = CONFLICTS[key & 7], waiter.session
    if conflicts & lock.mask:
        for holding in lock.holders.values():
            other = holding.session
            yield (other, waiter, lock.name) if other is not None and other is not me and conflicts >> holding.effective & 1 else None
    for line_key, line in sorted((lock.lines or {}).items()):
        if line_key == POOL or not conflicts >> (line_key & 7) & 1 or (line_key & NEW and not key & NEW):
            continue
        conversion_first = key & NEW and not line_key & NEW
        for ticket in line:
            if ticket >= waiter.ticket and not conversion_first:
                break
            other = table.waiters[ticket].session
            yield (other, waiter, lock.name) if other is not me else None


def _before_in_pool(table: HoldTable, waiter: Waiter, lock: Lock, permits: int) -> Iterator[_Edge | None]:
    me, room = waiter.session, lock.limit - permits
    for holding in lock.holders.values():
        other = holding.session
        yield (other, waiter, lock.name) if other is not None and other is not me and holding.permits > room else None
    for ticket in (lock.lines or {}).get(POOL, ()):
        if ticket >= waiter.ticket:
            break
        ahead = table.waiters[ticket]
        yield (ahead.session, waiter, lock.name) if ahead.session is not me and ahead.permits_at(lock) > room else None


def waited_for_by(table: HoldTable, session: Session) -> Iterator[_Edge | None]:
    """Who waits for the session: the same edges, from their other end."""
    for holding in session.holds.values():
        lock = holding.lock
        if not lock.waiting_mask:
            yield None
            continue
        for key, line in sorted((lock.lines or {}).items()):
            if key == POOL:
                yield from _after_in_pool(table, session, lock, line, holding.permits)
            elif CONFLICTS[key & 7] >> holding.effective & 1:
                yield from _others(table, session, lock, line)
    for waiter in session.waits.values():
        for place, lock in enumerate(waiter.locks):
            key = waiter.keys[place]
            if key == POOL:
                line = [ticket for ticket in (lock.lines or {})[POOL] if ticket > waiter.ticket]
                yield from _after_in_pool(table, session, lock, line, waiter.needs[place].permits)
            elif key:
                yield from _after(table, waiter, lock, key)


def _after(table: HoldTable, waiter: Waiter, lock: Lock, key: int) -> Iterator[_Edge | None]:
    for line_key, line in sorted((lock.lines or {}).items()):
        if line_key == POOL or not CONFLICTS[line_key & 7] >> (key & 7) & 1 or (key & NEW and not line_key & NEW):
            continue
        conversion_first = line_key & NEW and not key & NEW
        start = 0 if conversion_first else bisect_right(line, waiter.ticket)
        yield from _others(table, waiter.session, lock, line, start)


def _others(table: HoldTable, session: Session, lock: Lock, line: list[int], start: int = 0) -> Iterator[_Edge | None]:
    for place in range(start, len(line)):
        waiter = table.waiters[line[place]]
        yield (waiter.session, waiter, lock.name) if waiter.session is not session else None


def _after_in_pool(table: HoldTable, session: Session, lock: Lock, line: list[int], permits: int) -> Iterator[_Edge | None]:
    for ticket in line:
        waiter = table.waiters[ticket]
        blocked = waiter.session is not session and waiter.permits_at(lock) + permits > lock.limit
        yield (waiter.session, waiter, lock.name) if blocked else None


class _Search:
    """One direction of the search: breadth first, an edge at a time."""

    __slots__ = ("_edges", "_frontier", "_table", "forward", "reached")

    def __init__(self, table: HoldTable, start: Session, *, forward: bool) -> None:
        self._table = table
        self.forward = forward
        self.reached: dict[int, tuple[Session, Waiter, Resource]] = {}
        self._frontier: deque[Session] = deque()
        self._edges = self._from(start)

    def _from(self, session: Session) -> Iterator[tuple[Session, _Edge | None]]:
        for edge in (waits_for if self.forward else waited_for_by)(self._table, session):
            yield session, edge

    def step(self) -> Session | bool | None:
        """Look along one more edge: the session newly reached, None if there is none, False if nothing is left to look at."""
        while True:
            found = next(self._edges, None)
            if found is None:
                if not self._frontier:
                    return False
                self._edges = self._from(self._frontier.popleft())
                continue
            origin, edge = found
            if edge is None or edge[0].id in self.reached:
                return None
            self.reached[edge[0].id] = (origin, edge[1], edge[2])
            self._frontier.append(edge[0])
            return edge[0]


def find_cycle(table: HoldTable, start: Session) -> list[Step] | None:
    """A cycle of the wait-for graph through `start`, beginning with one of its requests; None if there is none."""
    onward, backward = _Search(table, start, forward=True), _Search(table, start, forward=False)
    while True:
        for search, other in ((onward, backward), (backward, onward)):
            reached = search.step()
            if reached is False:
                return None
            if isinstance(reached, Session) and (reached is start or reached.id in other.reached):
                return _cycle(start, reached, onward, backward)


def _cycle(start: Session, meeting: Session, onward: _Search, backward: _Search) -> list[Step]:
    first: list[Step] = []
    at = meeting
    # From the meeting point back to the start along the edges that were followed onward ...
    while meeting.id in onward.reached and (at is not start or not first):
        origin, waiter, resource = onward.reached[at.id]
        first.append(Step(waiter, resource))
        at = origin
    first.reverse()
    if meeting is start and first:
        return first
    # ... and from it to the start along those that were followed backward.
    rest: list[Step] = []
    at = meeting
    while at is not start or not rest:
        target, waiter, resource = backward.reached[at.id]
        rest.append(Step(waiter, resource))
        at = target
    return first + rest
