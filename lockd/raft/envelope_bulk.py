"""Many entries at once.

Building a frozen dataclass runs Python code for every field of every object, a microsecond each, which is most of what a small command
costs a replica. Here the same objects are made column by column, through the descriptors of their slots, at less than half of that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any

from lockd.raft.core.types import Entry, EntryKind
from lockd.raft.port import Committed

__all__ = ["committed", "data_of", "make_entries"]

data_of: Callable[[Entry], bytes] = attrgetter("data")
_term_of = attrgetter("term")
_kind_of = attrgetter("kind")
_new: Any = object.__new__


def _setters(cls: Any, *names: str) -> list[Callable[[Any, Any], None]]:
    return [cls.__dict__[name].__set__ for name in names]


_ENTRY = _setters(Entry, "index", "term", "kind", "data")
_COMMITTED = _setters(Committed, "index", "term", "data", "ticket")


def _make(cls: Any, count: int, setters: list[Callable[[Any, Any], None]], columns: Sequence[Iterable[Any]]) -> list[Any]:
    made = list(map(_new, repeat(cls, count)))
    for setter, column in zip(setters, columns, strict=True):
        deque(map(setter, made, column), 0)
    return made


def make_entries(first: int, terms: Iterable[int], kinds: Iterable[EntryKind], datas: Sequence[bytes]) -> tuple[Entry, ...]:
    """Entries from index `first` on; every column has at least as many values as `datas`."""
    return tuple(_make(Entry, len(datas), _ENTRY, (range(first, first + len(datas)), terms, kinds, datas)))


def committed(entries: Sequence[Entry], first_ticket: int | None) -> list[Committed]:
    """The normal ones of these consecutive entries; with tickets from `first_ticket` on, then they are all normal."""
    count = len(entries)
    if not count:
        return []
    kinds = list(map(_kind_of, entries))
    if kinds.count(EntryKind.NORMAL) != count:
        normal = EntryKind.NORMAL
        return [Committed(entry.index, entry.term, entry.data, None) for entry in entries if entry.kind is normal]
    first, last = entries[0], entries[-1]
    terms: Iterable[int] = repeat(first.term) if first.term == last.term else map(_term_of, entries)
    tickets: Iterable[int | None] = repeat(None) if first_ticket is None else range(first_ticket, first_ticket + count)
    return _make(Committed, count, _COMMITTED, (range(first.index, first.index + count), terms, map(data_of, entries), tickets))
