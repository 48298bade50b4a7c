"""Peers over gRPC: one stream per peer and direction, snapshots and the request to join, all of raw bytes (`lockd.raft.envelope`).

Identity: with TLS a peer's certificate must name the member id that its frames claim; without TLS only loopback addresses are served.
Whether a named peer may speak at all is the handler's decision (`TransportHandler.admits`). Whatever is malformed ends its connection and
is counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import grpc
import grpc.aio

from lockd.raft.core.types import InstallSnapshot, Member, Message, ReplicaId
from lockd.raft.envelope import (
    MAX_FRAME,
    JoinReply,
    JoinRequest,
    Preamble,
    decode_join_reply,
    decode_join_request,
    decode_messages,
    decode_preamble,
    encode_join_reply,
    encode_join_request,
    encode_message,
    encode_preamble,
)
from lockd.raft.journal_format import JournalError
from lockd.raft.snapshots import SnapshotReceiver
from lockd.raft.transport_peer import JOIN_METHOD, SNAPSHOT_METHOD, OutgoingPeer
from lockd.raft.transport_tls import TlsConfig, check_loopback, host_of, identities

__all__ = ["TlsConfig", "Transport", "TransportHandler"]

_log = logging.getLogger(__name__)

_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_FRAME),
    ("grpc.max_send_message_length", MAX_FRAME),
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
_SERVER_OPTIONS = [
    *_OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
]
_CHANNEL_OPTIONS = [
    *_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
]


class TransportHandler(Protocol):
    """Whom a transport works for. Everything is called on the loop's thread."""

    def admits(self, peer: ReplicaId) -> bool:
        """Whether messages of this peer are wanted now."""

    def received(self, messages: Sequence[Message]) -> None:
        """Messages of one peer, whose identity was checked."""

    def unreachable(self, peer: ReplicaId) -> None:
        """Messages to this peer were dropped."""

    def begin_snapshot(self, message: InstallSnapshot) -> SnapshotReceiver:
        """A leader wants to stream this snapshot here. Raises OSError."""

    async def join(self, request: JoinRequest) -> JoinReply:
        """A replica asks to become a member. Raises nothing."""


class _Incoming:
    """One open stream of a peer."""

    __slots__ = ("epoch",)

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch


