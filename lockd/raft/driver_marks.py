"""How much log was applied since the last snapshot, and where so many bytes before it lie."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from lockd.raft.core.types import Entry
from lockd.raft.driver_io import ENTRY_OVERHEAD, DriverConfig
from lockd.raft.envelope_bulk import data_of

__all__ = ["LogMarks"]


class LogMarks:
    """Counts applied bytes, and remembers a few indexes with their counts."""

    def __init__(self, config: DriverConfig) -> None:
        self._config = config
        self._applied = 0
        self._at_snapshot = 0
        self._marks: deque[tuple[int, int]] = deque()
        self._every = config.keep_log_bytes // 64

    def add(self, entries: Sequence[Entry]) -> None:
        """These were applied."""
        self._applied += sum(map(len, map(data_of, entries))) + ENTRY_OVERHEAD * len(entries)
        if not self._marks or self._applied - self._marks[-1][1] >= self._every:
            self._marks.append((entries[-1].index, self._applied))

    @property
    def due(self) -> bool:
        """Whether it is time for a snapshot."""
        return self._applied - self._at_snapshot >= self._config.snapshot_log_bytes

    def begun(self) -> None:
        """A snapshot of what is applied now was begun; another is due after as much again."""
        self._at_snapshot = self._applied

    def installed(self) -> None:
        """The log begins anew after a received snapshot."""
        self._marks.clear()
        self.begun()

    def keep_from(self, index: int, first_index: int) -> int:
        """The first index to keep after a snapshot at `index`: about `keep_log_bytes` before it, in a log that has `first_index` first."""
        floor = self._at_snapshot - self._config.keep_log_bytes
        marks = self._marks
        keep_from = first_index
        while marks and marks[0][1] <= floor and marks[0][0] <= index:
            keep_from = marks.popleft()[0] + 1
        return max(min(keep_from, index + 1), first_index)
