"""The consensus machine: `Node`, its public face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lockd.raft.core.config import Config, CoreInvariantError
from lockd.raft.core.progress import PeerState, Progress
from lockd.raft.core.types import Entry, HardState, Input, Membership, Nanos, Output, ReplicaId, Restored, Role

__all__ = ["Config", "CoreInvariantError", "Node", "PeerState", "Progress"]


class Node:
    """One replica's consensus state. `step` is the only way to change it; everything else reads."""

    def __init__(self, id: ReplicaId, restored: Restored, now: Nanos, config: Config) -> None:  # noqa: A002
        self._id = id
        self._restored = restored
        self._now = now
        self._config = config

    def step(self, now: Nanos, input: Input) -> Output:  # noqa: A002, ARG002
        """Take one input in, and say what must be done. `now` must not go back. Raises CoreInvariantError only."""
        self._now = max(self._now, now)
        return Output(messages=[])

    @property
    def deadline(self) -> Nanos:
        """When a `Tick` is next due."""
        return self._now + self._config.election_timeout_min

    @property
    def id(self) -> ReplicaId:
        """This replica."""
        return self._id

    @property
    def role(self) -> Role:
        """What it is now."""
        return Role.FOLLOWER

    @property
    def term(self) -> int:
        """The current term."""
        return self._restored.hard_state.term

    @property
    def leader(self) -> ReplicaId | None:
        """The leader of this term, if known."""
        return None

    @property
    def commit(self) -> int:
        """The last index known to be committed (it may be ahead of what is durable here)."""
        return self._restored.snapshot.index

    @property
    def first_index(self) -> int:
        """The first index that the log still holds, or would hold next."""
        return self._restored.snapshot.index + 1

    @property
    def last_index(self) -> int:
        """The last index of the log."""
        return self._restored.snapshot.index + len(self._restored.entries)

    @property
    def membership(self) -> Membership:
        """The membership in force: the latest in the log, committed or not (4.1)."""
        return self._restored.snapshot.membership

    def membership_at(self, index: int) -> Membership:  # noqa: ARG002
        """The membership in force at `index`, which is not older than the latest snapshot; for a SnapshotMeta."""
        return self._restored.snapshot.membership

    @property
    def progress(self) -> Mapping[ReplicaId, Progress]:
        """What a leader knows of each peer (match, next, state, last_contact); empty on other roles."""
        return {}

    @property
    def log_bytes(self) -> int:
        """Size of the log in memory."""
        return 0

    @property
    def hard_state(self) -> HardState:
        """Term, vote and commit as of now, durable or not yet."""
        return self._restored.hard_state

    def entries(self, first: int, last_exclusive: int) -> Sequence[Entry]:  # noqa: ARG002
        """Entries [first, last_exclusive) of the log. Raises IndexError if the log does not hold them all."""
        return ()

    def term_at(self, index: int) -> int | None:  # noqa: ARG002
        """The term of the entry at `index`; None if the log does not know it."""
        return None
