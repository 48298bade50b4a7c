"""Virtual time: one event queue, one source of randomness, one transcript.

Everything that happens in a simulated run happens as an event of a `World`; nothing reads the machine's clock, and all randomness comes
from generators seeded by the run's seed. So a seed reproduces a run to the byte, and `World.digest` says whether it did.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

US = 1_000
"""Nanoseconds in a microsecond."""
MS = 1_000_000
"""Nanoseconds in a millisecond."""
SECOND = 1_000_000_000
"""Nanoseconds in a second."""


class SimulationError(BaseException):
    """A promise was broken. `check` names the promise, the message gives the evidence.

    Not an Exception: what is under test catches those, and must not hide this.
    """

    def __init__(self, check: str, evidence: str) -> None:
        super().__init__(f"{check}: {evidence}")
        self.check = check
        self.evidence = evidence


class World:
    """The event queue of one run. Events at the same time happen in the order in which they were put in."""

    __slots__ = ("_heap", "_order", "events", "now", "rng", "story")

    def __init__(self, seed: int) -> None:
        self.now = 0
        self.rng = random.Random(seed)
        self.events = 0
        self.story: list[tuple[Any, ...]] = []
        """What happened, as raw tuples (time, word, ...): formatted only when somebody wants to read it."""
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0

    def at(self, when: int, action: Callable[..., None], *args: Any) -> None:
        """Call `action(*args)` at time `when` (nanoseconds; the past means now)."""
        self._order += 1
        heappush(self._heap, (max(self.now, when), self._order, action, args))

    def after(self, delay: int, action: Callable[..., None], *args: Any) -> None:
        """Call `action(*args)` after `delay` nanoseconds."""
        self._order += 1
        heappush(self._heap, (self.now + delay, self._order, action, args))

    def note(self, *facts: Any) -> None:
        """Add a line to the story."""
        self.story.append((self.now, *facts))

    def run_until(self, end: int, stop: Callable[[], bool] | None = None) -> bool:
        """Let time pass until `end`, or until `stop()` holds (asked after every event). True if `stop` ended it."""
        heap = self._heap
        while heap and heap[0][0] <= end:
            self.now, _, action, args = heappop(heap)
            self.events += 1
            action(*args)
            if stop is not None and stop():
                return True
        self.now = max(self.now, end)
        return False

    def clear(self) -> None:
        """Forget every event that has not happened yet."""
        self._heap.clear()

    def lines(self) -> list[str]:
        """The story as text, one event a line."""
        return [f"{line[0] / MS:10.3f} ms  " + " ".join(_word(fact) for fact in line[1:]) for line in self.story]

    def digest(self) -> str:
        """A hash of the whole story: equal for two runs only if everything happened alike."""
        total = hashlib.blake2b(digest_size=16)
        for line in self.lines():
            total.update(line.encode())
            total.update(b"\n")
        return total.hexdigest()


def _word(fact: Any) -> str:
    """One fact of a story line, short enough to read."""
    text = fact if isinstance(fact, str) else describe(fact)
    return text if len(text) <= 300 else text[:297] + "..."


def describe(fact: Any) -> str:
    """A value as it appears in transcripts: dataclasses without module noise, entries by position."""
    kind = type(fact).__name__
    if kind == "Entry":
        return f"{fact.index}@{fact.term}{'' if fact.kind == 0 else fact.kind.name[0]}"
    if kind == "Membership":
        return "{" + ",".join(f"{m.id}{'' if m.voter else '?'}" for m in fact.members) + "}"
    if isinstance(fact, (list, tuple)):
        return "[" + " ".join(describe(item) for item in fact) + "]"
    slots = getattr(type(fact), "__dataclass_fields__", None)
    if slots is not None:
        return kind + "(" + " ".join(f"{name}={describe(getattr(fact, name))}" for name in slots) + ")"
    return str(fact) if not isinstance(fact, bytes) else f"{len(fact)}B"
