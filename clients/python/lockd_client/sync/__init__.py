"""The blocking client: the same names and promises as `lockd_client`, without `await`; two background threads serve a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockd_client._connect import DEFAULT_TIMEOUT, DEFAULT_TTL, default_owner
from lockd_client._sync._client import Client
from lockd_client._sync._lock import Grant, LockRequest
from lockd_client._sync._rows import Transaction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lockd_client.model import Tls


def connect(
    endpoints: str | Iterable[str],
    *,
    owner: str | None = None,
    ttl: float = DEFAULT_TTL,
    timeout: float = DEFAULT_TIMEOUT,
    tls: Tls | None = None,
    token: str = "",
) -> Client:
    """Connect to a cluster; use the client in `with`, or close it. Arguments and errors as in `lockd_client.connect`."""
    client = Client(endpoints, default_owner() if owner is None else owner, ttl, timeout, tls, token)
    try:
        client.discover()
    except BaseException:
        client.close()
        raise
    return client


__all__ = ["Client", "Grant", "LockRequest", "Transaction", "connect"]
