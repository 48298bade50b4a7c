"""Real processes, real files, SIGKILL: nothing acknowledged is lost, nothing is applied twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.raft_shell.cluster import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[3]


class Process:
    """One replica's process."""

    def __init__(self, name: str, directory: Path, addresses: dict[str, str], prefix: tuple[str, ...] = ()) -> None:
        self.name = name
        self.arguments = [*prefix, sys.executable, "-m", "tests.e2e.raft.node", name, str(directory), json.dumps(addresses)]
        self.errors = directory.with_suffix(".err")
        self.lock = asyncio.Lock()
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start, and wait until it serves."""
        async with self.lock:
            with self.errors.open("ab") as errors:
                process = await asyncio.create_subprocess_exec(
                    *self.arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, limit=1 << 24
                )
            self.process = process
            assert process.stdout is not None
            first = await asyncio.wait_for(process.stdout.readline(), 30)
            assert first == b"{}\n", self.errors.read_text()

    async def ask(self, **request: Any) -> dict[str, Any] | None:
        """One request; None if the process died meanwhile or is not there."""
        async with self.lock:
            process = self.process
            if process is None or process.stdin is None or process.stdout is None:
                return None
            with contextlib.suppress(ConnectionError):
                process.stdin.write(json.dumps(request).encode() + b"\n")
                await process.stdin.drain()
                line = await asyncio.wait_for(process.stdout.readline(), 30)
                if line:
                    answer: dict[str, Any] = json.loads(line)
                    return answer
            return None

    async def kill(self) -> None:
        """SIGKILL."""
        process, self.process = self.process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()
            if process.stdin is not None:
                process.stdin.close()


class Cluster:
    """Three of them, and a client that goes to whoever leads."""

    def __init__(self, directory: Path) -> None:
        self.addresses = {name: f"127.0.0.1:{port}" for name, port in zip("abc", free_ports(3), strict=True)}
        self.directory = directory
        self.nodes = {name: Process(name, directory / name, self.addresses) for name in "abc"}
        self.acknowledged: dict[int, str] = {}
        self.sent = 0

    async def leader(self) -> Process:
        """Wait for a leader."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for node in self.nodes.values():
                status = await node.ask(status=True)
                if status is not None and status["role"] == "leader":
                    return node
            await asyncio.sleep(0.02)
        raise AssertionError("in vain waited for a leader")

    async def wait_acknowledged(self, more: int) -> None:
        """Wait until so many more entries are acknowledged, at most 30 s."""
        wanted = len(self.acknowledged) + more
        async with asyncio.timeout(30):
            while len(self.acknowledged) < wanted:
                await asyncio.sleep(0.01)

    async def load(self, until: asyncio.Event) -> None:
        """Propose texts that never repeat, in batches, wherever there is a leader."""
        target = "a"
        rng = random.Random(4)
        while not until.is_set():
            texts = [f"{self.sent + k}:" + "x" * rng.randrange(200) for k in range(20)]
            self.sent += 20
            answer = await self.nodes[target].ask(propose=texts)
            if answer is not None and "done" in answer:
                for text, index in zip(texts, answer["done"], strict=True):
                    if index is not None:
                        assert index not in self.acknowledged, "two requests were told the same index"
                        self.acknowledged[index] = text
            else:
                hint = (answer or {}).get("leader")
                target = hint if hint in self.nodes else rng.choice("abc")
                await asyncio.sleep(0.01)

    async def check(self) -> None:
        """After a read barrier every node has every acknowledged text once, in the order of the indexes; and all have the same."""
        seen = []
        for node in self.nodes.values():
            for _ in range(20):
                answer = await node.ask(read=True)
                if answer is not None and "items" in answer:
                    seen.append(answer["items"])
                    break
            else:
                raise AssertionError(f"{node.name} does not serve reads: {node.errors.read_text()}")
        first = seen[0]
        assert len(set(first)) == len(first), "applied twice"
        position = {text: at for at, text in enumerate(first)}
        order = [position[self.acknowledged[index]] for index in sorted(self.acknowledged)]
        assert order == sorted(order)
        shortest = min(map(len, seen))
        for items in seen:
            assert items[:shortest] == first[:shortest]

    async def stop(self) -> None:
        """All of them."""
        for node in self.nodes.values():
            await node.kill()


async def test_nothing_acknowledged_is_lost_when_processes_are_killed(tmp_path: Path) -> None:
    """Under load with snapshots: kill the leader, a follower, all at once: every acknowledged entry is there once, on each node."""
    cluster = Cluster(tmp_path)
    try:
        await asyncio.gather(*[node.start() for node in cluster.nodes.values()])
        stop = asyncio.Event()
        load = asyncio.create_task(cluster.load(stop))
        gaps = []
        for _ in range(3):
            await cluster.wait_acknowledged(200)
            leader = await cluster.leader()
            before = len(cluster.acknowledged)
            await leader.kill()
            began = time.monotonic()
            while len(cluster.acknowledged) <= before + 20:
                assert time.monotonic() - began < 20
                await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - began)
            await leader.start()
        await cluster.wait_acknowledged(200)
        await cluster.stop()
        await asyncio.gather(*[node.start() for node in cluster.nodes.values()])
        await cluster.wait_acknowledged(200)
        leader = await cluster.leader()
        follower = next(node for node in cluster.nodes.values() if node is not leader)
        await follower.kill()
        await cluster.wait_acknowledged(200)
        await follower.start()
        await cluster.wait_acknowledged(200)
        stop.set()
        await load
        await cluster.check()
        status = await follower.ask(status=True)
        assert status is not None
        assert status["snapshot"] > 0
        print("write gaps after kill -9 of the leader, s:", [round(gap, 3) for gap in gaps], "acknowledged", len(cluster.acknowledged))
    finally:
        await cluster.stop()


async def test_two_processes_never_share_a_directory(tmp_path: Path) -> None:
    """The second one refuses to start, and says why."""
    cluster = Cluster(tmp_path)
    try:
        await cluster.nodes["a"].start()
        second = Process("a", tmp_path / "a", {**cluster.addresses, "a": f"127.0.0.1:{free_ports(1)[0]}"})
        with pytest.raises(AssertionError, match="in use by another process"):
            await second.start()
        await second.kill()
    finally:
        await cluster.stop()


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace to make fdatasync fail")
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
async def test_a_replica_whose_disk_fails_steps_out(tmp_path: Path, error: str) -> None:
    """After a failed fdatasync a replica acknowledges nothing any more and says so; the others go on; a restart brings it back."""
    cluster = Cluster(tmp_path)
    inject = ("strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", f"inject=fdatasync:error={error}:when=40+")
    broken = Process("a", tmp_path / "a", cluster.addresses, inject)
    healthy = cluster.nodes["a"]
    cluster.nodes["a"] = broken
    try:
        await asyncio.gather(*[node.start() for node in cluster.nodes.values()])
        stop = asyncio.Event()
        load = asyncio.create_task(cluster.load(stop))
        deadline = time.monotonic() + 30
        status = await broken.ask(status=True)
        while status is None or status["failed"] is None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
            status = await broken.ask(status=True)
        assert "OSError" in status["failed"]
        before = len(cluster.acknowledged)
        while len(cluster.acknowledged) < before + 100:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await broken.kill()
        cluster.nodes["a"] = healthy
        await healthy.start()
        stop.set()
        await load
        await cluster.check()
    finally:
        await broken.kill()
        await cluster.stop()
