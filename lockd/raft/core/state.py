"""The state that the parts of the machine share, and the steps that every part takes: follow, send, write, finish."""

from __future__ import annotations

from collections import deque

from lockd.raft.core.config import Config, CoreInvariantError, Jitter
from lockd.raft.core.log import Log, is_sound
from lockd.raft.core.membership import MembershipHistory, memberships_in, voters_of
from lockd.raft.core.progress import Progress
from lockd.raft.core.types import (
    Entry,
    HardState,
    Membership,
    Message,
    Nanos,
    Output,
    ReadState,
    ReplicaId,
    Restored,
    Role,
    RoleChange,
    SnapshotMeta,
    Write,
)


def quorum(values: list[int]) -> int:
    """The largest value that a majority has reached, given the value of each voter."""
    return sorted(values)[(len(values) - 1) // 2]


LIMIT = 1 << 62
"""Terms and indexes of messages beyond this are not believed: no log gets there, and a journal keeps 64 bits."""


class Reads:
    """Reads that wait (6.4). An asker of None means this replica itself."""

    __slots__ = ("confirming", "forwarded", "waiting")

    def __init__(self) -> None:
        self.waiting: list[tuple[int, ReplicaId | None]] = []
        """Leader: not yet in a round."""
        self.confirming: deque[tuple[int, int, list[tuple[int, ReplicaId | None]]]] = deque()
        """Leader: (round, read index, reads) that need a quorum's echo of the round."""
        self.forwarded: dict[int, Nanos] = {}
        """Follower: contexts that the leader was asked about, and when to give them up; oldest first."""


class Transfer:
    """A leadership transfer under way (3.10)."""

    __slots__ = ("deadline", "to", "told")

    def __init__(self, to: ReplicaId, deadline: Nanos) -> None:
        self.to = to
        self.deadline = deadline
        self.told = False
        """TimeoutNow was sent since the last heartbeat, which allows another: messages get lost."""


class State:
    """One replica's consensus state. The modules of this package change it; `node.Node` shows it."""

    def __init__(self, replica: ReplicaId, restored: Restored, now: Nanos, config: Config) -> None:
        self.id = replica
        self.config = config
        self.now = now
        self.jitter = Jitter(config.seed, replica)

        hard, snapshot, entries = restored.hard_state, restored.snapshot, restored.entries
        if not is_sound(snapshot.index, snapshot.term, entries, LIMIT):
            raise CoreInvariantError("the restored log has gaps, or terms that fall")
        try:
            changes = memberships_in(entries)
        except ValueError as error:
            raise CoreInvariantError(f"the restored log holds an entry that cannot be read: {error}") from error
        self.log = Log(snapshot.index, snapshot.term, entries)
        # A torn last write may have left its entries without its term; no vote of that term left before both were durable.
        self.term = max(hard.term, self.log.last_term)
        self.vote = hard.vote if hard.term == self.term else None
        self.snapshot = snapshot
        # The hint is safe to use: a write carries min(commit, durable) as it was when the write was made, so it speaks only of entries that
        # were already on disk, in their final form, before the write began; and committed entries are never replaced. The minimum guards
        # against a log that lost its tail, whose remainder is then still a prefix of what is committed.
        self.commit = max(snapshot.index, min(hard.commit, self.log.last_index))
        self.delivered = snapshot.index
        self.written_hard = hard

        self.role = Role.FOLLOWER
        self.leader: ReplicaId | None = None
        self.heard: Nanos = now
        """When a leader of this term was last heard."""
        self.votes: dict[ReplicaId, bool] = {}
        self.vote_write = 0
        """Number of the write that makes a candidate's own vote durable: it counts only then."""

        self.progress: dict[ReplicaId, Progress] = {}
        self.leader_since: Nanos = 0
        self.term_start = 0
        """Index of the no-op that opened this leader's term."""
        self.round = 0
        self.transfer: Transfer | None = None
        self.heartbeat_due: Nanos = 0
        self.reads = Reads()

        self.history = MembershipHistory(snapshot.index, snapshot.membership)
        self.history.append(changes)
        self.members_changed()

        self.out = Output(messages=[])
        self.then_send: list[Message] = []
        self.new_entries: tuple[Entry, ...] = ()
        self.write_number = 0
        self.persisted = 0
        self.election_timeout = 0
        self.election_due: Nanos = 0
        self.restart_election_timer()

    # --- membership ---

    @property
    def membership(self) -> Membership:
        """The one in force."""
        return self.history.latest

    def members_changed(self) -> None:
        """Take over the membership in force; a leader follows exactly its peers."""
        membership = self.history.latest
        self.voters = voters_of(membership)
        self.is_voter = self.id in self.voters
        self.peers = tuple(member.id for member in membership.members if member.id != self.id)
        if self.role is Role.LEADER:
            known = self.progress
            self.progress = {peer: known.get(peer) or Progress(peer, self.log.last_index + 1) for peer in self.peers}

    # --- roles ---

    def restart_election_timer(self) -> None:
        """Draw a new timeout, and wait for it from now (3.4)."""
        self.election_timeout = self.jitter.between(self.config.election_timeout_min, self.config.election_timeout_max)
        self.election_due = self.now + self.election_timeout

    def set_leader(self, leader: ReplicaId | None) -> None:
        """Know another leader, or none. Reads forwarded to the old one get no answer any more."""
        if leader != self.leader:
            self.leader = leader
            self.fail_reads(list(self.reads.forwarded))
            self.reads.forwarded.clear()

    def become_follower(self, term: int, leader: ReplicaId | None) -> None:
        """Follow in `term`, which is this term or a later one (3.3)."""
        if term > self.term:
            self.term, self.vote = term, None
        if self.role is Role.LEADER:
            self.restart_election_timer()
            reads = self.reads
            waiting = [*(read for _, _, batch in reads.confirming for read in batch), *reads.waiting]
            self.fail_reads([context for context, asker in waiting if asker is None])
            reads.confirming.clear()
            reads.waiting.clear()
            self.progress = {}
            self.transfer = None
        self.role = Role.FOLLOWER
        self.set_leader(leader)

    def fail_reads(self, contexts: list[int]) -> None:
        """These reads get no index."""
        if contexts:
            self.out.reads_failed = [*(self.out.reads_failed or ()), *contexts]

    def answer_read(self, context: int, index: int) -> None:
        """This read may be served once `index` is applied."""
        if self.out.reads is None:
            self.out.reads = []
        self.out.reads.append(ReadState(context, index))

    # --- the log ---

    def append(self, entries: tuple[Entry, ...]) -> None:
        """Add entries to the log, and to this step's write."""
        self.log.append(entries)
        self.new_entries = entries

    def install(self, meta: SnapshotMeta) -> None:
        """Replace the log by a received snapshot (5.3)."""
        self.log.reset(meta.index, meta.term, intact=min(self.commit, self.log.durable))
        self.snapshot = meta
        self.commit = self.delivered = meta.index
        self.history = MembershipHistory(meta.index, meta.membership)
        self.members_changed()
        self.out.install = meta

    def advance_commit(self, index: int) -> None:
        """Everything up to `index` is committed."""
        if index > self.commit:
            if index > self.log.last_index:
                raise CoreInvariantError(f"commit {index} beyond the end of the log at {self.log.last_index}")
            self.commit = index

    # --- the end of a step ---

    def finish(self) -> Output:
        """Gather what this step must make durable, hand out what has become committed and durable, and close the output."""
        out, log = self.out, self.log
        deliverable = min(self.commit, log.durable)
        hard = self.written_hard
        changed = hard.term != self.term or hard.vote != self.vote
        if changed or self.new_entries or self.then_send or out.install is not None:
            self.write_number += 1
            logged = bool(self.new_entries) or out.install is not None
            record = changed or (logged and deliverable != hard.commit)
            if record:
                self.written_hard = HardState(self.term, self.vote, deliverable)
            out.write = Write(
                self.write_number, self.written_hard if record else None, self.new_entries, out.install, tuple(self.then_send)
            )
            if logged:
                log.written(self.write_number)
                self.new_entries = ()
            if self.then_send:
                self.then_send = []
        if deliverable > self.delivered:
            out.committed = log.entries(self.delivered + 1, deliverable + 1)
            self.delivered = deliverable
        return out

    def note_role(self, role: Role, term: int, leader: ReplicaId | None) -> None:
        """Report a change of role, term or leader against what was before this step."""
        if role is not self.role or term != self.term or leader != self.leader:
            self.out.role = RoleChange(self.role, self.term, self.leader)