class Transport:
    """Listens to peers, and keeps a connection to each."""

    def __init__(
        self, cluster_id: str, me: ReplicaId, listen: str, advertise: str, tls: TlsConfig | None, handler: TransportHandler
    ) -> None:
        """Nothing is opened before `start`. Raises ValueError for an address that is not loopback, without TLS."""
        if tls is None:
            check_loopback(listen)
        self.malformed = 0
        """Connections that were ended because of what came over them."""
        self.received_frames = 0
        self.received_bytes = 0
        self._cluster_id = cluster_id
        self._me = me
        self._listen = listen
        self._advertise = advertise
        self._tls = tls
        self._handler = handler
        self._peers: dict[ReplicaId, OutgoingPeer] = {}
        self._learned: dict[ReplicaId, str] = {}
        self._members: dict[ReplicaId, str] = {}
        self._incoming: dict[ReplicaId, _Incoming] = {}
        self._snapshot: object | None = None
        self._server: grpc.aio.Server | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self.port = 0

    # --- life ----------------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen. Raises OSError if the address cannot be had."""
        server = grpc.aio.server(options=_SERVER_OPTIONS)
        handlers = {
            "Stream": grpc.stream_unary_rpc_method_handler(self._on_stream),
            "Snapshot": grpc.stream_unary_rpc_method_handler(self._on_snapshot),
            "Join": grpc.unary_unary_rpc_method_handler(self._on_join),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("lockd.raft.v1.Peer", handlers),))
        try:
            if self._tls is None:
                self.port = server.add_insecure_port(self._listen)
            else:
                self.port = server.add_secure_port(self._listen, self._tls.server())
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._listen}: {error}") from error
        if self.port == 0:
            raise OSError(f"cannot listen on {self._listen}")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Close everything at once. Idempotent."""
        peers, self._peers = list(self._peers.values()), {}
        for peer in peers:
            await peer.close()
        for task in list(self._closing):
            await task
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    # --- sending -------------------------------------------------------------------------------------------------------------------

    def set_members(self, members: Sequence[Member]) -> None:
        """Connect to all of these but ourselves, and part from everyone else."""
        self._members = {member.id: member.peer_address for member in members if member.id != self._me}
        for peer in list(self._peers):
            if peer not in self._members:
                self._part(peer)
        for peer, address in self._members.items():
            self._connect(peer, address)
        for peer in list(self._incoming):
            if not self._handler.admits(peer):
                del self._incoming[peer]

    def send(self, messages: Sequence[Message]) -> None:
        """Queue messages, each for whom it names; what cannot be sent is dropped and reported."""
        peers = self._peers
        for message in messages:
            peer = peers.get(message.to)
            if peer is None and message.to in self._learned:
                peer = self._connect(message.to, self._learned[message.to])
            if peer is not None:
                peer.send(message)

    def check_address(self, address: str) -> None:
        """Whether peers can be reached there at all. Raises ValueError with the reason."""
        if self._tls is None:
            check_loopback(address)
        else:
            host_of(address)

    def _connect(self, peer: ReplicaId, address: str) -> OutgoingPeer | None:
        known = self._peers.get(peer)
        if known is not None:
            if known.address == address:
                return known
            self._part(peer)
        try:
            self.check_address(address)
        except ValueError as error:
            # It may stand in a membership that was agreed on before: that is no reason for this replica to fail.
            _log.error("no connection to %s: %s", peer, error)
            return None
        made = OutgoingPeer(self._preamble_to(peer), peer, address, self._channel, self._handler.unreachable)
        self._peers[peer] = made
        return made

    def _part(self, peer: ReplicaId) -> None:
        task = asyncio.get_running_loop().create_task(self._peers.pop(peer).close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _preamble_to(self, peer: ReplicaId) -> Any:
        return lambda epoch: Preamble(epoch, self._cluster_id, self._me, peer, self._advertise)

    def _channel(self, peer: ReplicaId | None, address: str) -> grpc.aio.Channel:
        if self._tls is None:
            check_loopback(address)
            return grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        options = _CHANNEL_OPTIONS if peer is None else [*_CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", peer)]
        return grpc.aio.secure_channel(address, self._tls.client(), options=options)

    async def send_snapshot(self, message: InstallSnapshot, pieces: Iterator[bytes]) -> bool:
        """Stream a snapshot file; True once it is durable there. Reads `pieces` in a worker thread."""
        peer = self._peers.get(message.to)
        if peer is None:
            return False
        loop = asyncio.get_running_loop()
        head = [encode_preamble(self._preamble_to(message.to)(0))]
        encode_message(message, head)
        channel: Any = peer.channel()
        call = channel.stream_unary(SNAPSHOT_METHOD)()
        try:
            await call.write(b"".join(head))
            while (piece := await loop.run_in_executor(None, next, pieces, None)) is not None:
                await call.write(piece)
            await call.done_writing()
            answer: bytes = await call
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError, OSError):
            return False
        finally:
            call.cancel()
        return answer == b"ok"

    async def ask_to_join(self, address: str, peer: ReplicaId | None, request: JoinRequest, timeout: float) -> JoinReply:
        """Ask the member at `address`, with TLS proven to be `peer`. Raises OSError if it does not answer, or not in a known way."""
        channel: Any = self._channel(peer, address)
        try:
            raw = await channel.unary_unary(JOIN_METHOD)(encode_join_request(request), timeout=timeout)
            return decode_join_reply(raw)
        except (grpc.aio.AioRpcError, ValueError) as error:
            detail = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            raise OSError(f"{address} did not let us join: {detail}") from error
        finally:
            await channel.close(None)

    # --- receiving -----------------------------------------------------------------------------------------------------------------

    async def _refuse(self, context: Any, code: grpc.StatusCode, reason: str) -> None:
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            self.malformed += 1
        await context.abort(code, reason)

    async def _identify(self, context: Any, raw: bytes) -> tuple[Preamble, int]:
        """Who sends this; ends the connection if it is not someone whose messages are wanted."""
        try:
            preamble, at = decode_preamble(raw)
        except ValueError as error:
            await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise
        if preamble.cluster_id != self._cluster_id or preamble.to != self._me:
            where = f"cluster {self._cluster_id!r}, member {self._me!r}"
            await self._refuse(context, grpc.StatusCode.FAILED_PRECONDITION, f"this is {where}")
        if not self._proven(context, preamble.sender):
            await self._refuse(context, grpc.StatusCode.UNAUTHENTICATED, f"the certificate does not name {preamble.sender!r}")
        if not self._handler.admits(preamble.sender):
            await self._refuse(context, grpc.StatusCode.PERMISSION_DENIED, f"{preamble.sender!r} is not a member")
        if preamble.sender not in self._members:
            self._learned[preamble.sender] = preamble.address
        return preamble, at

    def _proven(self, context: Any, claimed: ReplicaId) -> bool:
        return self._tls is None or claimed in identities(context.auth_context())

    async def _on_stream(self, _: object, context: Any) -> bytes:
        raw = await context.read()
        if raw is _EOF:
            return b""
        preamble, at = await self._identify(context, raw)
        sender, me = preamble.sender, self._me
        older = self._incoming.get(sender)
        if older is not None and older.epoch > preamble.epoch:
            context.set_trailing_metadata((("lockd-epoch", str(older.epoch)),))
            await self._refuse(context, grpc.StatusCode.ABORTED, "a newer connection of this member is open")
        own = self._incoming[sender] = _Incoming(preamble.epoch)
        head = raw[:at]
        try:
            await context.send_initial_metadata(())
            while self._incoming.get(sender) is own:
                if len(raw) > at:
                    if not raw.startswith(head):
                        raise ValueError("a frame of another connection")  # noqa: TRY301 - one way out for all that is malformed
                    messages = decode_messages(raw, at, sender, me)
                    self.received_frames += 1
                    self.received_bytes += len(raw)
                    self._handler.received(messages)
                raw = await context.read()
                if raw is _EOF:
                    return b""
        except ValueError as error:
            await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            if self._incoming.get(sender) is own:
                del self._incoming[sender]
        await context.abort(grpc.StatusCode.ABORTED, "this connection was superseded, or its member removed")
        return b""

    async def _on_snapshot(self, _: object, context: Any) -> bytes:
        raw = await context.read()
        if raw is _EOF:
            return b""
        preamble, at = await self._identify(context, raw)
        try:
            messages = decode_messages(raw, at, preamble.sender, self._me)
        except ValueError as error:
            await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise
        message = messages[0] if len(messages) == 1 else None
        if not isinstance(message, InstallSnapshot):
            await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "not the head of a snapshot")
            return b""
        token = self._snapshot = object()
        loop = asyncio.get_running_loop()
        receiver: SnapshotReceiver | None = None
        try:
            receiver = self._handler.begin_snapshot(message)
            while (piece := await context.read()) is not _EOF:
                if self._snapshot is not token:
                    return b"superseded"
                await loop.run_in_executor(None, receiver.write, piece)
            await loop.run_in_executor(None, receiver.finish)
            receiver = None
        except (ValueError, JournalError) as error:
            await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except OSError as error:
            await self._refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        finally:
            if receiver is not None:
                loop.run_in_executor(None, receiver.abandon)
        self._handler.received(messages)
        return b"ok"

    async def _on_join(self, raw: bytes, context: Any) -> bytes:
        try:
            request = decode_join_request(raw)
        except ValueError as error:
            await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise
        if request.cluster_id != self._cluster_id:
            await self._refuse(context, grpc.StatusCode.FAILED_PRECONDITION, f"this is cluster {self._cluster_id!r}")
        if not self._proven(context, request.member.id):
            await self._refuse(context, grpc.StatusCode.UNAUTHENTICATED, f"the certificate does not name {request.member.id!r}")
        return encode_join_reply(await self._handler.join(request))

    # --- counters ------------------------------------------------------------------------------------------------------------------

    def counters(self) -> dict[str, float]:
        """Totals over all peers."""
        peers = self._peers.values()
        return {
            "peers_connected": sum(peer.connected for peer in peers),
            "peer_messages_dropped": sum(peer.dropped for peer in peers),
            "peer_frames_sent": sum(peer.sent_frames for peer in peers),
            "peer_bytes_sent": sum(peer.sent_bytes for peer in peers),
            "peer_frames_received": self.received_frames,
            "peer_bytes_received": self.received_bytes,
            "peer_connections_malformed": self.malformed,
        }
