"""The composition root: the only place where the parts meet.

A node is an engine (the log), a replica (the machine behind it) and a gRPC server (the way in), on one event loop.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, Self

import grpc
from grpc_health.v1 import _async as health_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ledger.v1 import ledger_pb2
from lockd.clock import LoopClock
from lockd.config import ConfigError, NodeConfig, TlsFiles
from lockd.ops import logs
from lockd.ops.metrics import Metrics
from lockd.raft.core.config import Config
from lockd.raft.driver_io import DriverConfig
from lockd.raft.engine import EngineConfig, RaftEngine
from lockd.raft.port import Engine, Member, ReplicaId, Role
from lockd.raft.transport_tls import TlsConfig
from lockd.replica import Replica
from lockd.rpc.cluster import ClusterService, NodeFacts
from lockd.rpc.gateway import Gateway
from lockd.rpc.handlers import serve
from lockd.rpc.ledger import LedgerService
from lockd.rpc.lock import LockService
from lockd.rpc.reads import Reads
from lockd.rpc.row import RowService
from lockd.rpc.session import SessionService
from lockd.rpc.watch import WatchService
from lockd.v1 import cluster_pb2, lock_pb2, row_pb2, session_pb2, watch_pb2
from lockd.watch.encode import encode
from lockd.watch.facts import weigh
from lockd.watch.hub import Hub

MESSAGE_BYTES_MAX = 8 << 20
_STOP_GRACE = 0.2

_DESCRIPTORS = {
    name: module.DESCRIPTOR.services_by_name[name]
    for module, name in (
        (session_pb2, "SessionService"),
        (lock_pb2, "LockService"),
        (row_pb2, "RowService"),
        (cluster_pb2, "ClusterService"),
        (ledger_pb2, "LedgerService"),
        (watch_pb2, "WatchService"),
    )
}
_SERVICES = tuple(descriptor.full_name for descriptor in _DESCRIPTORS.values())


class WatchedReplica(Replica):
    """A replica whose events go to a hub. A snapshot replaces the state without its events: watchers must hear that."""

    def __init__(self, clock: LoopClock, hub: Hub) -> None:
        super().__init__(clock)
        self._hub = hub
        self.on_events = lambda index, _, events: hub.append(index, self.machine.log_time, events)

    def restore(self, source: BinaryIO, index: int) -> None:
        """Replace the machine by the snapshot's."""
        super().restore(source, index)
        self._hub.restart(index)


class Node:
    """One running lockd node. `async with Node(config) as node:` serves until the block ends; `wait()` until the node stops by itself."""

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.hub = Hub(encode, weigh)
        self.replica = WatchedReplica(LoopClock(), self.hub)
        self.engine = _make_engine(config, self.replica, self._failed)
        self.replica.attach(self.engine)
        self.replica.on_role = self._role_changed
        self.address = config.advertise or config.listen
        self._stopped: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._log = logs.get()
        credentials = _channel_credentials(config.tls)
        self.gateway = Gateway(self.replica, self.engine, credentials)
        reads = Reads(self.gateway)
        self._sessions = SessionService(self.gateway, reads)
        self.metrics = Metrics(self.engine, self.replica, self._sessions)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ]
        )
        self._health = health_aio.HealthServicer()
        self._add_services(reads)

    def _add_services(self, reads: Reads) -> None:
        server = self._server
        facts = NodeFacts(
            cluster_id=self.config.cluster,
            version=importlib.metadata.version("lockd"),
            data_directory=str(self.config.data.resolve()) if self.config.data is not None else "",
        )
        server.add_generic_rpc_handlers(
            (
                self._sessions.handlers(),
                serve(_DESCRIPTORS["LockService"], LockService(self.gateway, reads)),
                serve(_DESCRIPTORS["RowService"], RowService(self.gateway, reads)),
                serve(_DESCRIPTORS["LedgerService"], LedgerService(self.gateway)),
                WatchService(self.gateway, self.hub).handlers(),
                ClusterService(self.gateway, facts).handlers(),
            )
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (*_SERVICES, reflection.SERVICE_NAME, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name), server
        )

    async def start(self) -> None:
        """Bind the client port, recover, and join the cluster. Raises on a port in use, or on a damaged or foreign data directory."""
        config = self.config
        try:
            if config.tls is None:
                self._server.add_insecure_port(config.listen)
            else:
                self._server.add_secure_port(config.listen, _server_credentials(config.tls))
        except RuntimeError as error:
            raise ConfigError(f"cannot listen on {config.listen}: {error}") from error
        await self.engine.start()
        await self._server.start()
        self.metrics.serve(config.metrics_listen)
        await self._set_health(serving=True)
        # What recovery built lives as long as the process: keep the collector from walking it again and again.
        gc.collect()
        gc.freeze()
        self._log.info(
            "serving", address=self.address, engine=config.engine, data=str(config.data), version=importlib.metadata.version("lockd")
        )

    async def _set_health(self, *, serving: bool) -> None:
        state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *_SERVICES):
            await self._health.set(service, state)

    async def stop(self) -> None:
        """Stop cleanly: hand leadership over if that is quick, answer what is known, close the log."""
        await self._set_health(serving=False)
        self._sessions.end_reign(self.replica)
        await self._server.stop(_STOP_GRACE)
        await self.gateway.close()
        await self.engine.stop()
        self.metrics.close()
        if not self._stopped.done():
            self._stopped.set_result(None)
        self._log.info("stopped")

    async def wait(self) -> str | None:
        """Wait until the node stops: None after `stop`, else why it failed."""
        return await asyncio.shield(self._stopped)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    def _role_changed(self, role: Role, term: int, leader: Member | None) -> None:
        self._log.info("role_changed", role=role.value, term=term, leader=leader.id if leader else None, index=self.replica.applied_index)
        if role is not Role.LEADER:
            self._sessions.end_reign(self.replica)

    def _failed(self, reason: str) -> None:
        """The engine stopped for good: nothing is acknowledged any more."""
        self._log.error("node_failed", reason=reason, index=self.replica.applied_index)
        self._sessions.end_reign(self.replica)
        if not self._stopped.done():
            self._stopped.set_result(reason)


