"""Who of one client's own tasks may ask for a lock now.

For the service a lock belongs to a session, and taking it again inside the session only counts (semantics, section 3). A client has
one session for all its tasks: without more, two tasks that take the same lock would both have it. So tasks of one client take
turns here, by the same modes and along the same paths, before they ask the service. The same task may take a lock again.

Not safe for threads: the session guards it with its mutex.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

from lockd_client.model import LockMode

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from lockd_client.model import Claim

IS, IX, S = int(LockMode.INTENT_SHARED), int(LockMode.INTENT_EXCLUSIVE), int(LockMode.SHARED)
SIX, U, X = int(LockMode.SHARED_INTENT_EXCLUSIVE), int(LockMode.UPDATE), int(LockMode.EXCLUSIVE)

CONFLICTS: tuple[tuple[int, ...], ...] = (
    (),
    (X,),  # IS
    (S, SIX, U, X),  # IX
    (IX, SIX, X),  # S
    (IX, S, SIX, U, X),  # SIX
    (IX, SIX, U, X),  # U
    (IS, IX, S, SIX, U, X),  # X
)
"""CONFLICTS[mode]: what another owner must not have (Gray and Reuter, chapter 7.8; UPDATE is symmetric, as the service has it)."""

_INTENTION = (0, IS, IX, IS, IX, IX, IX)


class Signal(Protocol):
    """How a turn that comes is told."""

    def set(self) -> None:
        """It has come, or will never."""
        ...


E = TypeVar("E", bound=Signal)


Step: TypeAlias = "tuple[str, int]"


@lru_cache(maxsize=8_192)
def _path(resource: str, mode: LockMode) -> tuple[Step, ...]:
    parts = resource.split("/")
    intention = _INTENTION[mode]
    return (*(("/".join(parts[:i]), intention) for i in range(1, len(parts))), (resource, int(mode)))


def steps(claims: Sequence[str | Claim], mode: LockMode) -> tuple[Step, ...]:
    """What claims ask of each path: intentions from the root down, then the mode. Semaphores count permits and need no turn."""
    if len(claims) == 1 and isinstance(claims[0], str):
        return _path(claims[0], mode)
    found: list[Step] = []
    for claim in claims:
        if isinstance(claim, str):
            found += _path(claim, mode)
        elif not claim.limit:
            found += _path(claim.resource, claim.mode)
    return tuple(found)


class Turn(Generic[E]):
    """One owner's claim, waiting or had."""

    __slots__ = ("blocked_at", "given", "had", "owner", "signal", "steps")

    def __init__(self, owner: Hashable, wanted: tuple[Step, ...]) -> None:
        self.owner = owner
        self.steps = wanted
        self.had = False
        self.given = False
        self.blocked_at: _Place[E] | None = None
        self.signal: E | None = None


class _Place(Generic[E]):
    """One path: who has it in which modes, and who waits for it."""

    __slots__ = ("counts", "owners", "waiting")

    def __init__(self) -> None:
        self.owners: dict[Hashable, list[int]] = {}
        self.counts = [0, 0, 0, 0, 0, 0, 0]
        """By mode, over all owners."""
        self.waiting: deque[Turn[E]] = deque()

    def blocks(self, owner: Hashable, mode: int) -> bool:
        """Whether another owner has what does not go with the mode."""
        counts = self.counts
        for other in CONFLICTS[mode]:  # noqa: SIM110 - a generator costs more than the loop
            if counts[other] and counts[other] > self.owners.get(owner, _NOTHING).count(other):
                return True
        return False


_NOTHING: list[int] = []


class Turns(Generic[E]):
    """All turns of one session."""

    def __init__(self) -> None:
        self._places: dict[str, _Place[E]] = {}
        self._waits: dict[Hashable, Turn[E]] = {}
        self._had: dict[Hashable, int] = {}

    def take(self, turn: Turn[E]) -> bool:
        """Have the turn if nobody is in the way: no other owner, and nobody who waits for the same and came first."""
        return self._try(turn, queue=True)

    def wait(self, turn: Turn[E], signal: E) -> bool:
        """Wait in line after a `take` that failed. False if that would wait for ever: a circle of this client's own tasks."""
        if self._circle(turn):
            return False
        turn.signal = signal
        self._waits[turn.owner] = turn
        if turn.blocked_at is not None:
            turn.blocked_at.waiting.append(turn)
        return True

    def give(self, turn: Turn[E]) -> None:
        """Give a turn back, or leave the line. Doing so twice is no error."""
        if turn.given:
            return
        turn.given = True
        if not turn.had:
            blocked_at = turn.blocked_at
            if blocked_at is not None and turn in blocked_at.waiting:
                blocked_at.waiting.remove(turn)
                self._waits.pop(turn.owner, None)
                self._wake(blocked_at)
            return
        places, owner = self._places, turn.owner
        if self._had.get(owner, 0) > 1:
            self._had[owner] -= 1
        else:
            self._had.pop(owner, None)
        for path, mode in turn.steps:
            place = places.get(path)
            if place is None:
                return  # the session is over, and all turns with it
            modes = place.owners[owner]
            place.counts[mode] -= 1
            if len(modes) == 1:
                del place.owners[owner]
            else:
                modes.remove(mode)
            if place.waiting:
                self._wake(place)
            if not place.owners and not place.waiting:
                del places[path]

    def end(self) -> None:
        """The session is over: whoever waits is told, and finds out."""
        for place in list(self._places.values()):
            while place.waiting:
                waiter = place.waiting.popleft()
                if waiter.signal is not None:
                    waiter.signal.set()
        self._places.clear()
        self._waits.clear()
        self._had.clear()

    def only(self, turn: Turn[E]) -> bool:
        """Whether the owner has no other turn: then no circle of waits can really go through it."""
        return self._had.get(turn.owner) == 1

    def _try(self, turn: Turn[E], *, queue: bool) -> bool:
        places = self._places
        owner = turn.owner
        for path, mode in turn.steps:
            place = places.get(path)
            if place is None:
                continue
            in_line = queue and place.waiting and owner not in place.owners
            if in_line or (place.owners and place.blocks(owner, mode)):
                turn.blocked_at = place
                return False
        for path, mode in turn.steps:
            place = places.get(path)
            if place is None:
                place = places[path] = _Place()
            place.counts[mode] += 1
            modes = place.owners.get(owner)
            if modes is None:
                place.owners[owner] = [mode]
            else:
                modes.append(mode)
        self._had[owner] = self._had.get(owner, 0) + 1
        turn.had = True
        turn.blocked_at = None
        return True

    def _wake(self, place: _Place[E]) -> None:
        """Let go on whoever can, in the order of the line; the first who cannot holds up the rest."""
        while place.waiting:
            first = place.waiting[0]
            if self._try(first, queue=False):
                place.waiting.popleft()
                self._waits.pop(first.owner, None)
                if first.signal is not None:
                    first.signal.set()
            elif first.blocked_at is not place:
                # It waits for another path now.
                place.waiting.popleft()
                if first.blocked_at is not None:
                    first.blocked_at.waiting.append(first)
            else:
                return

    def _circle(self, turn: Turn[E]) -> bool:
        """Whether an owner that this turn waits for waits, directly or not, for this turn's owner."""
        todo, seen = [turn], {turn.owner}
        while todo:
            waiter = todo.pop()
            for owner in waiter.blocked_at.owners if waiter.blocked_at is not None else ():
                if owner == turn.owner and waiter is not turn:
                    return True
                if owner not in seen:
                    seen.add(owner)
                    if owner in self._waits:
                        todo.append(self._waits[owner])
        return False
