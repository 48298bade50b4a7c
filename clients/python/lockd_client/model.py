"""Values of sessions, locks, rows and the cluster. Durations are seconds as floats; tokens and revisions are integers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class LockMode(IntEnum):
    """Multi-granularity lock modes (Gray); the numbers are the protocol's."""

    INTENT_SHARED = 1
    INTENT_EXCLUSIVE = 2
    SHARED = 3
    SHARED_INTENT_EXCLUSIVE = 4
    UPDATE = 5
    EXCLUSIVE = 6


class Consistency(IntEnum):
    """How fresh a read must be."""

    LINEARIZABLE = 1
    """Sees every write that was acknowledged before the read began."""
    EVENTUAL = 2
    """What the asked node has applied, however old."""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM bytes for the connection: the authority that signed the nodes' certificates, and the client's own identity (mTLS)."""

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    server_name: str = ""
    """The name that the nodes' certificates carry, where it differs from the address."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One resource of an acquire.

    Attributes:
        resource: A path such as "accounts/alice": 1 to 16 parts, at most 512 bytes.
        mode: How it is locked.
        permits: With limit > 0: how many permits of a counting semaphore, at least 1.
        limit: How many permits there are in all.
    """

    resource: str
    mode: LockMode = LockMode.EXCLUSIVE
    permits: int = 0
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Guard:
    """Asserts that the fencing token is the current grant of the resource; a write that carries it is refused (FENCED) if not."""

    resource: str
    token: int


@dataclass(frozen=True, slots=True)
class Hold:
    """One resource that is held.

    Attributes:
        token: The fencing token: strictly increasing over all grants of the cluster, for ever.
        count: How often the session has taken it.
    """

    resource: str
    mode: LockMode
    token: int
    count: int
    permits: int = 0


@dataclass(frozen=True, slots=True)
class Holder:
    """A session that holds a lock; `age` in seconds of log time."""

    session_id: int
    owner: str
    mode: LockMode
    token: int
    count: int
    age: float
    permits: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A session that waits for a lock; `age` in seconds of log time."""

    session_id: int
    owner: str
    mode: LockMode
    request_id: int
    age: float


@dataclass(frozen=True, slots=True)
class LockState:
    """Who holds a resource and who waits for it, in queue order; `delayed_for`: seconds that a lock delay still lasts."""

    resource: str
    holders: tuple[Holder, ...]
    waiters: tuple[Waiting, ...]
    delayed_for: float = 0.0


@dataclass(frozen=True, slots=True)
class WaitEdge:
    """The waiting session waits for the holding one because of the resource."""

    waiter_session_id: int
    holder_session_id: int
    resource: str


@dataclass(frozen=True, slots=True)
class ForcedRelease:
    """How many holds an operator's forced release took away, and at which revision."""

    released: int
    revision: int


@dataclass(frozen=True, slots=True)
class SessionState:
    """A session as the service sees it; `ttl` and `expires_in` in seconds of log time (negative: due but not yet logged)."""

    session_id: int
    owner: str
    ttl: float
    expires_in: float
    holds: int
    waits: int


@dataclass(frozen=True, slots=True)
class Row:
    """A strong row.

    Attributes:
        create_revision: The log index at which it was created.
        mod_revision: The log index of its last write.
        version: 1 at creation, one more with each write.
        session_id: The session that it goes with, for an ephemeral row; else 0.
    """

    key: str
    value: bytes
    content_type: str
    create_revision: int
    mod_revision: int
    version: int
    session_id: int


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the cluster; a learner has no vote."""

    id: str
    peer_address: str
    client_address: str
    voter: bool


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """What the leader knows of a peer; `state` is probe, replicate or snapshot; `last_contact` in seconds ago."""

    id: str
    match_index: int
    next_index: int
    state: str
    last_contact: float


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node's view of itself and the cluster. Indices count log entries; fsync times are seconds.

    Attributes:
        role: follower, pre-candidate, candidate or leader.
        peers: Only known by the leader.
        failed: Why the node has stopped acknowledging; empty while it is well.
        engine: core or pysyncobj.
    """

    id: str
    cluster_id: str
    role: str
    term: int
    leader_id: str
    leader_address: str
    commit_index: int
    applied_index: int
    first_index: int
    last_index: int
    snapshot_index: int
    log_bytes: int
    peers: tuple[PeerStatus, ...]
    members: tuple[Member, ...]
    fsync_p50: float
    fsync_p99: float
    failed: str
    version: str
    engine: str
    sessions: int
    locks: int
    rows: int
    accounts: int
    transfers: int
    data_directory: str


@dataclass(frozen=True, slots=True)
class StateHash:
    """Hash of the whole replicated state after a log index: equal on every replica that has applied the same index."""

    hash: bytes
    applied_index: int
