"""Log replication: appending as leader and as follower (3.5), commit (3.6.2), snapshots for followers that are behind (5.3)."""

from __future__ import annotations

from lockd.raft.core.log import ENTRY_OVERHEAD, is_sound
from lockd.raft.core.membership import check_change, encode_membership, is_valid, memberships_in, sort_members, voters_of
from lockd.raft.core.progress import PeerState, Progress
from lockd.raft.core.state import LIMIT, State, quorum
from lockd.raft.core.types import (
    AppendReply,
    AppendRequest,
    Entry,
    EntryKind,
    InstallSnapshot,
    Membership,
    Refusal,
    ReplicaId,
    Role,
)

# --- leader: proposals ---


def on_propose(s: State, payloads: tuple[bytes, ...]) -> None:
    """Append payloads to the log, and send them on while the own disk works."""
    if not _may_append(s) or not payloads:
        return
    log = s.log
    backlog = log.size_after(s.commit)
    if backlog and backlog + sum(map(len, payloads)) + ENTRY_OVERHEAD * len(payloads) > s.config.max_uncommitted_bytes:
        s.out.refused = Refusal.OVERLOADED
        return
    first, term, kind = log.last_index + 1, s.term, EntryKind.NORMAL
    s.append(tuple([Entry(index, term, kind, data) for index, data in enumerate(payloads, first)]))
    s.out.proposed = (term, first)
    _feed_all(s)


def on_propose_membership(s: State, membership: Membership) -> None:
    """Append a new membership; it is in force at once (4.1)."""
    if not _may_append(s):
        return
    membership = sort_members(membership)
    refusal = _check_membership(s, membership)
    if refusal is None:
        try:
            data = encode_membership(membership)
        except ValueError:
            refusal = Refusal.INVALID
        else:
            index = s.log.last_index + 1
            s.append((Entry(index, s.term, EntryKind.MEMBERSHIP, data),))
            s.history.append([(index, membership)])
            s.members_changed()
            s.out.proposed = (s.term, index)
            _feed_all(s)
    s.out.refused = refusal


def _may_append(s: State) -> bool:
    if s.role is not Role.LEADER:
        s.out.refused = Refusal.NOT_LEADER
    elif s.transfer is not None:
        s.out.refused = Refusal.TRANSFERRING
    else:
        return True
    return False


def _check_membership(s: State, new: Membership) -> Refusal | None:
    if s.commit < s.term_start:  # the published fix of 4.1: else two leaders can each commit a change the other has not seen
        return Refusal.NOT_READY
    if s.history.latest_index > s.commit:
        return Refusal.CHANGE_PENDING
    refusal = check_change(s.membership, new)
    if refusal is None:
        for voter in voters_of(new):
            if voter not in s.voters and not _caught_up(s, s.progress.get(voter)):
                return Refusal.NOT_CAUGHT_UP
    return refusal


def _caught_up(s: State, peer: Progress | None) -> bool:
    """Whether a learner may vote (4.2.1): it is there, and one message at most brings it to what is committed."""
    if peer is None or peer.state is not PeerState.REPLICATE or not _active(s, peer):
        return False
    return s.log.size_after(peer.match) - s.log.size_after(s.commit) <= s.config.max_append_bytes


def _active(s: State, peer: Progress) -> bool:
    return peer.last_contact is not None and s.now - peer.last_contact < s.config.election_timeout_max


# --- leader: sending ---


def broadcast(s: State) -> None:
    """Start a round: a message to every peer, with entries where flow control has room, empty otherwise.

    The reads that wait go with it: an echo of this round shows that its sender still followed us after they had arrived (6.4).
    """
    s.round += 1
    if s.reads.waiting and s.commit >= s.term_start:
        s.reads.confirming.append((s.round, s.commit, s.reads.waiting))
        s.reads.waiting = []
    for peer in s.progress.values():
        if not feed(s, peer):
            _send_empty(s, peer)


def _feed_all(s: State) -> None:
    for peer in s.progress.values():
        feed(s, peer)


