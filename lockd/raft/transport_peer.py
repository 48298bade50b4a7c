"""The outgoing connection to one peer: a bounded queue, one gRPC stream, and quick reconnection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grpc
import grpc.aio

from lockd.raft.core.types import AppendRequest, Message, ReplicaId
from lockd.raft.envelope import Preamble, encode_message, encode_preamble
from lockd.raft.envelope_bulk import data_of

__all__ = ["ChannelFactory", "OutgoingPeer", "PeerLimits"]

STREAM_METHOD = "/lockd.raft.v1.Peer/Stream"
SNAPSHOT_METHOD = "/lockd.raft.v1.Peer/Snapshot"
JOIN_METHOD = "/lockd.raft.v1.Peer/Join"

_log = logging.getLogger(__name__)

MESSAGE_OVERHEAD = 128
CONNECT_TIMEOUT = 2.0
BACKOFF = (0.02, 0.2)


class PeerLimits:
    """Bounds of one outgoing queue, and how much goes into one frame."""

    max_bytes = 32 << 20
    max_messages = 4096
    frame_bytes = 1 << 20


class ChannelFactory(Protocol):
    """Opens a channel to a member."""

    def __call__(self, peer: ReplicaId, address: str) -> grpc.aio.Channel:
        """A channel whose far end is, with TLS, proven to be `peer`."""


class OutgoingPeer:
    """Sends messages to one peer. What cannot be queued or delivered is dropped and reported, never waited for."""

    def __init__(
        self,
        preamble: Callable[[int], Preamble],
        peer: ReplicaId,
        address: str,
        channels: ChannelFactory,
        unreachable: Callable[[ReplicaId], None],
    ) -> None:
        self.peer = peer
        self.address = address
        self.connected = False
        self.dropped = 0
        self.sent_frames = 0
        self.sent_bytes = 0
        self.connections = 0
        self._preamble = preamble
        self._channels = channels
        self._unreachable = unreachable
        self._queue: deque[tuple[Message, int]] = deque()
        self._bytes = 0
        self._down = False
        self._told = False
        self._epoch = 0
        self._wake = asyncio.Event()
        self._channel = channels(peer, address)
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"peer {peer}")

    def send(self, message: Message) -> None:
        """Queue `message`; while the peer cannot be reached or the queue is full it is dropped, and the driver told once."""
        size = MESSAGE_OVERHEAD
        if type(message) is AppendRequest and message.entries:
            size += sum(map(len, map(data_of, message.entries))) + 16 * len(message.entries)
        queue = self._queue
        if self._down or (queue and (self._bytes + size > PeerLimits.max_bytes or len(queue) >= PeerLimits.max_messages)):
            self.dropped += 1
            self._tell()
            return
        queue.append((message, size))
        self._bytes += size
        if len(queue) == 1:
            self._wake.set()

    def channel(self) -> grpc.aio.Channel:
        """The channel, for a snapshot."""
        return self._channel

    async def close(self) -> None:
        """Close the connection and forget what waits."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._channel.close(None)

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            asyncio.get_running_loop().call_soon(self._unreachable, self.peer)

    async def _run(self) -> None:
        while True:
            try:
                await self._connection()
            except grpc.aio.AioRpcError as error:
                self._learn_epoch(error)
            except (TimeoutError, asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.BaseError):
                pass
            except ValueError as error:
                _log.error("cannot speak to %s: %s", self.peer, error)
            self.connected = False
            self._down = True
            self.dropped += len(self._queue)
            self._queue.clear()
            self._bytes = 0
            self._told = False
            self._tell()
            await asyncio.sleep(random.uniform(*BACKOFF))  # noqa: S311 - jitter

    def _learn_epoch(self, error: grpc.aio.AioRpcError) -> None:
        """The receiver knows a connection of a later epoch (of a process of ours before this one): be newer the next time."""
        trailing: Any = error.trailing_metadata() or ()
        for key, value in trailing:
            if key == "lockd-epoch" and isinstance(value, str) and value.isdigit() and len(value) < 19:
                self._epoch = max(self._epoch, int(value))

    async def _connection(self) -> None:
        self._epoch += 1
        head = encode_preamble(self._preamble(self._epoch))
        channel: Any = self._channel
        call = channel.stream_unary(STREAM_METHOD)()
        call.add_done_callback(lambda _: self._wake.set())
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await call.write(head)
                await call.initial_metadata()
            if call.done():
                await call
                return
            self.connections += 1
            self.connected = True
            self._down = self._told = False
            while not call.done():
                if not self._queue:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                frame = b"".join(self._gather([head]))
                await call.write(frame)
                self.sent_frames += 1
                self.sent_bytes += len(frame)
            await call
        finally:
            call.cancel()

    def _gather(self, pieces: list[bytes]) -> Sequence[bytes]:
        queue = self._queue
        size = 0
        while queue:
            message, counted = queue[0]
            if size and size + counted > PeerLimits.frame_bytes:
                break
            queue.popleft()
            self._bytes -= counted
            size += encode_message(message, pieces)
        if not queue:
            self._told = False
        return pieces
