"""Bad networks: partitions of every shape between nodes, slow and lossy links, clients cut off."""

from __future__ import annotations

import asyncio
from itertools import permutations
from typing import Any

from chaos.nemesis.base import Nemesis
from chaos.proxy import CLIENT, link

Pair = tuple[str, str]


def between(left: list[str], right: list[str]) -> list[Pair]:
    """Both directions between two groups."""
    return [pair for a in left for b in right for pair in ((a, b), (b, a))]


class _Cut(Nemesis):
    """Cuts links between nodes."""

    def pairs(self) -> tuple[list[Pair], str]:
        """What to cut, each in its direction, and in words."""
        raise NotImplementedError

    async def begin(self) -> str:
        """Cut."""
        pairs, words = self.pairs()
        await self.world.cluster.set_links(self.name, self.world.cluster.cuts(pairs))
        return words

    async def end(self) -> None:
        """Heal."""
        await self.world.cluster.set_links(self.name, {})


class Halves(_Cut):
    """A majority and a minority."""

    name = "partition-halves"
    about = "the nodes fall into a majority and a minority that do not hear each other"

    def pairs(self) -> tuple[list[Pair], str]:
        """A random minority against the rest."""
        nodes = self.world.shuffled()
        few = nodes[: (len(nodes) - 1) // 2]
        return between(few, nodes[len(few) :]), f"{','.join(few)} | {','.join(nodes[len(few) :])}"


class Ring(_Cut):
    """No two nodes see the same peers: each hears a majority, but another one."""

    name = "partition-ring"
    about = "each node hears only its neighbours in a ring (of three: two hear the third, but not each other)"

    def pairs(self) -> tuple[list[Pair], str]:
        """All but neighbours."""
        nodes = self.world.shuffled()
        count = len(nodes)
        near = {frozenset((nodes[i], nodes[(i + 1) % count])) for i in range(count if count > 3 else count - 1)}
        return [(a, b) for a, b in permutations(nodes, 2) if frozenset((a, b)) not in near], "-".join(nodes)


class OneWay(_Cut):
    """A node that hears and is not heard, or the reverse."""

    name = "partition-one-way"
    about = "one node can hear the others but not be heard, or the other way round"

    def pairs(self) -> tuple[list[Pair], str]:
        """One direction."""
        victim = self.world.victim()
        others = [n for n in self.world.cluster.names if n != victim]
        if self.world.chance.random() < 0.5:
            return [(victim, n) for n in others], f"{victim} is not heard"
        return [(n, victim) for n in others], f"{victim} does not hear"


class IsolateLeader(_Cut):
    """The leader alone on its side, still reachable for clients."""

    name = "partition-leader"
    about = "the leader is cut off from the other nodes; clients still reach it"

    def pairs(self) -> tuple[list[Pair], str]:
        """The leader against the rest; sometimes in one direction only."""
        leader = self.world.leader()
        others = [n for n in self.world.cluster.names if n != leader]
        way = self.world.chance.randrange(4)
        if way == 0:
            return [(leader, n) for n in others], f"{leader} (leader) is not heard"
        if way == 1:
            return [(n, leader) for n in others], f"{leader} (leader) does not hear"
        return between([leader], others), f"{leader} (leader) alone"


class Flapping(Nemesis):
    """A cut that comes and goes faster than elections."""

    name = "partition-flapping"
    about = "a random node's links are cut and healed several times a second"
    _task: asyncio.Task[None] | None = None

    async def begin(self) -> str:
        """Begin to flap."""
        victim = self.world.victim()
        self._task = asyncio.create_task(self._flap(victim))
        return victim

    async def _flap(self, victim: str) -> None:
        cluster, chance = self.world.cluster, self.world.chance
        cut = cluster.cuts(between([victim], [n for n in cluster.names if n != victim]))
        while True:
            await cluster.set_links(self.name, cut)
            await asyncio.sleep(chance.uniform(0.05, 0.4))
            await cluster.set_links(self.name, {})
            await asyncio.sleep(chance.uniform(0.05, 0.4))

    async def end(self) -> None:
        """Stop, healed."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.world.cluster.set_links(self.name, {})


class _Links(Nemesis):
    """Every link between nodes gets worse."""

    def rule(self) -> dict[str, Any]:
        """How."""
        raise NotImplementedError

    async def begin(self) -> str:
        """Make links worse: all, or those of one node."""
        names = self.world.cluster.names
        victim = self.world.victim() if self.world.chance.random() < 0.5 else ""
        rule = self.rule()
        links = {link(a, b): rule for a, b in permutations(names, 2) if victim in ("", a, b)}
        await self.world.cluster.set_links(self.name, links)
        return f"{victim or 'all nodes'}: {', '.join(f'{k} {v:.3g}' for k, v in rule.items())}"

    async def end(self) -> None:
        """Heal."""
        await self.world.cluster.set_links(self.name, {})


class SlowLinks(_Links):
    """Delay with jitter."""

    name = "slow-links"
    about = "messages between nodes take 5 to 100 ms longer, with as much jitter"

    def rule(self) -> dict[str, Any]:
        """Anything from a next room to another continent."""
        delay = self.world.chance.choice((0.005, 0.02, 0.05, 0.1))
        return {"delay": delay, "jitter": delay}


class NarrowLinks(_Links):
    """Little bandwidth."""

    name = "narrow-links"
    about = "links between nodes carry 20 to 200 kB a second"

    def rule(self) -> dict[str, Any]:
        """Bytes a second."""
        return {"rate": self.world.chance.choice((20e3, 50e3, 200e3))}


class LossyLinks(_Links):
    """Connections break."""

    name = "lossy-links"
    about = "connections between nodes are reset, by chance, every few to few hundred messages"

    def rule(self) -> dict[str, Any]:
        """For each piece."""
        return {"loss": self.world.chance.choice((0.005, 0.02, 0.1))}


class Resets(Nemesis):
    """All connections at once, those of clients too."""

    name = "resets"
    about = "all connections, those of clients too, are reset at once"
    spell = (0.0, 0.05)

    async def begin(self) -> str:
        """Reset."""
        return f"{await self.world.cluster.reset_links(['*'])} connections"


class ClientCut(Nemesis):
    """Clients cannot reach some nodes, or hear nothing from them."""

    name = "clients-cut"
    about = "clients are cut off from the leader or from another node, in one direction or both; the nodes hear each other"

    async def begin(self) -> str:
        """Cut."""
        victim = self.world.leader() if self.world.chance.random() < 0.7 else self.world.victim()
        ways = self.world.chance.choice(([(CLIENT, victim)], [(victim, CLIENT)], [(CLIENT, victim), (victim, CLIENT)]))
        await self.world.cluster.set_links(self.name, self.world.cluster.cuts(ways))
        return " ".join(link(a, b) for a, b in ways)

    async def end(self) -> None:
        """Heal."""
        await self.world.cluster.set_links(self.name, {})
