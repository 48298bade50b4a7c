"""What happens to processes: killed, paused, restarted, deposed."""

from __future__ import annotations

import asyncio
from typing import Final

import grpc.aio

from chaos.nemesis.base import Nemesis
from lockd.v1 import cluster_pb2, cluster_pb2_grpc

_BACK: Final = 10.0
"""Seconds that restarted nodes get before the next strike."""


class _Kill(Nemesis):
    """kill -9, and start again at the end of the strike."""

    _hit: tuple[str, ...] = ()

    def victims(self) -> list[str]:
        """Whom."""
        raise NotImplementedError

    async def begin(self) -> str:
        """Kill all at once."""
        self._hit = tuple(self.victims())
        for name in self._hit:
            self.world.cluster.nodes[name].kill()
        return ",".join(self._hit)

    async def end(self) -> None:
        """Start them again, and wait until somebody leads: else the next strike would meet nodes that have not begun."""
        for name in self._hit:
            await self.world.cluster.start_node(name)
        await self.world.cluster.wait_leader(_BACK)


class KillOne(_Kill):
    """Any node."""

    name = "kill-one"
    about = "kill -9 of a random node, which is started again"

    def victims(self) -> list[str]:
        """One."""
        return [self.world.victim()]


class KillLeader(_Kill):
    """The leader."""

    name = "kill-leader"
    about = "kill -9 of the leader, which is started again"

    def victims(self) -> list[str]:
        """The leader."""
        return [self.world.leader()]


class KillMajority(_Kill):
    """Most of the nodes."""

    name = "kill-majority"
    about = "kill -9 of a majority at once, the leader among them or not"

    def victims(self) -> list[str]:
        """A random majority."""
        nodes = self.world.shuffled()
        return nodes[: len(nodes) // 2 + 1]


class KillAll(_Kill):
    """All nodes: what was acknowledged must be on disk."""

    name = "kill-all"
    about = "kill -9 of all nodes at once"
    spell = (0.1, 1.0)
    pause = (2.0, 4.0)

    def victims(self) -> list[str]:
        """All."""
        return self.world.cluster.names


class _Pause(Nemesis):
    """SIGSTOP: connections stay open, time goes on."""

    _hit = ""

    async def begin(self) -> str:
        """Stop the leader more often than not."""
        self._hit = self.world.leader() if self.world.chance.random() < 0.7 else self.world.victim()
        self.world.cluster.nodes[self._hit].pause()
        return self._hit

    async def end(self) -> None:
        """Let it go on."""
        self.world.cluster.nodes[self._hit].resume()


class PauseShort(_Pause):
    """Shorter than a session lives."""

    name = "pause-short"
    about = "SIGSTOP of a node, mostly the leader, for less than a session's ttl"

    def length(self) -> float:
        """From less than an election timeout to most of a ttl."""
        return self.world.chance.choice((0.1, 0.3, 0.6 * self.world.ttl))


class PauseLong(_Pause):
    """Longer than a session lives: a former leader wakes up and believes in what it knew."""

    name = "pause-long"
    about = "SIGSTOP of a node, mostly the leader, for longer than a session's ttl"

    def length(self) -> float:
        """One and a half ttl to two and a half."""
        return self.world.ttl * self.world.chance.uniform(1.5, 2.5)


class Rolling(Nemesis):
    """As in an upgrade: one after the other, politely."""

    name = "rolling-restart"
    about = "each node in turn is asked to stop, and started again"
    spell = (0.2, 0.5)

    async def begin(self) -> str:
        """All of them, one after the other."""
        cluster = self.world.cluster
        codes = []
        for name in self.world.shuffled():
            codes.append(f"{name} (exit {await cluster.stop_node(name)})")
            await cluster.start_node(name)
            await cluster.wait_leader(5.0)
        return ", ".join(codes)


class Transfer(Nemesis):
    """Leadership is handed on."""

    name = "transfer"
    about = "leadership is handed to another node, several times in a row"
    spell = (0.0, 0.2)
    pause = (0.3, 1.5)

    async def begin(self) -> str:
        """Ask any node to pass it on."""
        cluster = self.world.cluster
        target = self.world.victim()
        asked = self.world.victim()
        async with grpc.aio.insecure_channel(cluster.nodes[asked].listen) as channel:
            stub = cluster_pb2_grpc.ClusterServiceStub(channel)
            try:
                answer = await stub.TransferLeader(cluster_pb2.TransferLeaderRequest(to=target), timeout=2.0)
            except grpc.aio.AioRpcError as error:
                return f"to {target}: {error.code().name}"
        return f"to {answer.leader_id}"


class Snapshots(_Kill):
    """Followers fall so far behind that only a snapshot helps."""

    name = "snapshots"
    about = "logs are compacted all the time, and a killed node must catch up by a snapshot"
    settings = {"snapshot_log_bytes": 1 << 16, "keep_log_bytes": 0}  # noqa: RUF012 - a constant of the class
    spell = (2.0, 4.0)

    def victims(self) -> list[str]:
        """One."""
        return [self.world.victim()]


class Storm(Nemesis):
    """Many things in short order, on one node after the other."""

    name = "storm"
    about = "kill, pause, cut and heal in quick succession"
    spell = (0.0, 0.1)
    pause = (0.2, 0.8)
    _paused = ""

    async def begin(self) -> str:
        """One of many."""
        cluster, chance = self.world.cluster, self.world.chance
        victim = self.world.victim()
        what = chance.choice(("kill", "pause", "cut", "reset"))
        if what == "kill":
            cluster.nodes[victim].kill()
            await asyncio.sleep(chance.uniform(0, 0.3))
            await cluster.start_node(victim)
        elif what == "pause":
            self._paused = victim
            cluster.nodes[victim].pause()
            await asyncio.sleep(chance.uniform(0.1, 0.5))
        elif what == "cut":
            rules = cluster.cuts([p for n in cluster.names if n != victim for p in ((victim, n), (n, victim))])
            await cluster.set_links(self.name, rules)
            await asyncio.sleep(chance.uniform(0.2, 0.8))
        else:
            await cluster.reset_links(["*"])
        return f"{what} {victim}"

    async def end(self) -> None:
        """Nothing stays."""
        if self._paused:
            self.world.cluster.nodes[self._paused].resume()
            self._paused = ""
        await self.world.cluster.set_links(self.name, {})
