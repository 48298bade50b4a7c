"""The wait-for graph, and cycles in it.

A request waits for a session that holds what is in its way, and for a request ahead of it in line that conflicts with it. A session that
has requests waiting can give nothing back before they go on: it waits for them. (Who waits in line for a request does not wait for all
else that the session of that request waits for: of several tasks that share a session, one may well go on before the other.) Semaphores
count only where that is certain: where permits that are out, or asked for ahead, leave no room however many others come back.

The search goes from both ends at once, an edge at a time: what the request waits for, and who waits for it. It costs twice the smaller of
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

Node: TypeAlias = Session | Waiter
_Edge: TypeAlias = tuple[Node, Resource | None]
"""The node at the other end, and the resource because of which the one waits for the other; None between a session and its request."""


@dataclass(frozen=True, slots=True)
class Step:
    """A request that waits for `resource`, because of the session of the next step or of its request."""

    waiter: Waiter
    resource: Resource


def waits_for(table: HoldTable, node: Node) -> Iterator[_Edge | None]:
    """What a node waits for. None stands for a look that found nothing."""
    if isinstance(node, Session):
        for waiter in node.waits.values():
            yield waiter, None
        return
    waiters, session = table.waiters, node.session
    for lock, key in zip(node.locks, node.keys, strict=True):
        conflicts = CONFLICTS[key & 7] if key != POOL else 0
        if conflicts & lock.mask:
            for holding in lock.holders.values():
                other = holding.session
                yield (other, lock.name) if other is not None and other is not session and conflicts >> holding.effective & 1 else None
        # Ahead are smaller tickets in lines of the same sort, and all conversions for a newcomer; NEW shifts to newcomers' lines.
        for line_key in _keys(lock.waiting_mask & (conflicts | conflicts << NEW if key & NEW else conflicts)):
            for ticket in lock.lines[line_key] if lock.lines is not None else ():
                if ticket >= node.ticket and (line_key ^ key) & NEW == 0:
                    break
                yield (waiters[ticket], lock.name) if ticket != node.ticket else None
        if key == POOL:
            yield from _before_in_pool(table, node, lock)


def _before_in_pool(table: HoldTable, waiter: Waiter, lock: Lock) -> Iterator[_Edge | None]:
    me, room = waiter.session, lock.limit - waiter.permits_at(lock)
    for holding in lock.holders.values():
        other = holding.session
        yield (other, lock.name) if other is not None and other is not me and holding.permits > room else None
    for ticket in (lock.lines or {}).get(POOL, ()):
        if ticket >= waiter.ticket:
            break
        ahead = table.waiters[ticket]
        yield (ahead, lock.name) if ahead.permits_at(lock) > room else None


def waited_for_by(table: HoldTable, node: Node) -> Iterator[_Edge | None]:
    """What waits for a node: the same edges, from their other end."""
    if isinstance(node, Session):
        yield from _waits_for_holds(table, node)
        return
    yield node.session, None
    waiters = table.waiters
    for lock, key in zip(node.locks, node.keys, strict=True):
        conflicts = CONFLICTS[key & 7] if key != POOL else 0
        for line_key in _keys(lock.waiting_mask & (conflicts << NEW if key & NEW else conflicts | conflicts << NEW)):
            line = lock.lines[line_key] if lock.lines is not None else []
            for place in range(bisect_right(line, node.ticket) if (line_key ^ key) & NEW == 0 else 0, len(line)):
                yield (waiters[line[place]], lock.name) if line[place] != node.ticket else None
        if key == POOL:
            for behind in _after_in_pool(table, lock, node.ticket, node.permits_at(lock)):
                yield (behind, lock.name) if behind is not None else None


def _waits_for_holds(table: HoldTable, session: Session) -> Iterator[_Edge | None]:
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
                yield (waiter, lock.name) if waiter.session is not session else None
        if lock.waiting_mask >> POOL:
            for behind in _after_in_pool(table, lock, 0, holding.permits):
                yield (behind, lock.name) if behind is not None and behind.session is not session else None


def _after_in_pool(table: HoldTable, lock: Lock, after: int, permits: int) -> Iterator[Waiter | None]:
    line = (lock.lines or {}).get(POOL, [])
    for place in range(bisect_right(line, after), len(line)):
        waiter = table.waiters[line[place]]
        yield waiter if waiter.permits_at(lock) + permits > lock.limit else None


def _keys(bits: int) -> tuple[int, ...]:
    """The places of the bits that are set, in ascending order."""
    known = _KEYS.get(bits)
    if known is None:
        known = _KEYS[bits] = tuple([key for key in range(POOL) if bits >> key & 1])
    return known


_KEYS: dict[int, tuple[int, ...]] = {}
"""What `_keys` has been asked: at most 2**15 answers, in practice a handful."""


def _name(node: Node) -> int:
    """Tells nodes apart: sessions have positive numbers, requests negative ones."""
    return node.id if isinstance(node, Session) else -node.ticket


class _Search:
    """One direction of the search: breadth first, an edge at a time. `reached` has, for each node, the edge over which it was found."""

    __slots__ = ("_edges", "_expand", "_frontier", "_origin", "_table", "reached")

    def __init__(self, table: HoldTable, start: Node, expand: Callable[[HoldTable, Node], Iterator[_Edge | None]]) -> None:
        self._table = table
        self._expand = expand
        self.reached: dict[int, _Edge] = {}
        self._frontier: deque[Node] = deque()
        self._origin = start
        self._edges = expand(table, start)

    def step(self) -> Node | bool | None:
        """Look along one more edge: the node newly reached, None if there is none, False if nothing is left to look at."""
        while True:
            for edge in self._edges:
                if edge is None or _name(edge[0]) in self.reached:
                    return None
                self.reached[_name(edge[0])] = (self._origin, edge[1])
                self._frontier.append(edge[0])
                return edge[0]
            if not self._frontier:
                return False
            self._origin = self._frontier.popleft()
            self._edges = self._expand(self._table, self._origin)


def find_cycle(table: HoldTable, start: Node) -> list[Step] | None:
    """A cycle of the wait-for graph through `start`; None if there is none."""
    onward, backward = _Search(table, start, waits_for), _Search(table, start, waited_for_by)
    while True:
        for search, other in ((onward, backward), (backward, onward)):
            reached = search.step()
            if reached is False:
                return None
            if isinstance(reached, Session | Waiter) and (reached is start or _name(reached) in other.reached):
                return _cycle(start, reached, onward, backward)


def _cycle(start: Node, meeting: Node, onward: _Search, backward: _Search) -> list[Step]:
    # Edges as (node that waits, resource), from the start to the meeting point ...
    edges: list[_Edge] = []
    at = meeting
    while _name(meeting) in onward.reached and (at is not start or not edges):
        at, resource = onward.reached[_name(at)]
        edges.append((at, resource))
    edges.reverse()
    if meeting is not start or not edges:
        # ... and on from there to the start along those that were followed backward.
        at = meeting
        while True:
            target, resource = backward.reached[_name(at)]
            edges.append((at, resource))
            at = target
            if at is start:
                break
    return [Step(node, resource) for node, resource in edges if isinstance(node, Waiter) and resource is not None]
