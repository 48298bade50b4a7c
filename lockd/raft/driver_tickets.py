"""The tickets of proposals: from `propose` to the entry that answers them, or to being abandoned."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from lockd.raft.core.types import Entry
from lockd.raft.driver_io import ENTRY_OVERHEAD, DriverConfig
from lockd.raft.envelope_bulk import committed, data_of
from lockd.raft.port import Committed, OverloadedError

__all__ = ["Tickets"]


@dataclass(slots=True)
class _Run:
    """Consecutive tickets at consecutive indexes, appended in one step of one term."""

    term: int
    first_index: int
    first_ticket: int
    count: int


class Tickets:
    """Proposals that have not ended: gathered for the next step, or in the log of this reign. Ticket numbers rise by one."""

    def __init__(self, config: DriverConfig) -> None:
        self.gathered: list[bytes] = []
        """What waits for the next step, in order; its tickets are the last ones that were given."""
        self._config = config
        self._next = 1
        self._runs: deque[_Run] = deque()
        self._count = 0
        self._bytes = 0

    def add(self, data: bytes) -> int:
        """Gather `data`. Raises OverloadedError at the bounds."""
        size = len(data) + ENTRY_OVERHEAD
        if self._count >= self._config.max_outstanding or self._bytes + size > self._config.max_outstanding_bytes:
            raise OverloadedError("too many proposals are waiting to be committed")
        ticket = self._next
        self._next = ticket + 1
        self._count += 1
        self._bytes += size
        self.gathered.append(data)
        return ticket

    def appended(self, term: int, first_index: int) -> None:
        """All that was gathered is in the log from `first_index` on."""
        count = len(self.gathered)
        self._runs.append(_Run(term, first_index, self._next - count, count))
        self.gathered = []

    def abandon(self) -> list[int]:
        """The reign ended: every outstanding ticket, which are forgotten."""
        tickets = [ticket for run in self._runs for ticket in range(run.first_ticket, run.first_ticket + run.count)]
        tickets.extend(range(self._next - len(self.gathered), self._next))
        self._runs.clear()
        self.gathered = []
        self._count = self._bytes = 0
        return tickets

    def match(self, entries: Sequence[Entry]) -> tuple[list[Committed], list[int]]:
        """The normal ones of these committed entries, each with its ticket; and the tickets that this shows to be abandoned."""
        batch: list[Committed] = []
        lost: list[int] = []
        at = 0
        while at < len(entries):
            run = self._runs[0] if self._runs else None
            index = entries[at].index
            if run is None or index < run.first_index:
                stop = len(entries) if run is None else min(len(entries), at + run.first_index - index)
                batch += committed(entries[at:stop], None)
                at = stop
                continue
            stop = min(len(entries), at + run.count)
            while stop > at and entries[stop - 1].term != run.term:
                stop -= 1
            if stop == at:
                # Another leader's entry stands where ours was to be: the reign is over, though the role says so only later.
                lost += self.abandon()
                continue
            mine = entries[at:stop]
            batch += committed(mine, run.first_ticket)
            self._ended(run, stop - at, sum(map(len, map(data_of, mine))))
            at = stop
        return batch, lost

    def _ended(self, run: _Run, count: int, size: int) -> None:
        self._count -= count
        self._bytes -= size + ENTRY_OVERHEAD * count
        run.first_index += count
        run.first_ticket += count
        run.count -= count
        if not run.count:
            self._runs.popleft()