def feed(s: State, peer: Progress) -> bool:
    """Send what flow control lets through. True if that was anything."""
    log, config = s.log, s.config
    sent = False
    while peer.next <= log.last_index and peer.state is not PeerState.SNAPSHOT:
        if peer.state is PeerState.PROBE:
            if peer.paused:
                break
        elif peer.next > log.base_index and (
            peer.inflight_messages >= config.max_inflight_messages or peer.inflight_bytes >= config.max_inflight_bytes
        ):
            break  # unless what comes next is dropped: then only a snapshot helps, whatever becomes of what is in flight
        previous = peer.next - 1
        term = log.term_at(previous)
        if term is None:
            _need_snapshot(s, peer)
            break
        entries, size = log.batch(peer.next, config.max_append_bytes)
        s.out.messages.append(AppendRequest(s.id, peer.id, s.term, previous, term, entries, s.commit, s.round))
        sent = True
        if peer.state is PeerState.PROBE:
            peer.paused = True
        else:
            peer.sent(entries[-1].index, size)
    return sent


def _send_empty(s: State, peer: Progress) -> None:
    """A heartbeat: it also finds out whether what was sent before has arrived, for it is refused if not.

    Where the log no longer reaches back far enough it asks about index 0, on which all agree; the answer tells what the peer has committed.
    """
    previous = peer.next - 1
    term = None if peer.state is PeerState.SNAPSHOT else s.log.term_at(previous)
    if term is None:
        previous = term = 0
    s.out.messages.append(AppendRequest(s.id, peer.id, s.term, previous, term, (), s.commit, s.round))


def _need_snapshot(s: State, peer: Progress) -> None:
    """The log has dropped what the peer needs. A peer that does not answer is not sent gigabytes."""
    if _active(s, peer):
        peer.enter(PeerState.SNAPSHOT, s.snapshot.index + 1)
        s.out.send_snapshot = [*(s.out.send_snapshot or ()), peer.id]


# --- leader: answers ---


def on_append_reply(s: State, m: AppendReply) -> None:
    """Learn how far a peer is, commit what a majority has, and send on."""
    if m.term > s.term:
        s.become_follower(m.term, None)
    peer = s.progress.get(m.sender)
    if peer is None or m.term != s.term or m.match > s.log.last_index:
        return
    peer.last_contact = s.now
    if peer.round < m.round <= s.round:
        peer.round = m.round
    if m.accepted:
        news = peer.acknowledged(m.match)
        if (peer.state is PeerState.PROBE and m.match >= peer.match) or (
            peer.state is PeerState.SNAPSHOT and peer.match >= s.log.base_index
        ):
            peer.enter(PeerState.REPLICATE, peer.match + 1)
        elif peer.next <= s.log.base_index:
            peer.paused = False  # a probe from here is impossible: that it answers is all there is to wait for before a snapshot
        if news:
            advance_commit(s)
    else:
        _refused(s, peer, m)
    if s.role is Role.LEADER:
        feed(s, peer)


def _refused(s: State, peer: Progress, m: AppendReply) -> None:
    """Go back to where the logs may agree (3.5). Both sides skip whole terms: etcd's hint."""
    if m.match <= peer.match:
        return  # late: the peer has had it since
    if peer.state is PeerState.REPLICATE:
        peer.enter(PeerState.PROBE, peer.match + 1)
    elif peer.state is PeerState.PROBE and m.match == peer.next - 1:
        agreed = s.log.last_not_after(m.hint_index, m.hint_term) if m.hint_term > 0 else m.hint_index
        peer.enter(PeerState.PROBE, min(m.match, agreed + 1))


def advance_commit(s: State) -> None:
    """Commit what a majority of the voters has made durable, if it is of this term (3.6.2); what is before it commits with it.

    A leader that is no longer a voter leads until the change is committed, and then steps down (4.2.2), after a last word.
    """
    progress = s.progress
    index = quorum([s.log.durable if voter == s.id else progress[voter].match for voter in s.voters])
    if index > s.commit and s.log.term_at(index) == s.term:
        s.advance_commit(index)
        if not s.is_voter and s.history.latest_index <= s.commit:
            broadcast(s)
            s.become_follower(s.term, None)


