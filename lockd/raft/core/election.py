"""Elections (3.4), pre-vote (9.6), leader stickiness (4.2.3), check-quorum (6.2), and leadership transfer (3.10)."""

from __future__ import annotations

from lockd.raft.core import replication
from lockd.raft.core.membership import voters_of
from lockd.raft.core.progress import Progress
from lockd.raft.core.state import State, Transfer, quorum
from lockd.raft.core.types import (
    Entry,
    EntryKind,
    Refusal,
    ReplicaId,
    Role,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)


def on_election_timeout(s: State) -> None:
    """No leader was heard in time: ask whether an election could be won, before disturbing anyone with a new term (9.6)."""
    s.restart_election_timer()
    s.set_leader(None)
    if not _may_stand(s):
        return  # learners and removed replicas wait to be told
    s.role = Role.PRE_CANDIDATE
    s.votes = {}
    s.out.messages += _vote_requests(s, s.term + 1, pre=True, transfer=False)
    if s.is_voter:
        _record_vote(s, s.id, granted=True)


def _may_stand(s: State) -> bool:
    """Voters may; and so may who is none only by a change that is not known to be committed (4.2.2).

    It may have the longest log of the voters that the cluster needs, and then nobody else can win. It does not count its own vote.
    """
    return s.is_voter or any(s.id in voters_of(membership) for membership in s.history.since(s.commit))


def campaign(s: State, *, transfer: bool) -> None:
    """Start an election. The requests leave, and our own vote counts, once our vote and log are durable.

    Otherwise a crash could forget entries on the strength of which votes were won, and the votes would still count for the term.
    """
    s.restart_election_timer()
    s.set_leader(None)
    s.role = Role.CANDIDATE
    s.term, s.vote = s.term + 1, s.id
    s.votes = {}
    s.vote_write = s.write_number + 1  # the write of this step
    s.then_send += _vote_requests(s, s.term, pre=False, transfer=transfer)


def _vote_requests(s: State, term: int, *, pre: bool, transfer: bool) -> list[VoteRequest]:
    last, last_term = s.log.last_index, s.log.last_term
    return [VoteRequest(s.id, voter, term, last, last_term, pre, transfer) for voter in s.voters if voter != s.id]


def on_vote_request(s: State, m: VoteRequest) -> None:
    """Grant, deny, or not even listen.

    Whether the candidate is in our configuration is not asked, nor whether we are a voter in it: ours may be out of date (4.2.1). A
    promoted learner that has not yet heard of its promotion may be the vote that an election needs; and a candidate counts only the voters
    of its own configuration.
    """
    if m.term > s.term and not m.transfer:
        led = s.role is Role.LEADER or (s.leader is not None and s.now - s.heard < s.config.election_timeout_min)
        if led:
            return
    fresh = (m.last_term, m.last_index) >= (s.log.last_term, s.log.last_index)
    if m.pre:
        granted = m.term > s.term and fresh
        s.out.messages.append(VoteReply(s.id, m.sender, m.term if granted else s.term, granted, pre=True))
        return
    if m.term > s.term:
        s.become_follower(m.term, None)
    granted = m.term == s.term and fresh and (s.vote == m.sender or (s.vote is None and s.leader is None))
    if granted:
        s.vote = m.sender
        s.restart_election_timer()
        s.then_send.append(VoteReply(s.id, m.sender, s.term, granted=True, pre=False))
    else:
        s.out.messages.append(VoteReply(s.id, m.sender, s.term, granted=False, pre=False))


def on_vote_reply(s: State, m: VoteReply) -> None:
    """Count a vote."""
    pre_granted = m.pre and m.granted
    if m.term > s.term and not pre_granted:
        s.become_follower(m.term, None)
    elif s.role is (Role.PRE_CANDIDATE if m.pre else Role.CANDIDATE) and m.sender in s.voters:
        current = m.term == s.term + 1 if pre_granted else m.pre or m.term == s.term
        if current:
            _record_vote(s, m.sender, granted=m.granted)


def on_own_vote_durable(s: State) -> None:
    """Our own vote counts from now on."""
    if s.role is Role.CANDIDATE and s.is_voter and s.id not in s.votes and s.persisted >= s.vote_write:
        _record_vote(s, s.id, granted=True)


def _record_vote(s: State, voter: ReplicaId, *, granted: bool) -> None:
    s.votes.setdefault(voter, granted)
    needed = len(s.voters) // 2 + 1
    against = sum(not vote for vote in s.votes.values())
    if len(s.votes) - against >= needed:
        if s.role is Role.PRE_CANDIDATE:
            campaign(s, transfer=False)
        else:
            _become_leader(s)
    elif len(s.voters) - against < needed:
        s.become_follower(s.term, None)  # lost; the timer that runs decides when to try again


def _become_leader(s: State) -> None:
    """Lead: follow every peer from the end of the log, and open the term with a no-op, whose commit commits what came before (3.6.2)."""
    s.role = Role.LEADER
    s.set_leader(s.id)
    s.leader_since = s.now
    s.transfer = None
    s.progress = {peer: Progress(peer, s.log.last_index + 1) for peer in s.peers}
    s.term_start = s.log.last_index + 1
    s.append((Entry(s.term_start, s.term, EntryKind.NOOP, b""),))
    replication.broadcast(s)
    s.heartbeat_due = s.now + s.config.heartbeat


def check_quorum(s: State) -> bool:
    """Step down if no majority was heard for an election timeout (6.2): clients should look elsewhere. True if we still lead."""
    heard = [s.now if voter == s.id else s.progress[voter].last_contact or s.leader_since for voter in s.voters]
    if s.now - quorum(heard) < s.config.election_timeout_max:
        return True
    s.become_follower(s.term, None)
    return False


# --- transfer (3.10) ---


def on_transfer(s: State, to: ReplicaId) -> None:
    """Begin to hand leadership over: no more proposals, until the target leads or an election timeout has passed."""
    if s.role is not Role.LEADER:
        s.out.refused = Refusal.NOT_LEADER
    elif s.transfer is not None:
        s.out.refused = Refusal.TRANSFERRING
    elif to not in s.voters:
        s.out.refused = Refusal.UNKNOWN_MEMBER
    elif to != s.id:
        s.transfer = Transfer(to, s.now + s.config.election_timeout_max)
        replication.feed(s, s.progress[to])


def advance_transfer(s: State, transfer: Transfer) -> None:
    """Tell the target to stand for election as soon as it has the whole log."""
    if not transfer.told and s.progress[transfer.to].match == s.log.last_index:
        transfer.told = True
        s.out.messages.append(TimeoutNow(s.id, transfer.to, s.term))


def on_timeout_now(s: State, m: TimeoutNow) -> None:
    """The leader asks us to take over: stand at once, and without a pre-vote, which the others would not listen to."""
    if m.term > s.term:
        s.become_follower(m.term, None)
    elif m.term == s.term and s.role is Role.FOLLOWER and s.leader == m.sender and s.is_voter:
        campaign(s, transfer=True)
