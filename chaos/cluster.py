"""A cluster of real processes on loopback behind the fault proxy.

All nodes share one membership whose addresses are the proxy's; the proxy tells by the process who dials whom. Everything binds to
127.0.0.1, and everything that is started ends with `stop`, by its pid; if we die, it dies too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from chaos.node import CannotRunError, Node, build_clock, wait_gone
from chaos.proxy import CLIENT, link
from lockd.v1 import cluster_pb2, cluster_pb2_grpc

_POLL = 0.15
_START = 30.0


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now, below those that the kernel hands out to connections."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            port = random.randrange(15_000, 32_000)  # noqa: S311 - not part of a run's seed
            candidate = held.enter_context(socket.socket())
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    return found


class _ProxyProcess:
    """The proxy, and the line to it."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def start(self, seed: str) -> None:
        """Start it. It ends when our end of its input closes."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "chaos.proxy", seed, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )

    async def ask(self, **command: Any) -> dict[str, Any]:
        """One command and its answer. Raises CannotRunError."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise CannotRunError("the proxy does not run")
        async with self._turn:
            process.stdin.write(json.dumps(command).encode() + b"\n")
            answer: dict[str, Any] = json.loads(await process.stdout.readline() or b'{"error": "the proxy has ended"}')
        if "error" in answer:
            raise CannotRunError(f"the proxy refuses: {answer['error']}")
        return answer

    async def stop(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 2)
        except TimeoutError:
            process.kill()
            await process.wait()


