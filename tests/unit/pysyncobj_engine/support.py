"""Small things that the tests of this engine share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from lockd.raft.core.types import Member, ReplicaId
from lockd.raft.pysyncobj_engine import Settings
from lockd.raft.pysyncobj_engine.wire import Body
from tests.e2e.engine_port.harness import free_ports

T = TypeVar("T")
A, B, C = ReplicaId("a"), ReplicaId("b"), ReplicaId("c")


def settings(me: ReplicaId = A, size: int = 3, data_dir: Path | None = None, **changes: Any) -> Settings:
    """Settings of one of `size` replicas on loopback ports."""
    ports = changes.pop("ports", None) or free_ports(size)
    names = (A, B, C)[:size]
    members = tuple(Member(name, f"127.0.0.1:{port}", "127.0.0.1:1") for name, port in zip(names, ports, strict=True))
    listen = next(member.peer_address for member in members if member.id == me)
    return Settings(me, "cluster", data_dir, listen, members, **changes)


class ManualExecutor(Executor):
    """Runs nothing until `run` is called: a disk that takes its time."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Put the job aside."""
        future: Future[T] = Future()
        self.jobs.append((future, lambda: fn(*args, **kwargs)))
        return future

    def run(self) -> None:
        """Run the oldest job."""
        future, job = self.jobs.pop(0)
        try:
            future.set_result(job())
        except Exception as error:
            future.set_exception(error)


class RecordedPeers:
    """In the place of the connections: remembers what was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[ReplicaId, int, Body]] = []

    async def start(self) -> None:
        """Nothing to open."""

    async def stop(self) -> None:
        """Nothing to close."""

    def disconnect(self) -> None:
        """Nothing to close."""

    def send(self, peer: ReplicaId, term: int, body: Body) -> bool:
        """Remember it."""
        self.sent.append((peer, term, body))
        return True

    def take(self) -> list[tuple[ReplicaId, int, Body]]:
        """What was sent since the last call."""
        sent, self.sent = self.sent, []
        return sent


class Bytes:
    """A snapshot writer of fixed bytes."""

    def __init__(self, state: bytes) -> None:
        self._state = state

    def write(self, sink: BinaryIO) -> None:
        """All at once."""
        sink.write(self._state)
