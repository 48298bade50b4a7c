"""The wait-for graph, and cycles in it.

Sessions are the nodes: one waits for another if one of its requests cannot be granted before the other gives something back or leaves a
line. Semaphores count only where that is certain: where a session has so many permits that the request does not fit beside them.
The search goes from both ends at once, an edge at a time: whom the session waits for, and who waits for it. It costs twice the smaller of
the two neighbourhoods, which is next to nothing for the usual newcomer, behind whom nobody waits.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
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
    waiters = table.waiters
    for waiter in session.waits.values():
        for lock, key in zip(waiter.locks, waiter.keys, strict=True):
            conflicts = CONFLICTS[key & 7] if key != POOL else 0
            if conflicts & lock.mask:
                for holding in lock.holders.values():
                    other = holding.session
                    yield (
                        (other, waiter, lock.name)
                        if other is not None and other is not session and conflicts >> holding.effective & 1
                        else None
                    )
            # Ahead are those with smaller tickets in the same line or a like one, and before a newcomer all conversions.
            for line_key in _keys(lock.waiting_mask & (conflicts | conflicts << NEW if key & NEW else conflicts)):
                for ticket in lock.lines[line_key] if lock.lines is not None else ():
                    if ticket >= waiter.ticket and (line_key ^ key) & NEW == 0:
                        break
                    other = waiters[ticket].session
                    yield (other, waiter, lock.name) if other is not session else None
            if key == POOL:
                yield from _before_in_pool(table, waiter, lock)


def _before_in_pool(table: HoldTable, waiter: Waiter, lock: Lock) -> Iterator[_Edge | None]:
    me, room = waiter.session, lock.limit - waiter.permits_at(lock)
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
    waiters = table.waiters
    for holding in session.holds.values():
        lock = holding.lock
        if not lock.waiting_mask:
            yield None
            continue
        conflicts = CONFLICTS[holding.effective]
        for line_key in _keys(lock.waiting_mask & (conflicts | conflicts << NEW)):
            for ticket in lock.lines[line_key] if lock.lines is not None else ():
                waiter = waiters[ticket]
                yield (waiter.session, waiter, lock.name) if waiter.session is not session else None
        if lock.waiting_mask >> POOL:
            yield from _after_in_pool(table, session, lock, 0, holding.permits)
    for own in session.waits.values():
        for lock, key in zip(own.locks, own.keys, strict=True):
            conflicts = CONFLICTS[key & 7] if key != POOL else 0
            for line_key in _keys(lock.waiting_mask & (conflicts << NEW if key & NEW else conflicts | conflicts << NEW)):
                line = lock.lines[line_key] if lock.lines is not None else []
                for place in range(bisect_right(line, own.ticket) if (line_key ^ key) & NEW == 0 else 0, len(line)):
                    waiter = waiters[line[place]]
                    yield (waiter.session, waiter, lock.name) if waiter.session is not session else None
            if key == POOL:
                yield from _after_in_pool(table, session, lock, own.ticket, own.permits_at(lock))


def _after_in_pool(table: HoldTable, session: Session, lock: Lock, after: int, permits: int) -> Iterator[_Edge | None]:
    line = (lock.lines or {}).get(POOL, [])
    for place in range(bisect_right(line, after), len(line)):
        waiter = table.waiters[line[place]]
        blocked = waiter.session is not session and waiter.permits_at(lock) + permits > lock.limit
        yield (waiter.session, waiter, lock.name) if blocked else None


def _keys(bits: int) -> tuple[int, ...]:
    """The places of the bits that are set, in ascending order."""
    known = _KEYS.get(bits)
    if known is None:
        known = _KEYS[bits] = tuple([key for key in range(POOL) if bits >> key & 1])
    return known


_KEYS: dict[int, tuple[int, ...]] = {}
"""What `_keys` has been asked: at most 2**15 answers, in practice a handful."""


class _Search:
    """One direction of the search: breadth first, an edge at a time."""

    __slots__ = ("_edges", "_expand", "_frontier", "_origin", "_table", "reached")

    def __init__(self, table: HoldTable, start: Session, expand: Callable[[HoldTable, Session], Iterator[_Edge | None]]) -> None:
        self._table = table
        self._expand = expand
        self.reached: dict[int, _Edge] = {}
        self._frontier: deque[Session] = deque()
        self._origin = start
        self._edges = expand(table, start)

    def step(self) -> Session | bool | None:
        """Look along one more edge: the session newly reached, None if there is none, False if nothing is left to look at."""
        while True:
            for edge in self._edges:
                if edge is None or edge[0].id in self.reached:
                    return None
                self.reached[edge[0].id] = (self._origin, edge[1], edge[2])
                self._frontier.append(edge[0])
                return edge[0]
            if not self._frontier:
                return False
            self._origin = self._frontier.popleft()
            self._edges = self._expand(self._table, self._origin)


def find_cycle(table: HoldTable, start: Session) -> list[Step] | None:
    """A cycle of the wait-for graph through `start`, beginning with one of its requests; None if there is none."""
    onward, backward = _Search(table, start, waits_for), _Search(table, start, waited_for_by)
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
