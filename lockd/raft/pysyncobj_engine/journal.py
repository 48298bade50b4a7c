"""PySyncObj's journal over a durable log: the package appends in memory, and `take` hands the gathered work to a writer.

The package calls `add`, `deleteEntriesFrom` and so on as if they were durable at once. They are not: every such call counts as a *mark*,
and the engine lets nothing out that depends on a mark before `durable` reached it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

from pysyncobj.journal import Journal

from lockd.raft.core.types import HardState, ReplicaId
from lockd.raft.pysyncobj_engine.logfile import LogContent, LogFile, LogRecord, Row

__all__ = ["DivergedError", "DurableJournal"]


class DivergedError(RuntimeError):
    """The package put another entry where one was already applied: this replica's state is not what the log says any more."""


class DurableJournal(Journal):  # type: ignore[misc]  # the package carries no types
    """The log in memory, and what of it is still to be written."""

    def __init__(self, log: LogFile, content: LogContent) -> None:
        """`content` is what `log` durably holds."""
        self._log = log
        self._rows = content.rows
        self._hard_state = content.hard_state
        self._records: list[LogRecord] = []
        self._replace = False
        self._taken = 0
        self.durable = 0
        """Number of the last job that ended: everything written before it was taken is durable."""
        self.applied = 0
        """Index of the last entry that was applied, as the engine says."""
        self.truncations = 0
        """How many times entries were taken away from the end."""
        self._applied_cut: dict[int, Row] = {}

    # --- what the package calls ----------------------------------------------------------------------------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append one entry. Raises DivergedError if it contradicts one that was applied."""
        row = (command, idx, term)
        if self._applied_cut:
            before = self._applied_cut.pop(idx, row)
            if before[2] != term or before[0] != command:
                raise DivergedError(f"entry {idx} of term {before[2]} was applied here, and is now replaced by one of term {term}")
        self._rows.append(row)
        self._records.append(row)

    def clear(self) -> None:
        """Drop everything: a snapshot was installed."""
        self._rows = []
        self._records.clear()
        self._applied_cut.clear()
        self._replace = True

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803 - the package's name
        """Drop the entries from this position of the list on."""
        removed = self._rows[entryFrom:]
        if not removed:
            return
        self.truncations += 1
        for row in removed:
            if row[1] <= self.applied:
                self._applied_cut[row[1]] = row
        del self._rows[entryFrom:]
        self._records.append(removed[0][1])

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802, N803 - the package's name
        """Drop the entries before this position of the list: a snapshot covers them."""
        if entryTo <= 0:
            return
        self._rows = self._rows[entryTo:]
        self._records.clear()
        self._replace = True

    @overload
    def __getitem__(self, item: int) -> Row: ...

    @overload
    def __getitem__(self, item: slice) -> list[Row]: ...

    def __getitem__(self, item: int | slice) -> Row | list[Row]:
        return self._rows[item]

    def __len__(self) -> int:
        return len(self._rows)

    def _destroy(self) -> None:
        """Nothing: the engine closes the log."""

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803 - the package's name
        """Remember the commit index; it is a hint, and is written along with the next thing that must be."""
        state = self._hard_state
        if raftCommitIndex != state.commit:
            self._hard_state = HardState(state.term, state.vote, raftCommitIndex)

    def getRaftCommitIndex(self) -> int:  # noqa: N802 - the package's name
        """The hint, never beyond the log."""
        return max(1, min(self._hard_state.commit, self._rows[-1][1]))

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802, N803 - the package's name
        """Remember term and vote; no message that tells of them leaves before they are durable."""
        vote = None if votedForNodeId is None else ReplicaId(votedForNodeId)
        self._hard_state = HardState(term, vote, self._hard_state.commit)
        self._records.append(self._hard_state)

    def getCurrentTerm(self) -> int:  # noqa: N802 - the package's name
        """The term."""
        return self._hard_state.term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802 - the package's name
        """The vote in this term."""
        return self._hard_state.vote

    # --- what the engine calls -----------------------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Whether there is something that no job has taken yet."""
        return self._replace or bool(self._records)

    @property
    def mark(self) -> int:
        """The job that makes durable all that was written so far."""
        return self._taken + 1 if self.dirty else self._taken

    @property
    def first_index(self) -> int:
        """Index of the first entry that is kept."""
        return self._rows[0][1]

    @property
    def last_index(self) -> int:
        """Index of the last entry."""
        return self._rows[-1][1]

    @property
    def log_bytes(self) -> int:
        """Bytes of the log on disk."""
        return self._log.used

    @property
    def grown_bytes(self) -> int:
        """Bytes by which the log grew since it was last replaced."""
        return self._log.grown

    def row_at(self, index: int) -> Row | None:
        """The entry at `index`, if it is kept."""
        at = index - self._rows[0][1]
        return self._rows[at] if 0 <= at < len(self._rows) else None

    def take(self) -> Callable[[], None]:
        """The blocking work that makes everything written so far durable. One at a time: call `done` after it returned."""
        self._taken += 1
        if self._replace:
            content = LogContent(self._hard_state, list(self._rows))
            self._records, self._replace = [], False
            return lambda: self._log.replace(content)
        records, self._records = self._records, []
        if records[-1] is not self._hard_state:
            records.append(self._hard_state)
        return lambda: self._log.write(records)

    def done(self) -> None:
        """The job taken last has ended well."""
        self.durable = self._taken
