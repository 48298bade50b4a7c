"""What a nemesis is, and how its strikes are paced."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from chaos.cluster import Cluster
from chaos.history import Recorder
from chaos.node import CannotRunError, check_strace


@dataclass(slots=True)
class World:
    """What a nemesis may use: nothing else is random, nothing else is hit."""

    cluster: Cluster
    recorder: Recorder
    chance: random.Random
    ttl: float
    """Seconds that sessions of the workload live without a keepalive."""

    def victim(self) -> str:
        """Any node."""
        return self.chance.choice(self.cluster.names)

    def leader(self) -> str:
        """The node that was last seen to lead, or any."""
        return self.cluster.leader_name or self.victim()

    def shuffled(self) -> list[str]:
        """All nodes in random order."""
        return self.chance.sample(self.cluster.names, len(self.cluster.names))


class Nemesis:
    """Strikes again and again: `begin`, a spell, `end`, a pause. Seeded, bounded, and mended at the end whatever happens."""

    name: ClassVar[str]
    about: ClassVar[str]
    spell: ClassVar[tuple[float, float]] = (1.0, 3.0)
    """Seconds that a strike lasts, at least and at most."""
    pause: ClassVar[tuple[float, float]] = (1.0, 2.5)
    """Seconds between strikes."""
    strace: ClassVar[bool] = False
    clock: ClassVar[bool] = False
    settings: ClassVar[Mapping[str, Any]] = {}
    """Settings of the nodes that make the strikes tell."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def begin(self) -> str:
        """Break something; what was hit, for the history."""
        raise NotImplementedError

    async def end(self) -> None:
        """Mend it."""

    def length(self) -> float:
        """Seconds that the next strike lasts."""
        return self.world.chance.uniform(*self.spell)

    async def run(self, until: float) -> None:
        """Strike until the loop's time `until`."""
        loop = asyncio.get_running_loop()
        recorder, chance = self.world.recorder, self.world.chance
        while True:
            await asyncio.sleep(min(chance.uniform(*self.pause), max(0.0, until - loop.time())))
            length = self.length()
            if loop.time() >= until - 0.2:
                return
            try:
                detail = await self.begin()
                recorder.fault(self.name, "begin", detail)
                await asyncio.sleep(min(length, max(0.0, until - loop.time())))
            finally:
                await self.end()
                recorder.fault(self.name, "end")


def check_machine(kinds: list[type[Nemesis]]) -> None:
    """Raise CannotRunError if this machine lacks what these need."""
    if any(kind.strace for kind in kinds):
        check_strace()


__all__ = ["CannotRunError", "Nemesis", "World", "check_machine"]
