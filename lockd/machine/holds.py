"""One resource's state: who holds it in which mode, and who waits in which line.

A session holds a resource because it claimed it, because it holds something below it (an implied intention), or both. Several modes of one
session add up to their supremum, the *effective* mode; only effective modes meet the compatibility matrix.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Protocol

from lockd.machine.modes import CONFLICTS, IS, IX, SUPREMUM
from lockd.machine.sessions import Session
from lockd.machine.types import FencingToken, Nanos, Resource

NO_TOKEN = FencingToken(0)
"""Of a hold that nobody has claimed."""

PERMITS = 7
"""Stands where a mode would, for claims on a semaphore."""
NEW = 8
"""Added to the mode: the line of those who do not hold the resource yet. Without it: the line of conversions, which goes first."""


class Holding:
    """One session's part in one lock.

    `mode` is what was claimed (0: nothing, only implied), `count` how often, under tokens from `first_token` to `token`. `shared` and
    `exclusive` count the claims below this resource that ask for INTENT_SHARED or INTENT_EXCLUSIVE here. Of a semaphore, `grants` maps each
    token to its permits. `session` is None for the ghost of a lost hold, which keeps the resource unavailable until its lock delay ends.
    """

    __slots__ = (
        "count",
        "effective",
        "exclusive",
        "first_token",
        "grants",
        "lock",
        "lock_delay",
        "mode",
        "order",
        "permits",
        "session",
        "shared",
        "since",
        "token",
    )

    def __init__(self, session: Session | None, lock: Lock, order: int, since: Nanos) -> None:
        self.session = session
        self.lock = lock
        self.order = order
        self.since = since
        self.mode = 0
        self.count = 0
        self.token = NO_TOKEN
        self.first_token = NO_TOKEN
        self.lock_delay: Nanos = 0
        self.shared = 0
        self.exclusive = 0
        self.effective = 0
        self.permits = 0
        self.grants: dict[int, int] | None = None

    @property
    def claimed(self) -> bool:
        """Whether the session asked for this resource itself."""
        return self.mode != 0 or self.grants is not None

    def due_effective(self) -> int:
        """The supremum of what was claimed and what is implied."""
        if self.exclusive:
            return SUPREMUM[self.mode][IX]
        if self.shared:
            return SUPREMUM[self.mode][IS]
        return self.mode

    def owns(self, token: int) -> bool:
        """Whether the token is, or was, this hold's."""
        if self.grants is not None:
            return token in self.grants
        return self.mode != 0 and self.first_token <= token <= self.token


class HasPermits(Protocol):
    """A waiter, as far as a semaphore cares; it asks for permits of one semaphore at most once."""

    def permits_at(self, lock: Lock) -> int:
        """How many permits of this semaphore it waits for."""


