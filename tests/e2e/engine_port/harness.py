"""Clusters of engines in one process, on loopback ports and real directories, for the tests of the port."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

import msgspec

from lockd.raft.core.config import MILLISECOND, Config
from lockd.raft.engine import RaftEngine
from lockd.raft.engine_config import EngineConfig
from lockd.raft.port import Committed, Engine, Member, NotLeaderError, OverloadedError, ReplicaId, Role, SnapshotWriter, StateMachine
from lockd.raft.pysyncobj_engine import PySyncObjEngine

WITHIN = 20.0
"""Seconds in which what must happen has happened, on a busy machine. Every wait is for a condition and bounded by this."""

T = TypeVar("T")
Factory = Callable[[EngineConfig, StateMachine], Engine]


def core_engine(config: EngineConfig, machine: StateMachine) -> Engine:
    """Our own engine."""
    return RaftEngine(config, machine)


def pysyncobj_engine(config: EngineConfig, machine: StateMachine) -> Engine:
    """The control."""
    return PySyncObjEngine(config, machine, warn=lambda _: None)


FACTORIES: dict[str, Factory] = {"pysyncobj": pysyncobj_engine, "core": core_engine}


class _Rows:
    """Writes what a journal machine held."""

    def __init__(self, rows: list[tuple[int, int, bytes]]) -> None:
        self._rows = rows

    def write(self, sink: BinaryIO) -> None:
        """All of it at once."""
        sink.write(msgspec.msgpack.encode(self._rows))


class JournalMachine:
    """A state machine that remembers every entry, and everything that an engine tells it."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, bytes]] = []
        """(index, term, data), restored or applied."""
        self.applied_here = 0
        self.restored: list[int] = []
        self.tickets: dict[int, int] = {}
        """Ticket -> index, of what came back."""
        self.abandoned_tickets: list[int] = []
        self.roles: list[tuple[Role, int, ReplicaId | None]] = []
        self.rows_at_reign: list[int] = []
        """How many rows were applied each time the engine said LEADER."""
        self.leading = False

    @property
    def data(self) -> list[bytes]:
        """The payloads, in order."""
        return [data for _, _, data in self.rows]

    def apply(self, entries: Sequence[Committed]) -> None:
        """Remember them; their indexes must rise."""
        for entry in entries:
            if self.rows and entry.index <= self.rows[-1][0]:
                raise AssertionError(f"entry {entry.index} was applied after entry {self.rows[-1][0]}")
            self.rows.append((entry.index, entry.term, entry.data))
            if entry.ticket is not None:
                self.tickets[entry.ticket] = entry.index
        self.applied_here += len(entries)

    def abandoned(self, tickets: Sequence[int]) -> None:
        """Remember them."""
        self.abandoned_tickets += tickets

    def role_changed(self, role: Role, term: int, leader: Member | None) -> None:
        """Remember it."""
        self.roles.append((role, term, leader.id if leader is not None else None))
        if role is Role.LEADER and not self.leading:
            self.rows_at_reign.append(len(self.rows))
        self.leading = role is Role.LEADER

    def snapshot_writer(self) -> SnapshotWriter:
        """A copy of the rows."""
        return _Rows(list(self.rows))

    def restore(self, source: BinaryIO, index: int) -> None:
        """Take the rows of a snapshot; nothing at all is the state before the first entry."""
        raw = source.read()
        self.rows = msgspec.msgpack.decode(raw, type=list[tuple[int, int, bytes]]) if raw else []
        self.restored.append(index)


@dataclass(slots=True)
class Replica:
    """One engine and its machine."""

    config: EngineConfig
    machine: JournalMachine
    engine: Engine
    running: bool = False

    @property
    def id(self) -> ReplicaId:
        """Its name."""
        return self.config.id

    @property
    def leads(self) -> bool:
        """Whether it says that it leads."""
        return self.running and self.engine.status().role is Role.LEADER


