"""Values that go into and come out of the consensus machine.

The machine is `lockd.raft.core.node.Node`: `step(now, input) -> Output`. It does no I/O and owns no clock; the shell
(`lockd.raft.engine`) carries out an `Output` and feeds back what happened. Numbers in brackets, like (6.4), are sections of Ongaro's
dissertation "Consensus: Bridging Theory and Practice" (2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NewType, TypeAlias

ReplicaId = NewType("ReplicaId", str)
"""Name of one member of the cluster; unique for ever, never reused after a removal."""

Nanos: TypeAlias = int
"""Monotonic time in nanoseconds, as the shell reads it; the machine only compares and adds."""


class Role(Enum):
    """What a replica is at this moment (3.3, 9.6, 4.2.1)."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class EntryKind(IntEnum):
    """What the data of an entry means; only NORMAL entries reach the application."""

    NORMAL = 0
    NOOP = 1
    MEMBERSHIP = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One position of the log."""

    index: int
    term: int
    kind: EntryKind
    data: bytes


@dataclass(frozen=True, slots=True)
class Member:
    """One configured member. Addresses are data for the shell; the machine does not read them."""

    id: ReplicaId
    peer_address: str
    client_address: str
    voter: bool = True


@dataclass(frozen=True, slots=True)
class Membership:
    """The configuration in force (4.1): members sorted by id."""

    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class HardState:
    """What must be durable before any message that depends on it leaves (3.3, figure 2). `commit` is only a hint."""

    term: int = 0
    vote: ReplicaId | None = None
    commit: int = 0


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """Identifies a snapshot: the state after applying `index`, whose entry had `term`, with the membership in force there."""

    index: int
    term: int
    membership: Membership


@dataclass(frozen=True, slots=True)
class Restored:
    """What recovery found on disk: the machine starts from it. `entries` begin at `snapshot.index + 1`."""

    hard_state: HardState
    snapshot: SnapshotMeta
    entries: tuple[Entry, ...]


# --- messages between replicas -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VoteRequest:
    """RequestVote (3.4), or pre-vote (9.6) when `pre`. `transfer` marks an election asked for by the leader (3.10)."""

    sender: ReplicaId
    to: ReplicaId
    term: int
    last_index: int
    last_term: int
    pre: bool
    transfer: bool = False


@dataclass(frozen=True, slots=True)
class VoteReply:
    """Answer to a VoteRequest. For a pre-vote that is granted, `term` is the term that was asked for."""

    sender: ReplicaId
    to: ReplicaId
    term: int
    granted: bool
    pre: bool


@dataclass(frozen=True, slots=True)
class AppendRequest:
    """AppendEntries (3.5). `round` numbers the leader's broadcasts: its echo confirms leadership for reads (6.4) and check-quorum (6.2)."""

    sender: ReplicaId
    to: ReplicaId
    term: int
    prev_index: int
    prev_term: int
    entries: tuple[Entry, ...]
    commit: int
    round: int


@dataclass(frozen=True, slots=True)
class AppendReply:
    """Answer to AppendRequest or InstallSnapshot.

    accepted: `match` is the last index known to equal the leader's and durable here.
    refused:  `match` is the index that was probed (prev_index), `hint_index`/`hint_term` the follower's conflict hint (3.5, etcd style).
    """

    sender: ReplicaId
    to: ReplicaId
    term: int
    accepted: bool
    match: int
    hint_index: int
    hint_term: int
    round: int


@dataclass(frozen=True, slots=True)
class InstallSnapshot:
    """InstallSnapshot (5.3). The shell streams the file, and hands this to the receiver's machine once the file is durable there."""

    sender: ReplicaId
    to: ReplicaId
    term: int
    meta: SnapshotMeta


@dataclass(frozen=True, slots=True)
class ReadIndexRequest:
    """A follower asks its leader for a read index (6.4). `context` is chosen by the asker."""

    sender: ReplicaId
    to: ReplicaId
    term: int
    context: int


@dataclass(frozen=True, slots=True)
class ReadIndexReply:
    """The leader's answer: reads may be served once `index` is applied. `index` 0 means refused: ask again."""

    sender: ReplicaId
    to: ReplicaId
    term: int
    context: int
    index: int


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """Leadership transfer: the receiver starts an election at once (3.10)."""

    sender: ReplicaId
    to: ReplicaId
    term: int