def _make_engine(config: NodeConfig, replica: Replica, on_failed: Callable[[str], None]) -> Engine:
    """The log that the configuration asks for."""
    members = _members(config)
    if config.engine == "pysyncobj":
        return _pysyncobj(config, members, replica, on_failed)
    milliseconds = 1_000_000
    settings = EngineConfig(
        id=ReplicaId(config.id),
        cluster_id=config.cluster,
        data_dir=config.data,
        listen=config.peer_listen,
        advertise=config.peer_advertise or config.peer_listen,
        client_address=config.advertise or config.listen,
        members=members,
        join=config.join,
        learner=config.learner,
        tls=_peer_tls(config.peer_tls),
        core=Config(
            election_timeout_min=config.election_timeout_ms * milliseconds,
            election_timeout_max=2 * config.election_timeout_ms * milliseconds,
            heartbeat=config.heartbeat_ms * milliseconds,
        ),
        driver=DriverConfig(snapshot_log_bytes=config.snapshot_log_bytes, keep_log_bytes=config.keep_log_bytes),
    )
    return RaftEngine(settings, replica, on_failed)


def _pysyncobj(config: NodeConfig, members: tuple[Member, ...], replica: Replica, on_failed: Callable[[str], None]) -> Engine:
    """The control of the tests, an optional package."""
    try:
        from lockd.raft.pysyncobj_engine import PySyncObjEngine, Settings, Tls
    except ImportError as error:
        raise ConfigError(f'engine = "pysyncobj" needs its package: pip install "lockd[pysyncobj]" ({error})') from error
    if config.join:
        raise ConfigError('engine = "pysyncobj" cannot join a running cluster: its members are fixed')
    tls = config.peer_tls
    settings = Settings(
        id=ReplicaId(config.id),
        cluster_id=config.cluster,
        data_dir=config.data,
        listen=config.peer_listen,
        members=members,
        tls=Tls(tls.ca, tls.cert, tls.key) if tls is not None else None,
        insecure_network=config.allow_insecure_network,
        election_min=config.election_timeout_ms / 1e3,
        election_max=2 * config.election_timeout_ms / 1e3,
        heartbeat=config.heartbeat_ms / 1e3,
    )
    return PySyncObjEngine(
        settings, replica, warn=lambda text: logs.get().warning("engine", engine="pysyncobj", text=text), on_failed=on_failed
    )


def _members(config: NodeConfig) -> tuple[Member, ...]:
    """The first members; a node without any, that joins none, is a cluster of one."""
    if config.members:
        return tuple(Member(ReplicaId(m.id), m.peer, m.client) for m in config.members)
    if config.join:
        return ()
    return (Member(ReplicaId(config.id), config.peer_advertise or config.peer_listen, config.advertise or config.listen),)


def _peer_tls(files: TlsFiles | None) -> TlsConfig | None:
    return TlsConfig(files.ca.read_bytes(), files.cert.read_bytes(), files.key.read_bytes()) if files is not None else None


def _channel_credentials(tls: TlsFiles | None) -> grpc.ChannelCredentials | None:
    if tls is None:
        return None
    return grpc.ssl_channel_credentials(tls.ca.read_bytes(), tls.key.read_bytes(), tls.cert.read_bytes())


def _server_credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials([(tls.key.read_bytes(), tls.cert.read_bytes())], tls.ca.read_bytes(), require_client_auth=True)