class Cluster:
    """`async with Cluster(3, directory) as cluster:` runs nodes n1, n2, n3.

    Faults on links come in layers (one a nemesis), so that one nemesis heals its own and no other's.
    """

    def __init__(
        self, size: int, directory: Path, *, settings: Mapping[str, Any] | None = None, movable_clock: bool = False, seed: str = "0"
    ) -> None:
        self.directory = directory
        self.names = [f"n{i + 1}" for i in range(size)]
        self.nodes: dict[str, Node] = {}
        self.endpoints: dict[str, str] = {}
        """By node: where clients reach it, through the proxy."""
        self.leader_name = ""
        self.term = 0
        self.on_leader: Callable[[str, int], None] = lambda _name, _term: None
        self.on_exit: Callable[[str, int, str], None] = lambda _name, _code, _log: None
        self._settings = dict(settings or {})
        self._movable_clock = movable_clock
        self._seed = seed
        self._proxy = _ProxyProcess()
        self._layers: dict[str, dict[str, dict[str, Any]]] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._watchers: list[asyncio.Task[None]] = []

    # --- life ----------------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start everything and wait for a leader. Raises CannotRunError with what the nodes said."""
        self.directory.mkdir(parents=True, exist_ok=True)
        clock = build_clock(self.directory) if self._movable_clock else None
        ports = dict(zip(self.names, zip(*[iter(free_ports(4 * len(self.names)))] * 4, strict=True), strict=True))
        members = [{"id": n, "peer": f"127.0.0.1:{p[0]}", "client": f"127.0.0.1:{p[1]}"} for n, p in ports.items()]
        try:
            await self._proxy.start(self._seed)
            for name, (peer, client, own_peer, own_client) in ports.items():
                listen = [{"name": name, "port": peer, "target": own_peer}, {"name": name, "port": client, "target": own_client}]
                await self._proxy.ask(listen=listen)
                own = f"127.0.0.1:{own_client}"
                self.endpoints[name] = f"127.0.0.1:{client}"
                settings = {
                    "id": name,
                    "cluster": "chaos",
                    "data": str((self.directory / name).resolve()),
                    "listen": own,
                    "peer_listen": f"127.0.0.1:{own_peer}",
                    "advertise": self.endpoints[name],
                    "peer_advertise": f"127.0.0.1:{peer}",
                    "members": members,
                    **self._settings,
                }
                self.nodes[name] = Node(name, self.directory / name, own, settings, clock)
                self._channels[name] = grpc.aio.insecure_channel(own, options=[("grpc.max_reconnect_backoff_ms", 200)])
            for name in self.names:
                await self.start_node(name)
            self._watchers = [asyncio.create_task(self._watch(name)) for name in self.names]
            await self._first_leader()
        except BaseException:
            await self.stop()
            raise

    async def _first_leader(self) -> None:
        if not await self.wait_leader(_START):
            raise CannotRunError(f"no leader within {_START:g} s\n" + "\n".join(f"--- {n}\n{v.log(3)}" for n, v in self.nodes.items()))

    async def stop(self) -> None:
        """End everything. Idempotent."""
        watchers, self._watchers = self._watchers, []
        for task in watchers:
            task.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close(None)
        self._channels.clear()
        await asyncio.to_thread(wait_gone, list(self.nodes.values()), 3.0)
        await self._proxy.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def start_node(self, name: str) -> None:
        """Start a node that does not run."""
        node = self.nodes[name]
        if node.pid is None:
            # Not in a thread of its own: with that thread the node would end.
            await self._proxy.ask(pids={name: node.start()})

    async def stop_node(self, name: str) -> int:
        """Ask a node to stop, and wait; its exit code."""
        return await asyncio.to_thread(self.nodes[name].terminate, 10.0)

    async def heal(self) -> None:
        """End all faults: links, pauses, clocks, disks; start what does not run."""
        self._layers.clear()
        await self._proxy.ask(rules={})
        for name, node in self.nodes.items():
            await asyncio.to_thread(node.end_trace)
            if node.paused:
                node.resume()
            if self._movable_clock:
                node.set_clock(0)
            await self.start_node(name)

    # --- links ---------------------------------------------------------------------------------------------------------------------

    async def set_links(self, layer: str, rules: Mapping[str, Mapping[str, Any]]) -> None:
        """Put a layer's faults in force, in place of what it had; with no rules: heal it."""
        self._layers[layer] = {name: dict(rule) for name, rule in rules.items()}
        merged: dict[str, dict[str, Any]] = {}
        for each in self._layers.values():
            for name, rule in each.items():
                known = merged.setdefault(name, {})
                for what, value in rule.items():
                    known[what] = min(known.get(what) or value, value) if what == "rate" else max(known.get(what, 0), value)
        await self._proxy.ask(rules=merged)

    async def reset_links(self, links: Iterable[str]) -> int:
        """Break the connections of these links ("*": all); how many."""
        return int((await self._proxy.ask(reset=list(links)))["reset"])

    async def carried(self) -> dict[str, int]:
        """Bytes that each link has carried."""
        answer: dict[str, int] = (await self._proxy.ask())["carried"]
        return answer

    def cuts(self, pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
        """Rules that cut each pair in the one direction."""
        return {link(a, b): {"cut": True} for a, b in pairs}

    def client_links(self) -> list[str]:
        """Both directions between clients and every node."""
        return [x for n in self.names for x in (link(CLIENT, n), link(n, CLIENT))]

    # --- who leads -----------------------------------------------------------------------------------------------------------------

    async def status(self, name: str, timeout: float = 0.5) -> cluster_pb2.GetStatusResponse | None:
        """A node's own view, asked directly, not through the proxy; None if it does not answer."""
        stub = cluster_pb2_grpc.ClusterServiceStub(self._channels[name])
        try:
            answer: cluster_pb2.GetStatusResponse = await stub.GetStatus(cluster_pb2.GetStatusRequest(), timeout=timeout)
        except grpc.aio.AioRpcError:
            return None
        return answer

    async def wait_leader(self, timeout: float) -> bool:
        """Wait until a majority of all nodes agrees on a leader that says so itself; False if none did in time, or no node runs."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while loop.time() < deadline:
            answers = await asyncio.gather(*(self.status(name) for name in self.names))
            votes = [a.leader_id for a in answers if a is not None and a.leader_id]
            leads = {a.id for a in answers if a is not None and a.role == "leader"}
            if any(votes.count(name) > len(self.names) // 2 for name in leads):
                return True
            if all(node.pid is None for node in self.nodes.values()):
                return False
            await asyncio.sleep(0.1)
        return False

    async def describe(self) -> str:
        """Every node's own view, and who is connected to whom, for people."""
        views = []
        for name, node in self.nodes.items():
            answer = await self.status(name, 2.0)
            view = f"{answer.role}, term {answer.term}, leader {answer.leader_id or 'none'}" if answer is not None else "no answer"
            views.append(f"{name} (pid {node.pid}{', paused' if node.paused else ''}): {view}")
        connections = (await self._proxy.ask())["connections"]
        return f"{'; '.join(views)}; connections {' '.join(connections)}"

    async def state_hashes(self, timeout: float) -> dict[str, str]:
        """Hash of every node's state after one common index; empty for a node that does not get there in time."""
        found: dict[str, str] = {}
        for _ in range(5):
            answers = await asyncio.gather(*(self.status(name, 2.0) for name in self.names))
            index = max((a.commit_index for a in answers if a is not None), default=0)
            found = dict(zip(self.names, await asyncio.gather(*(self._hash(n, index, timeout) for n in self.names)), strict=True))
            # A tick may have moved some of them on: then their hashes are of different indices, and we ask again.
            if len({h.partition("@")[2] for h in found.values()}) == 1:
                break
        return found

    async def _hash(self, name: str, index: int, timeout: float) -> str:
        stub = cluster_pb2_grpc.ClusterServiceStub(self._channels[name])
        try:
            answer = await stub.GetStateHash(cluster_pb2.GetStateHashRequest(at_least_index=index), timeout=timeout, wait_for_ready=True)
        except grpc.aio.AioRpcError:
            return ""
        return f"{answer.hash.hex()}@{answer.applied_index}"

    async def _watch(self, name: str) -> None:
        """Note new leaders and ends of the process that nobody asked for."""
        node = self.nodes[name]
        told: int | None = None
        while True:
            pid = node.process.pid if node.process is not None else None
            if node.pid is None and pid is not None and pid != told and not node.expected_exit:
                told = pid
                self.on_exit(name, node.process.returncode if node.process is not None else 0, node.log(4))
            if node.pid is not None and not node.paused:
                answer = await self.status(name)
                if answer is not None and answer.role == "leader" and answer.term > self.term:
                    self.leader_name, self.term = name, answer.term
                    self.on_leader(name, answer.term)
            await asyncio.sleep(_POLL)
