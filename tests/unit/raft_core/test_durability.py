"""Asynchronous durability: what may be said, counted and handed out before a write has ended."""

from __future__ import annotations

import pytest

from lockd.raft.core.node import CoreInvariantError
from lockd.raft.core.types import (
    AppendReply,
    InstallSnapshot,
    Persisted,
    Propose,
    Receive,
    Role,
    SnapshotMeta,
    Tick,
    VoteReply,
    VoteRequest,
)
from tests.unit.raft_core.machine import A, B, C, accepted, append, entry, lead, log_of, machine, members, sent, write_of


def test_a_finished_write_does_not_count_for_entries_that_took_its_place() -> None:
    """ABA: the write of 2..3 of term 1 ends after index 2 was overwritten in term 2; index 2 is not durable by that."""
    node = machine([1], term=1)
    first = write_of(node.step(0, append(1, (1, 1), log_of([1, 1], 2))))
    second = write_of(node.step(0, append(2, (1, 1), [entry(2, 2)], commit=2, sender=C)))
    out = node.step(0, Persisted(first.number))
    assert (node.durable_index, node.commit, out.committed) == (1, 2, None)
    out = node.step(0, Persisted(second.number))
    assert node.durable_index == 2
    assert [(e.index, e.term) for e in out.committed or ()] == [(2, 2)]


def test_aba_holds_when_the_log_grows_back_to_the_same_length() -> None:
    """After an overwrite that is as long as what it replaced, only the second write makes any of it durable."""
    node = machine(term=1)
    first = write_of(node.step(0, append(1, (0, 0), log_of([1, 1, 1]))))
    second = write_of(node.step(0, append(2, (0, 0), log_of([2, 2, 2]), sender=C)))
    node.step(0, Persisted(first.number))
    assert node.durable_index == 0
    node.step(0, Persisted(second.number))
    assert node.durable_index == 3


def test_a_write_under_way_does_not_count_after_a_snapshot_replaced_the_log() -> None:
    """A received snapshot is durable when its own write ends, not when an older write does."""
    node = machine(term=1)
    old = write_of(node.step(0, append(1, (0, 0), log_of([1] * 9))))
    meta = SnapshotMeta(5, 2, members("abc"))
    out = node.step(0, Receive(InstallSnapshot(C, A, 2, meta)))
    install = write_of(out)
    assert out.install == meta
    assert install.snapshot == meta
    assert install.hard_state is not None
    assert install.hard_state.commit == 0, "the hint must not vouch for what the snapshot replaces"
    node.step(0, Persisted(old.number))
    assert node.durable_index == 0
    node.step(0, Persisted(install.number))
    assert node.durable_index == 5


def test_votes_and_acknowledgements_leave_with_the_write_that_backs_them() -> None:
    """A granted vote and an accepting reply are in `then_send`, never in `messages`."""
    node = machine([1], term=1)
    out = node.step(0, Receive(VoteRequest(C, A, 2, 1, 1, pre=False)))
    assert out.messages == []
    assert write_of(out).then_send == (VoteReply(A, C, 2, granted=True, pre=False),)
    out = node.step(0, append(2, (1, 1), [entry(2, 2)], sender=C))
    assert out.messages == []
    assert write_of(out).then_send == (AppendReply(A, C, 2, accepted=True, match=2, hint_index=0, hint_term=0, round=1),)


def test_an_empty_heartbeat_waits_for_earlier_writes_too() -> None:
    """The answer to a heartbeat acknowledges entries that are still being written: it goes with a write that comes after theirs."""
    node = machine([1], term=1)
    entries = write_of(node.step(0, append(1, (1, 1), [entry(2, 1)])))
    answer = write_of(node.step(0, append(1, (2, 1), number=2)))
    assert answer.number > entries.number
    assert (answer.hard_state, answer.entries, answer.snapshot) == (None, (), None)


def test_a_candidate_asks_and_counts_itself_only_when_its_vote_is_durable() -> None:
    """Vote requests leave with the write of the own vote, which counts when the write has ended."""
    node = machine([1], term=1)
    now = node.deadline
    node.step(now, Tick())
    out = node.step(now, Receive(VoteReply(B, A, 2, granted=True, pre=True)))
    assert out.messages == []
    assert {m.to for m in sent(out)} == {B, C}
    roles = [node.role]
    for given in (Receive(VoteReply(B, A, 2, granted=True, pre=False)), Persisted(write_of(out).number)):
        node.step(now, given)
        roles.append(node.role)
    assert roles == [Role.CANDIDATE, Role.CANDIDATE, Role.LEADER]


