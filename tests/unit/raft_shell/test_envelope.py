"""What peers say comes back as it was said, and nothing else is accepted."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from lockd.raft.core.types import (
    AppendReply,
    AppendRequest,
    Entry,
    EntryKind,
    InstallSnapshot,
    Member,
    Message,
    ReadIndexReply,
    ReadIndexRequest,
    ReplicaId,
    SnapshotMeta,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from lockd.raft.envelope import (
    MAX_ENTRY,
    MAX_FRAME,
    JoinReply,
    JoinRequest,
    Preamble,
    decode_join_reply,
    decode_join_request,
    decode_messages,
    decode_preamble,
    encode_join_reply,
    encode_join_request,
    encode_message,
    encode_preamble,
)
from lockd.raft.envelope_entries import decode_entries, encode_entries
from tests.unit.raft_shell.support import entry, membership

A, B = ReplicaId("a"), ReplicaId("b")
HEAD = Preamble(7, "cluster", A, B, "127.0.0.1:1")
MESSAGES: list[Message] = [
    VoteRequest(A, B, 3, 10, 2, pre=True),
    VoteRequest(A, B, 3, 10, 2, pre=False, transfer=True),
    VoteReply(A, B, 3, granted=True, pre=False),
    VoteReply(A, B, 3, granted=False, pre=True),
    AppendRequest(A, B, 4, 9, 3, (), 8, 77),
    AppendRequest(A, B, 4, 9, 3, (entry(10, 3, b"x"), entry(11, 4, b"", EntryKind.NOOP), entry(12, 4, b"zz", EntryKind.MEMBERSHIP)), 8, 78),
    AppendRequest(A, B, 4, 9, 3, tuple(entry(10 + k, 4, b"%d" % k) for k in range(300)), 8, 78),
    AppendReply(A, B, 4, True, 12, 0, 0, 78),
    AppendReply(A, B, 4, False, 12, 11, 3, 78),
    InstallSnapshot(A, B, 4, SnapshotMeta(100, 3, membership("a", "b", learners="c"))),
    ReadIndexRequest(A, B, 4, 1234),
    ReadIndexReply(A, B, 4, 1234, 99),
    TimeoutNow(A, B, 4),
]


def frame(messages: list[Message]) -> bytes:
    """One frame of them."""
    pieces = [encode_preamble(HEAD)]
    size = sum(encode_message(message, pieces) for message in messages)
    raw = b"".join(pieces)
    assert len(raw) == len(pieces[0]) + size
    return raw


def test_every_kind_of_message_comes_back() -> None:
    """A frame of all kinds of messages decodes to equal messages, and its preamble to an equal preamble."""
    raw = frame(MESSAGES)
    preamble, at = decode_preamble(raw)
    assert preamble == HEAD
    assert decode_messages(raw, at, A, B) == MESSAGES


def test_entries_of_several_terms_and_kinds_come_back() -> None:
    """Entries are equal after encoding, whatever their terms, kinds and lengths."""
    rng = random.Random(5)
    for _ in range(200):
        term, entries = rng.randrange(1, 5), list[Entry]()
        for index in range(rng.randrange(1, 1000), 2000)[: rng.randrange(1, 30)]:
            term += rng.random() < 0.2
            entries.append(entry(index, term, rng.randbytes(rng.randrange(40)), rng.choice(list(EntryKind))))
        pieces: list[bytes] = []
        size = encode_entries(entries, pieces)
        raw = b"".join(pieces)
        assert len(raw) == size
        assert decode_entries(b"??" + raw + b"??", 2, 2 + size) == tuple(entries)


def test_the_largest_entry_fits_into_a_frame() -> None:
    """An entry of the allowed size is never refused by the receiver for its size."""
    raw = frame([AppendRequest(A, B, 4, 9, 3, (entry(10, 4, bytes(MAX_ENTRY)),), 8, 77)])
    assert len(raw) <= MAX_FRAME


def test_every_truncation_is_refused() -> None:
    """No prefix of a frame is taken for a frame, except where a message ends."""
    whole = frame(MESSAGES)
    ends = {len(frame(MESSAGES[:n])) for n in range(len(MESSAGES) + 1)}
    for length in range(len(whole)):
        raw = whole[:length]
        if length in ends:
            assert decode_messages(raw, decode_preamble(raw)[1], A, B) == MESSAGES[: sorted(ends).index(length)]
        else:
            with pytest.raises(ValueError, match=r".+"):
                decode_messages(raw, decode_preamble(raw)[1], A, B)


def test_joining_comes_back() -> None:
    """Requests and replies decode to what they were."""
    request = JoinRequest("cluster", Member(A, "127.0.0.1:1", "c:2", voter=False), promote=True)
    assert decode_join_request(encode_join_request(request)) == request
    for reply in (JoinReply(membership("a", "b")), JoinReply(None, "ask the leader", B, "127.0.0.1:2"), JoinReply(None, "no")):
        assert decode_join_reply(encode_join_reply(reply)) == reply


def mutate(rng: random.Random, raw: bytes) -> bytes:
    """Something near to `raw`."""
    data = bytearray(raw)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data)) if data else 0
        choice = rng.randrange(5)
        if choice == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif choice == 1 and data:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif choice == 2:
            del data[at : at + rng.randrange(1, 9)]
        elif choice == 3:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        else:
            data[at : at + 4] = rng.choice((0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 1 << 20)).to_bytes(4, "little")
    return bytes(data)


def whatever(raw: bytes) -> object:
    """A frame, decoded as the transport does."""
    preamble, at = decode_preamble(raw)
    return decode_messages(raw, at, preamble.sender, preamble.to)


@pytest.mark.parametrize(
    ("decode", "valid"),
    [
        (whatever, [frame([message]) for message in MESSAGES]),
        (decode_join_request, [encode_join_request(JoinRequest("cluster", Member(A, "h:1", "c:2", voter=False), promote=False))]),
        (decode_join_reply, [encode_join_reply(JoinReply(membership("a", "b", "c")))]),
    ],
)
def test_mutated_bytes_never_do_more_than_raise_value_error(decode: Callable[[bytes], object], valid: list[bytes]) -> None:
    """Of 10^5 frames near to valid ones, and random ones, each is refused by ValueError or decodes: nothing else ever happens."""
    rng = random.Random(11)
    decoded = refused = 0
    for n in range(100_000 if decode is whatever else 5_000):
        raw = rng.randbytes(rng.randrange(60)) if n % 20 == 0 else mutate(rng, rng.choice(valid))
        try:
            decode(raw)
            decoded += 1
        except ValueError:
            refused += 1
    assert decoded > 0
    assert refused > decoded / 10
