"""The small interface behind which the log lives.

An *engine* orders opaque bytes and makes them durable; a *state machine* (in production `lockd.replica.Replica`) applies them. Two engines
implement `Engine`: `lockd.raft.engine` (our core, the default) and `lockd.raft.pysyncobj_engine`.

Threading: every method of both sides is called on the event loop's thread, and none blocks, except that `SnapshotWriter.write` may be
called in a forked child or a worker thread (see there). Ownership: bytes handed over are never changed by either side.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from lockd.raft.core.types import Member, Membership, ReplicaId, Role

__all__ = [
    "Committed",
    "Engine",
    "EngineStatus",
    "Member",
    "Membership",
    "NotLeaderError",
    "OverloadedError",
    "PeerStatus",
    "RaftError",
    "ReplicaId",
    "Role",
    "StateMachine",
    "StorageFailedError",
    "UnavailableError",
    "UnknownOutcomeError",
]


class RaftError(Exception):
    """Base of what an engine raises to its caller."""


class NotLeaderError(RaftError):
    """This replica does not lead. `leader` is who does, as far as it knows. Nothing was appended."""

    def __init__(self, leader: Member | None) -> None:
        super().__init__(f"not leader; leader is {leader.id if leader else 'unknown'}")
        self.leader = leader


class UnknownOutcomeError(RaftError):
    """Leadership was lost with the request in the log: it may or may not take effect. The same request id, asked again, tells."""

    def __init__(self, leader: Member | None) -> None:
        super().__init__("leadership was lost while the request was in the log")
        self.leader = leader


class OverloadedError(RaftError):
    """A bounded queue is full; nothing was appended. Try again later."""


class UnavailableError(RaftError):
    """No quorum answered in time, or the engine is stopping. For a read barrier: nothing is known, ask again."""


class StorageFailedError(RaftError):
    """The disk refused a write or an fsync. The engine has stopped for good and acknowledges nothing any more."""


@dataclass(frozen=True, slots=True)
class Committed:
    """One committed NORMAL entry. `ticket` is what `propose` returned for it when this process proposed it in this reign, else None."""

    index: int
    term: int
    data: bytes
    ticket: int | None


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """What the leader knows of one peer."""

    id: ReplicaId
    match: int
    next: int
    state: str
    last_contact_ms: float | None


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A snapshot of counters for people and metrics; not linearizable."""

    id: ReplicaId
    engine: str
    role: Role
    term: int
    leader: ReplicaId | None
    commit: int
    applied: int
    first_index: int
    last_index: int
    snapshot_index: int
    log_bytes: int
    membership: Membership
    peers: tuple[PeerStatus, ...] = ()
    fsync_p50_ms: float = 0.0
    fsync_p99_ms: float = 0.0
    failed: str | None = None
    extra: dict[str, float] = field(default_factory=dict)


class StateMachine(Protocol):
    """What applies the log. Implementations must be deterministic: the same entries give the same state on every replica."""

    def apply(self, entries: Sequence[Committed]) -> None:
        """Apply committed entries, in order, each exactly once per process life. Must not raise: a raise halts the replica."""

    def abandoned(self, tickets: Sequence[int]) -> None:
        """The outcome of these proposals can no longer be known here (leadership was lost, or the engine stops). They may still commit."""

    def role_changed(self, role: Role, term: int, leader: Member | None) -> None:
        """The role, term or known leader changed. When it says LEADER, every entry of earlier terms has been applied."""

    def snapshot_writer(self) -> SnapshotWriter:
        """Freeze the present state and return what can write it."""

    def restore(self, source: BinaryIO, index: int) -> None:
        """Replace the whole state by the snapshot read from `source`, taken after `index`. Raises ValueError on damage."""


class SnapshotWriter(Protocol):
    """Writes one frozen state. The engine calls it in a forked child (its default) or, where forking is off, on the event loop."""

    def write(self, sink: BinaryIO) -> None:
        """Write the whole state to `sink`, in large pieces. Touches no event loop, thread, lock or log."""


class Engine(Protocol):
    """A replicated log."""

    async def start(self) -> None:
        """Recover from disk, restore and replay into the state machine, and join the cluster. Raises on a damaged or foreign directory."""

    async def stop(self) -> None:
        """Stop cleanly: outstanding proposals are abandoned, files are closed. Idempotent."""

    def propose(self, data: bytes) -> int:
        """Append `data` to the log and return its ticket.

        Raises NotLeaderError, OverloadedError or StorageFailedError: nothing was appended then.

        The outcome arrives through the state machine: `apply` with the ticket, or `abandoned`.
        """

    async def read_barrier(self, timeout: float) -> int:
        """Return an index such that a local read, once it is applied here, is linearizable; waits until it is. Works on any role.

        Raises UnavailableError after `timeout` seconds without confirmation by a quorum.
        """

    def status(self) -> EngineStatus:
        """Counters and roles, at once."""

    def leader(self) -> Member | None:
        """The member that leads, as far as is known here."""

    async def change_member(self, member: Member | None, *, remove: ReplicaId | None = None, timeout: float = 10.0) -> Membership:
        """Add or alter `member` (a learner, or a voter by promotion), or `remove` one. Leader only. Raises RaftError with the reason."""

    async def transfer_leadership(self, to: ReplicaId, timeout: float = 5.0) -> None:
        """Hand leadership to `to` (a voter). Leader only. Raises RaftError with the reason."""

    async def snapshot(self) -> int:
        """Take a snapshot now; returns its index once it is durable."""

    def saved_state(self) -> AbstractContextManager[tuple[int, BinaryIO]]:
        """The newest durable snapshot: its index, and the state machine's part of it. Raises RaftError if there is none.

        Reading raises ValueError where the file is damaged. The snapshot stays readable until the block ends.
        """
