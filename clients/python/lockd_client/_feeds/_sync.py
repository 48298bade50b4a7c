"""A server stream that is read one response at a time, for threads: the twin of `_async.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lockd_client._core import rpc

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from lockd_client._core.methods import Method
    from lockd_client._sync._backend import Channel

Resp = TypeVar("Resp", bound="Message")


class Feed(Generic[Resp]):
    """The responses to one request, read by one thread."""

    def __init__(self, channel: Channel, method: Method[Any, Resp], request: Any, nanos: int) -> None:
        # A generator, of which only the iterator's side is declared.
        self._responses: Any = channel.responses(method, request, nanos)

    def read(self) -> Resp:
        """The next response.

        Raises:
            RpcFailed: The stream is over, by whoever's will.
        """
        try:
            response: Resp = next(self._responses)
        except StopIteration:
            raise rpc.stream_ended() from None
        except ValueError:
            raise rpc.channel_closed() from None
        return response

    def close(self) -> None:
        """End it. Doing so twice is no error."""
        self._responses.close()
