"""Recovery: from a directory to a log and a snapshot that fit each other, or a refusal that names file and offset."""

from __future__ import annotations

from dataclasses import dataclass

from lockd.raft.core.types import Membership
from lockd.raft.disk import Disk
from lockd.raft.journal_format import JournalDamagedError
from lockd.raft.pysyncobj_engine.directory import is_new, write_identity
from lockd.raft.pysyncobj_engine.logfile import LOG_NAME, LogContent, LogFile, Row
from lockd.raft.pysyncobj_engine.settings import Settings
from lockd.raft.pysyncobj_engine.snapshots import SnapshotStore
from lockd.raft.pysyncobj_engine.wire import COMMAND_NOOP

__all__ = ["FIRST_ROW", "Recovered", "recover"]

FIRST_ROW: Row = (bytes([COMMAND_NOOP]), 1, 0)
"""The entry that the package puts at the beginning of every log."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a directory holds. `content` is durable, and begins with the snapshot's two entries, or with `FIRST_ROW`."""

    log: LogFile
    store: SnapshotStore
    content: LogContent
    snapshot_index: int
    """0: there is none."""


def recover(disk: Disk, settings: Settings) -> Recovered:
    """Read, check and write anew what an earlier process left, or set the directory up.

    Raises JournalDamagedError, JournalForeignError and OSError.
    """
    log = LogFile(disk, settings.cluster_id, settings.id)
    store = SnapshotStore(disk, settings.cluster_id, Membership(tuple(sorted(settings.members, key=lambda member: member.id))))
    if is_new(disk, settings.cluster_id, settings.id):
        content = LogContent(rows=[FIRST_ROW])
        log.replace(content)
        write_identity(disk, settings.cluster_id, settings.id)
        return Recovered(log, store, content, 0)
    store.clean()
    snapshot = store.read()
    try:
        content = log.read()
    except FileNotFoundError as error:
        raise JournalDamagedError(LOG_NAME, 0, "the file is missing, and with it the votes of this replica") from error
    _fit(content, snapshot)
    log.replace(content)
    return Recovered(log, store, content, 0 if snapshot is None else snapshot[1][1])


def _fit(content: LogContent, snapshot: tuple[Row, Row] | None) -> None:
    """Let the log begin where the snapshot wants it to.

    The snapshot is renamed into place before the log is cut, so the log may reach further back than it, or (where the snapshot was
    received) be another log altogether, which the snapshot replaces.
    """
    rows = content.rows
    if snapshot is None:
        if not rows or rows[0] != FIRST_ROW:
            raise JournalDamagedError(LOG_NAME, 0, "the log does not begin at its beginning, and there is no snapshot")
        return
    previous, last = snapshot
    at = last[1] - rows[0][1] if rows else -1
    if rows and rows[0][1] > last[1]:
        raise JournalDamagedError(LOG_NAME, 0, f"the log begins with entry {rows[0][1]}, but the snapshot ends with entry {last[1]}")
    if 0 <= at < len(rows) and rows[at] == last:
        content.rows = [previous, *rows[at:]]
    else:
        content.rows = [previous, last]
