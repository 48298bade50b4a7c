"""A stretch of the log as bytes, the same in the journal and on the wire: headers first, as columns, then the data, uncopied until joined.

Layout (little-endian): first index u64, count u32, number of term runs u32; per run: term u64, count u32; per entry: kind u8; per entry:
length u32; then the data of all entries, one after the other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import repeat

from lockd.raft.core.types import Entry, EntryKind
from lockd.raft.envelope_bulk import data_of, make_entries

__all__ = ["decode_entries", "encode_entries"]

_HEAD = struct.Struct("<QII")
_RUN = struct.Struct("<QI")
_KINDS = tuple(EntryKind(value) for value in range(len(EntryKind)))
_LAST_INDEX = (1 << 63) - 1

_latest: tuple[Sequence[Entry], tuple[bytes, ...], int] | None = None
"""Pieces and size of what was encoded or decoded last: a leader sends the same tuple to every peer and writes it to its own journal, and a
follower writes what it received. A tuple that is the same object has the same bytes; replaced as a whole, so threads may share it."""


def encode_entries(entries: Sequence[Entry], out: list[bytes]) -> int:
    """Append the pieces of `entries` (one or more, of consecutive indexes) to `out`; returns how many bytes they are."""
    global _latest
    latest = _latest
    if latest is not None and latest[0] is entries:
        out += latest[1]
        return latest[2]
    first, last = entries[0], entries[-1]
    count = len(entries)
    if first.term == last.term:
        runs = _RUN.pack(first.term, count)
        number = 1
    else:
        runs, number = _runs(entries)
    datas = list(map(data_of, entries))
    lengths = list(map(len, datas))
    head = b"".join(
        (_HEAD.pack(first.index, count, number), runs, bytes([entry.kind for entry in entries]), struct.pack(f"<{count}I", *lengths))
    )
    pieces = (head, *datas)
    size = len(head) + sum(lengths)
    if isinstance(entries, tuple):
        _latest = (entries, pieces, size)
    out += pieces
    return size


def _runs(entries: Sequence[Entry]) -> tuple[bytes, int]:
    packed: list[bytes] = []
    start = 0
    for at in range(1, len(entries) + 1):
        if at == len(entries) or entries[at].term != entries[start].term:
            packed.append(_RUN.pack(entries[start].term, at - start))
            start = at
    return b"".join(packed), len(packed)


def decode_entries(raw: bytes, at: int, end: int) -> tuple[Entry, ...]:
    """The entries encoded in `raw[at:end]`. Raises ValueError on anything malformed, before it takes memory for it."""
    global _latest
    start = at
    if end - at < _HEAD.size:
        raise ValueError("entries are cut short")
    index, count, number = _HEAD.unpack_from(raw, at)
    at += _HEAD.size
    if not count or not 0 < number <= count or index < 1 or index + count > _LAST_INDEX:
        raise ValueError("entries with an impossible head")
    if end - at < number * _RUN.size + count * 5:
        raise ValueError("entries are cut short")
    terms: list[int] = []
    for _ in range(number):
        term, length = _RUN.unpack_from(raw, at)
        at += _RUN.size
        if not 0 < length <= count - len(terms) or (terms and term <= terms[-1]) or not 0 < term <= _LAST_INDEX:
            raise ValueError("entries with impossible terms")
        terms += [term] * length
    if len(terms) != count:
        raise ValueError("entries with impossible terms")
    codes = raw[at : at + count]
    at += count
    lengths = struct.unpack_from(f"<{count}I", raw, at)
    at += 4 * count
    if sum(lengths) != end - at:
        raise ValueError("entries whose lengths do not add up")
    datas = [raw[at : (at := at + length)] for length in lengths]
    kinds: Iterable[EntryKind]
    if codes.count(0) == count:
        kinds = repeat(EntryKind.NORMAL)
    elif max(codes) < len(_KINDS):
        kinds = [_KINDS[code] for code in codes]
    else:
        raise ValueError("an entry of an unknown kind")
    made = make_entries(index, terms, kinds, datas)
    _latest = (made, (raw[start:end],), end - start)
    return made
