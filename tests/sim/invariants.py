"""What must hold at every step of the consensus, checked from outside as things happen.

The names are those of Ongaro's dissertation, figure 3.2: election safety, leader append-only, log matching, leader completeness, state
machine safety; and what durability adds to them: a vote, an acknowledgement and a commit stand on what the disks hold at that moment.
All checks are incremental: each costs in proportion to what just happened.
"""

from __future__ import annotations

from collections.abc import Sequence

from lockd.raft.core.types import (
    AppendReply,
    Entry,
    EntryKind,
    HardState,
    Membership,
    Message,
    ReplicaId,
    SnapshotMeta,
    VoteReply,
    VoteRequest,
    Write,
)
from tests.sim.world import SimulationError


class Shadow:
    """What one replica's log holds, as told by its writes: `terms[i]` is the term of index `base + 1 + i`."""

    __slots__ = ("base", "base_term", "hard_state", "terms")

    def __init__(self, base: int, base_term: int, terms: list[int], hard_state: HardState) -> None:
        self.base = base
        self.base_term = base_term
        self.terms = terms
        self.hard_state = hard_state

    @property
    def last(self) -> int:
        """Index of the last entry."""
        return self.base + len(self.terms)

    def term_at(self, index: int) -> int | None:
        """Term at `index`, None if the log does not hold it. What a snapshot covers has no term here but its last."""
        if index == self.base:
            return self.base_term
        at = index - self.base - 1
        return self.terms[at] if 0 <= at < len(self.terms) else None

    def holds(self, index: int, term: int) -> bool:
        """Whether this log surely holds the entry: it is there, or a snapshot (of committed entries only) covers it."""
        return index <= self.base or self.term_at(index) == term

    def carry_out(self, write: Write) -> None:
        """Do to this log what the write says."""
        if write.hard_state is not None:
            self.hard_state = write.hard_state
        if write.snapshot is not None:
            self.base, self.base_term = write.snapshot.index, write.snapshot.term
            self.terms = []
        if write.entries:
            first = write.entries[0].index
            del self.terms[max(0, first - self.base - 1) :]
            self.terms.extend(entry.term for entry in write.entries if entry.index > self.base)


