"""Linearizable reads without a log entry: ReadIndex (6.4), on the leader and forwarded by followers."""

from __future__ import annotations

from lockd.raft.core import replication
from lockd.raft.core.state import State, quorum
from lockd.raft.core.types import ReadIndexReply, ReadIndexRequest, ReplicaId, Role


def on_read(s: State, context: int) -> None:
    """Register a read of this replica."""
    if s.role is Role.LEADER:
        s.reads.waiting.append((context, None))
    elif s.leader is None:
        s.fail_reads([context])
    else:
        s.reads.forwarded.pop(context, None)
        s.reads.forwarded[context] = s.now + s.config.election_timeout_max
        s.out.messages.append(ReadIndexRequest(s.id, s.leader, s.term, context))


def on_request(s: State, m: ReadIndexRequest) -> None:
    """Register a follower's read; refuse if we do not lead."""
    if m.term > s.term:
        s.become_follower(m.term, None)
    if s.role is Role.LEADER and m.term == s.term:
        s.reads.waiting.append((m.context, m.sender))
    else:
        s.out.messages.append(ReadIndexReply(s.id, m.sender, s.term, m.context, 0))


def on_reply(s: State, m: ReadIndexReply) -> None:
    """The leader's answer to a forwarded read."""
    if m.term > s.term:
        s.become_follower(m.term, None)
    elif m.term == s.term and m.sender == s.leader and s.reads.forwarded.pop(m.context, None) is not None:
        if m.index > 0:
            s.answer_read(m.context, m.index)
        else:
            s.fail_reads([m.context])


def expire(s: State) -> None:
    """Give up forwarded reads that were not answered in an election timeout."""
    forwarded = s.reads.forwarded
    late = [context for context, due in forwarded.items() if due <= s.now]
    for context in late:
        del forwarded[context]
    s.fail_reads(late)


def advance(s: State) -> None:
    """Answer the reads whose round a majority has echoed, and start a round if reads wait for one.

    One round is under way at a time; the reads that gather meanwhile share the next. Before the leader has committed an entry of its own
    term it does not know what is committed: the reads wait for that.
    """
    reads = s.reads
    if reads.confirming:
        progress = s.progress
        echoed = quorum([s.round if voter == s.id else progress[voter].round for voter in s.voters])
        while reads.confirming and reads.confirming[0][0] <= echoed:
            _, index, batch = reads.confirming.popleft()
            _answer(s, batch, index)
    if reads.waiting and not reads.confirming and s.commit >= s.term_start:
        if s.voters == (s.id,):
            batch, reads.waiting = reads.waiting, []
            _answer(s, batch, s.commit)
        else:
            replication.broadcast(s)


def _answer(s: State, batch: list[tuple[int, ReplicaId | None]], index: int) -> None:
    for context, asker in batch:
        if asker is None:
            s.answer_read(context, index)
        else:
            s.out.messages.append(ReadIndexReply(s.id, asker, s.term, context, index))
