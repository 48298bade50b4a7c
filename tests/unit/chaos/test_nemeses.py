"""Nemeses: the shapes of partitions, and that what is broken is mended whatever happens."""

from __future__ import annotations

import asyncio
import random
from itertools import permutations
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chaos.cluster import Cluster
from chaos.history import Recorder
from chaos.nemesis.base import Nemesis, World
from chaos.nemesis.catalogue import CATALOGUE
from chaos.nemesis.network import Halves, IsolateLeader, OneWay, Ring
from chaos.nemesis.process import KillMajority


class FakeNode:
    """Remembers what was done to it."""

    def __init__(self) -> None:
        self.paused = False
        self.running = True
        self.offset = 0
        self.expected_exit = False
        self.listen = "127.0.0.1:1"
        self.traced = False

    @property
    def pid(self) -> int | None:
        """Some id while it runs."""
        return 1 if self.running else None

    def kill(self) -> None:
        """Gone."""
        self.running = self.paused = self.traced = False

    def pause(self) -> bool:
        """Still."""
        self.paused = True
        return True

    def resume(self) -> bool:
        """On."""
        self.paused = False
        return True

    def set_clock(self, offset: int) -> None:
        """Wrong, or right."""
        self.offset = offset

    def trace(self, _: str, __: str) -> bool:
        """Attached."""
        self.traced = True
        return True

    def end_trace(self) -> None:
        """Detached."""
        self.traced = False


class FakeCluster:
    """Knows what is broken."""

    def __init__(self, size: int) -> None:
        self.names = [f"n{i + 1}" for i in range(size)]
        self.nodes = {n: FakeNode() for n in self.names}
        self.leader_name = "n1"
        self.layers: dict[str, dict[str, Any]] = {}
        self.cuts = Cluster.cuts.__get__(self)

    async def set_links(self, layer: str, rules: dict[str, Any]) -> None:
        """As the real one."""
        self.layers[layer] = rules

    async def reset_links(self, links: list[str]) -> int:
        """As the real one."""
        return len(links)

    async def start_node(self, name: str) -> None:
        """As the real one."""
        self.nodes[name].running = True

    async def stop_node(self, name: str) -> int:
        """As the real one."""
        self.nodes[name].running = False
        return 0

    async def wait_leader(self, _: float) -> bool:
        """As the real one."""
        return True

    async def status(self, _: str, __: float = 0) -> Any:
        """As the real one."""
        return SimpleNamespace(failed="")

    def broken(self) -> list[str]:
        """Everything that is not as it should be."""
        found = [f"links of {layer}" for layer, rules in self.layers.items() if rules]
        for name, node in self.nodes.items():
            found += [f"{name} {what}" for what in ("paused", "offset", "traced") if getattr(node, what)]
            found += [] if node.running else [f"{name} down"]
        return found


class Notes:
    """A recorder for faults only."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    def fault(self, _: str, phase: str, __: str = "") -> None:
        """One more."""
        self.phases.append(phase)


def world(size: int, seed: int = 1) -> tuple[World, FakeCluster, Notes]:
    """A world of fakes."""
    cluster, notes = FakeCluster(size), Notes()
    return World(cast("Cluster", cluster), cast("Recorder", notes), random.Random(seed), 0.2), cluster, notes


def hears(size: int, pairs: list[tuple[str, str]]) -> dict[str, set[str]]:
    """Whom each node still hears."""
    names = [f"n{i + 1}" for i in range(size)]
    return {b: {a for a in names if a != b and (a, b) not in pairs} for b in names}


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("seed", range(20))
def test_the_shapes_of_partitions(size: int, seed: int) -> None:
    """Halves split a minority off, a ring leaves everyone a part of the others, one-way is one way, the leader is cut off."""
    one, _, _ = world(size, seed)
    apart = hears(size, Halves(one).pairs()[0])
    assert sorted(len(heard) + 1 for heard in apart.values()) == sorted(
        [(size - 1) // 2] * ((size - 1) // 2) + [(size + 1) // 2] * ((size + 1) // 2)
    )
    ring = hears(size, Ring(one).pairs()[0])
    assert all(a in ring[b] for a, b in permutations(ring, 2) if b in ring[a])
    assert sorted(map(len, ring.values())) == ([1, 1, 2] if size == 3 else [2] * 5)
    pairs, _ = OneWay(one).pairs()
    assert len(pairs) == size - 1
    assert not any((b, a) in pairs for a, b in pairs)
    pairs, _ = IsolateLeader(one).pairs()
    assert {n for pair in pairs for n in pair if pair.count("n1")} == {f"n{i + 1}" for i in range(size)}
    assert all("n1" in pair for pair in pairs)
    assert len(set(KillMajority(one).victims())) == size // 2 + 1


@pytest.mark.parametrize("name", sorted(CATALOGUE))
async def test_everything_is_mended(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a nemesis comes to its end or is cancelled in the middle of a strike, nothing stays broken."""
    monkeypatch.setattr("chaos.nemesis.machine.check_strace", lambda: "strace")
    for cancelled in (False, True):
        one, cluster, notes = world(3)
        kind = CATALOGUE[name]
        nemesis = type("Quick", (kind,), {"pause": (0.0, 0.01), "spell": (0.0, 0.02)})(one)
        assert isinstance(nemesis, Nemesis)
        task = asyncio.create_task(nemesis.run(asyncio.get_running_loop().time() + (30.0 if cancelled else 0.6)))
        if cancelled:
            while "begin" not in notes.phases:
                await asyncio.sleep(0.001)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert cluster.broken() == []
        assert "begin" in notes.phases
        assert notes.phases.count("begin") <= notes.phases.count("end")


async def test_the_same_seed_strikes_the_same_way() -> None:
    """What a nemesis does depends on its seed alone."""
    seen = []
    for _ in range(2):
        one, cluster, _ = world(5, seed=9)
        nemesis = Halves(one)
        seen.append([(await nemesis.begin(), nemesis.length(), sorted(cluster.layers[nemesis.name])) for _ in range(5)])
    assert seen[0] == seen[1]
