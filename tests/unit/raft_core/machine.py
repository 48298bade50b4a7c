"""Builders for tests of one consensus machine: what it starts from, and the messages that it gets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lockd.raft.core.membership import encode_membership
from lockd.raft.core.node import Config, Node
from lockd.raft.core.types import (
    AppendReply,
    AppendRequest,
    Entry,
    EntryKind,
    HardState,
    Member,
    Membership,
    Message,
    Output,
    Persisted,
    Receive,
    ReplicaId,
    Restored,
    Role,
    SnapshotMeta,
    Tick,
    VoteReply,
    Write,
)

A, B, C, D, E = (ReplicaId(name) for name in "abcde")
MS = 1_000_000


def members(voters: str, learners: str = "") -> Membership:
    """A membership of one-letter ids."""
    names = sorted(voters + learners)
    return Membership(tuple(Member(ReplicaId(n), f"peer-{n}", f"client-{n}", voter=n in voters) for n in names))


def entry(index: int, term: int, data: bytes = b"") -> Entry:
    """A normal entry."""
    return Entry(index, term, EntryKind.NORMAL, data)


def member_entry(index: int, term: int, membership: Membership) -> Entry:
    """A membership entry."""
    return Entry(index, term, EntryKind.MEMBERSHIP, encode_membership(membership))


def log_of(terms: Sequence[int], first: int = 1) -> tuple[Entry, ...]:
    """Entries with these terms, from `first` on."""
    return tuple(entry(index, term) for index, term in enumerate(terms, first))


def machine(
    terms: Sequence[int] | Sequence[Entry] = (),
    *,
    term: int = 0,
    vote: ReplicaId | None = None,
    commit: int = 0,
    membership: Membership | None = None,
    snapshot: tuple[int, int] = (0, 0),
    config: Config | None = None,
    name: ReplicaId = A,
) -> Node:
    """A machine restored with a log of these terms (or entries), at time 0."""
    numbered: Iterable[tuple[int, int | Entry]] = enumerate(terms, snapshot[0] + 1)
    entries = tuple(e if isinstance(e, Entry) else entry(i, e) for i, e in numbered)
    meta = SnapshotMeta(snapshot[0], snapshot[1], membership or members("abc"))
    return Node(name, Restored(HardState(term, vote, commit), meta, entries), 0, config or Config())


def append(
    term: int,
    prev: tuple[int, int],
    entries: Iterable[Entry] = (),
    *,
    commit: int = 0,
    sender: ReplicaId = B,
    number: int = 1,
) -> Receive:
    """An AppendRequest to A."""
    return Receive(AppendRequest(sender, A, term, prev[0], prev[1], tuple(entries), commit, number))


def accepted(sender: ReplicaId, term: int, match: int, number: int = 0) -> Receive:
    """An accepting AppendReply to A."""
    return Receive(AppendReply(sender, A, term, accepted=True, match=match, hint_index=0, hint_term=0, round=number))


def refused(sender: ReplicaId, term: int, probed: int, hint: tuple[int, int]) -> Receive:
    """A refusing AppendReply to A."""
    return Receive(AppendReply(sender, A, term, accepted=False, match=probed, hint_index=hint[0], hint_term=hint[1], round=0))


def sent(out: Output) -> list[Message]:
    """Everything that this output lets out, now or after its write."""
    return [*out.messages, *(out.write.then_send if out.write else ())]


def appends(out: Output, to: ReplicaId) -> list[AppendRequest]:
    """The AppendRequests to one peer."""
    return [m for m in out.messages if isinstance(m, AppendRequest) and m.to == to]


def write_of(out: Output) -> Write:
    """The write that an output must have."""
    assert out.write is not None
    return out.write


def lead(node: Node, voters: Sequence[ReplicaId] = (B,), now: int | None = None) -> Output:
    """Have the machine elected with the votes of these peers; returns the output with which it leads. Its no-op is not durable yet."""
    at = node.deadline if now is None else now
    out = node.step(at, Tick())
    if node.role is Role.FOLLOWER:  # the first wake-up of a restored machine hands out what is committed
        at = node.deadline
        out = node.step(at, Tick())
    for voter in voters:
        if node.role is Role.PRE_CANDIDATE:
            out = node.step(at, Receive(VoteReply(voter, node.id, node.term + 1, granted=True, pre=True)))
    out = node.step(at, Persisted(write_of(out).number))
    for voter in voters:
        if node.role is Role.CANDIDATE:
            out = node.step(at, Receive(VoteReply(voter, node.id, node.term, granted=True, pre=False)))
    assert node.role is Role.LEADER
    return out
