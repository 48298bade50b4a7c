"""Who a peer is: certificates, and the rule without them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grpc
import grpc.aio

__all__ = ["TlsConfig", "check_loopback", "host_of", "identities"]


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """PEM bytes. Every member's certificate is signed by `ca` and names the member's id as a DNS subject alternative name."""

    ca: bytes
    cert: bytes
    key: bytes

    def server(self) -> grpc.ServerCredentials:
        """Credentials of the listening side, which demands a certificate of everyone."""
        return grpc.ssl_server_credentials([(self.key, self.cert)], root_certificates=self.ca, require_client_auth=True)

    def client(self) -> grpc.ChannelCredentials:
        """Credentials of the connecting side."""
        return grpc.ssl_channel_credentials(root_certificates=self.ca, private_key=self.key, certificate_chain=self.cert)


def identities(auth: Mapping[str, Iterable[bytes]]) -> set[str]:
    """The names that a peer's certificate gives it, from gRPC's authentication context."""
    names: set[str] = set()
    for key in ("x509_subject_alternative_name", "x509_common_name"):
        names.update(value.decode("utf-8", "replace") for value in auth.get(key, ()))
    return names


def host_of(address: str) -> str:
    """The host in `host:port` or `[v6]:port`. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or not host:
        raise ValueError(f"not an address of the form host:port: {address!r}")
    return host.removeprefix("[").removesuffix("]")


def check_loopback(address: str) -> None:
    """Without TLS peers are believed by their word, so only this machine may speak. Raises ValueError for any other address."""
    host = host_of(address)
    if host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(f"peers without TLS may only use loopback addresses, not {address}: give certificates, or use 127.0.0.1")
