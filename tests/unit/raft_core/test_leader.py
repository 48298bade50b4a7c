"""A leader: replication, flow control, commit, membership, reads, transfer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lockd.raft.core.node import Config, Node, PeerState
from lockd.raft.core.types import (
    AppendReply,
    AppendRequest,
    Entry,
    EntryKind,
    Persisted,
    Propose,
    ProposeMembership,
    Read,
    ReadIndexReply,
    ReadIndexRequest,
    Receive,
    Refusal,
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
from tests.unit.raft_core.machine import MS, A, B, C, D, accepted, append, appends, lead, machine, member_entry, members, refused, write_of


def leader(*, config: Config | None = None, terms: tuple[int, ...] = (), voters: str = "abc", learners: str = "") -> Node:
    """A leader whose no-op is committed, with every peer in a pipeline."""
    node = machine(terms, term=max(terms, default=0), membership=members(voters, learners), config=config)
    out = lead(node, [m.id for m in node.membership.members if m.voter and m.id != A])
    node.step(0, Persisted(write_of(out).number))
    for member in node.membership.members:
        if member.id != A:
            node.step(0, accepted(member.id, node.term, node.last_index))
    assert node.commit == node.last_index
    return node


def test_it_opens_its_term_with_a_noop_and_probes_from_the_end_of_its_log() -> None:
    """3.6.2 and 3.5: the no-op is the first message to every peer."""
    node = machine([1, 1], term=1)
    out = lead(node)
    (message,) = appends(out, B)
    assert (message.prev_index, message.prev_term) == (2, 1)
    assert [(e.index, e.term, e.kind) for e in message.entries] == [(3, 2, EntryKind.NOOP)]


def test_an_entry_of_an_earlier_term_is_not_committed_by_counting() -> None:
    """Figure 8: a majority has index 2 of term 1; it commits only with an entry of the leader's term."""
    node = machine([1, 1], term=2)
    node.step(0, Persisted(write_of(lead(node)).number))
    node.step(0, accepted(B, 3, 2))
    node.step(0, accepted(C, 3, 2))
    assert node.commit == 0
    node.step(0, accepted(B, 3, 3))
    assert node.commit == 3


def test_learners_do_not_count() -> None:
    """Of voters a and b, and learner c, b must have it."""
    node = leader(voters="ab", learners="c")
    out = node.step(0, Propose((b"x",)))
    node.step(0, Persisted(write_of(out).number))
    node.step(0, accepted(C, 1, 2))
    assert node.commit == 1
    node.step(0, accepted(B, 1, 2))
    assert node.commit == 2


def test_four_voters_need_three() -> None:
    """The majority of an even number is more than half."""
    node = leader(voters="abcd")
    node.step(0, Persisted(write_of(node.step(0, Propose((b"x",)))).number))
    node.step(0, accepted(B, 1, 2))
    assert node.commit == 1
    node.step(0, accepted(C, 1, 2))
    assert node.commit == 2


def test_peers_in_step_share_one_batch() -> None:
    """The entries of a proposal are one tuple, in the write and in every message: nothing is copied for each peer."""
    node = leader()
    out = node.step(0, Propose((b"x", b"y")))
    assert appends(out, B)[0].entries is write_of(out).entries
    assert appends(out, C)[0].entries is write_of(out).entries


def test_messages_keep_to_their_size() -> None:
    """max_append_bytes splits what is sent; an entry beyond it travels alone."""
    node = leader(config=replace(Config(), max_append_bytes=100))
    out = node.step(0, Propose((b"x" * 34, b"x" * 34, b"x" * 34, b"x" * 500, b"x")))
    assert [len(m.entries) for m in appends(out, B)] == [2, 1, 1, 1]


def test_the_window_of_messages_stops_the_pipeline() -> None:
    """max_inflight_messages are out; an answer lets the next one go, with all that gathered."""
    node = leader(config=replace(Config(), max_inflight_messages=2))
    sizes = [len(appends(node.step(0, Propose((b"x",))), B)) for _ in range(4)]
    assert sizes == [1, 1, 0, 0]
    out = node.step(0, accepted(B, 1, 2))
    assert [[e.index for e in m.entries] for m in appends(out, B)] == [[4, 5]]


