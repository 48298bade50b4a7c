"""A large state: how long does the loop stand still for a snapshot, and how soon is a new node up to date while writes go on?

`python bench/snapshot.py [--mb 256,512,1024] [--row 16384] [--json]`

Three nodes, each the whole of what `lockd serve` runs, are filled through the client with rows of `--row` bytes of noise until the
values make `--mb`. Then, while a writer goes on: each node takes a snapshot (the pause is what the engine measures around the fork; the
latest timer is how late the loop's own timer came meanwhile), and a fourth node with an empty directory joins. It is up to date when it
votes and has applied what the others had committed. Then all are asked how long their loops stood still during the join.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lockd_client
from bench.common import Report, percentile
from lockd_client.testing import free_ports

BATCH_BYTES = 1 << 20
PATIENCE = 300.0


async def run_node(settings: dict[str, Any]) -> None:
    """A node: a line on standard input asks, a JSON line answers; ends with its input."""
    from lockd.config import NodeConfig
    from lockd.ops import logs
    from lockd.raft.engine import RaftEngine
    from lockd.server import Node

    logs.configure("json", "error", settings["id"])
    async with Node(NodeConfig(**settings)) as node:
        engine = node.engine
        assert isinstance(engine, RaftEngine)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        print(json.dumps({"ready": True}), flush=True)
        while line := await reader.readline():
            if line.strip() == b"snapshot":
                began = time.perf_counter()
                await engine.snapshot()
                answer: dict[str, Any] = {"seconds": time.perf_counter() - began}
            elif line.strip() == b"reset":
                engine._longest_stall = 0.0  # noqa: SLF001 - only a bench begins to measure anew
                answer = {}
            else:
                status = engine.status()
                answer = {"role": status.role.value, "commit": status.commit, "applied": status.applied, **status.extra}
                answer["rss"] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
                answer["voter"] = any(m.id == engine.config.id and m.voter for m in status.membership.members)
            print(json.dumps(answer), flush=True)


class NodeProcess:
    """One node in a process of its own."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.address: str = settings["listen"]
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--node", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "false", "GRPC_VERBOSITY": "NONE"},
        )
        self._lock = asyncio.Lock()

    def _ask(self, what: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if what:
            self._process.stdin.write(what + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a node ended during the run")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def ask(self, what: str = "status") -> dict[str, Any]:
        """One question, one answer; an empty one waits for the node to serve."""
        async with self._lock:
            return await asyncio.to_thread(self._ask, what)

    def stop(self) -> None:
        """End it at once: nothing here is kept."""
        self._process.kill()
        self._process.wait()


def settings_of(name: str, scratch: Path, ports: list[int], **more: Any) -> dict[str, Any]:
    """One node's configuration."""
    return {
        "id": name,
        "cluster": "bench",
        "data": str(scratch / name),
        "listen": f"127.0.0.1:{ports[0]}",
        "peer_listen": f"127.0.0.1:{ports[1]}",
        **more,
    }


async def fill(client: lockd_client.Client, size: int, row: int) -> float:
    """Put rows until their values make `size` bytes; seconds."""
    began = time.perf_counter()
    number = 0
    while number * row < size:
        transaction = client.transact()
        for _ in range(max(1, BATCH_BYTES // row)):
            transaction = transaction.put(f"bench/{number:09d}", os.urandom(row))
            number += 1
        await transaction.commit(timeout=PATIENCE)
    return time.perf_counter() - began


class Writer:
    """Small writes without pause, each timed."""

    def __init__(self, client: lockd_client.Client) -> None:
        self._client = client
        self.took: list[float] = []
        self.stopping = False

    async def run(self) -> None:
        """Until told to stop."""
        number = 0
        while not self.stopping:
            began = time.perf_counter()
            await self._client.rows.put(f"writer/{number % 1000}", os.urandom(200), timeout=PATIENCE)
            self.took.append(time.perf_counter() - began)
            number += 1
            await asyncio.sleep(0.002)


async def catch_up(nodes: list[NodeProcess], joined: NodeProcess, began: float) -> float:
    """Seconds since `began` until `joined` votes and has applied what was committed when it was asked."""
    await joined.ask("")
    while time.perf_counter() - began < PATIENCE:
        committed = max([(await node.ask())["commit"] for node in nodes])
        view = await joined.ask()
        if view["voter"] and view["applied"] >= committed - 200:
            while (await joined.ask())["applied"] < committed:
                await asyncio.sleep(0.02)
            return time.perf_counter() - began
        await asyncio.sleep(0.1)
    raise RuntimeError("the new node did not catch up")


async def measure(mb: int, row: int, scratch: Path) -> list[tuple[str, str, float, str]]:
    """All figures for one size."""
    ports = free_ports(8)
    members = [{"id": f"n{i}", "peer": f"127.0.0.1:{ports[2 * i + 1]}", "client": f"127.0.0.1:{ports[2 * i]}"} for i in range(3)]
    nodes = [NodeProcess(settings_of(f"n{i}", scratch, ports[2 * i : 2 * i + 2], members=members)) for i in range(3)]
    every = list(nodes)
    try:
        await asyncio.gather(*[node.ask("") for node in nodes])
        async with lockd_client.connect(",".join(node.address for node in nodes), owner="bench", timeout=60.0) as client:
            filling = await fill(client, mb << 20, row)
            writer = Writer(client)
            task = asyncio.create_task(writer.run())
            await asyncio.gather(*[node.ask("reset") for node in nodes])
            taken = [(await node.ask("snapshot"))["seconds"] for node in nodes]
            views = [await node.ask() for node in nodes]
            quiet = len(writer.took)
            await asyncio.gather(*[node.ask("reset") for node in nodes])
            began = time.perf_counter()
            joined = NodeProcess(settings_of("n3", scratch, ports[6:8], join=[members[0]["peer"]]))
            every.append(joined)
            up_to_date = await catch_up(nodes, joined, began)
            after = [await node.ask() for node in nodes]
            new = await joined.ask()
            writer.stopping = True
            await task
        return [
            ("filling through the client", "time", filling, "s"),
            ("filling through the client", "resident memory of a node", max(v["rss"] for v in views), "MiB"),
            ("snapshot, writes going on", "pause of the loop, worst", max(v["snapshot_pause_max_ms"] for v in views), "ms"),
            ("snapshot, writes going on", "pause of the loop, at full size", max(v["snapshot_pause_ms"] for v in views), "ms"),
            ("snapshot, writes going on", "latest timer of the loop", max(v["loop_stall_max_ms"] for v in views), "ms"),
            ("snapshot, writes going on", "until durable", max(taken), "s"),
            ("snapshot, writes going on", "write, p99", percentile(writer.took[:quiet], 0.99) * 1e3, "ms"),
            ("new node, writes going on", "up to date and a voter after", up_to_date, "s"),
            ("new node, writes going on", "latest timer of the old nodes", max(v["loop_stall_max_ms"] for v in after), "ms"),
            ("new node, writes going on", "latest timer of the new node", new["loop_stall_max_ms"], "ms"),
            ("new node, writes going on", "longest write", max(writer.took[quiet:]) * 1e3, "ms"),
        ]
    finally:
        for node in every:
            node.stop()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", default="256,512,1024")
    parser.add_argument("--row", type=int, default=16384)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--node", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.node:
        import uvloop

        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(run_node(json.loads(options.node)))
        return
    report = Report(options.json)
    loads = [os.getloadavg()[0]]
    for mb in map(int, options.mb.split(",")):
        with tempfile.TemporaryDirectory() as scratch:
            for question, metric, value, unit in asyncio.run(measure(mb, options.row, Path(scratch))):
                report.add(f"{mb} MB of rows: {question}", "lockd", metric, value, unit)
        loads.append(os.getloadavg()[0])
    report.add("the machine", "all", "load average, the highest seen", max(loads), f"on {os.cpu_count()} cores")
    report.close("snapshots of a large state, and a node that joins it")


if __name__ == "__main__":
    main()