def test_a_vote_of_an_earlier_candidacy_does_not_count() -> None:
    """The own vote of term 2 becomes durable when the machine stands in term 3: it does not count there."""
    node = machine([1], term=1)
    now = node.deadline
    node.step(now, Tick())
    first = write_of(node.step(now, Receive(VoteReply(B, A, 2, granted=True, pre=True))))
    now = node.deadline
    node.step(now, Tick())
    second = write_of(node.step(now, Receive(VoteReply(B, A, 3, granted=True, pre=True))))
    node.step(now, Receive(VoteReply(B, A, 3, granted=True, pre=False)))
    roles = []
    for write in (first, second):
        node.step(now, Persisted(write.number))
        roles.append((node.role, node.term))
    assert roles == [(Role.CANDIDATE, 3), (Role.LEADER, 3)]


def test_the_leader_counts_its_own_entry_only_when_durable() -> None:
    """With one follower of three, commit waits for the leader's own disk."""
    node = machine(term=1)
    first = write_of(lead(node))
    out = node.step(node.deadline - 1, accepted(B, node.term, 1))
    assert (node.commit, out.committed) == (0, None)
    out = node.step(node.deadline - 1, Persisted(first.number))
    assert node.commit == 1
    assert [e.index for e in out.committed or ()] == [1]


def test_entries_are_handed_out_only_when_durable_here() -> None:
    """Two followers commit an entry before the leader's disk has it: it is handed out when it does."""
    node = machine(term=1)
    write = write_of(lead(node))
    now = node.deadline - 1
    node.step(now, accepted(B, node.term, 1))
    out = node.step(now, accepted(C, node.term, 1))
    assert (node.commit, out.committed) == (1, None)
    out = node.step(now, Persisted(write.number))
    assert [e.index for e in out.committed or ()] == [1]


def test_the_commit_hint_speaks_only_of_what_was_durable_before() -> None:
    """A follower that learns of a commit together with the entries writes a hint that does not cover them."""
    node = machine([1], term=1)
    write = write_of(node.step(0, append(2, (1, 1), log_of([2, 2], 2), commit=3)))
    assert node.commit == 3
    assert write.hard_state is not None
    assert write.hard_state.commit == 1


def test_the_commit_hint_is_not_written_for_its_own_sake() -> None:
    """A heartbeat that moves only the commit asks for no hard state; the next entries bring it along."""
    node = machine([1, 1], term=1)
    assert write_of(node.step(0, append(1, (2, 1), commit=2))).hard_state is None
    hard = write_of(node.step(0, append(1, (2, 1), [entry(3, 1)], commit=2))).hard_state
    assert hard is not None
    assert hard.commit == 2


def test_restart_uses_the_hint_as_far_as_the_log_goes() -> None:
    """Commit = min(hint, last); what it covers is handed out at the first step, without waiting for a timeout."""
    node = machine([1, 1, 1], term=1, commit=2)
    assert (node.commit, node.deadline) == (2, 0)
    assert [e.index for e in node.step(0, Tick()).committed or ()] == [1, 2]
    assert node.deadline > 0
    assert machine([1], term=1, commit=9).commit == 1


def test_restart_hands_out_entries_after_the_snapshot() -> None:
    """Entries that the restored snapshot covers are not handed out again."""
    node = machine([2, 2], term=2, commit=7, snapshot=(5, 1))
    assert [e.index for e in node.step(0, Tick()).committed or ()] == [6, 7]


def test_entries_of_a_term_that_was_not_recorded_raise_the_term_without_a_vote() -> None:
    """A torn write may leave entries of term 3 without the hard state of term 3; the old vote is not one of term 3."""
    node = machine([1, 3], term=2, vote=B)
    assert (node.term, node.hard_state.vote) == (3, None)
    out = node.step(0, Receive(VoteRequest(C, A, 3, 2, 3, pre=False)))
    assert sent(out) == [VoteReply(A, C, 3, granted=True, pre=False)]


def test_writes_are_numbered_without_gaps_and_persisted_may_skip() -> None:
    """Persisted(n) covers every write up to n; repeating it changes nothing."""
    node = machine(term=1)
    numbers = [write_of(node.step(0, append(1, (i, min(i, 1)), [entry(i + 1, 1)]))).number for i in range(4)]
    assert numbers == [1, 2, 3, 4]
    node.step(0, Persisted(3))
    assert node.durable_index == 3
    node.step(0, Persisted(2))
    assert node.durable_index == 3


def test_a_write_that_was_never_asked_for_is_a_broken_contract() -> None:
    """Persisted for an unknown write raises: the shell is wrong about what is on disk."""
    with pytest.raises(CoreInvariantError, match="write 1 is done"):
        machine().step(0, Persisted(1))


def test_one_output_has_one_write() -> None:
    """A proposal of several payloads is one write with all of them, and `proposed` names the first."""
    node = machine(term=1, membership=members("a"))
    node.step(0, Persisted(write_of(lead(node, ())).number))
    out = node.step(0, Propose((b"x", b"y")))
    assert out.proposed == (2, 2)
    assert [e.data for e in write_of(out).entries] == [b"x", b"y"]
