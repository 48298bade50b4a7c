"""Engines of one cluster in one process, over loopback, with a state machine that appends."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

from lockd.raft.core.config import MILLISECOND, Config
from lockd.raft.core.types import Member, ReplicaId, Role
from lockd.raft.driver_io import DriverConfig
from lockd.raft.engine import EngineConfig, RaftEngine
from lockd.raft.port import Committed, NotLeaderError


class Appender:
    """Keeps what was applied, in order; results are told by ticket."""

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.index = 0
        self.roles: list[tuple[Role, int]] = []
        self.led: list[int] = []
        """How many items there were each time it was told that it leads."""
        self.restored = 0
        self.outcomes: dict[int, asyncio.Future[int | None]] = {}

    def apply(self, entries: Sequence[Committed]) -> None:
        """Append."""
        for entry in entries:
            assert entry.index > self.index
            self.index = entry.index
            self.items.append(entry.data)
            if entry.ticket is not None and entry.ticket in self.outcomes:
                self.outcomes.pop(entry.ticket).set_result(entry.index)

    def abandoned(self, tickets: Sequence[int]) -> None:
        """Their outcome is unknown."""
        for ticket in tickets:
            if ticket in self.outcomes:
                self.outcomes.pop(ticket).set_result(None)

    def role_changed(self, role: Role, term: int, leader: Member | None) -> None:
        """Remember."""
        self.roles.append((role, term))
        if role is Role.LEADER:
            self.led.append(len(self.items))

    def snapshot_writer(self) -> ItemsWriter:
        """All items."""
        return ItemsWriter(list(self.items))

    def restore(self, source: BinaryIO, index: int) -> None:
        """Read them back."""
        items = []
        while head := source.read(4):
            (length,) = struct.unpack("<I", head)
            items.append(source.read(length))
        self.items = items
        self.index = index
        self.restored += 1


class ItemsWriter:
    """Writes items, each with its length."""

    def __init__(self, items: list[bytes]) -> None:
        self.items = items

    def write(self, sink: BinaryIO) -> None:
        """Write them."""
        sink.writelines(struct.pack("<I", len(item)) + item for item in self.items)


def free_ports(n: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


async def until(condition: Callable[[], object], what: str, timeout: float = 20.0) -> None:
    """Wait until `condition` holds; fails, and says what was waited for, if it does not in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"in vain waited {timeout} s until {what}")
        await asyncio.sleep(0.005)


class Cluster:
    """Engines by id. The machines outlive their engines, for the checks."""

    def __init__(self, directory: Path | None, ids: str = "abc", spare: str = "de", **options: object) -> None:
        self.directory = directory
        names = [ReplicaId(each) for each in ids + spare]
        self.addresses = dict(zip(names, [f"127.0.0.1:{port}" for port in free_ports(len(names))], strict=True))
        self.members = tuple(Member(name, self.addresses[name], f"{name}:client") for name in names[: len(ids)])
        self.options = options
        self.engines: dict[ReplicaId, RaftEngine] = {}
        self.machines: dict[ReplicaId, Appender] = {}
        self.failures: dict[ReplicaId, str] = {}

    def config(self, name: ReplicaId, **more: object) -> EngineConfig:
        """The configuration of one replica."""
        values: dict[str, Any] = {"members": self.members, "segment_bytes": 1 << 20, "core": PATIENT, **self.options, **more}
        return EngineConfig(name, "test", self.directory / name if self.directory else None, self.addresses[name], **values)

    async def start(self, *names: str, **more: object) -> None:
        """Start these, or all members."""
        for name in [ReplicaId(each) for each in names] or [member.id for member in self.members]:
            machine = self.machines[name] = Appender()
            engine = RaftEngine(self.config(name, **more), machine, lambda reason, name=name: self.failures.update({name: reason}))  # type: ignore[misc]
            await engine.start()
            self.engines[name] = engine

    async def stop(self, *names: str) -> None:
        """Stop these, or all."""
        for name in [ReplicaId(each) for each in names] or list(self.engines):
            await self.engines.pop(name).stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def leading(self) -> ReplicaId | None:
        """Who has been told by its engine that it leads, with all of earlier terms applied."""
        for name in self.engines:
            roles = self.machines[name].roles
            if roles and roles[-1][0] is Role.LEADER:
                return name
        return None

    async def leader(self) -> ReplicaId:
        """Wait for a leader."""
        await until(self.leading, "there is a leader")
        name = self.leading()
        assert name is not None
        return name

    async def commit(self, data: bytes) -> int:
        """Propose through whoever leads, again and again until it is committed; returns the index."""
        while True:
            name = await self.leader()
            try:
                index = await self.propose(name, data)
            except NotLeaderError:
                await asyncio.sleep(0.01)
                continue
            if index is not None:
                return index

    async def propose(self, name: ReplicaId, data: bytes) -> int | None:
        """Propose once; the index, or None if the outcome is unknown."""
        ticket = self.engines[name].propose(data)
        outcome: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self.machines[name].outcomes[ticket] = outcome
        return await asyncio.wait_for(outcome, 20)

    async def alike(self, n: int, *names: str) -> None:
        """Wait until these (or all that run) have applied `n` items, and check that they are the same."""
        everyone = [ReplicaId(each) for each in names] or list(self.engines)
        await until(lambda: all(len(self.machines[each].items) >= n for each in everyone), f"{everyone} have applied {n} items")
        first = self.machines[everyone[0]].items
        for each in everyone:
            assert self.machines[each].items == first


PATIENT = Config(election_timeout_min=400 * MILLISECOND, election_timeout_max=700 * MILLISECOND, heartbeat=50 * MILLISECOND)
"""Several engines share one loop here, and the machine is shared as well: a short standstill must not end a reign."""

SMALL_LOG = DriverConfig(snapshot_log_bytes=20_000, keep_log_bytes=2_000)