def test_the_window_of_bytes_stops_the_pipeline() -> None:
    """max_inflight_bytes are out, counted with the overhead of entries."""
    node = leader(config=replace(Config(), max_inflight_bytes=100))
    sizes = [len(appends(node.step(0, Propose((b"x" * 40,))), B)) for _ in range(3)]
    assert sizes == [1, 1, 0]
    assert node.progress[B].inflight_bytes == 112
    node.step(0, accepted(B, 1, 4))
    assert node.progress[B].inflight_bytes == 0


def test_a_heartbeat_reaches_every_peer_even_with_a_full_window() -> None:
    """Without entries then; and each starts a new round."""
    node = leader(config=replace(Config(), max_inflight_messages=1))
    node.step(0, Propose((b"x",)))
    node.step(0, Propose((b"y",)))
    out = node.step(node.deadline, Tick())
    messages = [m for m in out.messages if isinstance(m, AppendRequest)]
    assert [(m.to, m.entries, m.round) for m in messages] == [(B, (), 2), (C, (), 2)]


def test_refusals_that_come_late_are_ignored() -> None:
    """A refusal of what the peer has acknowledged since does not stop the pipeline."""
    node = leader()
    node.step(0, Propose((b"x",)))
    node.step(0, accepted(B, 1, 2))
    out = node.step(0, refused(B, 1, 2, (1, 1)))
    assert (out.messages, node.progress[B].state) == ([], PeerState.REPLICATE)


def test_a_refusal_in_a_pipeline_goes_back_to_what_was_acknowledged() -> None:
    """One probe from match + 1; further refusals of the same pipeline change nothing."""
    node = leader()
    for _ in range(3):
        node.step(0, Propose((b"x",)))
    out = node.step(0, refused(B, 1, 2, (1, 1)))
    assert [[e.index for e in m.entries] for m in appends(out, B)] == [[2, 3, 4]]
    assert node.progress[B].state is PeerState.PROBE
    assert node.step(0, refused(B, 1, 3, (1, 1))).messages == []
    node.step(0, accepted(B, 1, 4))
    assert (node.progress[B].state, node.progress[B].next) == (PeerState.REPLICATE, 5)


def test_an_acknowledgement_never_moves_back() -> None:
    """A late one with a smaller match changes nothing."""
    node = leader()
    node.step(0, Propose((b"x", b"y")))
    node.step(0, accepted(B, 1, 3))
    node.step(0, accepted(B, 1, 1))
    assert (node.progress[B].match, node.progress[B].next) == (3, 4)


def test_an_acknowledgement_beyond_the_log_is_not_believed() -> None:
    """Nothing that the leader does not have can match it."""
    node = leader()
    node.step(0, accepted(B, 1, 1 << 40))
    assert node.progress[B].match == 1


@pytest.mark.parametrize("follower_terms", [[1] + [2] * 400, [1] + [4] * 400, [1, 2, 2, 4, 4, 4, 6] + [8] * 300, [9] * 500])
def test_long_divergent_logs_are_reconciled_in_few_messages(follower_terms: list[int]) -> None:
    """The hints skip a term at a time on either side, not an entry."""
    leader_terms = [1, 2, 2, 3, 3] + [5] * 100 + [7] * 300
    boss = machine(leader_terms, term=10)
    pupil = machine(follower_terms, term=9, name=B)
    (message,) = appends(lead(boss, (C,)), B)
    exchanges = 0
    while pupil.last_index != boss.last_index or pupil.term_at(pupil.last_index) != boss.term:
        exchanges += 1
        out = pupil.step(0, Receive(message))
        for reply in [*out.messages, *(out.write.then_send if out.write else ())]:
            if isinstance(reply, AppendReply):
                following = appends(boss.step(0, Receive(reply)), B)
                message = following[0] if following else message
    assert exchanges <= 8
    assert [pupil.term_at(i) for i in range(1, boss.last_index + 1)] == [boss.term_at(i) for i in range(1, boss.last_index + 1)]


def test_a_peer_that_needs_dropped_entries_gets_a_snapshot_once() -> None:
    """send_snapshot names it when it answers; while the snapshot is on its way no entries and no second request."""
    node = leader()
    node.step(0, Propose((b"x", b"y")))
    node.step(0, accepted(B, 1, 3))
    node.step(0, Persisted(write_of(node.step(0, Propose((b"z",)))).number))
    node.step(0, SnapshotTaken(SnapshotMeta(3, 1, node.membership), 4))
    out = node.step(0, refused(C, 1, 3, (1, 1)))
    assert out.send_snapshot == [C]
    assert (node.progress[C].state, node.progress[C].next) == (PeerState.SNAPSHOT, 4)
    out = node.step(0, Propose((b"w",)))
    assert (appends(out, C), out.send_snapshot) == ([], None)
    assert node.step(node.deadline, Tick()).send_snapshot is None
    node.step(0, SnapshotSent(C, 3, ok=True))
    out = node.step(0, accepted(C, 1, 3))
    assert [e.index for m in appends(out, C) for e in m.entries] == [4, 5]