class Invariants:
    """The promises of the consensus over one run."""

    __slots__ = ("_commits", "committed", "elections", "frontier", "history", "leaders", "votes")

    def __init__(self) -> None:
        self.leaders: dict[int, str] = {}
        self.votes: dict[tuple[str, int], str] = {}
        self.history: dict[tuple[int, int], tuple[int | None, Entry]] = {}
        """(index, term) -> (term of the entry before it, the entry): log matching, by induction over appends."""
        self.committed: dict[int, Entry] = {}
        """What some replica handed out as committed, by index."""
        self._commits: list[tuple[int, int, int]] = []
        """(term of the leader, index, term of the entry): each advance of a leader's commit index."""
        self.frontier = 0
        """The highest index any leader committed."""
        self.elections = 0

    # --- election safety ----------------------------------------------------------------------------------------------------------

    def became_leader(self, who: str, term: int, log: Shadow, membership: Membership, durable: HardState) -> None:
        """At most one leader a term, elected by a majority; and a leader holds everything committed in earlier terms."""
        other = self.leaders.setdefault(term, who)
        if other != who:
            raise SimulationError("election safety", f"{who} and {other} both lead term {term}")
        voters = [member.id for member in membership.members if member.voter]
        votes = [voter for voter in voters if self.votes.get((voter, term)) == who]
        if who in voters and who not in votes and durable.term == term and durable.vote == who:
            votes.append(ReplicaId(who))
        if 2 * len(votes) <= len(voters):
            raise SimulationError("elected by a majority", f"{who} leads term {term}; {votes} of {voters} voted for it")
        self.elections += 1
        for leader_term, index, entry_term in reversed(self._commits):
            if leader_term < term:
                if not log.holds(index, entry_term):
                    raise SimulationError(
                        "leader completeness", f"{who} leads term {term} without {index}@{entry_term}, committed in term {leader_term}"
                    )
                break

    def follows(self, who: str, leader: str | None, term: int) -> None:
        """Whom a replica takes for the leader of a term is its leader."""
        if leader is not None and self.leaders.get(term) != leader:
            raise SimulationError("one leader a term", f"{who} follows {leader} in term {term}, which {self.leaders.get(term)} leads")

    def sent(self, who: str, message: Message, durable: Shadow) -> None:
        """What leaves a replica must stand on what its disk holds."""
        kind = type(message)
        if kind is AppendReply:
            assert isinstance(message, AppendReply)
            # An answer of an earlier term may leave late, when a later leader has already replaced what it speaks of.
            term, held = durable.hard_state.term, durable.last
            if message.accepted and (message.term > term or (message.term == term and message.match > held)):
                raise SimulationError(
                    "durable before acknowledged",
                    f"{who} acknowledges {message.match} in term {message.term}; its disk holds {held}, term {term}",
                )
        elif kind is VoteReply:
            assert isinstance(message, VoteReply)
            if message.granted and not message.pre:
                self._voted(who, message.term, message.to, durable)
        elif kind is VoteRequest:
            assert isinstance(message, VoteRequest)
            if not message.pre:
                self._voted(who, message.term, who, durable)

    def _voted(self, who: str, term: int, candidate: str, durable: Shadow) -> None:
        state = durable.hard_state
        if state.term < term or (state.term == term and state.vote != candidate):
            raise SimulationError("durable before voted", f"{who} votes for {candidate} in term {term}; its disk holds {state}")
        other = self.votes.setdefault((who, term), candidate)
        if other != candidate:
            raise SimulationError("one vote a term", f"{who} votes for {candidate} and {other} in term {term}")

    # --- log --------------------------------------------------------------------------------------------------------------------------

    def appended(self, who: str, write: Write, log: Shadow, commit: int, leads: bool) -> None:
        """Look at a write before `log` (what the replica's log is in memory) carries it out."""
        if write.snapshot is not None:
            self.installed(who, write.snapshot, commit)
        elif write.entries:
            first = write.entries[0].index
            if leads and first != log.last + 1:
                raise SimulationError("leader append-only", f"leader {who} writes at {first}, its log ends at {log.last}")
            if first <= commit:
                raise SimulationError("committed entries stay", f"{who} writes at {first}, it knows {commit} as committed")
            if first > log.last + 1:
                raise SimulationError("log has no gaps", f"{who} writes at {first}, its log ends at {log.last}")
            self.matching(who, log.term_at(first - 1), write.entries)

    def changing(self, who: str, write: Write, log: Shadow, commit: int, term: int, pending: int) -> None:
        """A leader appends a membership: the one before it (at `pending`) is committed, and so is an entry of its own term (4.1)."""
        for entry in write.entries:
            if entry.kind is EntryKind.MEMBERSHIP:
                if pending > commit:
                    raise SimulationError(
                        "one change at a time", f"{who} changes the membership at {entry.index}; {pending} is not committed"
                    )
                if log.term_at(commit) != term:
                    raise SimulationError(
                        "no change before an own commit",
                        f"{who} changes the membership at {entry.index} in term {term}; it has committed {commit}@{log.term_at(commit)}",
                    )
                pending = entry.index

    def believes(self, who: str, own_term: int, peer: str, match: int, term: int | None, before: int, held: Shadow | None) -> None:
        """What a leader of `own_term` believes a peer to hold is there, unless the peer has gone on to a later term."""
        if match < before:
            raise SimulationError("match never goes back", f"leader {who} took {peer} to hold {before}, now {match}")
        if term is None and match in self.committed:  # the leader's log has dropped it
            term = self.committed[match].term
        if held is not None and held.hard_state.term > own_term:
            return
        if match > before and (held is None or term is None or not held.holds(match, term)):
            ends = None if held is None else held.last
            raise SimulationError("match is true", f"leader {who} takes {peer} to hold {match}@{term}; its disk ends at {ends}")

    def matching(self, who: str, before: int | None, entries: Sequence[Entry]) -> None:
        """Log matching: equal index and term mean equal entries, and equal entries before them."""
        history = self.history
        previous = before
        for entry in entries:
            key = (entry.index, entry.term)
            known = history.get(key)
            if known is None:
                history[key] = (previous, entry)
            else:
                if known[1] is not entry and known[1] != entry:
                    raise SimulationError("log matching", f"{who} holds another entry as {entry.index}@{entry.term}")
                if known[0] != previous and known[0] is not None and previous is not None:
                    raise SimulationError(
                        "log matching", f"{who} holds {entry.index}@{entry.term} after term {previous}, others after {known[0]}"
                    )
            if previous is not None and entry.term < previous:
                raise SimulationError("log matching", f"{who} holds term {entry.term} after term {previous} at {entry.index}")
            previous = entry.term

    def installed(self, who: str, meta: SnapshotMeta, commit: int) -> None:
        """A snapshot may only replace older state, and only by committed state."""
        if meta.index <= commit:
            raise SimulationError("committed entries stay", f"{who} installs a snapshot at {meta.index}, it knows {commit} as committed")
        known = self.committed.get(meta.index)
        if meta.index > self.frontier or (known is not None and known.term != meta.term):
            raise SimulationError(
                "snapshots are of committed state", f"{who} installs {meta.index}@{meta.term}; committed: {self.frontier}, {known}"
            )

    # --- commit -----------------------------------------------------------------------------------------------------------------------

    def leader_committed(
        self, who: str, term: int, index: int, entry_term: int | None, membership: Membership, durable: dict[str, Shadow]
    ) -> None:
        """A leader advanced its commit index: the entry is of its own term, and durable on a majority of voters."""
        if entry_term != term:
            raise SimulationError("own-term commit", f"{who} commits {index}@{entry_term} by counting in term {term}")
        voters = [member.id for member in membership.members if member.voter]
        holders = [voter for voter in voters if voter in durable and durable[voter].holds(index, term)]
        if 2 * len(holders) <= len(voters):
            raise SimulationError("commit stands on a majority", f"{who} commits {index}@{term}; durable on {holders} of {voters}")
        self._commits.append((term, index, term))
        self.frontier = max(self.frontier, index)

    def handed_out(self, who: str, entries: Sequence[Entry], applied: int, durable: Shadow) -> int:
        """A replica hands out committed entries; returns its new applied index."""
        committed = self.committed
        for entry in entries:
            if entry.index != applied + 1:
                raise SimulationError("applied in order, once", f"{who} applies {entry.index} after {applied}")
            applied = entry.index
            known = committed.get(applied)
            if known is None:
                committed[applied] = entry
                if applied > self.frontier:
                    raise SimulationError(
                        "only what is committed is applied", f"{who} applies {applied}@{entry.term}, leaders committed {self.frontier}"
                    )
            elif known is not entry and known != entry:
                raise SimulationError("state machine safety", f"{who} applies {applied}@{entry.term}, others {applied}@{known.term}")
            if not durable.holds(applied, entry.term):
                raise SimulationError(
                    "applied entries are durable here", f"{who} applies {applied}@{entry.term}, its disk ends at {durable.last}"
                )
        return applied

    def restarted(self, who: str, before: Shadow, after: Shadow, in_flight: Sequence[Write]) -> None:
        """What recovery found must be what was durable, or more: any of the writes that had begun and not returned."""
        if after.hard_state.term < before.hard_state.term:
            raise SimulationError("recovery", f"{who} recovered term {after.hard_state.term}, durable was {before.hard_state.term}")
        same_term = after.hard_state.term == before.hard_state.term
        if same_term and before.hard_state.vote is not None and after.hard_state.vote != before.hard_state.vote:
            raise SimulationError("recovery", f"{who} recovered vote {after.hard_state.vote}, durable was {before.hard_state.vote}")
        if after.base < before.base:
            raise SimulationError("recovery", f"{who} recovered a snapshot at {after.base}, durable was {before.base}")
        if any(write.snapshot is not None for write in in_flight):
            return
        stop = min((write.entries[0].index for write in in_flight if write.entries), default=before.last + 1)
        for index in range(max(before.base, after.base) + 1, min(stop, before.last + 1)):
            if after.term_at(index) != before.term_at(index):
                raise SimulationError(
                    "recovery", f"{who} recovered {index}@{after.term_at(index)}, durable was {index}@{before.term_at(index)}"
                )
