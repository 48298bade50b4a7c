"""How an engine is set up."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lockd.raft.core.config import Config
from lockd.raft.core.types import Member, ReplicaId
from lockd.raft.driver_io import DriverConfig
from lockd.raft.transport_tls import TlsConfig

__all__ = ["EngineConfig"]

MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """One replica.

    The first start with an empty directory needs either `members`, the same on all of them (which begins a new cluster), or `join`, the
    peer addresses of members of an existing one (`id@host:port`, where the id may be left out without TLS). Later starts find the
    membership in the log; there `join` only lets a learner that is not to stay one ask to vote.
    """

    id: ReplicaId
    cluster_id: str
    data_dir: Path | None
    """None keeps everything in memory: nothing outlives the process, and it must never come back under the same id in a real cluster."""
    listen: str
    """Where to listen to peers, `host:port`."""
    advertise: str = ""
    """Where peers reach this replica; `listen` if empty."""
    client_address: str = ""
    """What other members tell clients about this one (when joining)."""
    members: tuple[Member, ...] = ()
    join: tuple[str, ...] = ()
    learner: bool = False
    """A replica that joins becomes a voter once it has caught up, unless this is set."""
    tls: TlsConfig | None = None
    core: Config = field(default_factory=Config)
    """Timings of elections and heartbeats, sizes of messages. Its seed is replaced by a random one."""
    driver: DriverConfig = field(default_factory=DriverConfig)
    """When snapshots are taken, and how much may be outstanding."""
    segment_bytes: int = 64 << 20
    """Size of one file of the journal."""
    fork: bool = True
    """Whether snapshots are written by a forked child; without, the loop stands still meanwhile. Never with `data_dir` None."""

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot work."""
        if not self.id or not self.cluster_id:
            raise ValueError("a replica needs an id and a cluster id")
        if bool(self.members) == bool(self.join):
            raise ValueError("give either the members of a new cluster, or addresses to join an existing one at")
        if self.members and self.id not in {member.id for member in self.members}:
            raise ValueError(f"{self.id!r} is not among the members")
        if max(len(text.encode()) for text in (self.id, self.cluster_id, self.own_address)) > MAX_NAME:
            raise ValueError(f"ids and addresses may have {MAX_NAME} bytes")
        if len({member.id for member in self.members}) != len(self.members):
            raise ValueError("two members have the same id")
        if self.tls is not None and not all("@" in address for address in self.join):
            raise ValueError("with TLS the addresses to join at are of the form id@host:port")

    @property
    def own_address(self) -> str:
        """Where peers reach this replica."""
        return self.advertise or self.listen