def test_a_failed_snapshot_is_asked_for_again_after_the_next_answer() -> None:
    """Not at once, and not never."""
    node = leader()
    node.step(0, Propose((b"x", b"y")))
    node.step(0, accepted(B, 1, 3))
    node.step(0, Persisted(write_of(node.step(0, Propose((b"z",)))).number))
    node.step(0, SnapshotTaken(SnapshotMeta(3, 1, node.membership), 4))
    node.step(0, refused(C, 1, 3, (1, 1)))
    assert node.step(0, SnapshotSent(C, 3, ok=False)).send_snapshot is None
    out = node.step(node.deadline, Tick())
    assert (out.send_snapshot, appends(out, C)[0].prev_index) == (None, 0)
    assert node.step(node.deadline - 1, accepted(C, 1, 0)).send_snapshot == [C]


def test_a_full_window_of_lost_messages_does_not_keep_a_snapshot_back() -> None:
    """What is in flight and what comes next were dropped: nothing will be acknowledged any more, and only a snapshot helps."""
    node = leader(config=replace(Config(), max_inflight_messages=1))
    for _ in range(3):
        node.step(0, Persisted(write_of(node.step(0, Propose((b"x",)))).number))
        node.step(0, accepted(B, 1, node.last_index))
    assert (node.progress[C].next, node.commit) == (3, 4)
    node.step(0, SnapshotTaken(SnapshotMeta(4, 1, node.membership), 5))
    assert node.step(node.deadline, Tick()).send_snapshot == [C]


def test_a_silent_peer_is_sent_no_snapshot() -> None:
    """A new leader whose log begins after what a silent peer may need waits for an answer."""
    node = machine([1], term=1, snapshot=(9, 1))
    lead(node)
    node.step(0, refused(B, 2, 10, (3, 1)))
    assert node.progress[B].state is PeerState.SNAPSHOT
    assert node.progress[C].state is PeerState.PROBE
    assert node.step(node.deadline, Tick()).send_snapshot is None


def test_an_unreachable_peer_is_probed() -> None:
    """The pipeline stops until a heartbeat is answered, and resumes after what was acknowledged."""
    node = leader()
    node.step(0, Propose((b"x",)))
    node.step(0, Unreachable(B))
    assert appends(node.step(0, Propose((b"y",))), B) == []
    out = node.step(0, accepted(B, 1, 1))
    assert [e.index for m in appends(out, B) for e in m.entries] == [2, 3]


def test_too_many_uncommitted_bytes_are_refused() -> None:
    """OVERLOADED, nothing appended; one proposal is let through whatever its size, and commit makes room."""
    node = leader(config=replace(Config(), max_uncommitted_bytes=100))
    out = node.step(0, Propose((b"x" * 1000,)))
    assert out.proposed == (1, 2)
    assert node.step(0, Propose((b"y",))).refused is Refusal.OVERLOADED
    assert node.last_index == 2
    node.step(0, Persisted(write_of(out).number))
    node.step(0, accepted(B, 1, 2))
    assert node.step(0, Propose((b"y",))).proposed == (1, 3)


def test_who_does_not_lead_refuses() -> None:
    """Proposals, membership changes and transfers: NOT_LEADER."""
    node = machine()
    for given in (Propose((b"x",)), ProposeMembership(members("ab")), TransferLeadership(B)):
        assert node.step(0, given).refused is Refusal.NOT_LEADER


def test_the_log_bytes_are_counted_as_they_come_and_go() -> None:
    """Payloads and 16 bytes an entry; compaction takes them off."""
    node = leader()
    assert node.log_bytes == 16
    node.step(0, Persisted(write_of(node.step(0, Propose((b"x" * 100, b"y" * 50)))).number))
    assert node.log_bytes == 16 * 3 + 150
    node.step(0, accepted(B, 1, 3))
    node.step(0, SnapshotTaken(SnapshotMeta(2, 1, node.membership), 3))
    assert node.log_bytes == 16 + 50


