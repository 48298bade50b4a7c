"""A follower's answers to appends, snapshots and vote requests."""

from __future__ import annotations

import pytest

from lockd.raft.core.node import CoreInvariantError
from lockd.raft.core.types import (
    AppendReply,
    AppendRequest,
    Entry,
    EntryKind,
    InstallSnapshot,
    Persisted,
    Receive,
    Role,
    SnapshotMeta,
    SnapshotTaken,
    Tick,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from tests.unit.raft_core.machine import (
    MS,
    A,
    B,
    C,
    D,
    append,
    entry,
    log_of,
    machine,
    member_entry,
    members,
    sent,
    write_of,
)


def reply_of(out: object) -> AppendReply:
    """The one AppendReply of an output."""
    (reply,) = sent(out)  # type: ignore[arg-type]
    assert isinstance(reply, AppendReply)
    return reply


def test_a_late_duplicate_truncates_nothing() -> None:
    """An append that ends before the log does leaves what follows it (3.5)."""
    node = machine([1, 1, 1, 1], term=1)
    out = node.step(0, append(1, (1, 1), [entry(2, 1)]))
    assert node.last_index == 4
    assert write_of(out).entries == ()
    assert reply_of(out).match == 2


def test_an_append_below_the_commit_is_acknowledged_up_to_the_commit() -> None:
    """What is committed here needs no comparison: the leader has it. Entries beyond it are taken."""
    node = machine([1, 1, 1], term=1, commit=3)
    assert reply_of(node.step(0, append(2, (0, 0)))).match == 3
    out = node.step(0, append(2, (1, 1), log_of([1, 1, 2], 2)))
    assert reply_of(out).match == 4
    assert [e.index for e in write_of(out).entries] == [4]


def test_an_append_never_overwrites_what_is_committed() -> None:
    """Whatever a message claims, a committed entry stays."""
    node = machine([1, 1, 1], term=1, commit=3)
    node.step(0, append(5, (1, 1), log_of([5, 5, 5], 2)))
    assert [node.term_at(i) for i in (1, 2, 3, 4)] == [1, 1, 1, 5]


def test_only_the_conflicting_tail_is_replaced() -> None:
    """Matching entries at the start of an append are kept; the write begins with the first that differs."""
    node = machine([1, 1, 1, 1], term=1)
    out = node.step(0, append(2, (1, 1), log_of([1, 2, 2], 2)))
    assert [e.index for e in write_of(out).entries] == [3, 4]
    assert [node.term_at(i) for i in (1, 2, 3, 4)] == [1, 1, 2, 2]


def test_commit_follows_the_leader_only_as_far_as_entries_are_known_to_match() -> None:
    """min(leader commit, last new entry): entries beyond may be of another leader."""
    node = machine([1, 1, 1, 1], term=1)
    node.step(0, append(2, (2, 1), commit=4))
    assert node.commit == 2


@pytest.mark.parametrize(
    ("terms", "probe", "hint"),
    [
        ([1, 1, 1], (9, 4), (3, 1)),
        ([1, 2, 2, 5, 5], (5, 4), (3, 2)),
        ([3, 3, 3], (3, 2), (0, 0)),
        ([1] + [5] * 1000, (1001, 4), (1, 1)),
    ],
)
def test_a_refusal_hints_at_the_last_entry_that_can_match(terms: list[int], probe: tuple[int, int], hint: tuple[int, int]) -> None:
    """The largest index up to the probe whose term is not later than the probe's, in one step."""
    out = machine(terms, term=5).step(0, append(6, probe))
    reply = reply_of(out)
    assert (reply.accepted, reply.match) == (False, probe[0])
    assert (reply.hint_index, reply.hint_term) == hint
    assert reply in out.messages


def test_a_leader_of_an_earlier_term_is_told() -> None:
    """It gets a refusal with the later term, which makes it step down; nothing else happens."""
    node = machine([1], term=4)
    out = node.step(0, append(3, (1, 1), [entry(2, 3)]))
    reply = reply_of(out)
    assert (reply.accepted, reply.term) == (False, 4)
    assert (node.last_index, node.leader, out.write) == (1, None, None)


def test_a_leader_that_is_not_in_our_membership_is_followed() -> None:
    """4.2.1: our membership may be out of date."""
    node = machine([1], term=1)
    node.step(0, append(2, (1, 1), [entry(2, 2)], sender=D))
    assert (node.leader, node.last_index) == (D, 2)


def test_a_second_leader_of_one_term_is_ignored() -> None:
    """A term has one leader; who else claims to be it is not answered."""
    node = machine([1], term=1)
    node.step(0, append(2, (1, 1), sender=B))
    out = node.step(0, append(2, (1, 1), [entry(2, 2)], sender=C))
    assert (sent(out), node.leader, node.last_index) == ([], B, 1)


@pytest.mark.parametrize(
    "message",
    [
        AppendRequest(B, A, 3, 1, 1, (entry(3, 2),), 0, 1),  # a gap after prev_index
        AppendRequest(B, A, 3, 1, 1, (entry(2, 2), entry(4, 2)), 0, 1),  # a gap inside
        AppendRequest(B, A, 3, 1, 1, (entry(2, 3), entry(3, 2)), 0, 1),  # a term that falls
        AppendRequest(B, A, 3, 1, 1, (entry(2, 4),), 0, 1),  # a term later than the leader's
        AppendRequest(B, A, 3, 1, 1, (entry(2, 0),), 0, 1),  # a term before prev_term
        AppendRequest(B, A, 3, -1, 0, (), 0, 1),  # before the log
        AppendRequest(B, A, 3, 1, 1, (Entry(2, 2, EntryKind.MEMBERSHIP, b"garbage"),), 0, 1),
        AppendRequest(B, A, 3, 1, 1, (Entry(2, 2, 7, b""),), 0, 1),  # type: ignore[arg-type]
        AppendRequest(B, A, -1, 1, 1, (), 0, 1),
        AppendRequest(B, A, 1 << 80, 1, 1, (), 0, 1),
        AppendRequest(B, C, 3, 1, 1, (), 0, 1),  # not for us
        AppendRequest(A, A, 3, 1, 1, (), 0, 1),  # from ourselves
        InstallSnapshot(B, A, 3, SnapshotMeta(5, 4, members("abc"))),  # of a term later than the leader's
        InstallSnapshot(B, A, 3, SnapshotMeta(5, 2, members("", "abc"))),  # without a voter
        InstallSnapshot(B, A, 3, SnapshotMeta(0, 0, members("abc"))),
    ],
)
def test_a_message_that_makes_no_sense_changes_nothing(message: AppendRequest | InstallSnapshot) -> None:
    """It is neither answered nor believed, not even its term."""
    node = machine([1], term=1)
    out = node.step(0, Receive(message))
    assert (sent(out), out.role, out.write) == ([], None, None)
    assert (node.term, node.last_index, node.leader) == (1, 1, None)


def test_a_membership_is_in_force_when_appended_and_leaves_with_its_entry() -> None:
    """4.1: truncation brings the one before back."""
    node = machine([1], term=1)
    node.step(0, append(1, (1, 1), [member_entry(2, 1, members("ab")), member_entry(3, 1, members("abd"))]))
    assert node.membership == members("abd")
    assert node.membership_at(2) == members("ab")
    node.step(0, append(2, (2, 1), [entry(3, 2)], sender=C))
    assert node.membership == members("ab")
    node.step(0, append(3, (1, 1), [entry(2, 3)], sender=C))
    assert node.membership == members("abc")


def test_a_membership_in_an_entry_that_is_here_already_is_not_counted_twice() -> None:
    """A duplicate append with a membership, then a truncation of it, brings the right one back."""
    node = machine([1], term=1)
    change = member_entry(2, 1, members("ab"))
    node.step(0, append(1, (1, 1), [change]))
    node.step(0, append(1, (1, 1), [change, entry(3, 1)]))
    node.step(0, append(2, (1, 1), [entry(2, 2)], sender=C))
    assert node.membership == members("abc")


def test_a_restored_log_puts_its_memberships_in_force() -> None:
    """The latest membership of the restored entries counts, committed or not."""
    assert machine([entry(1, 1), member_entry(2, 1, members("ad"))], term=1).membership == members("ad")


@pytest.mark.parametrize(
    "entries",
    [
        [entry(2, 1)],
        [entry(1, 1), entry(3, 1)],
        [entry(1, 2), entry(2, 1)],
        [Entry(1, 1, EntryKind.MEMBERSHIP, b"?")],
    ],
)
def test_a_restored_log_that_cannot_be_one_is_refused(entries: list[Entry]) -> None:
    """Gaps, terms that fall and unreadable memberships: the replica must not start on them."""
    with pytest.raises(CoreInvariantError, match="restored log"):
        machine(entries, term=5)


def test_a_snapshot_of_what_is_committed_here_is_only_acknowledged() -> None:
    """The reply names the commit, and nothing is replaced."""
    node = machine([1, 1, 1], term=1, commit=3)
    out = node.step(0, Receive(InstallSnapshot(B, A, 1, SnapshotMeta(2, 1, members("abc")))))
    assert (out.install, reply_of(out).match, node.last_index) == (None, 3, 3)


def test_a_snapshot_that_the_log_contains_moves_the_commit_and_keeps_the_log() -> None:
    """The log holds (index, term) of the snapshot: so it holds all that the snapshot covers, and what follows stays."""
    node = machine([1, 1, 1], term=1)
    out = node.step(0, Receive(InstallSnapshot(B, A, 1, SnapshotMeta(2, 1, members("abc")))))
    assert (out.install, reply_of(out).match) == (None, 2)
    assert (node.commit, node.last_index) == (2, 3)


def test_a_snapshot_replaces_a_log_that_conflicts_with_it() -> None:
    """Log, commit and membership are the snapshot's; entries after it are appended behind it."""
    node = machine([1, 1, 1, 1], term=1)
    meta = SnapshotMeta(3, 2, members("ab", "d"))
    out = node.step(0, Receive(InstallSnapshot(B, A, 2, meta)))
    assert (out.install, write_of(out).snapshot) == (meta, meta)
    assert (node.first_index, node.last_index, node.commit) == (4, 3, 3)
    assert node.membership == members("ab", "d")
    assert node.term_at(3) == 2
    out = node.step(0, append(2, (3, 2), [entry(4, 2)], commit=4))
    done = node.step(0, Persisted(write_of(out).number))
    assert [e.index for e in done.committed or ()] == [4]


def test_compaction_drops_the_prefix_and_keeps_the_term_before_it() -> None:
    """After SnapshotTaken(keep_from) the log starts there, and still answers for the index before."""
    node = machine([1, 1, 2, 2], term=2, commit=4)
    node.step(0, Tick())
    node.step(0, SnapshotTaken(SnapshotMeta(3, 2, node.membership_at(3)), 3))
    assert (node.first_index, node.snapshot.index) == (3, 3)
    assert (node.term_at(2), node.term_at(1)) == (1, None)
    with pytest.raises(IndexError):
        node.entries(2, 4)
    assert [e.index for e in node.entries(3, 5)] == [3, 4]
    assert reply_of(node.step(0, append(2, (1, 1), log_of([1, 2, 2, 2], 2)))).match == 5


def test_entries_beyond_a_snapshot_are_never_dropped() -> None:
    """keep_from behind the snapshot is cut to it."""
    node = machine([1, 1, 1], term=1, commit=2)
    node.step(0, Tick())
    node.step(0, SnapshotTaken(SnapshotMeta(2, 1, node.membership), 99))
    assert (node.first_index, node.last_index) == (3, 3)


def test_a_snapshot_of_what_was_never_handed_out_is_a_broken_contract() -> None:
    """The application cannot have applied it."""
    node = machine([1, 1], term=1, commit=1)
    node.step(0, Tick())
    with pytest.raises(CoreInvariantError, match="snapshot at 2"):
        node.step(0, SnapshotTaken(SnapshotMeta(2, 1, node.membership), 1))


def test_a_vote_needs_a_log_that_is_as_long_and_late() -> None:
    """3.6.1: later last term, or the same and not shorter."""
    for last, granted in [((5, 1), False), ((1, 2), False), ((2, 2), True), ((1, 3), True)]:
        node = machine([1, 2], term=2)
        (reply,) = sent(node.step(0, Receive(VoteRequest(B, A, 3, last[0], last[1], pre=False))))
        assert reply == VoteReply(A, B, 3, granted=granted, pre=False), last


def test_a_second_candidate_of_a_term_is_denied_and_the_first_may_ask_again() -> None:
    """One vote a term; repeating it is harmless."""
    node = machine(term=1)
    node.step(0, Receive(VoteRequest(B, A, 2, 0, 0, pre=False)))
    assert sent(node.step(0, Receive(VoteRequest(C, A, 2, 0, 0, pre=False)))) == [VoteReply(A, C, 2, granted=False, pre=False)]
    assert sent(node.step(0, Receive(VoteRequest(B, A, 2, 0, 0, pre=False)))) == [VoteReply(A, B, 2, granted=True, pre=False)]


def test_a_candidate_outside_our_membership_can_get_our_vote_even_if_we_are_a_learner() -> None:
    """4.2.1: whose membership is out of date, is not for the voter to judge."""
    node = machine(term=1, membership=members("bc", "a"))
    assert sent(node.step(0, Receive(VoteRequest(D, A, 2, 0, 0, pre=False)))) == [VoteReply(A, D, 2, granted=True, pre=False)]


def test_a_pre_vote_changes_nothing() -> None:
    """9.6: granted or not, neither term nor vote nor timer move, and nothing is written."""
    node = machine([1], term=1)
    due = node.deadline
    out = node.step(0, Receive(VoteRequest(B, A, 9, 1, 1, pre=True)))
    assert out.messages == [VoteReply(A, B, 9, granted=True, pre=True)]
    assert (out.write, node.term, node.deadline) == (None, 1, due)
    out = node.step(0, Receive(VoteRequest(C, A, 9, 0, 0, pre=True)))
    assert out.messages == [VoteReply(A, C, 1, granted=False, pre=True)]


def test_a_follower_sticks_to_its_leader_for_the_shortest_timeout() -> None:
    """4.2.3: requests are not answered until 150 ms after the leader was heard; with `transfer` they are."""
    node = machine(term=1)
    node.step(0, append(1, (0, 0)))
    ask = VoteRequest(C, A, 2, 5, 1, pre=False)
    assert sent(node.step(149 * MS, Receive(ask))) == []
    assert sent(node.step(149 * MS, Receive(VoteRequest(C, A, 2, 5, 1, pre=True)))) == []
    assert node.term == 1
    assert len(sent(node.step(150 * MS, Receive(ask)))) == 1
    other = machine(term=1)
    other.step(0, append(1, (0, 0)))
    assert len(sent(other.step(1, Receive(VoteRequest(C, A, 2, 5, 1, pre=False, transfer=True))))) == 1


def test_timeout_now_is_obeyed_only_from_the_leader_of_the_term() -> None:
    """3.10: and by voters only. The election skips the pre-vote and says that the leader wished it."""
    node = machine(term=1)
    node.step(0, append(1, (0, 0)))
    for message in (TimeoutNow(C, A, 1), TimeoutNow(B, A, 0)):
        node.step(0, Receive(message))
        assert node.role is Role.FOLLOWER
    out = node.step(0, Receive(TimeoutNow(B, A, 1)))
    assert (node.role, node.term) == (Role.CANDIDATE, 2)
    assert all(isinstance(m, VoteRequest) and m.transfer and not m.pre for m in sent(out))
    learner = machine(term=1, membership=members("bc", "a"))
    learner.step(0, append(1, (0, 0)))
    learner.step(0, Receive(TimeoutNow(B, A, 1)))
    assert learner.role is Role.FOLLOWER


def test_a_wake_up_moves_the_deadline_on() -> None:
    """After a Tick at the deadline the next deadline is later: a shell cannot spin."""
    for membership in (members("abc"), members("bc", "a"), members("a")):
        node = machine(term=1, membership=membership)
        for _ in range(20):
            now = node.deadline
            node.step(now, Tick())
            assert node.deadline > now


def test_time_that_goes_back_stands_still() -> None:
    """A Tick with an older time does nothing."""
    node = machine(term=1)
    due = node.deadline
    node.step(due - 1, Tick())
    assert sent(node.step(0, Tick())) == []
    assert node.deadline == due