@dataclass
class Cluster:
    """Some replicas, by name."""

    factory: Factory
    directory: Path
    size: int
    cluster_id: str = "port"
    replicas: dict[ReplicaId, Replica] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Choose names and ports; nothing runs yet."""
        ports = free_ports(self.size)
        self.members = tuple(Member(ReplicaId(f"r{n}"), f"127.0.0.1:{port}", f"127.0.0.1:{n}") for n, port in enumerate(ports, 1))

    def config(self, replica: ReplicaId) -> EngineConfig:
        """How this replica is set up."""
        member = next(member for member in self.members if member.id == replica)
        return EngineConfig(
            id=replica,
            cluster_id=self.cluster_id,
            data_dir=self.directory / replica,
            listen=member.peer_address,
            members=self.members,
            core=Config(election_timeout_min=300 * MILLISECOND, election_timeout_max=600 * MILLISECOND, heartbeat=50 * MILLISECOND),
        )

    def build(self, replica: ReplicaId) -> Replica:
        """A fresh engine and machine over the replica's directory, as after a restart of its process; not started."""
        config = self.config(replica)
        machine = JournalMachine()
        built = self.replicas[replica] = Replica(config, machine, self.factory(config, machine))
        return built

    async def start(self, *names: ReplicaId) -> None:
        """Start these replicas, or all."""
        for name in names or [member.id for member in self.members]:
            replica = self.build(name)
            await replica.engine.start()
            replica.running = True

    async def stop(self, *names: ReplicaId) -> None:
        """Stop these replicas, or all that run."""
        for name in names or list(self.replicas):
            replica = self.replicas[name]
            replica.running = False
            await replica.engine.stop()

    async def __aenter__(self) -> Self:
        """Start all."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop what runs."""
        await self.stop()

    @property
    def running(self) -> list[Replica]:
        """Those that run."""
        return [replica for replica in self.replicas.values() if replica.running]

    async def leader(self) -> Replica:
        """The replica that leads, once one does and all that run agree."""

        def agreed() -> Replica | None:
            leaders = [replica for replica in self.running if replica.leads]
            if len(leaders) != 1:
                return None
            agree = all((seen := replica.engine.leader()) is not None and seen.id == leaders[0].id for replica in self.running)
            return leaders[0] if agree else None

        return await until(agreed, "one leader that all agree on")

    async def followers(self) -> list[Replica]:
        """Those that run and do not lead."""
        leader = await self.leader()
        return [replica for replica in self.running if replica is not leader]

    async def commit(self, data: bytes) -> int:
        """Have `data` applied at whichever replica leads; proposed again only if it was refused. Returns its index."""
        replica, ticket = await self.propose(data)

        def outcome() -> int | None:
            if ticket in replica.machine.abandoned_tickets:
                raise AssertionError(f"the outcome of {data[:40]!r} is unknown: leadership was lost")
            return replica.machine.tickets.get(ticket)

        return await until(outcome, f"{data[:40]!r} to be applied")

    async def propose(self, data: bytes) -> tuple[Replica, int]:
        """Propose at whichever replica leads; returns it and the ticket."""
        deadline = time.monotonic() + WITHIN
        while time.monotonic() < deadline:
            replica = await self.leader()
            try:
                return replica, replica.engine.propose(data)
            except (NotLeaderError, OverloadedError):
                await asyncio.sleep(0.005)
        raise AssertionError("no leader took a proposal in time")

    async def applied_everywhere(self, data: Sequence[bytes]) -> None:
        """Wait until every replica that runs has applied exactly this."""
        expected = list(data)
        await until(
            lambda: all(replica.machine.data == expected for replica in self.running) or None, f"{len(expected)} entries everywhere"
        )


async def until(found: Callable[[], T | None], what: str, within: float = WITHIN) -> T:
    """What `found` returns, as soon as that is not None."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if (result := found()) is not None:
            return result
        await asyncio.sleep(0.005)
    raise AssertionError(f"waited {within} s in vain for {what}")


def free_ports(count: int) -> list[int]:
    """Ports on which nothing listens at this moment.

    They lie below those that the system gives to outgoing connections: a replica that dials a peer before that listens would sometimes
    be given the peer's own port otherwise.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found