# --- terms and quorums ---


def test_a_later_term_in_any_answer_ends_its_reign() -> None:
    """It follows, in that term, and fails the reads that waited."""
    node = leader()
    node.step(0, Read(7))
    out = node.step(0, accepted(B, 5, 1))
    assert (node.role, node.term, out.reads_failed) == (Role.FOLLOWER, 5, [7])
    assert out.role is not None
    assert dict(node.progress) == {}


def test_it_ignores_who_wants_votes_unless_it_asked_for_it() -> None:
    """4.2.3: a leader that reaches a majority is heard by itself."""
    node = leader()
    node.step(0, Receive(VoteRequest(C, A, 9, 99, 1, pre=False)))
    assert (node.role, node.term) == (Role.LEADER, 1)
    node.step(0, Receive(VoteRequest(C, A, 9, 99, 1, pre=False, transfer=True)))
    assert (node.role, node.term) == (Role.FOLLOWER, 9)


def test_it_steps_down_after_an_election_timeout_without_a_majority() -> None:
    """6.2: within the longest timeout after the last answer, at a heartbeat."""
    node = leader()
    start = node.progress[B].last_contact
    assert start is not None
    for _ in range(20):
        if node.role is Role.LEADER:
            node.step(node.deadline, Tick())
    assert node.role is Role.FOLLOWER
    node = leader()
    for _ in range(40):
        now = node.deadline
        node.step(now, Tick())
        node.step(now, accepted(C, 1, 1))
    assert node.role is Role.LEADER


def test_a_second_append_of_its_own_term_from_elsewhere_does_not_depose_it() -> None:
    """A term has one leader, and it is this one."""
    node = leader()
    node.step(0, append(1, (0, 0), sender=B))
    assert node.role is Role.LEADER


# --- membership ---


def test_no_change_before_an_entry_of_its_term_is_committed() -> None:
    """The published fix of 4.1."""
    node = machine([1], term=1)
    lead(node)
    assert node.step(0, ProposeMembership(members("ab"))).refused is Refusal.NOT_READY


def test_membership_changes_are_checked() -> None:
    """One voter at a time; valid; one change pending; new voters are learners that have caught up."""
    node = leader(learners="d")
    cases = {
        Refusal.MORE_THAN_ONE_VOTER: members("a", "d"),
        Refusal.INVALID: members("", "abcd"),
        Refusal.NOT_CAUGHT_UP: members("abce", "d"),
    }
    for refusal, membership in cases.items():
        out = node.step(0, ProposeMembership(membership))
        assert (out.refused, out.proposed) == (refusal, None)
    out = node.step(0, ProposeMembership(members("abcd")))
    assert (out.refused, out.proposed) == (None, (1, 2))
    assert node.step(0, ProposeMembership(members("abc"))).refused is Refusal.CHANGE_PENDING


def test_members_need_not_come_sorted_but_only_once() -> None:
    """The machine sorts them; a name that appears twice is refused."""
    node = leader()
    m = members("abc", "d").members
    assert node.step(0, ProposeMembership(replace(node.membership, members=(*m, m[3])))).refused is Refusal.INVALID
    assert node.step(0, ProposeMembership(replace(node.membership, members=m[::-1]))).proposed == (1, 2)
    assert node.membership == members("abc", "d")


def test_a_new_learner_is_followed_at_once_and_a_removed_peer_no_more() -> None:
    """The membership is in force when appended; the leader's peers are those of it."""
    node = leader()
    out = node.step(0, ProposeMembership(members("abc", "d")))
    assert set(node.progress) == {B, C, D}
    node.step(0, Persisted(write_of(out).number))
    node.step(0, accepted(B, 1, 2))
    node.step(0, ProposeMembership(members("ab", "d")))
    assert set(node.progress) == {B, D}
    node.step(0, accepted(C, 1, 3))
    assert node.commit == 2


def test_a_removed_leader_does_not_count_itself_and_leaves_when_the_change_commits() -> None:
    """4.2.2: both others must have it; then a last message with the commit, and it follows."""
    node = leader()
    out = node.step(0, ProposeMembership(members("bc")))
    node.step(0, Persisted(write_of(out).number))
    node.step(0, accepted(B, 1, 2))
    assert (node.role, node.commit) == (Role.LEADER, 1)
    out = node.step(0, accepted(C, 1, 2))
    assert (node.role, node.commit) == (Role.FOLLOWER, 2)
    assert [(m.to, m.commit) for m in out.messages if isinstance(m, AppendRequest)] == [(B, 2), (C, 2)]
    now = node.deadline
    assert node.step(now, Tick()).messages == []
    assert node.role is Role.FOLLOWER