# --- leader: snapshots and connections ---


def on_snapshot_sent(s: State, to: ReplicaId, index: int, *, ok: bool) -> None:
    """Go on behind the snapshot, or where we were; in both cases once the peer answers a heartbeat."""
    peer = s.progress.get(to)
    if peer is not None and peer.state is PeerState.SNAPSHOT:
        peer.enter(PeerState.PROBE, index + 1 if ok and index <= s.log.last_index else peer.match + 1, paused=True)


def on_unreachable(s: State, to: ReplicaId) -> None:
    """Messages were lost: stop the pipeline until the peer answers a heartbeat."""
    peer = s.progress.get(to)
    if peer is not None and peer.state is not PeerState.SNAPSHOT:
        peer.enter(PeerState.PROBE, peer.match + 1, paused=True)


# --- follower ---


def _follow(s: State, m: AppendRequest | InstallSnapshot, probed: int, number: int) -> bool:
    """Accept the sender as leader of its term, in our configuration or not (4.2.1). An earlier term is told about ours: it must end."""
    if m.term < s.term:
        s.out.messages.append(AppendReply(s.id, m.sender, s.term, False, probed, 0, 0, number))
        return False
    if m.term > s.term or s.leader is None:
        s.become_follower(m.term, m.sender)
    elif s.leader != m.sender:
        return False  # a term has one leader: this is none
    s.heard = s.now
    s.election_due = s.now + s.election_timeout
    return True


def on_append(s: State, m: AppendRequest) -> None:
    """Append what the leader sends, if it continues what is here (3.5)."""
    entries, previous, log = m.entries, m.prev_index, s.log
    if previous < 0 or previous + len(entries) > LIMIT or not is_sound(previous, m.prev_term, entries, m.term):
        return
    try:
        changes = memberships_in(entries)
    except ValueError:
        return
    if not _follow(s, m, previous, m.round):
        return
    if previous < s.commit:
        entries = entries[s.commit - previous :]  # what is committed here is the leader's: every later leader has it (3.6.3)
        previous = s.commit
    elif log.term_at(previous) != m.prev_term:
        hint = log.last_not_after(previous, m.prev_term)
        reply = AppendReply(s.id, m.sender, s.term, False, previous, hint, log.term_at(hint) or 0, m.round)
        s.out.messages.append(reply)
        return
    last = previous + len(entries)
    if previous < log.last_index:
        entries = _resolve(s, entries)
    if entries:
        s.append(entries)
        if changes:
            s.history.append([change for change in changes if change[0] >= entries[0].index])
            s.members_changed()
    s.advance_commit(min(m.commit, last))
    s.then_send.append(AppendReply(s.id, m.sender, s.term, True, last, 0, 0, m.round))


def _resolve(s: State, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Skip the entries that are here already; truncate only where one differs (a late duplicate must not cost what came after it)."""
    for at, entry in enumerate(entries):
        term = s.log.term_at(entry.index)
        if term is None:
            return entries[at:]
        if term != entry.term:
            s.log.truncate_from(entry.index)
            if s.history.truncate_from(entry.index):
                s.members_changed()
            return entries[at:]
    return ()


def on_install(s: State, m: InstallSnapshot) -> None:
    """Take over a snapshot, unless the log has what it covers: then the log stays, and that much of it is known to be committed."""
    meta = m.meta
    if not (0 < meta.index <= LIMIT and 0 < meta.term <= m.term and is_valid(meta.membership)):
        return
    if not _follow(s, m, meta.index, 0):
        return
    if meta.index > s.commit:
        if s.log.term_at(meta.index) == meta.term:
            s.advance_commit(meta.index)
        else:
            s.install(meta)
    match = max(meta.index, s.commit)
    s.then_send.append(AppendReply(s.id, m.sender, s.term, True, match, 0, 0, 0))
