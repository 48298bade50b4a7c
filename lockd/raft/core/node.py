"""The consensus machine: `Node`, its public face. The parts: election, replication, reads; what they share: state, log, progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lockd.raft.core import election, reads, replication
from lockd.raft.core.config import Config, CoreInvariantError
from lockd.raft.core.progress import PeerState, Progress
from lockd.raft.core.state import LIMIT, State
from lockd.raft.core.types import (
    AppendReply,
    AppendRequest,
    Entry,
    HardState,
    Input,
    InstallSnapshot,
    Membership,
    Message,
    Nanos,
    Output,
    Persisted,
    Propose,
    ProposeMembership,
    Read,
    ReadIndexReply,
    ReadIndexRequest,
    Receive,
    ReplicaId,
    Restored,
    Role,
    SnapshotMeta,
    SnapshotSent,
    SnapshotTaken,
    Tick,
    TimeoutNow,
    TransferLeadership,
    Unreachable,
    VoteReply,
    VoteRequest,
)

__all__ = ["Config", "CoreInvariantError", "Node", "PeerState", "Progress"]


class Node:
    """One replica's consensus state. `step` is the only way to change it; everything else reads."""

    __slots__ = ("_start", "_state")

    def __init__(self, id: ReplicaId, restored: Restored, now: Nanos, config: Config) -> None:  # noqa: A002
        """Start from what recovery found. Raises CoreInvariantError if that cannot be a log."""
        self._state = State(id, restored, now, config)
        self._start = now

    def step(self, now: Nanos, input: Input) -> Output:  # noqa: A002
        """Take one input in, and say what must be done.

        `now` that goes back counts as standing still. Raises CoreInvariantError if an invariant is broken or the shell broke the contract,
        and nothing else; never because of what a message says.
        """
        s = self._state
        if now > s.now:
            s.now = now
        s.out = out = Output([])
        role, term, leader = s.role, s.term, s.leader
        _INPUTS[type(input)](s, input)
        if s.role is Role.LEADER:
            if s.reads.waiting or s.reads.confirming:
                reads.advance(s)
            if s.transfer is not None:
                election.advance_transfer(s, s.transfer)
        s.note_role(role, term, leader)
        s.finish()
        return out

    @property
    def deadline(self) -> Nanos:
        """When a `Tick` is next due. A shell sleeps until then, or until there is another input."""
        s = self._state
        if s.role is Role.LEADER:
            return min(s.heartbeat_due, s.transfer.deadline) if s.transfer is not None else s.heartbeat_due
        if s.delivered < min(s.commit, s.log.durable):
            return self._start  # what the restored log is known to have committed can be applied at once
        oldest_read = next(iter(s.reads.forwarded.values()), s.election_due)
        return min(s.election_due, oldest_read)

    @property
    def id(self) -> ReplicaId:
        """This replica."""
        return self._state.id

    @property
    def role(self) -> Role:
        """What it is now."""
        return self._state.role

    @property
    def term(self) -> int:
        """The current term."""
        return self._state.term

    @property
    def leader(self) -> ReplicaId | None:
        """The leader of this term, if known."""
        return self._state.leader

    @property
    def commit(self) -> int:
        """The last index known to be committed (it may be ahead of what is durable here)."""
        return self._state.commit

    @property
    def durable_index(self) -> int:
        """The last index up to which the log is durable here."""
        return self._state.log.durable

    @property
    def first_index(self) -> int:
        """The first index that the log still holds, or would hold next."""
        return self._state.log.base_index + 1

    @property
    def last_index(self) -> int:
        """The last index of the log."""
        return self._state.log.last_index

    @property
    def snapshot(self) -> SnapshotMeta:
        """The latest snapshot, taken here or received."""
        return self._state.snapshot

    @property
    def membership(self) -> Membership:
        """The membership in force: the latest in the log, committed or not (4.1)."""
        return self._state.membership

    def membership_at(self, index: int) -> Membership:
        """The membership in force at `index`, which is not older than the latest snapshot; for a SnapshotMeta."""
        return self._state.history.at(index)

    @property
    def progress(self) -> Mapping[ReplicaId, Progress]:
        """What a leader knows of each peer (match, next, state, last_contact); empty on other roles."""
        return MappingProxyType(self._state.progress)

    @property
    def log_bytes(self) -> int:
        """Size of the log in memory, with `log.ENTRY_OVERHEAD` for each entry."""
        return self._state.log.size

    @property
    def hard_state(self) -> HardState:
        """Term, vote and commit as of now, durable or not yet."""
        s = self._state
        return HardState(s.term, s.vote, s.commit)

    def entries(self, first: int, last_exclusive: int) -> Sequence[Entry]:
        """Entries [first, last_exclusive) of the log. Raises IndexError if the log does not hold them all."""
        return self._state.log.entries(first, last_exclusive)

    def term_at(self, index: int) -> int | None:
        """The term of the entry at `index`; None if the log does not know it."""
        return self._state.log.term_at(index)