def test_who_is_no_voter_by_an_uncommitted_change_still_stands() -> None:
    """4.2.2: the removed leader has the longest log; without its candidacy nobody could win. Its own vote does not count."""
    node = machine([Entry(1, 1, EntryKind.NOOP, b""), member_entry(2, 1, members("b"))], term=1, membership=members("ab"), commit=1)
    out = lead(node, (B,))
    assert [m.to for m in appends(out, B)] == [B]
    node.step(0, Persisted(write_of(out).number))
    assert (node.role, node.commit) == (Role.LEADER, 1)
    node.step(0, accepted(B, 2, 3))
    assert (node.role, node.commit) == (Role.FOLLOWER, 3)


def test_who_was_removed_by_a_committed_change_does_not_stand() -> None:
    """Nobody needs its log any more."""
    node = machine([Entry(1, 1, EntryKind.NOOP, b""), member_entry(2, 1, members("b"))], term=1, membership=members("ab"), commit=2)
    node.step(0, Tick())
    assert node.step(node.deadline, Tick()).messages == []


# --- reads ---


def test_a_read_needs_the_echo_of_a_round_that_began_after_it() -> None:
    """6.4: an echo of an earlier round, or of one that was never sent, confirms nothing."""
    node = leader()
    before = node.step(node.deadline, Tick())
    number = appends(before, B)[0].round
    out = node.step(0, Read(7))
    assert [m.round for m in appends(out, B)] == [number + 1]
    assert node.step(0, accepted(B, 1, 1, number)).reads is None
    assert node.step(0, accepted(B, 1, 1, number + 99)).reads is None
    out = node.step(0, accepted(B, 1, 1, number + 1))
    assert [(r.context, r.index) for r in out.reads or ()] == [(7, 1)]


def test_a_refused_append_confirms_leadership_too() -> None:
    """Whoever answers in the term follows it, whatever its log."""
    node = leader()
    number = appends(node.step(0, Read(7)), B)[0].round
    reply = AppendReply(B, A, 1, accepted=False, match=1, hint_index=0, hint_term=0, round=number)
    assert node.step(0, Receive(reply)).reads is not None


def test_learners_confirm_nothing() -> None:
    """Only voters make a quorum."""
    node = leader(voters="ab", learners="c")
    number = appends(node.step(0, Read(7)), C)[0].round
    assert node.step(0, accepted(C, 1, 1, number)).reads is None


def test_reads_that_gather_share_one_round() -> None:
    """While a round is out no other starts for reads; a heartbeat's round serves them as well."""
    node = leader()
    first = appends(node.step(0, Read(1)), B)[0].round
    assert node.step(0, Read(2)).messages == []
    assert node.step(0, Receive(ReadIndexRequest(C, A, 1, 3))).messages == []
    heartbeat = appends(node.step(node.deadline, Tick()), B)[0].round
    assert heartbeat == first + 1
    out = node.step(node.deadline - 1, accepted(B, 1, 1, heartbeat))
    assert [r.context for r in out.reads or ()] == [1, 2]
    assert [m for m in out.messages if isinstance(m, ReadIndexReply)] == [ReadIndexReply(A, C, 1, 3, 1)]


def test_a_read_waits_for_the_first_commit_of_the_term() -> None:
    """Before it the leader does not know what is committed; then the round starts, with the commit of that moment."""
    node = machine([1, 1], term=1)
    write = write_of(lead(node))
    assert node.step(0, Read(7)).messages == []
    node.step(0, Persisted(write.number))
    out = node.step(0, accepted(B, 2, 3, 1))
    number = appends(out, B)[0].round
    assert number == 2
    out = node.step(0, accepted(B, 2, 3, number))
    assert [(r.context, r.index) for r in out.reads or ()] == [(7, 3)]


def test_a_single_voter_answers_reads_at_once() -> None:
    """It is its own majority, also with learners; but not before its no-op is committed."""
    node = machine(membership=members("a", "b"))
    write = write_of(lead(node, ()))
    assert node.step(0, Read(7)).reads is None
    out = node.step(0, Persisted(write.number))
    assert [r.context for r in out.reads or ()] == [7]
    assert [r.context for r in node.step(0, Read(8)).reads or ()] == [8]


