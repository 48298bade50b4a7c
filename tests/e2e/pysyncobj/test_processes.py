"""Real processes and SIGKILL: what the journal and the snapshots must survive, whatever the package does."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.engine_port.harness import WITHIN, free_ports, until

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[3]


class Processes:
    """Some replicas, each in a process."""

    def __init__(self, directory: Path, size: int, *, gated: bool = False) -> None:
        self.directory = directory
        self.gate = directory / "gate" if gated else None
        self.members = {f"p{n}": port for n, port in enumerate(free_ports(size), 1)}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    async def start(self, *names: str) -> None:
        """Start these, or all."""
        for name in names or tuple(self.members):
            options = {"id": name, "members": self.members, "directory": str(self.directory), "gate": str(self.gate) if self.gate else None}
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.pysyncobj.node_process", json.dumps(options)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        for name in names or tuple(self.members):
            assert (await self._answer(name)) == {"ready": True}

    async def _answer(self, name: str) -> dict[str, Any]:
        stdout = self.running[name].stdout
        assert stdout is not None
        line = await asyncio.to_thread(stdout.readline)
        assert line, f"{name} ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def ask(self, name: str, do: str, **more: Any) -> dict[str, Any]:
        """One command, one answer."""
        stdin = self.running[name].stdin
        assert stdin is not None
        stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
        stdin.flush()
        return await self._answer(name)

    async def kill(self, *names: str) -> None:
        """SIGKILL to these, or to all, at once."""
        ended = [self.running.pop(name) for name in names or tuple(self.running)]
        for process in ended:
            process.kill()
        for process in ended:
            await asyncio.to_thread(process.wait)
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()

    async def leader(self) -> str:
        """Whoever leads."""
        async with asyncio.timeout(WITHIN):
            while True:
                for name in self.running:
                    if (await self.ask(name, "status"))["leads"]:
                        return name
                await asyncio.sleep(0.01)

    def acknowledged(self) -> list[int]:
        """The numbers that were acknowledged to a proposer, in order."""
        path = self.directory / "acknowledged"
        return [int(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []

    async def acknowledge_more(self, count: int) -> None:
        """Wait for some more acknowledgements."""
        target = len(self.acknowledged()) + count
        await until(lambda: len(self.acknowledged()) >= target or None, f"{count} more acknowledgements")


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[list[Processes]]:
    """Clusters that are killed at the end."""
    clusters: list[Processes] = []
    yield clusters
    for cluster in clusters:
        await cluster.kill()


def check(data: list[int], acknowledged: list[int]) -> None:
    """Nothing acknowledged is missing, and nothing is there twice."""
    assert len(data) == len(set(data))
    assert sorted(set(acknowledged) - set(data)) == []


async def test_a_killed_replica_has_what_it_acknowledged(tmp_path: Path, made: list[Processes]) -> None:
    """Killed again and again under load, a replica finds every acknowledged entry on its disk, once."""
    made.append(cluster := Processes(tmp_path, 1))
    for life in range(5):
        await cluster.start()
        name = await cluster.leader()
        check((await cluster.ask(name, "barrier"))["data"], cluster.acknowledged())
        await cluster.ask(name, "load", first=life * 1_000_000)
        await cluster.acknowledge_more(300)
        await cluster.kill()
    assert len(cluster.acknowledged()) >= 1500


async def test_the_others_have_what_a_killed_leader_acknowledged(tmp_path: Path, made: list[Processes]) -> None:
    """After SIGKILL of the leader under load another one leads, with every acknowledged entry."""
    made.append(cluster := Processes(tmp_path, 3))
    await cluster.start()
    leader = await cluster.leader()
    await cluster.ask(leader, "load", first=0)
    await cluster.acknowledge_more(300)
    await cluster.kill(leader)
    new = await cluster.leader()
    assert new != leader
    check((await cluster.ask(new, "barrier"))["data"], cluster.acknowledged())
    await cluster.start(leader)
    check((await cluster.ask(leader, "barrier"))["data"], cluster.acknowledged())


async def test_all_killed_during_a_snapshot(tmp_path: Path, made: list[Processes]) -> None:
    """All replicas are killed while their children write snapshots, and the orphans finish after the restart: nothing is lost by it.

    The package's own serializer lets the orphan's file take the place of the dump, and then drops every entry behind it.
    """
    made.append(cluster := Processes(tmp_path, 3, gated=True))
    assert cluster.gate is not None
    await cluster.start()
    leader = await cluster.leader()
    await cluster.ask(leader, "load", first=0)
    await cluster.acknowledge_more(200)
    await cluster.ask(leader, "snapshot")
    await until(lambda: cluster.gate.with_suffix(".begun").exists() or None if cluster.gate else None, "the child to begin")
    await cluster.acknowledge_more(500)
    await cluster.kill()
    await cluster.start()
    cluster.gate.touch()
    leader = await cluster.leader()
    check((await cluster.ask(leader, "barrier"))["data"], cluster.acknowledged())
    await cluster.kill()
    await cluster.start()
    for name in cluster.members:
        check((await cluster.ask(name, "barrier"))["data"], cluster.acknowledged())
