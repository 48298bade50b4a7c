"""How long are writes away when the leader fails? Three processes, one writer through the Python client.

`python bench/failover.py [--faults kill,pause,partition] [--times 20] [--json]`

A writer takes and releases a lock without pause; the gap is the longest time between two acknowledged writes around the fault. `kill` is
kill -9 of the leader (it is started again afterwards), `pause` is SIGSTOP for 3 s, `partition` cuts the leader off from its peers and from
clients for 3 s, in TCP proxies (chaos/proxy.py) that swallow bytes and tell nobody. The nodes behind proxies are another cluster, whose
every message takes a hop more.

Beside the gap stands how long the other nodes took to agree on a new leader: what is beyond that is the client's part.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import grpc

import lockd_client
from bench.common import Report, percentile
from chaos.cluster import Cluster as ProxiedCluster
from chaos.proxy import CLIENT
from lockd_client.testing import LocalCluster, NodeProcess

PAUSE = 3.0
SETTLE = 1.0


class Writer:
    """Writes one after another, and remembers when each was acknowledged."""

    def __init__(self, client: lockd_client.Client) -> None:
        self.client = client
        self.acknowledged: list[float] = [time.monotonic()]
        self.stopping = False

    async def run(self) -> None:
        """Until told to stop."""
        while not self.stopping:
            async with self.client.lock("bench/failover", wait=30.0):
                pass
            self.acknowledged.append(time.monotonic())

    def gap(self, since: float) -> float:
        """The longest time between two acknowledgements, the second of which came after `since`."""
        times = [t for t in self.acknowledged if t >= since - SETTLE]
        return max(b - a for a, b in itertools.pairwise(times))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one fault, in seconds."""

    gap: float
    election: float
    """Until another node said that it leads."""


class Faults(Protocol):
    """A running cluster whose leader can be made to fail."""

    async def healthy(self) -> str:
        """Wait until all is well; who leads."""

    async def begin(self, leader: str, fault: str) -> None:
        """The leader fails."""

    async def leader_but(self, old: str) -> str | None:
        """Who else says now that it leads."""

    async def end(self, leader: str, fault: str) -> None:
        """It is well again."""


class Plain:
    """Nodes without anything between them: `kill` and `pause`."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster

    async def healthy(self) -> str:
        """All nodes follow one leader."""
        return (await asyncio.to_thread(self._cluster.wait_healthy)).name

    async def begin(self, leader: str, fault: str) -> None:
        """By signal."""
        node = self._cluster.node(leader)
        if fault == "kill":
            node.kill()
        else:
            node.pause()

    async def leader_but(self, old: str) -> str | None:
        """Ask the others."""
        others = [node for node in self._cluster.nodes if node.name != old]
        return await asyncio.to_thread(_leading, others)

    async def end(self, leader: str, fault: str) -> None:
        """Start or continue it."""
        node = self._cluster.node(leader)
        if fault == "kill":
            node.start()
        else:
            node.resume()


def _leading(nodes: list[NodeProcess]) -> str | None:
    for node in nodes:
        with contextlib.suppress(grpc.RpcError):
            if node.status(timeout=0.2).role == "leader":
                return node.name
    return None


class Proxied:
    """Nodes behind proxies: `partition`."""

    def __init__(self, cluster: ProxiedCluster) -> None:
        self._cluster = cluster

    async def healthy(self) -> str:
        """All nodes follow one leader."""
        while True:
            views = [await self._cluster.status(name) for name in self._cluster.names]
            leaders = {view.leader_id if view is not None else "" for view in views}
            if len(leaders) == 1 and (leader := leaders.pop()):
                return leader
            await asyncio.sleep(0.02)

    async def begin(self, leader: str, fault: str) -> None:
        """Cut every link of it, in both directions, clients' too."""
        del fault
        ends = [CLIENT, *(name for name in self._cluster.names if name != leader)]
        await self._cluster.set_links("bench", self._cluster.cuts([p for n in ends for p in ((leader, n), (n, leader))]))

    async def leader_but(self, old: str) -> str | None:
        """Ask the others, not through the proxy."""
        for name in self._cluster.names:
            view = await self._cluster.status(name, 0.2) if name != old else None
            if view is not None and view.role == "leader":
                return name
        return None

    async def end(self, leader: str, fault: str) -> None:
        """Heal."""
        del leader, fault
        await self._cluster.set_links("bench", {})


async def fail(faults: Faults, writer: Writer, fault: str) -> Outcome:
    """One fault, and what it cost."""
    leader = await faults.healthy()
    await asyncio.sleep(SETTLE)
    began = time.monotonic()
    await faults.begin(leader, fault)
    elected = 0.0
    while writer.acknowledged[-1] < began + 0.05 or not elected:
        if not elected and await faults.leader_but(leader):
            elected = time.monotonic() - began
        await asyncio.sleep(0.01)
        if time.monotonic() > began + 30:
            raise RuntimeError(f"no write within 30 s of {fault}")
    if fault != "kill":
        await asyncio.sleep(max(0.0, began + PAUSE - time.monotonic()))
    await faults.end(leader, fault)
    await asyncio.sleep(SETTLE)
    return Outcome(writer.gap(began), elected)


async def repeat(faults: Faults, endpoints: str, kinds: list[str], times: int) -> dict[str, list[Outcome]]:
    """These faults in turns, under one writer."""
    found: dict[str, list[Outcome]] = {kind: [] for kind in kinds}
    async with lockd_client.connect(endpoints, owner="bench", timeout=30.0) as client:
        writer = Writer(client)
        task = asyncio.create_task(writer.run())
        for number in range(times):
            for kind in kinds:
                if task.done():
                    await task
                found[kind].append(await fail(faults, writer, kind))
                one = found[kind][-1]
                print(f"{number + 1}/{times} {kind}: {one.gap * 1e3:.0f} ms, new leader {one.election * 1e3:.0f} ms", file=sys.stderr)
        writer.stopping = True
        await task
    return found


async def measure(kinds: list[str], times: int) -> dict[str, list[Outcome]]:
    """All of them, by fault."""
    found: dict[str, list[Outcome]] = {}
    plain = [kind for kind in kinds if kind != "partition"]
    if plain:
        with tempfile.TemporaryDirectory() as scratch, LocalCluster(3, Path(scratch)) as cluster:
            found |= await repeat(Plain(cluster), cluster.endpoints, plain, times)
    if "partition" in kinds:
        with tempfile.TemporaryDirectory() as scratch:
            async with ProxiedCluster(3, Path(scratch)) as proxied:
                found |= await repeat(Proxied(proxied), ",".join(proxied.endpoints.values()), ["partition"], times)
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", default="kill,pause,partition")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = Report(options.json)
    loads = [os.getloadavg()[0]]
    for fault, outcomes in asyncio.run(measure(options.faults.split(","), options.times)).items():
        for question, values in (
            (f"write gap after {fault} of the leader", [one.gap for one in outcomes]),
            (f"new leader after {fault}", [one.election for one in outcomes]),
        ):
            for metric, value in (("p50", percentile(values, 0.5)), ("max", max(values))):
                report.add(question, "lockd", metric, value * 1e3, "ms")
    loads.append(os.getloadavg()[0])
    report.add("the machine", "all", "load average, the highest seen", max(loads), f"on {os.cpu_count()} cores")
    report.close(f"write gap, {options.times} times each")


if __name__ == "__main__":
    main()
