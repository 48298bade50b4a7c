"""Entries that were encoded or decoded last are not encoded again, and that never shows in the bytes."""

from __future__ import annotations

from lockd.raft.core.types import Entry, EntryKind
from lockd.raft.envelope_entries import decode_entries, encode_entries
from tests.unit.raft_shell.support import entry, noise


def encoded(entries: tuple[Entry, ...]) -> bytes:
    """The bytes, with the announced size checked."""
    out: list[bytes] = []
    size = encode_entries(entries, out)
    raw = b"".join(out)
    assert len(raw) == size
    return raw


def copy(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Equal entries in another tuple, which is encoded from scratch."""
    return tuple(Entry(each.index, each.term, each.kind, each.data) for each in entries)


def test_the_same_tuple_has_the_same_bytes_each_time() -> None:
    """For peers and journal alike, and whatever was encoded in between."""
    one = tuple(entry(n, 1 + n // 3, noise(n, n), EntryKind.NOOP if n == 3 else EntryKind.NORMAL) for n in range(1, 10))
    other = (entry(20, 9, b"other"),)
    first = encoded(one)
    assert encoded(one) == first == encoded(copy(one))
    assert encoded(other) != first
    assert encoded(one) == first


def test_what_was_decoded_is_encoded_as_it_came() -> None:
    """A follower's journal gets the bytes that a fresh encoding would give; a part of them is encoded as that part."""
    raw = encoded(tuple(entry(n, 1 + n // 4, noise(n, 3 * n)) for n in range(1, 10)))
    framed = b"before" + raw + b"after"
    got = decode_entries(framed, 6, 6 + len(raw))
    assert encoded(got) == raw == encoded(copy(got))
    got = decode_entries(framed, 6, 6 + len(raw))
    assert encoded(got[4:]) == encoded(copy(got[4:]))
    assert decode_entries(encoded(got[4:]), 0, len(encoded(got[4:]))) == got[4:]
