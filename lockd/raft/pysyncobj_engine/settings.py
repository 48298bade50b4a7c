"""What the engine needs to know, checked before anything is opened."""

from __future__ import annotations

import ipaddress
import ssl
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from lockd.raft.core.types import Member, ReplicaId
from lockd.raft.engine_config import EngineConfig

__all__ = ["Settings", "Tls", "host_and_port"]

MIB = 1 << 20
ENTRY_HEAD = 1 + 8 + 8
"""Bytes in front of a payload: the kind of entry, the process that proposed it, its ticket there."""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files, or their content, for mutual TLS: the authority, this replica's certificate (which names the replica's id), its key."""

    ca: Path | bytes
    cert: Path | bytes
    key: Path | bytes

    def context(self, purpose: ssl.Purpose) -> ssl.SSLContext:
        """A context that demands a certificate of the authority from the other side. Raises OSError and ssl.SSLError."""
        with ExitStack() as stack:
            ca, cert, key = (_as_file(pem, stack) for pem in (self.ca, self.cert, self.key))
            context = ssl.create_default_context(purpose, cafile=ca)
            context.load_cert_chain(cert, key)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False  # the name that counts is the replica's id, which the handshake compares
        context.verify_mode = ssl.CERT_REQUIRED
        return context


def _as_file(pem: Path | bytes, stack: ExitStack) -> str:
    """A path for what OpenSSL only reads from files."""
    if isinstance(pem, Path):
        return str(pem)
    file = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".pem"))  # noqa: SIM115 - the stack closes it
    file.write(pem)
    file.flush()
    return file.name


@dataclass(frozen=True, slots=True)
class Settings:
    """Times in seconds, sizes in bytes."""

    id: ReplicaId
    cluster_id: str
    data_dir: Path | None
    """None: everything in memory."""
    listen: str
    """host:port where the other replicas reach this one."""
    members: tuple[Member, ...]
    """All members, this one among them; they cannot change while the cluster runs."""
    tls: Tls | None = None
    insecure_network: bool = False
    """Allow addresses beyond loopback without TLS."""
    election_min: float = 0.15
    election_max: float = 0.3
    heartbeat: float = 0.03
    max_entry_bytes: int = 8 * MIB
    """Longest payload of one proposal."""
    max_outstanding_bytes: int = 64 * MIB
    max_outstanding: int = 100_000
    """Proposals whose outcome is not known yet; more are refused."""
    snapshot_every_entries: int = 100_000
    snapshot_every_bytes: int = 64 * MIB
    """A snapshot is taken when the log has grown to this many entries or bytes."""
    fork: bool = True
    """Write snapshots in a forked child."""

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot work."""
        names = [member.id for member in self.members]
        if self.id not in names:
            raise ValueError(f"replica {self.id!r} is not among the members {names}")
        if len(set(names)) != len(names):
            raise ValueError(f"two members have the same id: {names}")
        if learners := [member.id for member in self.members if not member.voter]:
            raise ValueError(f"the PySyncObj engine has no learners: {learners}")
        if not 0 < self.heartbeat < self.election_min < self.election_max:
            raise ValueError("need 0 < heartbeat < election_min < election_max")
        if self.snapshot_every_entries < 2 or min(self.max_entry_bytes, self.max_outstanding, self.max_outstanding_bytes) < 1:
            raise ValueError("limits must be positive")
        for address in (self.listen, *(member.peer_address for member in self.members)):
            host, _ = host_and_port(address)
            if self.tls is None and not self.insecure_network and not _is_loopback(host):
                raise ValueError(f"{address} is reachable from outside: replicas need TLS beyond loopback")

    @classmethod
    def of(cls, config: EngineConfig) -> Settings:
        """The settings of this engine in a configuration that is written for the core engine. Raises ValueError."""
        if config.join:
            raise ValueError("the PySyncObj engine cannot join a running cluster: its members are fixed")
        second = 1e9
        return cls(
            id=config.id,
            cluster_id=config.cluster_id,
            data_dir=config.data_dir,
            listen=config.listen,
            members=config.members,
            tls=None if config.tls is None else Tls(config.tls.ca, config.tls.cert, config.tls.key),
            election_min=config.core.election_timeout_min / second,
            election_max=config.core.election_timeout_max / second,
            heartbeat=config.core.heartbeat / second,
            max_outstanding_bytes=config.driver.max_outstanding_bytes,
            max_outstanding=config.driver.max_outstanding,
            snapshot_every_bytes=config.driver.snapshot_log_bytes,
            fork=config.fork,
        )

    @property
    def append_period(self) -> float:
        """Seconds between two heartbeats; the package insists on more than three in the shortest election timeout."""
        return min(self.heartbeat, self.election_min / 3.01)

    @property
    def step_down(self) -> float:
        """Seconds without answers from a majority after which a leader steps down. It commits nothing meanwhile, so there is no hurry."""
        return 3 * self.election_max

    @property
    def append_bytes(self) -> int:
        """Bytes that one append carries before it is full; longer than any entry."""
        return self.max_entry_bytes + ENTRY_HEAD + 1

    def member(self, replica: ReplicaId | None) -> Member | None:
        """The member of this name."""
        return next((member for member in self.members if member.id == replica), None)


def host_and_port(address: str) -> tuple[str, int]:
    """Split `host:port` or `[v6]:port`. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 0xFFFF:
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
