"""What is committed and not yet applied, taken in slices that a state machine can apply without holding up the loop."""

from __future__ import annotations

from collections import deque
from itertools import islice

from lockd.raft.core.types import Entry, Nanos
from lockd.raft.driver_io import DriverConfig

__all__ = ["Backlog"]

FIRST_SLICE = 16


class Backlog:
    """A queue of committed entries. How many make a slice follows from how long the ones before took.

    What an entry costs to apply differs by a factor of ten thousand (a keepalive, a batch of 8,000 transfers), and only the machine knows.
    So a slice doubles while it takes little of the time that a turn may take, and halves when it takes more than that.
    """

    def __init__(self, config: DriverConfig) -> None:
        self._config = config
        self._entries: deque[Entry] = deque()
        self._slice = min(FIRST_SLICE, config.apply_entries)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entries: list[Entry]) -> None:
        """These are committed; they follow what was added before."""
        self._entries.extend(entries)

    def clear(self) -> None:
        """Forget all of it: a snapshot covers it, or the driver stopped."""
        self._entries.clear()

    def take(self) -> list[Entry]:
        """The next slice, at least one entry. There must be one."""
        queue = self._entries
        limit = self._config.apply_bytes
        size = 0
        count = 0
        for entry in islice(queue, self._slice):
            size += len(entry.data)
            if size > limit and count:
                break
            count += 1
        if count == len(queue):
            taken = list(queue)
            queue.clear()
            return taken
        pop = queue.popleft
        return [pop() for _ in range(count)]

    def took(self, count: int, duration: Nanos) -> None:
        """A slice of `count` entries took so long to apply."""
        budget = self._config.apply_time
        if duration > budget:
            self._slice = max(1, min(self._slice, count) // 2)
        elif count == self._slice and duration <= budget // 4:
            self._slice = min(self._slice * 2, self._config.apply_entries)
