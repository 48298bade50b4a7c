"""What both transports share: channel options, metadata, and reading failures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from lockd_client._core.failures import Failure, from_rpc

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lockd_client.model import Tls

MESSAGE_BYTES = 16 << 20
"""The largest message that is sent or taken."""

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # This package reconnects and retries by itself, with session semantics that gRPC cannot know.
    ("grpc.enable_retries", 0),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Clients in one process must not share a connection: one that is cut would cut the others.
    ("grpc.use_local_subchannel_pool", 1),
)

DETAILS = "grpc-status-details-bin"


class RpcFailed(Exception):  # noqa: N818 - never leaves the package
    """A gRPC call failed; both transports raise this."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def failed(code: grpc.StatusCode | None, details: str | None, trailing: Iterable[tuple[str, str | bytes]] | None) -> RpcFailed:
    """The failure of a call from what gRPC tells of it."""
    packed: bytes | None = None
    for key, value in trailing or ():
        if key == DETAILS and isinstance(value, bytes):
            packed = value
    return RpcFailed(from_rpc(code or grpc.StatusCode.UNKNOWN, details, packed))


def stream_ended() -> RpcFailed:
    """The node ended the stream without a status, or the client cut it: another connection is needed."""
    return RpcFailed(Failure(grpc.StatusCode.UNAVAILABLE, "the stream ended"))


def channel_closed() -> RpcFailed:
    """The client was closed while a call began."""
    return RpcFailed(Failure(grpc.StatusCode.UNAVAILABLE, "the client is closed"))


def options(tls: Tls | None) -> list[tuple[str, str | int]]:
    """Channel options."""
    found: list[tuple[str, str | int]] = list(OPTIONS)
    if tls is not None and tls.server_name:
        found.append(("grpc.ssl_target_name_override", tls.server_name))
    return found


def credentials(tls: Tls) -> grpc.ChannelCredentials:
    """GRPC's form of the TLS settings."""
    return grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)


def metadata(token: str) -> tuple[tuple[str, str], ...]:
    """Metadata of every call."""
    return (("authorization", f"Bearer {token}"),) if token else ()
