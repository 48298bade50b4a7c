"""The simulated network: delay, loss, duplication, reordering, one-way cuts, partitions.

Messages are values handed over as they are. Each takes its own delay, so that they overtake each other freely: worse than TCP, which the
consensus must survive anyway (a reconnect reorders just so).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tests.sim.world import MS, US, World


@dataclass(slots=True)
class Weather:
    """How bad the network is at this moment. Probabilities are per message; delays in nanoseconds."""

    delay_min: int = 200 * US
    delay_max: int = 2 * MS
    drop: float = 0.0
    duplicate: float = 0.0
    straggle: float = 0.0
    straggle_max: int = 400 * MS
    late: type | None = None
    """Messages of this type are often late, or come again late: what they say is of another time then."""


class Network:
    """Carries messages between nodes known by name."""

    __slots__ = ("_cuts", "_deliver", "_world", "carried", "dropped", "duplicated", "weather")

    def __init__(self, world: World, deliver: Callable[[str, str, Any], None]) -> None:
        """`deliver(sender, to, message)` is called when a message arrives."""
        self._world = world
        self._deliver = deliver
        self._cuts: set[tuple[str, str]] = set()
        self.weather = Weather()
        self.carried = 0
        self.dropped = 0
        self.duplicated = 0

    def send(self, sender: str, to: str, message: Any, extra: int = 0) -> bool:
        """Send; False if the link was visibly cut. `extra` nanoseconds are added to the delay (bulk data)."""
        if (sender, to) in self._cuts:
            self.dropped += 1
            return False
        weather, world = self.weather, self._world
        chance = world.rng.random
        self.carried += 1
        if weather.drop and chance() < weather.drop:
            self.dropped += 1
            return True
        delay = weather.delay_min + int(chance() * (weather.delay_max - weather.delay_min)) + extra
        if weather.late is not None and type(message) is weather.late and chance() < 0.4:
            self.duplicated += 1
            world.after(delay + int(chance() * weather.straggle_max), self._arrive, sender, to, message)
            if chance() < 0.3:
                return True
        if weather.straggle and chance() < weather.straggle:
            delay += int(chance() * weather.straggle_max)
        world.after(delay, self._arrive, sender, to, message)
        if weather.duplicate and chance() < weather.duplicate:
            self.duplicated += 1
            world.after(delay + int(chance() * weather.straggle_max), self._arrive, sender, to, message)
        return True

    def _arrive(self, sender: str, to: str, message: Any) -> None:
        if (sender, to) in self._cuts:
            self.dropped += 1
            return
        self._deliver(sender, to, message)

    def cut(self, sender: str, to: str) -> None:
        """Cut one direction of one link. What is under way is lost."""
        self._cuts.add((sender, to))

    def join(self, sender: str, to: str) -> None:
        """Mend one direction of one link."""
        self._cuts.discard((sender, to))

    def partition(self, one: Iterable[str], other: Iterable[str]) -> None:
        """Cut both directions between two groups."""
        others = list(other)
        for a in one:
            for b in others:
                self._cuts.add((a, b))
                self._cuts.add((b, a))

    def heal(self) -> None:
        """Mend every link. The weather stays as it is."""
        self._cuts.clear()

    def is_cut(self, sender: str, to: str) -> bool:
        """Whether this direction is cut."""
        return (sender, to) in self._cuts
