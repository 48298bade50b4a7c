"""A server stream that is read one response at a time, for asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc.aio

from lockd_client._core import rpc

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from lockd_client._async._backend import Channel
    from lockd_client._core.methods import Method

Resp = TypeVar("Resp", bound="Message")


class Feed(Generic[Resp]):
    """The responses to one request."""

    def __init__(self, channel: Channel, method: Method[Any, Resp], request: Any, nanos: int) -> None:
        # An asynchronous generator, of which only the iterator's side is declared.
        self._responses: Any = channel.responses(method, request, nanos)

    async def read(self) -> Resp:
        """The next response.

        Raises:
            RpcFailed: The stream is over, by whoever's will.
        """
        try:
            response: Resp = await anext(self._responses)
        except StopAsyncIteration:
            raise rpc.stream_ended() from None
        except grpc.aio.UsageError:
            raise rpc.channel_closed() from None
        except asyncio.CancelledError:
            # gRPC reports a connection that was closed on this side like a cancellation of this task.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise rpc.channel_closed() from None
        return response

    async def close(self) -> None:
        """End it. Doing so twice is no error."""
        await self._responses.aclose()
