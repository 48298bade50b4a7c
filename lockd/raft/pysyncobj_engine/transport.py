"""Peers over TCP: one connection per pair and direction, length-prefixed frames, a handshake that says who speaks to whom.

A connection carries messages one way only, from the side that opened it. Its first frame is a `Hello`; the answer is one `Welcome`, or
the connection is closed. A newer connection of the same sender ends the older one, and every envelope names the connection it was sent
on, so that nothing of an older connection is delivered after something of a newer one. With TLS both sides show certificates of one
authority, and the name in a certificate must be the replica's id; without TLS only loopback addresses are used
(`lockd.raft.pysyncobj_engine.settings`).

A frame is a length, u32 big-endian, and that many bytes. Everything is called on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import socket
import ssl
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import cast

import msgspec

from lockd.raft.core.types import Member, ReplicaId
from lockd.raft.pysyncobj_engine.settings import Settings, host_and_port
from lockd.raft.pysyncobj_engine.wire import Body, Envelope, WireError, decode, encode

__all__ = ["Link", "Peers"]

MAX_FRAME = 48 << 20
"""An append holds less than two batches of entries (`Settings.append_bytes`)."""
MAX_HELLO = 2048
MAX_WAITING = 64
"""Connections that have not said who they are; more are closed at once."""
HANDSHAKE_SECONDS = 3.0
HIGH_WATER = 4 << 20
"""Bytes queued for a peer beyond which it counts as disconnected until the queue is down to LOW_WATER. The package, which would otherwise
queue all that a peer lacks at once, breaks off then."""
LOW_WATER = 1 << 20
RETRY_SECONDS = (0.02, 0.2)
UNACKNOWLEDGED_MS = 5000
"""A connection on which nothing is acknowledged for so long is given up."""
_COUNTER_BITS = 24
_log = logging.getLogger("lockd.raft.pysyncobj")


class Link(Enum):
    """What became of the way to a peer."""

    NEW = "a new connection"
    RESUMED = "its queue is short again"
    DOWN = "it is closed, or its queue is too long"


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="lockd-pysyncobj/1", forbid_unknown_fields=True):
    """The first frame: in which cluster, from whom, to whom, and the number of this connection."""

    cluster_id: str
    sender: str
    to: str
    epoch: int


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome", forbid_unknown_fields=True):
    """The answer: this connection is `sender`'s current one."""

    epoch: int


_pack = msgspec.msgpack.Encoder().encode
_hello = msgspec.msgpack.Decoder(Hello)
_welcome = msgspec.msgpack.Decoder(Welcome)


