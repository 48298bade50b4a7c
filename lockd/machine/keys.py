"""A sorted set of strings that stays cheap to change when it is large."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator

_CHUNK = 1_000


class SortedKeys:
    """Strings in the order of their code points, in chunks: adding and removing move at most a chunk's worth of them."""

    __slots__ = ("_chunks", "_firsts")

    def __init__(self, keys: Iterable[str] = ()) -> None:
        ordered = sorted(set(keys))
        self._chunks: list[list[str]] = [ordered[i : i + _CHUNK] for i in range(0, len(ordered), _CHUNK)]
        self._firsts = [chunk[0] for chunk in self._chunks]

    def __len__(self) -> int:
        return sum(map(len, self._chunks))

    def add(self, key: str) -> None:
        """Add a key that is not there."""
        chunks, firsts = self._chunks, self._firsts
        if not chunks:
            chunks.append([key])
            firsts.append(key)
            return
        place = max(bisect_right(firsts, key) - 1, 0)
        chunk = chunks[place]
        insort(chunk, key)
        firsts[place] = chunk[0]
        if len(chunk) > 2 * _CHUNK:
            upper = chunk[_CHUNK:]
            del chunk[_CHUNK:]
            chunks.insert(place + 1, upper)
            firsts.insert(place + 1, upper[0])

    def remove(self, key: str) -> None:
        """Remove a key that is there."""
        place = bisect_right(self._firsts, key) - 1
        chunk = self._chunks[place]
        del chunk[bisect_left(chunk, key)]
        if chunk:
            self._firsts[place] = chunk[0]
        else:
            del self._chunks[place], self._firsts[place]

    def range(self, start: str, end: str | None = None) -> Iterator[str]:
        """Keys with start <= key < end, or to the last one. The set must not change meanwhile."""
        place = max(bisect_right(self._firsts, start) - 1, 0)
        offset = bisect_left(self._chunks[place], start) if self._chunks else 0
        for chunk in self._chunks[place:]:
            stop = len(chunk) if end is None or chunk[-1] < end else bisect_left(chunk, end)
            yield from chunk[offset:stop]
            if stop < len(chunk):
                return
            offset = 0
