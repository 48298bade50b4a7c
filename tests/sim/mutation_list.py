"""The list of deliberate bugs. See `tests.sim.mutations` for what is done with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.sim.cluster import Parts

CORE = "lockd.raft.core"


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace `old` by `new` in the source of `where` ("module:function" or "module:Class.method")."""

    where: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutation:
    """One deliberate bug."""

    name: str
    group: str
    edits: tuple[Edit, ...] = ()
    profile: str | None = None
    """The kind of schedule to look for it in; None: any."""
    parts: Parts = field(default_factory=Parts)


def _one(name: str, group: str, where: str, old: str, new: str, profile: str | None = None) -> Mutation:
    return Mutation(name, group, (Edit(where, old, new),), profile)


ELECTION = f"{CORE}.election"
REPLICATION = f"{CORE}.replication"
READS = f"{CORE}.reads"
STATE = f"{CORE}.state"

MUTATIONS: tuple[Mutation, ...] = (
    # --- elections
    _one(
        "vote leaves before it is durable",
        "election",
        f"{ELECTION}:on_vote_request",
        "s.then_send.append(VoteReply(",
        "s.out.messages.append(VoteReply(",
    ),
    _one("candidate asks before its own vote is durable", "election", f"{ELECTION}:campaign", "s.then_send +=", "s.out.messages +="),
    _one(
        "term and vote are never written", "election", f"{STATE}:State.finish", "self.written_hard if record else None", "None", "crashes"
    ),
    _one(
        "the vote is written without the candidate",
        "election",
        "lockd.raft.journal_format:encode_hard_state",
        "_NO_VOTE if state.vote is None else len(vote)) + vote",
        "_NO_VOTE)",
        "crashes",
    ),
    _one(
        "two votes in a term",
        "election",
        f"{ELECTION}:on_vote_request",
        "(s.vote == m.sender or (s.vote is None and s.leader is None))",
        "True",
        "elections",
    ),
    _one(
        "votes for any log",
        "election",
        f"{ELECTION}:on_vote_request",
        "fresh = (m.last_term, m.last_index) >= (s.log.last_term, s.log.last_index)",
        "fresh = True",
        "elections",
    ),
    _one(
        "votes by length of the log alone",
        "election",
        f"{ELECTION}:on_vote_request",
        "fresh = (m.last_term, m.last_index) >= (s.log.last_term, s.log.last_index)",
        "fresh = m.last_index >= s.log.last_index",
        "elections",
    ),
    _one(
        "votes of earlier elections are counted",
        "election",
        f"{ELECTION}:on_vote_reply",
        "current = m.term == s.term + 1 if pre_granted else m.pre or m.term == s.term",
        "current = True",
        "elections",
    ),
    Mutation(
        "a pre-vote counts as a vote",
        "election",
        (
            Edit(
                f"{ELECTION}:on_vote_reply",
                "s.role is (Role.PRE_CANDIDATE if m.pre else Role.CANDIDATE)",
                "s.role in (Role.PRE_CANDIDATE, Role.CANDIDATE)",
            ),
            Edit(
                f"{ELECTION}:on_vote_reply",
                "current = m.term == s.term + 1 if pre_granted else m.pre or m.term == s.term",
                "current = True",
            ),
        ),
        "elections",
    ),
    _one(
        "half of the votes is enough",
        "election",
        f"{ELECTION}:_record_vote",
        "len(s.voters) // 2 + 1",
        "max(1, len(s.voters) // 2)",
        "elections",
    ),
    _one(
        "a transfer skips the election",
        "election",
        f"{ELECTION}:on_timeout_now",
        "campaign(s, transfer=True)",
        "campaign(s, transfer=True); _become_leader(s)",
        "leaders",
    ),
    # --- replication and commit
    _one(
        "entries of earlier terms are committed by counting",
        "commit",
        f"{REPLICATION}:advance_commit",
        " and s.log.term_at(index) == s.term",
        "",
        "leaders",
    ),
    _one("a half is a majority", "commit", f"{STATE}:quorum", "(len(values) - 1) // 2", "len(values) // 2"),
    _one(
        "own entries count before they are durable",
        "commit",
        f"{REPLICATION}:advance_commit",
        "s.log.durable if voter == s.id",
        "s.log.last_index if voter == s.id",
    ),
    _one(
        "entries are applied before they are durable",
        "commit",
        f"{STATE}:State.finish",
        "deliverable = min(self.commit, log.durable)",
        "deliverable = self.commit",
    ),
    _one(
        "acknowledged before fsync",
        "commit",
        f"{REPLICATION}:on_append",
        "s.then_send.append(AppendReply(",
        "s.out.messages.append(AppendReply(",
    ),
    _one("a write counts for what overwrote it (ABA)", "commit", f"{CORE}.log:Log._clip", "if self._writes:", "if False:", "slow disks"),
    _one(
        "match moves forward when entries are sent",
        "commit",
        f"{CORE}.progress:Progress.sent",
        "self.next = last + 1",
        "self.next = last + 1; self.match = last",
    ),
    _one(
        "match moves forward on a refusal",
        "commit",
        f"{REPLICATION}:_refused",
        "if m.match <= peer.match:",
        "peer.match = m.match\n    if False:",
        "network",
    ),
    _one(
        "match moves back",
        "commit",
        f"{CORE}.progress:Progress.acknowledged",
        "if match <= self.match:",
        "if match == self.match:",
        "network",
    ),
    _one("acknowledgements of earlier terms count", "commit", f"{REPLICATION}:on_append_reply", "m.term != s.term or ", "", "returns"),
    _one("every append truncates", "commit", f"{REPLICATION}:_resolve", "if term != entry.term:", "if True:", "network"),
    _one(
        "what comes before is not compared",
        "commit",
        f"{REPLICATION}:on_append",
        "elif log.term_at(previous) != m.prev_term:",
        "elif log.term_at(previous) is None:",
        "leaders",
    ),
    _one(
        "followers commit beyond what matches",
        "commit",
        f"{REPLICATION}:on_append",
        "min(m.commit, last)",
        "min(m.commit, log.last_index)",
        "leaders",
    ),
    _one("leaders of earlier terms are obeyed", "commit", f"{REPLICATION}:_follow", "if m.term < s.term:", "if False:", "echoes"),
    _one("a leader never backs up", "commit", f"{REPLICATION}:_refused", "if m.match <= peer.match:", "if True:", "leaders"),
    # --- membership
    _one(
        "two membership changes at once",
        "membership",
        f"{REPLICATION}:_check_membership",
        "s.history.latest_index > s.commit",
        "False",
        "members",
    ),
    _one(
        "a membership change before a commit in the own term",
        "membership",
        f"{REPLICATION}:_check_membership",
        "s.commit < s.term_start",
        "False",
        "members",
    ),
    _one(
        "learners are counted",
        "membership",
        f"{STATE}:State.members_changed",
        "voters_of(membership)",
        "tuple(m.id for m in membership.members)",
        "members",
    ),
    _one(
        "a truncated membership stays in force",
        "membership",
        f"{REPLICATION}:_resolve",
        "if s.history.truncate_from(entry.index):",
        "if False:",
        "members",
    ),
    # --- reads
    _one(
        "the leader answers reads without asking",
        "reads",
        f"{READS}:on_read",
        "s.reads.waiting.append((context, None))",
        "s.answer_read(context, s.commit)",
        "leaders",
    ),
    Mutation(
        "reads before the no-op is committed",
        "reads",
        (
            Edit(f"{READS}:advance", " and s.commit >= s.term_start", ""),
            Edit(f"{REPLICATION}:broadcast", " and s.commit >= s.term_start", ""),
        ),
        "leaders",
    ),
    _one(
        "an echo of any round confirms",
        "reads",
        f"{READS}:advance",
        "reads.confirming[0][0] <= echoed",
        "reads.confirming[0][0] <= s.round",
        "leaders",
    ),
    _one(
        "followers read on their own",
        "reads",
        f"{READS}:on_read",
        "elif s.leader is None:",
        "elif True:\n        s.answer_read(context, s.commit)\n    elif s.leader is None:",
    ),
    _one(
        "a read does not wait for what it must see",
        "reads",
        "lockd.raft.driver:Driver._read_confirmed",
        "if state.index > self.applied:",
        "if False:",
    ),
    # --- sessions, tickets
    Mutation("no deduplication", "sessions", parts=Parts(dedup=False)),
    _one(
        "sessions are not in the snapshot",
        "sessions",
        "tests.sim.register:Register.dump",
        "for session in sorted(self.sessions)",
        "for session in ()",
        "snapshots",
    ),
    _one(
        "lost proposals are not abandoned",
        "sessions",
        "lockd.raft.driver_tickets:Tickets.abandon",
        "return tickets",
        "return []",
        "leaders",
    ),
    Mutation(
        "a lost reign is not noticed, and results go by index, whatever the term",
        "sessions",
        (
            Edit("lockd.raft.driver_tickets:Tickets.match", "entries[stop - 1].term != run.term", "False"),
            Edit("lockd.raft.driver:Driver._role_changed", "if was_leader and not same_reign:", "if False:"),
        ),
        "leaders",
    ),
    _one("failed reads are not told", "sessions", "lockd.raft.driver:Driver._carry_out", "callback(None)", "pass", "leaders"),
    # --- snapshots
    _one("a snapshot replaces newer state", "snapshots", f"{REPLICATION}:on_install", "if meta.index > s.commit:", "if True:", "snapshots"),
    _one(
        "an installed snapshot does not reach the state",
        "snapshots",
        "lockd.raft.driver:Driver._install",
        "self.machine.restore(source, meta.index)",
        "pass",
        "snapshots",
    ),
    _one(
        "entries are applied again after a snapshot",
        "snapshots",
        f"{STATE}:State.install",
        "self.commit = self.delivered = meta.index",
        "self.commit = meta.index",
        "snapshots",
    ),
    _one(
        "a snapshot is installed without cutting the journal",
        "snapshots",
        "lockd.raft.journal:Journal.write_many",
        "if write.snapshot is not None:",
        "if False:",
        "snapshots",
    ),
    Mutation(
        "the snapshot is adopted before the journal is cut",
        "snapshots",
        (
            Edit("lockd.raft.recovery:Store.write_many", "self.journal.write_many(writes)\n", "pass\n"),
            Edit(
                "lockd.raft.recovery:Store.write_many",
                "            self._guard(write.snapshot)\n",
                "            self._guard(write.snapshot)\n    self.journal.write_many(writes)\n",
            ),
        ),
        "snapshots",
    ),
    _one(
        "the journal forgets what no snapshot covers",
        "snapshots",
        "lockd.raft.driver:Driver.snapshot_taken",
        "self.io.compact(keep_from)",
        "self.io.compact(self.node.last_index + 1)",
        "snapshots",
    ),
    _one(
        "the log is dropped before the snapshot is durable",
        "snapshots",
        "lockd.raft.driver:Driver._begin_snapshot",
        "self.io.take_snapshot(",
        "self.io.compact(meta.index + 1); self.io.take_snapshot(",
        "snapshots",
    ),
    # --- locks on top of the log
    _one(
        "a token is given twice in one entry",
        "locks",
        "lockd.machine.moment:Moment.next_token",
        "if token < least:",
        "if True:",
        "locks",
    ),
    _one("a session forgets its answers", "locks", "lockd.machine.sessions:Session.recall", "if known is None:", "if True:", "locks"),
    _one(
        "an abandoned entry is not told to its senders",
        "locks",
        "lockd.replica:Replica.abandoned",
        "self._in_flight.pop(ticket, None)",
        "None",
        "locks",
    ),
    _one(
        "a session ends before its time",
        "locks",
        "lockd.machine.sessions:Sessions.keep_alive",
        "max(session.expires_at, self._moment.log_time + session.ttl)",
        "session.expires_at; return KeptAlive(session.ttl, self._moment.log_time + session.ttl)",
        "locks",
    ),
    # --- disk
    _one("the journal is not synced", "disk", "lockd.raft.journal:Journal._append", "file.sync()", "pass", "crashes"),
    _one("recovery does not sync what it read", "disk", "lockd.raft.journal:Journal._settle", "file.sync()", "pass", "crashes"),
    _one(
        "the name of a new segment is not synced",
        "disk",
        "lockd.raft.journal:Journal._begin_segment",
        "self._disk.sync()",
        "pass",
        "crashes",
    ),
    _one(
        "a new snapshot is not synced", "disk", "lockd.raft.snapshots_format:SnapshotSink.finish", "self._file.sync()", "pass", "snapshots"
    ),
    _one(
        "a torn tail is believed",
        "disk",
        "lockd.raft.journal_format:batch_at",
        "google_crc32c.value(raw[start:stop]) != head[2] or ",
        "",
        "crashes",
    ),
    _one(
        "a failed write is taken for durable",
        "disk",
        "lockd.raft.journal:Journal.write_many",
        "raise JournalFailedError(self.failed) from error",
        "self.failed = None",
        "disks",
    ),
)
