"""What the client needs of the world, for asyncio: waiters, events, tasks, channels. `_sync/_backend.py` is its threaded twin.

Both are written by hand and offer the same names, so that all other files need only one source (docs/adr/0004-sync-client.md).
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc
import grpc.aio

from lockd.v1 import session_pb2
from lockd_client._core import rpc
from lockd_client._core.methods import STREAM, Method
from lockd_client._core.window import Window

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from google.protobuf.message import Message

    from lockd_client._async._lock import Grant
    from lockd_client.errors import LockdError
    from lockd_client.model import Tls

    Req = TypeVar("Req", bound=Message)
    Resp = TypeVar("Resp", bound=Message)

Mutex = threading.Lock
"""Guards short sections that never wait. With asyncio it is never contended; it costs less than a lock of Python code."""

Waiter: TypeAlias = "asyncio.Future[session_pb2.StreamReply]"
SessionWindow: TypeAlias = Window[Waiter]


def make_waiter() -> Waiter:
    """Something that waits for one reply."""
    return asyncio.get_running_loop().create_future()


def wait_for(waiter: Waiter) -> Awaitable[session_pb2.StreamReply]:
    """Wait for the reply."""
    return waiter


def abandon(waiter: Waiter) -> None:
    """Nobody waits any more: a failure that has arrived meanwhile is taken as seen."""
    if waiter.done() and not waiter.cancelled():
        waiter.exception()


class Event:
    """A flag that can be waited for, by several at once."""

    __slots__ = ("_set", "_waiting")

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[asyncio.Future[None]] = []

    def is_set(self) -> bool:
        """Whether the flag is up."""
        return self._set

    def set(self) -> None:
        """Raise the flag."""
        self._set = True
        if self._waiting:
            for future in self._waiting:
                if not future.done():
                    future.set_result(None)
            self._waiting.clear()

    def clear(self) -> None:
        """Lower the flag."""
        self._set = False

    async def wait(self, nanos: int | None = None) -> bool:
        """Wait until the flag is up, at most so many nanoseconds; whether it is up."""
        if self._set:
            return True
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append(future)
        timer = None
        if nanos is not None:
            timer = loop.call_later(max(0, nanos) / 1e9, _finish, future)
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()
            if future in self._waiting:
                self._waiting.remove(future)
        return self._set


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Worker:
    """Work in the background."""

    __slots__ = ("_task",)

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._task = asyncio.get_running_loop().create_task(work(), name=name)

    async def join(self, nanos: int) -> None:
        """Wait until it ends, at most so long; then it is cancelled."""
        if self._task is asyncio.current_task():
            return
        done, _ = await asyncio.wait([self._task], timeout=nanos / 1e9)
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()


async def sleep(nanos: int) -> None:
    """Pause."""
    await asyncio.sleep(nanos / 1e9)


def report(error: Exception) -> None:
    """A callback of the program has failed: tell whoever handles the loop's errors."""
    context = {"message": "an on_lost callback failed", "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)


def current_owner() -> object:
    """Who asks: the task. Tasks of one client take turns at a lock; the same one may take it again."""
    return asyncio.current_task() or object()


class Scope:
    """Cancels the body of an `async with` when its lock is lost, as asyncio.timeout() does when time is up.

    The cancellation is this scope's own: it is taken back (`uncancel`) at the end of the body, and only where nobody else
    has cancelled the task meanwhile is it turned into an error; so that timeouts and task groups around it keep working.
    """

    __slots__ = ("_before", "_closed", "_fired", "_task")

    def __init__(self, grant: Grant) -> None:  # noqa: ARG002 - the threaded twin asks the grant
        self._task = task = asyncio.current_task()
        self._before = task.cancelling() if task is not None else 0
        self._fired = False
        self._closed = False

    def fire(self) -> None:
        """Cancel the body, soon: never inside the step of a task that runs just now, whose next await might be outside the body."""
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if not self._closed and not self._fired and self._task is not None:
            self._fired = True
            self._task.cancel("the lock was lost")

    def close(self, exc_type: type[BaseException] | None) -> bool:
        """The body has ended. True if it ended by this scope's own cancellation, or without an exception."""
        self._closed = True
        if not self._fired or self._task is None:
            return exc_type is None
        alone = self._task.uncancel() <= self._before
        return exc_type is None or (alone and issubclass(exc_type, asyncio.CancelledError))


def check_scopes() -> None:
    """The threaded twin raises here when a lock of this thread's `with` blocks is lost; with asyncio the body is cancelled instead."""


class Stream:
    """One bidirectional stream: pulls batches, hands out responses."""

    def __init__(self, channel: Channel, batches: Callable[[], Coroutine[Any, Any, session_pb2.StreamRequest | None]]) -> None:
        self._call = channel.stream()
        self._cut = False
        self._writer = asyncio.get_running_loop().create_task(self._write(batches), name="lockd-stream-writer")

    async def _write(self, batches: Callable[[], Coroutine[Any, Any, session_pb2.StreamRequest | None]]) -> None:
        try:
            while (batch := await batches()) is not None:
                await self._call.write(batch)
            await self._call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            # The call is over; its status reaches the reader.
            return

    async def read(self) -> session_pb2.StreamResponse:
        """The next response.

        Raises:
            RpcFailed: The stream is over, by whoever's will.
        """
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from None
        except asyncio.CancelledError:
            # gRPC reports a call that was cut locally like a cancellation of this task.
            task = asyncio.current_task()
            if self._cut and (task is None or not task.cancelling()):
                raise rpc.stream_ended() from None
            raise
        if not isinstance(response, session_pb2.StreamResponse):
            raise rpc.stream_ended()
        return response

    def cut(self) -> None:
        """End the stream from this side; a reader that waits gets RpcFailed."""
        self._cut = True
        self._call.cancel()

    async def close(self) -> None:
        """End it and its writer."""
        self.cut()
        self._writer.cancel()
        await asyncio.wait([self._writer])


class Channel:
    """A connection to one address."""

    def __init__(self, address: str, tls: Tls | None, token: str) -> None:
        options = rpc.options(tls)
        if tls is None:
            self._channel = grpc.aio.insecure_channel(address, options=options)
        else:
            self._channel = grpc.aio.secure_channel(address, rpc.credentials(tls), options=options)
        self._metadata = rpc.metadata(token)
        self._unary: dict[str, grpc.aio.UnaryUnaryMultiCallable[Any, Any]] = {}

    async def unary(self, method: Method[Req, Resp], request: Req, nanos: int) -> Resp:
        """One call, at most so long.

        Raises:
            RpcFailed: It failed.
        """
        call = self._unary.get(method.path)
        if call is None:
            call = self._channel.unary_unary(
                method.path, request_serializer=method.request.SerializeToString, response_deserializer=method.response.FromString
            )
            self._unary[method.path] = call
        try:
            response: Resp = await call(request, timeout=nanos / 1e9, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from None
        except grpc.aio.UsageError:
            raise rpc.channel_closed() from None
        return response

    async def responses(self, method: Method[Req, Resp], request: Req, nanos: int) -> AsyncIterator[Resp]:
        """The responses of a server stream.

        Raises:
            RpcFailed: It failed.
        """
        call = self._channel.unary_stream(
            method.path, request_serializer=method.request.SerializeToString, response_deserializer=method.response.FromString
        )(request, timeout=nanos / 1e9, metadata=self._metadata)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from None
        finally:
            call.cancel()

    def stream(self) -> grpc.aio.StreamStreamCall[session_pb2.StreamRequest, session_pb2.StreamResponse]:
        """Start the session stream."""
        return self._channel.stream_stream(
            STREAM.path, request_serializer=STREAM.request.SerializeToString, response_deserializer=STREAM.response.FromString
        )(None, metadata=self._metadata)

    async def close(self) -> None:
        """End the connection and all that is under way on it."""
        await self._channel.close(None)


def _failed(error: grpc.aio.AioRpcError) -> rpc.RpcFailed:
    trailing: Any = error.trailing_metadata()
    return rpc.failed(error.code(), error.details(), trailing)


def deliver(waiter: Waiter, error: LockdError) -> None:
    """Give a waiter its failure, if it still waits."""
    if not waiter.done():
        waiter.set_exception(error)