def test_a_forwarded_read_is_answered_once_and_only_by_the_leader_that_was_asked() -> None:
    """Answers of others, of other terms and of unknown contexts are ignored; index 0 is a refusal."""
    node = machine(term=1)
    node.step(0, append(1, (0, 0)))
    assert node.step(0, Read(7)).messages == [ReadIndexRequest(A, B, 1, 7)]
    for reply in (ReadIndexReply(C, A, 1, 7, 5), ReadIndexReply(B, A, 0, 7, 5), ReadIndexReply(B, A, 1, 8, 5)):
        assert node.step(0, Receive(reply)).reads is None
    out = node.step(0, Receive(ReadIndexReply(B, A, 1, 7, 5)))
    assert [(r.context, r.index) for r in out.reads or ()] == [(7, 5)]
    assert node.step(0, Receive(ReadIndexReply(B, A, 1, 7, 5))).reads is None
    node.step(0, Read(9))
    assert node.step(0, Receive(ReadIndexReply(B, A, 1, 9, 0))).reads_failed == [9]


def test_a_forwarded_read_fails_after_an_election_timeout_and_wakes_the_shell_for_it() -> None:
    """The deadline is not later than that of the oldest read, even if the leader is heard."""
    node = machine(term=1)
    node.step(0, append(1, (0, 0)))
    node.step(0, Read(7))
    node.step(200 * MS, append(1, (0, 0), number=2))
    assert node.deadline <= 300 * MS
    assert node.step(299 * MS, Tick()).reads_failed is None
    node.step(299 * MS, append(1, (0, 0), number=3))
    assert node.step(300 * MS, Tick()).reads_failed == [7]


# --- transfer ---


def test_a_transfer_tells_the_target_when_it_has_the_whole_log() -> None:
    """3.10: and again at heartbeats, for messages get lost; meanwhile proposals are refused."""
    node = leader()
    node.step(0, Propose((b"x",)))
    out = node.step(0, TransferLeadership(B))
    assert out.messages == []
    assert node.step(0, Propose((b"y",))).refused is Refusal.TRANSFERRING
    assert node.step(0, accepted(B, 1, 2)).messages == [TimeoutNow(A, B, 1)]
    assert TimeoutNow(A, B, 1) not in node.step(0, accepted(B, 1, 2)).messages
    assert TimeoutNow(A, B, 1) in node.step(node.deadline, Tick()).messages


def test_a_transfer_is_abandoned_after_an_election_timeout() -> None:
    """Proposals are accepted again, and the target is not told any more."""
    node = leader()
    start = node.deadline - 30 * MS
    node.step(start, TransferLeadership(B))
    while node.deadline < start + 300 * MS:
        now = node.deadline
        node.step(now, Tick())
        node.step(now, accepted(C, 1, 1))
    assert node.step(start + 299 * MS, Propose((b"x",))).refused is Refusal.TRANSFERRING
    out = node.step(start + 300 * MS, Tick())
    assert not any(isinstance(m, TimeoutNow) for m in out.messages)
    assert node.step(start + 300 * MS, Propose((b"x",))).proposed is not None


def test_transfer_refusals() -> None:
    """Unknown members and learners cannot lead; one transfer at a time; to itself is nothing."""
    node = leader(learners="d")
    assert node.step(0, TransferLeadership(D)).refused is Refusal.UNKNOWN_MEMBER
    assert node.step(0, TransferLeadership(A)).refused is None
    assert node.step(0, Propose((b"x",))).refused is None
    node.step(0, TransferLeadership(B))
    assert node.step(0, TransferLeadership(C)).refused is Refusal.TRANSFERRING


def test_votes_of_others_do_not_help() -> None:
    """A vote of a learner, of a stranger, or of another term, counts nothing; one voter's counts once."""
    node = machine(membership=members("abcde", "f"))
    now = node.deadline
    node.step(now, Tick())
    for voter in "fxbb":
        node.step(now, Receive(VoteReply(type(A)(voter), A, 1, granted=True, pre=True)))
    roles = [node.role]
    for term in (2, 1):
        node.step(now, Receive(VoteReply(C, A, term, granted=True, pre=True)))
        roles.append(node.role)
    assert roles == [Role.PRE_CANDIDATE, Role.PRE_CANDIDATE, Role.CANDIDATE]
