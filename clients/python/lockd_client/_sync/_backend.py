"""What the client needs of the world, for threads: the twin of `_async/_backend.py`, by hand, with the same names."""

from __future__ import annotations

import _thread
import threading
import time
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc

from lockd.v1 import session_pb2
from lockd_client._core import rpc
from lockd_client._core.methods import STREAM, Method
from lockd_client._core.window import Window
from lockd_client.errors import LockdError, LockLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message

    from lockd_client._sync._lock import Grant
    from lockd_client.model import Tls

    Req = TypeVar("Req", bound=Message)
    Resp = TypeVar("Resp", bound=Message)

Mutex = threading.Lock
"""Guards short sections that never wait."""


class Waiter:
    """One thread's wait for one reply."""

    __slots__ = ("_done", "_error", "_lock", "_reply")

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._lock.acquire()
        self._done = False
        self._reply: session_pb2.StreamReply | None = None
        self._error: LockdError | None = None

    def done(self) -> bool:
        """Whether the outcome is there."""
        return self._done

    def set_result(self, result: session_pb2.StreamReply, /) -> None:
        """Deliver the reply. Called with the session's mutex, at most once."""
        self._reply = result
        self._done = True
        self._lock.release()

    def set_exception(self, exception: LockdError, /) -> None:
        """Deliver a failure. Called with the session's mutex, at most once."""
        self._error = exception
        self._done = True
        self._lock.release()

    def wait(self) -> session_pb2.StreamReply:
        """Wait for the outcome; the session's clock sees to the deadline."""
        self._lock.acquire()
        self._lock.release()
        if self._error is not None:
            raise self._error
        if self._reply is None:
            raise RuntimeError("a waiter was woken without an outcome")
        return self._reply


SessionWindow: TypeAlias = Window[Waiter]


def make_waiter() -> Waiter:
    """Something that waits for one reply."""
    return Waiter()


def wait_for(waiter: Waiter) -> session_pb2.StreamReply:
    """Wait for the reply."""
    return waiter.wait()


def abandon(waiter: Waiter) -> None:
    """Nobody waits any more."""


def deliver(waiter: Waiter, error: LockdError) -> None:
    """Give a waiter its failure, if it still waits."""
    if not waiter.done():
        waiter.set_exception(error)


class Event:
    """A flag that can be waited for, by several at once."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def is_set(self) -> bool:
        """Whether the flag is up."""
        return self._event.is_set()

    def set(self) -> None:
        """Raise the flag."""
        self._event.set()

    def clear(self) -> None:
        """Lower the flag."""
        self._event.clear()

    def wait(self, nanos: int | None = None) -> bool:
        """Wait until the flag is up, at most so many nanoseconds; whether it is up."""
        return self._event.wait(None if nanos is None else max(0, nanos) / 1e9)


class Worker:
    """Work in a background thread."""

    __slots__ = ("_thread",)

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self._thread = threading.Thread(target=work, name=name, daemon=True)
        self._thread.start()

    def join(self, nanos: int) -> None:
        """Wait until it ends, at most so long."""
        if self._thread is not threading.current_thread():
            self._thread.join(nanos / 1e9)


def sleep(nanos: int) -> None:
    """Pause."""
    time.sleep(nanos / 1e9)


def report(error: Exception) -> None:
    """A callback of the program has failed: tell whoever handles the threads' errors."""
    threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread())))


def current_owner() -> object:
    """Who asks: the thread. Threads of one client take turns at a lock; the same one may take it again."""
    return threading.current_thread()


class _Entered(threading.local):
    """The grants whose `with` blocks this thread is in."""

    def __init__(self) -> None:
        self.grants: list[Grant] = []


_entered = _Entered()


class Scope:
    """Marks a thread as inside the `with` block of a grant, so that its next call finds out when the lock is lost."""

    __slots__ = ("_grant", "_grants")

    def __init__(self, grant: Grant) -> None:
        self._grant = grant
        self._grants = _entered.grants
        self._grants.append(grant)

    def fire(self) -> None:
        """The lock is lost: a thread cannot be interrupted, so its next call raises (`check_scopes`)."""

    def close(self, exc_type: type[BaseException] | None) -> bool:
        """The body has ended. True if it ended without an exception."""
        if self._grant in self._grants:
            self._grants.remove(self._grant)
        return exc_type is None


def check_scopes() -> None:
    """Raise if a lock is lost in whose `with` block this thread is.

    Raises:
        LockLost: One is.
    """
    for grant in _entered.grants:
        if grant.lost is not None:
            raise LockLost(grant.lost.message, reason=grant.lost.reason, metadata=grant.lost.metadata) from grant.lost


class Stream:
    """One bidirectional stream: gRPC's own thread pulls batches, `read` hands out responses."""

    def __init__(self, channel: Channel, batches: Callable[[], session_pb2.StreamRequest | None]) -> None:
        self._call = channel.stream(_until_none(batches))
        self._cut = False

    def read(self) -> session_pb2.StreamResponse:
        """The next response.

        Raises:
            RpcFailed: The stream is over, by whoever's will.
        """
        try:
            response: session_pb2.StreamResponse = next(self._call)
        except StopIteration:
            raise rpc.stream_ended() from None
        except grpc.RpcError as error:
            if self._cut:
                raise rpc.stream_ended() from None
            raise _failed(error) from None
        return response

    def cut(self) -> None:
        """End the stream from this side; a reader that waits gets RpcFailed."""
        self._cut = True
        self._call.cancel()

    def close(self) -> None:
        """End it."""
        self.cut()


def _until_none(batches: Callable[[], session_pb2.StreamRequest | None]) -> Iterator[session_pb2.StreamRequest]:
    while (batch := batches()) is not None:
        yield batch


class Channel:
    """A connection to one address."""

    def __init__(self, address: str, tls: Tls | None, token: str) -> None:
        options = rpc.options(tls)
        if tls is None:
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            self._channel = grpc.secure_channel(address, rpc.credentials(tls), options=options)
        self._metadata = rpc.metadata(token)
        self._unary: dict[str, grpc.UnaryUnaryMultiCallable[Any, Any]] = {}

    def unary(self, method: Method[Req, Resp], request: Req, nanos: int) -> Resp:
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
            response: Resp = call(request, timeout=nanos / 1e9, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _failed(error) from None
        except ValueError:
            raise rpc.channel_closed() from None
        return response

    def responses(self, method: Method[Req, Resp], request: Req, nanos: int) -> Iterator[Resp]:
        """The responses of a server stream.

        Raises:
            RpcFailed: It failed.
        """
        call: Any = self._channel.unary_stream(
            method.path, request_serializer=method.request.SerializeToString, response_deserializer=method.response.FromString
        )(request, timeout=nanos / 1e9, metadata=self._metadata)
        try:
            yield from call
        except grpc.RpcError as error:
            raise _failed(error) from None
        finally:
            call.cancel()

    def stream(self, requests: Iterator[session_pb2.StreamRequest]) -> Any:
        """Start the session stream.

        Raises:
            RpcFailed: The channel is closed.
        """
        try:
            return self._channel.stream_stream(
                STREAM.path, request_serializer=STREAM.request.SerializeToString, response_deserializer=STREAM.response.FromString
            )(requests, metadata=self._metadata)
        except ValueError:
            raise rpc.channel_closed() from None

    def close(self) -> None:
        """End the connection and all that is under way on it."""
        self._channel.close()


def _failed(error: grpc.RpcError) -> rpc.RpcFailed:
    call: Any = error
    return rpc.failed(call.code(), call.details(), call.trailing_metadata())
