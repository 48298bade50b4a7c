"""How a client is made: `await connect(...)` or `async with connect(...) as client`."""

from __future__ import annotations

import getpass
import os
import socket
from typing import TYPE_CHECKING

from lockd_client._async._client import Client

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from types import TracebackType
    from typing import Any

    from lockd_client.model import Tls

DEFAULT_TTL = 10.0
DEFAULT_TIMEOUT = 10.0


def default_owner() -> str:
    """A label that tells people who it is: user@host:pid."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}:{os.getpid()}"[:128]


class Connecting:
    """A client in the making: await it, or use it in `async with`."""

    __slots__ = ("_arguments", "_client")

    def __init__(self, endpoints: str | Iterable[str], owner: str, ttl: float, timeout: float, tls: Tls | None, token: str) -> None:
        self._arguments = (endpoints, owner, ttl, timeout, tls, token)
        self._client: Client | None = None

    async def _connect(self) -> Client:
        client = Client(*self._arguments)
        try:
            await client.discover()
        except BaseException:
            await client.close()
            raise
        return client

    def __await__(self) -> Generator[Any, None, Client]:
        return self._connect().__await__()

    async def __aenter__(self) -> Client:
        self._client = await self._connect()
        return self._client

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        if self._client is not None:
            await self._client.close()


def connect(
    endpoints: str | Iterable[str],
    *,
    owner: str | None = None,
    ttl: float = DEFAULT_TTL,
    timeout: float = DEFAULT_TIMEOUT,
    tls: Tls | None = None,
    token: str = "",
) -> Connecting:
    """The way into a cluster: await the result for a client, or use it in `async with`, which closes the client at its end.

    Args:
        endpoints: "host:port,host:port" or a list; one that answers is enough, the others are learned from it.
        owner: A label for people, at most 128 bytes; never authority. None: user@host:pid.
        ttl: Seconds, 1 to 3,600: how long the session, and with it every lock, outlives the last keepalive.
        timeout: Seconds that a call may take where it does not say otherwise.
        tls: For nodes that want TLS; None: plain text.
        token: A bearer token, if the nodes want one.

    Raises:
        Unavailable: No node answered within the timeout.
        InvalidArgument: An address is not host:port, or a duration is out of range.
    """
    return Connecting(endpoints, default_owner() if owner is None else owner, ttl, timeout, tls, token)
