"""What is committed and not yet applied, taken in slices that a state machine can apply without holding up the loop."""

from __future__ import annotations

from lockd.raft.core.types import Entry, Nanos
from lockd.raft.driver_io import DriverConfig
from lockd.raft.envelope_bulk import data_of

__all__ = ["Backlog"]

FIRST_SLICE = 16


class Backlog:
    """A queue of committed entries. How many make a slice follows from how long the ones before took.

    What an entry costs to apply differs by a factor of ten thousand (a keepalive, a batch of 8,000 transfers), and only the machine knows.
    So a slice doubles while it takes little of the time that a turn may take, and halves when it takes more than that.
    """

    def __init__(self, config: DriverConfig) -> None:
        self._config = config
        self._entries: list[Entry] = []
        self._at = 0
        self._slice = min(FIRST_SLICE, config.apply_entries)

    def __len__(self) -> int:
        return len(self._entries) - self._at

    def add(self, entries: list[Entry]) -> None:
        """These are committed; they follow what was added before. The list is kept."""
        if self._at == len(self._entries):
            self._entries, self._at = entries, 0
        else:
            if self._at > len(self._entries) // 2:
                del self._entries[: self._at]
                self._at = 0
            self._entries += entries

    def clear(self) -> None:
        """Forget all of it: a snapshot covers it, or the driver stopped."""
        self._entries, self._at = [], 0

    def take(self) -> list[Entry]:
        """The next slice, at least one entry. There must be one."""
        at = self._at
        taken = self._entries[at : at + self._slice]
        limit = self._config.apply_bytes
        if sum(map(len, map(data_of, taken))) > limit:
            size = count = 0
            for entry in taken:
                size += len(entry.data)
                if size > limit and count:
                    break
                count += 1
            del taken[count:]
        self._at = at + len(taken)
        if self._at == len(self._entries):
            self._entries, self._at = [], 0
        return taken

    def took(self, count: int, duration: Nanos) -> None:
        """A slice of `count` entries took so long to apply."""
        budget = self._config.apply_time
        if duration > budget:
            self._slice = max(1, min(self._slice, count) // 2)
        elif count == self._slice and duration <= budget // 4:
            self._slice = min(self._slice * 2, self._config.apply_entries)