class _Frames(asyncio.Protocol):
    """Cuts a stream into frames. Subclasses say what a frame means; a WireError from them closes the connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._limit = MAX_HELLO
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set up the socket."""
        self._transport = cast("asyncio.Transport", transport)
        found = transport.get_extra_info("socket")
        if found is not None:
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)

    def data_received(self, data: bytes) -> None:
        """Hand on every frame that is complete."""
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= 4 and self._transport is not None:
                size = int.from_bytes(buffer[at : at + 4], "big")
                if size > self._limit:
                    self._refuse(f"a frame of {size} bytes; the limit is {self._limit}")
                    return
                if len(buffer) - at - 4 < size:
                    break
                with memoryview(buffer) as view:
                    frame = bytes(view[at + 4 : at + 4 + size])
                at += 4 + size
                self._frame(frame)
        except (WireError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._refuse(str(error))
            return
        del buffer[:at]

    def _frame(self, frame: bytes) -> None:
        raise NotImplementedError

    def _refuse(self, reason: str) -> None:
        _log.warning("closing a connection between replicas: %s", reason)
        self.close()

    def close(self) -> None:
        """Close at once, and hand on nothing more. Idempotent."""
        transport, self._transport = self._transport, None
        self._buffer.clear()
        if transport is not None:
            transport.abort()

    def _check_name(self, name: str) -> None:
        """With TLS, the other side's certificate must carry this name."""
        if self._transport is None or self._transport.get_extra_info("ssl_object") is None:
            return
        certificate = self._transport.get_extra_info("peercert") or {}
        names = [value for _, value in certificate.get("subjectAltName", ())]
        names += [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
        if name not in names:
            raise WireError(f"the certificate is for {names}, not for {name!r}")


class _Incoming(_Frames):
    """A connection that a peer opened."""

    def __init__(self, peers: Peers) -> None:
        super().__init__()
        self._peers = peers
        self._deadline: asyncio.TimerHandle | None = None
        self.sender: ReplicaId | None = None
        self.epoch = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the hello, not for long."""
        super().connection_made(transport)
        if not self._peers.waits(self):
            self.close()
            return
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, self._refuse, "no hello in time")

    def _frame(self, frame: bytes) -> None:
        if self.sender is not None:
            envelope = decode(frame)
            if envelope.cluster_id != self._peers.cluster_id or envelope.sender != self.sender or envelope.epoch != self.epoch:
                raise WireError(f"an envelope of {envelope.sender!r}, connection {envelope.epoch}, on {self.sender!r}'s {self.epoch}")
            self._peers.on_message(self.sender, envelope.term, envelope.body)
            return
        hello = _hello.decode(frame)
        self._check_name(hello.sender)
        self.sender, self.epoch = self._peers.admit(self, hello), hello.epoch
        self._limit = MAX_FRAME
        if self._deadline is not None:
            self._deadline.cancel()
        if self._transport is not None:
            self._transport.write(_framed(_pack(Welcome(hello.epoch))))

    def close(self) -> None:
        """Close at once."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().close()
        self._peers.forget(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """It ended."""
        self.close()


class _Outgoing(_Frames):
    """A connection to a peer, for what we send."""

    def __init__(self, peers: Peers, member: Member, epoch: int) -> None:
        super().__init__()
        self._peers = peers
        self._member = member
        self.epoch = epoch
        self.up = False
        """Whether messages may be sent: the peer has welcomed us, and its queue is not too long."""
        self.welcomed = False
        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[None] = loop.create_future()
        """Done when the peer has welcomed us, or the connection ended."""
        self.ended: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who we are."""
        super().connection_made(transport)
        try:
            self._check_name(self._member.id)
        except WireError as error:
            self._refuse(str(error))
            return
        trunk = cast("asyncio.Transport", transport)
        trunk.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        trunk.write(_framed(_pack(Hello(self._peers.cluster_id, self._peers.id, self._member.id, self.epoch))))

    def _frame(self, frame: bytes) -> None:
        if self.welcomed or _welcome.decode(frame).epoch != self.epoch:
            raise WireError(f"{self._member.id!r} answered what was not asked")
        self.welcomed = True
        _settle(self.answered)
        self._turn(Link.NEW)

    def pause_writing(self) -> None:
        """The queue is too long: the peer counts as gone until it is shorter."""
        self._turn(Link.DOWN)

    def resume_writing(self) -> None:
        """The queue is short again."""
        if self.welcomed:
            self._turn(Link.RESUMED)

    def _turn(self, link: Link) -> None:
        up = link is not Link.DOWN
        if up != self.up:
            self.up = up
            self._peers.on_connected(self._member.id, link)

    def send(self, frame: bytes) -> None:
        """Queue one frame."""
        if self._transport is not None:
            self._transport.write(_framed(frame))

    def close(self) -> None:
        """Close at once."""
        super().close()
        self._turn(Link.DOWN)
        _settle(self.answered)
        _settle(self.ended)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """It ended."""
        self.close()


class Peers:
    """All connections of one replica."""

    def __init__(
        self,
        settings: Settings,
        on_message: Callable[[ReplicaId, int, Body], None],
        on_connected: Callable[[ReplicaId, Link], None],
    ) -> None:
        """`on_message(sender, sender's term, message)` and `on_connected(peer, link)` are called for what happens; they must not raise."""
        self.id = settings.id
        self.cluster_id = settings.cluster_id
        self.on_message = on_message
        self.on_connected = on_connected
        self._listen = settings.listen
        self._others = tuple(member for member in settings.members if member.id != settings.id)
        self._tls = settings.tls
        self._waiting: list[_Incoming] = []
        self._incoming: dict[ReplicaId, _Incoming] = {}
        self._outgoing: dict[ReplicaId, _Outgoing] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None
        self._epoch = secrets.randbits(37) << _COUNTER_BITS

    async def start(self) -> None:
        """Listen, and begin to connect. Raises OSError if the address cannot be bound, and ssl.SSLError."""
        loop = asyncio.get_running_loop()
        host, port = host_and_port(self._listen)
        context = None if self._tls is None else self._tls.context(ssl.Purpose.CLIENT_AUTH)
        self._server = await loop.create_server(lambda: _Incoming(self), host, port, ssl=context)
        self._tasks = [loop.create_task(self._keep_connected(member)) for member in self._others]

    async def stop(self) -> None:
        """Close everything. Idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server = self._server
        self.disconnect()
        if server is not None:
            await server.wait_closed()

    def disconnect(self) -> None:
        """Stop listening and connecting, and close what is open, at once."""
        for task in self._tasks:
            task.cancel()
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for connection in [*self._waiting, *self._incoming.values(), *self._outgoing.values()]:
            connection.close()

    def send(self, peer: ReplicaId, term: int, body: Body) -> bool:
        """Queue one message; False if there is no connection at this moment."""
        link = self._outgoing.get(peer)
        if link is None or not link.welcomed or link.ended.done():
            return False
        link.send(encode(Envelope(self.cluster_id, self.id, link.epoch, term, body)))
        return True

    def is_up(self, peer: ReplicaId) -> bool:
        """Whether messages can be sent to the peer."""
        link = self._outgoing.get(peer)
        return link is not None and link.up

    async def _keep_connected(self, member: Member) -> None:
        host, port = host_and_port(member.peer_address)
        context = None if self._tls is None else self._tls.context(ssl.Purpose.SERVER_AUTH)
        wait = RETRY_SECONDS[0]
        while True:
            self._epoch += 1
            self._outgoing[member.id] = link = _Outgoing(self, member, self._epoch)
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(HANDSHAKE_SECONDS):
                    await asyncio.get_running_loop().create_connection(partial(_same, link), host, port, ssl=context)
                    await link.answered
                await link.ended
            wait = RETRY_SECONDS[0] if link.welcomed else min(wait * 2, RETRY_SECONDS[1])
            link.close()
            await asyncio.sleep(wait * (0.5 + random.random() / 2))  # noqa: S311 - jitter, not a secret

    # --- what incoming connections ask ---------------------------------------------------------------------------------------------

    def waits(self, connection: _Incoming) -> bool:
        """Count a connection that has not said hello; False if there are too many."""
        if len(self._waiting) >= MAX_WAITING or self._server is None:
            return False
        self._waiting.append(connection)
        return True

    def admit(self, connection: _Incoming, hello: Hello) -> ReplicaId:
        """Let a connection be its sender's current one. Raises WireError if it may not be."""
        sender = ReplicaId(hello.sender)
        if hello.cluster_id != self.cluster_id:
            raise WireError(f"{hello.sender!r} is of cluster {hello.cluster_id!r}, this is {self.cluster_id!r}")
        if hello.to != self.id or all(member.id != sender for member in self._others):
            raise WireError(f"a connection from {hello.sender!r} to {hello.to!r}, which is none of this cluster's to {self.id!r}")
        if not 0 <= hello.epoch <= 1 << 62:
            raise WireError("an impossible connection number")
        before = self._incoming.get(sender)
        if before is not None:
            if before.epoch >> _COUNTER_BITS == hello.epoch >> _COUNTER_BITS and before.epoch >= hello.epoch:
                raise WireError(f"an older connection of {hello.sender!r} came after a newer one")
            before.close()
        self._waiting.remove(connection)
        self._incoming[sender] = connection
        return sender

    def forget(self, connection: _Incoming) -> None:
        """A connection ended."""
        if connection in self._waiting:
            self._waiting.remove(connection)
        if connection.sender is not None and self._incoming.get(connection.sender) is connection:
            del self._incoming[connection.sender]


def _framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(4, "big") + frame


def _same(link: _Outgoing) -> _Outgoing:
    return link


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