Message: TypeAlias = (
    VoteRequest | VoteReply | AppendRequest | AppendReply | InstallSnapshot | ReadIndexRequest | ReadIndexReply | TimeoutNow
)


# --- inputs ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed. Due whenever `now >= Node.deadline`; harmless at any other time."""


@dataclass(frozen=True, slots=True)
class Receive:
    """A message from a peer whose identity the transport has checked against `message.sender`."""

    message: Message


@dataclass(frozen=True, slots=True)
class Propose:
    """Append these payloads, if this replica leads. Refused with `Output.refused` otherwise."""

    payloads: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ProposeMembership:
    """Change the membership by at most one voter (4.1). Learners are added and removed the same way.

    A new voter must be a learner of the present membership that has caught up (4.2.1): a replica joins as a learner, and is promoted later.
    The order of members does not matter here; the machine sorts them by id.
    """

    membership: Membership


@dataclass(frozen=True, slots=True)
class Read:
    """Ask for a read index (6.4), on any role; answered by a `ReadState` or listed in `Output.reads_failed`."""

    context: int


@dataclass(frozen=True, slots=True)
class Persisted:
    """The write with this number, and all before it, are durable."""

    write: int


@dataclass(frozen=True, slots=True)
class SnapshotTaken:
    """The application has a durable snapshot at `meta.index`: entries up to `keep_from - 1` may be dropped from the log."""

    meta: SnapshotMeta
    keep_from: int


@dataclass(frozen=True, slots=True)
class SnapshotSent:
    """The stream of a snapshot to `to` ended; after a failure the peer goes back to probing."""

    to: ReplicaId
    index: int
    ok: bool


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The transport could not deliver to this peer lately: its pipeline falls back to probing."""

    peer: ReplicaId


@dataclass(frozen=True, slots=True)
class TransferLeadership:
    """Hand leadership to `to` (3.10); abandoned after one election timeout."""

    to: ReplicaId


Input: TypeAlias = (
    Tick | Receive | Propose | ProposeMembership | Read | Persisted | SnapshotTaken | SnapshotSent | Unreachable | TransferLeadership
)


# --- outputs -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Write:
    """One unit of durable work, carried out strictly in order of `number`.

    Then the shell feeds `Persisted(number)` and sends `then_send`: votes and acknowledgements must not leave before what they promise is
    durable. A write may consist of `then_send` alone (the answer to a heartbeat): it needs no sync of its own, and is complete at once if
    every earlier write is.

    If `snapshot` is set, the received snapshot file becomes current and the whole log is replaced by what follows it, atomically.
    If `entries` is not empty, everything from `entries[0].index` on is replaced by them.
    """

    number: int
    hard_state: HardState | None
    entries: tuple[Entry, ...]
    snapshot: SnapshotMeta | None
    then_send: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class ReadState:
    """Reads registered under `context` may be answered once `index` is applied."""

    context: int
    index: int


@dataclass(frozen=True, slots=True)
class RoleChange:
    """The replica's role, term or known leader changed."""

    role: Role
    term: int
    leader: ReplicaId | None


class Refusal(Enum):
    """Why a proposal, membership change or transfer was refused; nothing of it was appended."""

    NOT_LEADER = "not leader"
    TRANSFERRING = "leadership is being transferred"
    CHANGE_PENDING = "another membership change is not yet committed"
    NOT_READY = "the leader has not yet committed an entry of its own term"
    MORE_THAN_ONE_VOTER = "a membership change may add or remove one voter only"
    UNKNOWN_MEMBER = "no such voting member"
    NOT_CAUGHT_UP = "the learner has not caught up yet"
    OVERLOADED = "too many uncommitted entries"
    INVALID = "a membership needs a voter, and names each member once"


@dataclass(slots=True)
class Output:
    """What the shell must now do. `messages` go out at once; the rest as each field says."""

    messages: list[Message]
    write: Write | None = None
    committed: list[Entry] | None = None
    """Entries to apply, in order, each exactly once per process life; all are durable here."""
    reads: list[ReadState] | None = None
    reads_failed: list[int] | None = None
    proposed: tuple[int, int] | None = None
    """(term, index of the first appended payload), when a proposal was accepted."""
    refused: Refusal | None = None
    role: RoleChange | None = None
    send_snapshot: list[ReplicaId] | None = None
    """Peers that need the latest snapshot streamed to them."""
    install: SnapshotMeta | None = None
    """The application must replace its state with this snapshot (it is part of `write`), before any entry of `committed`."""
