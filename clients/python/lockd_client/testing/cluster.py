"""A cluster of real `lockd serve` processes on loopback: start, kill, pause, restart.

Needs the server packages in the same environment (`pip install "lockd[server]"`). Every process that is started here ends with `stop`,
by its pid, whatever state it is in.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from lockd.v1 import cluster_pb2, cluster_pb2_grpc

_POLL = 0.02
_PORTS = (10_000, 32_000)


class NodeStartError(RuntimeError):
    """A node did not start; the message holds what it said."""


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on at this moment, below those that outgoing connections are given.

    An ephemeral port could be taken by any connection between this call and the start of the server.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(*_PORTS)  # noqa: S311 - spreads clusters that start at the same time
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


class NodeProcess:
    """One node of a local cluster."""

    def __init__(self, name: str, directory: Path, client_port: int, peer_port: int, arguments: Sequence[str]) -> None:
        self.name = name
        self.directory = directory
        self.address = f"127.0.0.1:{client_port}"
        self.peer_address = f"127.0.0.1:{peer_port}"
        self.log_path = directory.with_suffix(".log")
        self.arguments = tuple(arguments)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, or None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process; does not wait until it serves."""
        if self.pid is not None:
            raise RuntimeError(f"{self.name} is running already")
        command = [sys.executable, "-m", "lockd.cli", "serve", *self.arguments]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LOCKD_")}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def kill(self) -> None:
        """Send SIGKILL, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def terminate(self, timeout: float = 10.0) -> int:
        """SIGTERM, and wait for a clean stop; the exit code."""
        return self._end(signal.SIGTERM, timeout)

    def pause(self) -> None:
        """SIGSTOP: the process stands still and its connections stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        self._signal(signal.SIGCONT)

    def wait_exit(self, timeout: float = 10.0) -> int:
        """Wait until the process ends by itself; its exit code. Raises TimeoutError."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired as expired:
            raise TimeoutError(f"{self.name} still runs after {timeout} s") from expired

    def log(self, last_lines: int = 20) -> str:
        """The end of what the node wrote."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-last_lines:])

    def status(self, timeout: float = 1.0) -> cluster_pb2.GetStatusResponse:
        """The node's own status. Raises grpc.RpcError while it does not answer."""
        with grpc.insecure_channel(self.address) as channel:
            return cluster_pb2_grpc.ClusterServiceStub(channel).GetStatus(cluster_pb2.GetStatusRequest(), timeout=timeout)

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid is None:
            raise RuntimeError(f"{self.name} does not run")
        os.kill(pid, number)

    def _end(self, number: signal.Signals, timeout: float = 10.0) -> int:
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(number)
            if number is not signal.SIGKILL:
                process.send_signal(signal.SIGCONT)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return process.returncode


class LocalCluster:
    """`with LocalCluster(3, directory) as cluster:` runs three nodes that form one cluster.

    `options` are further flags of `lockd serve`, the same for each node.
    """

    def __init__(self, size: int, directory: Path, *, options: Sequence[str] = (), name: str = "local") -> None:
        self.directory = directory
        self.name = name
        self.options = tuple(options)
        ports = free_ports(2 * size)
        names = [f"n{i + 1}" for i in range(size)]
        members: list[str] = []
        for i, node in enumerate(names):
            members += ["--member", f"{node}=127.0.0.1:{ports[2 * i + 1]},127.0.0.1:{ports[2 * i]}"]
        self.nodes = [self._node(node, ports[2 * i], ports[2 * i + 1], members) for i, node in enumerate(names)]

    def _node(self, name: str, client_port: int, peer_port: int, more: Sequence[str]) -> NodeProcess:
        directory = self.directory / name
        addresses = ["--listen", f"127.0.0.1:{client_port}", "--peer-listen", f"127.0.0.1:{peer_port}"]
        arguments = ["--id", name, "--cluster", self.name, "--data", str(directory), *addresses, *more, *self.options]
        return NodeProcess(name, directory, client_port, peer_port, arguments)

    @property
    def endpoints(self) -> str:
        """The nodes' client addresses, as `lockd_client.connect` takes them."""
        return ",".join(node.address for node in self.nodes)

    def start(self, timeout: float = 30.0) -> None:
        """Start all nodes and wait until one leads. Raises NodeStartError with what the nodes said."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            node.start()
        try:
            self.wait_leader(timeout)
        except BaseException:
            self.stop()
            raise

    def join(self, *, learner: bool = False) -> NodeProcess:
        """Start one more node, which joins the running cluster knowing one member's address only."""
        client_port, peer_port = free_ports(2)
        source = next(node for node in self.nodes if node.pid is not None)
        more = ["--join", source.peer_address, *(["--learner"] if learner else [])]
        node = self._node(f"n{len(self.nodes) + 1}", client_port, peer_port, more)
        self.nodes.append(node)
        node.start()
        return node

    def wait_leader(self, timeout: float = 30.0) -> NodeProcess:
        """The node that leads; a majority of those that run must agree. Raises NodeStartError."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            followed: Counter[str] = Counter()
            leading: set[str] = set()
            for node in self.nodes:
                if node.pid is None:
                    continue
                try:
                    status = node.status(timeout=0.5)
                except grpc.RpcError:
                    continue
                followed[status.leader_id] += 1
                if status.role == "leader":
                    leading.add(node.name)
            for name, votes in followed.items():
                # The others may not have noticed yet that a leader is gone: it must say so itself.
                if name in leading and votes > len(self.nodes) // 2:
                    return self.node(name)
            if all(node.pid is None for node in self.nodes):
                break
            time.sleep(_POLL)
        said = "\n".join(f"--- {node.name}\n{node.log(8)}" for node in self.nodes)
        raise NodeStartError(f"no leader after {timeout:g} s\n{said}")

    def wait_healthy(self, timeout: float = 30.0) -> NodeProcess:
        """Wait until every node runs, follows one leader, and has applied what that leader had committed; the leader."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            leader = self.wait_leader(timeout)
            try:
                committed = leader.status().commit_index
                views = [node.status() for node in self.nodes]
            except grpc.RpcError:
                time.sleep(_POLL)
                continue
            if all(v.leader_id == leader.name and v.applied_index >= committed for v in views):
                return leader
            time.sleep(_POLL)
        said = "\n".join(f"--- {node.name} (pid {node.pid})\n{node.log(8)}" for node in self.nodes)
        raise NodeStartError(f"not all nodes follow one leader after {timeout:g} s\n{said}")

    def node(self, name: str) -> NodeProcess:
        """The node of this name."""
        return next(node for node in self.nodes if node.name == name)

    def stop(self) -> None:
        """End every process that is left."""
        for node in self.nodes:
            if node.pid is not None:
                os.kill(node.pid, signal.SIGCONT)
                os.kill(node.pid, signal.SIGTERM)
        for node in self.nodes:
            node.terminate(5.0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