# --- inputs ---


def _tick(s: State, _: Tick) -> None:
    if s.role is Role.LEADER:
        if s.transfer is not None and s.now >= s.transfer.deadline:
            s.transfer = None
        if s.now >= s.heartbeat_due and election.check_quorum(s):
            if s.transfer is not None:
                s.transfer.told = False
            replication.broadcast(s)
            s.heartbeat_due = s.now + s.config.heartbeat
        return
    if s.reads.forwarded:
        reads.expire(s)
    if s.now >= s.election_due:
        election.on_election_timeout(s)


def _receive(s: State, receive: Receive) -> None:
    message = receive.message
    handler = _MESSAGES.get(type(message))
    if handler is not None and message.to == s.id and message.sender != s.id and 0 <= message.term <= LIMIT:
        handler(s, message)


def _persisted(s: State, done: Persisted) -> None:
    if done.write > s.write_number:
        raise CoreInvariantError(f"write {done.write} is done, but the last one asked for was {s.write_number}")
    if done.write > s.persisted:
        s.persisted = done.write
        before = s.log.durable
        s.log.persisted(done.write)
        election.on_own_vote_durable(s)
        if s.role is Role.LEADER and s.log.durable > before:
            replication.advance_commit(s)


def _snapshot_taken(s: State, taken: SnapshotTaken) -> None:
    meta = taken.meta
    if meta.index > s.delivered:
        raise CoreInvariantError(f"a snapshot at {meta.index}, but entries were handed out up to {s.delivered} only")
    if meta.index > s.snapshot.index:
        s.snapshot = meta
        s.history.compact(meta.index)
    s.log.drop_before(min(taken.keep_from, s.snapshot.index + 1))


_INPUTS: dict[type, Callable[[State, Any], None]] = {
    Tick: _tick,
    Receive: _receive,
    Persisted: _persisted,
    Propose: lambda s, i: replication.on_propose(s, i.payloads),
    ProposeMembership: lambda s, i: replication.on_propose_membership(s, i.membership),
    Read: lambda s, i: reads.on_read(s, i.context),
    SnapshotTaken: _snapshot_taken,
    SnapshotSent: lambda s, i: replication.on_snapshot_sent(s, i.to, i.index, ok=i.ok),
    Unreachable: lambda s, i: replication.on_unreachable(s, i.peer),
    TransferLeadership: lambda s, i: election.on_transfer(s, i.to),
}

_MESSAGES: dict[type[Message], Callable[[State, Any], None]] = {
    AppendRequest: replication.on_append,
    AppendReply: replication.on_append_reply,
    VoteRequest: election.on_vote_request,
    VoteReply: election.on_vote_reply,
    InstallSnapshot: replication.on_install,
    ReadIndexRequest: reads.on_request,
    ReadIndexReply: reads.on_reply,
    TimeoutNow: election.on_timeout_now,
}