class Lock:
    """One resource that is held or waited for.

    `holders` maps session ids (for ghosts: minus their order) to holdings, in the order in which they began. `mask` has a bit for each
    effective mode that is held, `waiting_mask` one for each line that is not empty. Lines and `parked` hold tickets in ascending order. A
    waiter stands in a line of every resource that it needs, but is parked at exactly one that blocks it, and is looked at again only when
    something changes there.
    """

    __slots__ = (
        "claims",
        "dirty",
        "held",
        "holders",
        "limit",
        "lines",
        "mask",
        "name",
        "parked",
        "pooled",
        "used",
        "waiting",
        "waiting_mask",
    )

    def __init__(self, name: Resource) -> None:
        self.name = name
        self.holders: dict[int, Holding] = {}
        self.held = [0, 0, 0, 0, 0, 0, 0]
        self.mask = 0
        self.waiting = 0
        self.waiting_mask = 0
        self.lines: dict[int, list[int]] | None = None
        self.parked: dict[int, list[int]] | None = None
        self.dirty = False
        # Lock or semaphore? `claims` and `pooled` count who claims it, holding or waiting, as the one or the other.
        self.claims = 0
        self.pooled = 0
        self.limit = 0
        self.used = 0

    @property
    def idle(self) -> bool:
        """Whether nobody holds it and nobody waits for it."""
        return not self.holders and not self.waiting

    def change(self, holding: Holding, effective: int) -> None:
        """Enter a holding's new effective mode."""
        held, old = self.held, holding.effective
        if old:
            held[old] -= 1
            if not held[old]:
                self.mask &= ~(1 << old)
        if effective:
            held[effective] += 1
            self.mask |= 1 << effective
        holding.effective = effective

    def others(self, holding: Holding | None) -> int:
        """The effective modes that others than this holder hold, as bits."""
        if holding is None or not holding.effective or self.held[holding.effective] > 1:
            return self.mask
        return self.mask & ~(1 << holding.effective)

    def blocks_fresh(self, holding: Holding | None, target: int) -> bool:
        """Whether a request that comes now for the effective mode `target` must wait here."""
        waiting = self.waiting_mask
        # Nobody overtakes a waiter whom it would delay; a conversion goes before those who hold nothing here.
        ahead = waiting & 0xFF if holding is not None and holding.effective else waiting & 0xFF | waiting >> 8
        return CONFLICTS[target] & (self.others(holding) | ahead) != 0

    def blocks(self, holding: Holding | None, key: int, ticket: int) -> bool:
        """Whether the waiter in line `key` with this ticket must still wait here."""
        target = key & 7
        conflicts = CONFLICTS[target]
        if conflicts & self.others(holding):
            return True
        lines = self.lines
        if lines is None:
            return False
        conversions = self.waiting_mask & 0xFF & conflicts
        if key & NEW:
            if conversions:
                return True
            return _any_ahead(lines, self.waiting_mask >> 8 & conflicts, NEW, ticket)
        return _any_ahead(lines, conversions, 0, ticket)

    def permits_ahead(self, ticket: int, table: Mapping[int, HasPermits]) -> int:
        """Permits that waiters before this ticket ask for; counted only as far as it can matter."""
        total, room = 0, self.limit - self.used
        for other in self.lines.get(NEW | PERMITS, ()) if self.lines is not None else ():
            if other >= ticket or total > room:
                break
            total += table[other].permits_at(self)
        return total

    def enter(self, key: int, ticket: int) -> None:
        """Put a waiter into a line."""
        if self.lines is None:
            self.lines = {}
        _insert(self.lines.setdefault(key, []), ticket)
        self.waiting_mask |= 1 << key

    def leave(self, key: int, ticket: int) -> None:
        """Take a waiter out of a line."""
        line = self.lines[key] if self.lines is not None else []
        _remove(line, ticket)
        if not line:
            self.waiting_mask &= ~(1 << key)

    def park(self, key: int, ticket: int) -> None:
        """Look at this waiter when something changes here."""
        if self.parked is None:
            self.parked = {}
        _insert(self.parked.setdefault(key, []), ticket)

    def unpark(self, key: int, ticket: int) -> None:
        """Do not look at this waiter any more."""
        if self.parked is not None:
            line = self.parked[key]
            _remove(line, ticket)
            if not line:
                del self.parked[key]


def _any_ahead(lines: dict[int, list[int]], modes: int, base: int, ticket: int) -> bool:
    mode = 1
    modes >>= 1
    while modes:
        if modes & 1 and lines[base + mode][0] < ticket:
            return True
        modes >>= 1
        mode += 1
    return False


def _insert(line: list[int], ticket: int) -> None:
    if not line or line[-1] < ticket:
        line.append(ticket)
    else:
        line.insert(bisect_left(line, ticket), ticket)


def _remove(line: list[int], ticket: int) -> None:
    if line[0] == ticket:
        del line[0]
    elif line[-1] == ticket:
        line.pop()
    else:
        del line[bisect_left(line, ticket)]
