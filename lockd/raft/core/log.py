"""The log since the last compaction, in memory, and how much of it is durable."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from operator import attrgetter

from lockd.raft.core.config import CoreInvariantError
from lockd.raft.core.types import Entry

ENTRY_OVERHEAD = 16
"""Bytes that an entry counts for beside its data, so that empty entries are not free."""

_term_of = attrgetter("term")


class Log:
    """Entries `base_index + 1 .. last_index`. Payloads are the caller's bytes, never copied.

    `_ends[i]` is the running total of bytes after the i-th entry held: any range is measured with one subtraction.
    """

    __slots__ = ("_ends", "_entries", "_memo", "_writes", "base_index", "base_term", "durable", "last_index")

    def __init__(self, base_index: int, base_term: int, entries: tuple[Entry, ...]) -> None:
        self._writes: deque[tuple[int, int]] = deque()
        self.durable = 0
        """Entries up to here are on disk, as they are here."""
        self.reset(base_index, base_term, intact=0)
        self.durable = base_index
        if entries:
            self.append(entries)
            self.durable = self.last_index

    def reset(self, base_index: int, base_term: int, *, intact: int) -> None:
        """Forget every entry: the log now follows a snapshot. What is on disk agrees with it up to `intact` (what was committed)."""
        self._clip(intact)
        self.base_index = self.last_index = base_index
        self.base_term = base_term
        self._entries: list[Entry] = []
        self._ends = [0]
        self._memo: tuple[int, int, tuple[Entry, ...], int] | None = None

    # --- reading ---

    @property
    def last_term(self) -> int:
        """Term of the last entry, or of the snapshot."""
        return self._entries[-1].term if self._entries else self.base_term

    @property
    def size(self) -> int:
        """Bytes held."""
        return self._ends[-1] - self._ends[0]

    def size_after(self, index: int) -> int:
        """Bytes of the entries that follow `index`."""
        return self._ends[-1] - self._ends[max(index - self.base_index, 0)]

    def term_at(self, index: int) -> int | None:
        """Term of the entry at `index`; None where the log does not know it."""
        at = index - self.base_index
        if 0 < at <= len(self._entries):
            return self._entries[at - 1].term
        return self.base_term if at == 0 else None

    def entries(self, first: int, last_exclusive: int) -> list[Entry]:
        """Entries [first, last_exclusive). Raises IndexError unless the log holds them all."""
        if first > last_exclusive or first <= self.base_index or last_exclusive > self.last_index + 1:
            raise IndexError(f"entries [{first}, {last_exclusive}) are not within ({self.base_index}, {self.last_index}]")
        offset = self.base_index + 1
        return self._entries[first - offset : last_exclusive - offset]

    def batch(self, first: int, max_bytes: int) -> tuple[tuple[Entry, ...], int]:
        """Entries from `first` on, at least one and no more than `max_bytes` if they are several; and their size.

        The last answer is kept: peers in step share one tuple.
        """
        memo = self._memo
        if memo is not None and memo[0] == first and memo[1] == self.last_index and memo[3] <= max_bytes:
            return memo[2], memo[3]
        low, ends = first - self.base_index - 1, self._ends
        high = max(bisect_right(ends, ends[low] + max_bytes, low + 1) - 1, low + 1)
        entries, size = tuple(self._entries[low:high]), ends[high] - ends[low]
        self._memo = (first, self.last_index, entries, size)
        return entries, size

    def last_not_after(self, index: int, term: int) -> int:
        """The largest index <= `index` whose term is <= `term`: no entry between can match (3.5). Not searched before `base_index`."""
        held = min(index - self.base_index, len(self._entries))
        return self.base_index + bisect_right(self._entries, term, 0, held, key=_term_of) if held > 0 else index

    # --- changing ---

    def append(self, entries: tuple[Entry, ...]) -> None:
        """Add entries after the last one."""
        if entries[0].index != self.last_index + 1:
            raise CoreInvariantError(f"entry {entries[0].index} appended after {self.last_index}")
        ends = self._ends
        before = ends[-1]
        totals = accumulate([len(entry.data) + ENTRY_OVERHEAD for entry in entries], initial=before)
        next(totals)
        ends.extend(totals)
        self._entries.extend(entries)
        self.last_index += len(entries)
        self._memo = (entries[0].index, self.last_index, entries, ends[-1] - before)

    def truncate_from(self, index: int) -> None:
        """Remove the entries from `index` on: they conflict with the leader's (3.5)."""
        keep = index - self.base_index - 1
        if keep < 0:
            raise CoreInvariantError(f"truncation at {index}, which the snapshot at {self.base_index} covers")
        del self._entries[keep:]
        del self._ends[keep + 1 :]
        self.last_index = index - 1
        self._memo = None
        self._clip(index - 1)

    def drop_before(self, index: int) -> None:
        """Forget the entries before `index`; a snapshot covers them."""
        count = index - 1 - self.base_index
        if count > 0:
            self.base_term = self._entries[count - 1].term
            self.base_index = index - 1
            del self._entries[:count]
            del self._ends[:count]

    # --- durability ---

    def written(self, number: int) -> None:
        """Write `number` brings everything up to the present end of the log to disk."""
        self._writes.append((number, self.last_index))

    def persisted(self, number: int) -> None:
        """Write `number` and all before it are done."""
        writes = self._writes
        while writes and writes[0][0] <= number:
            self.durable = max(self.durable, writes.popleft()[1])
        if self.durable > self.last_index:
            raise CoreInvariantError(f"durable up to {self.durable}, but the log ends at {self.last_index}")

    def _clip(self, last: int) -> None:
        """What was beyond `last` is gone. A write under way must not count for the entries that take the same places (ABA)."""
        self.durable = min(self.durable, last)
        if self._writes:
            self._writes = deque((number, min(upto, last)) for number, upto in self._writes)


def is_sound(prev_index: int, prev_term: int, entries: Sequence[Entry], last_term: int) -> bool:
    """Whether `entries` can follow (prev_index, prev_term) in a log of `last_term`: no gaps, terms that never fall."""
    index, term = prev_index, max(prev_term, 1)
    for entry in entries:
        index += 1
        if entry.index != index or entry.term < term:
            return False
        term = entry.term
    return not entries or term <= last_term
