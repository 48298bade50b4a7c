"""A replica's directory as a whole: the journal and the snapshots, found consistent or refused.

What is refused, with the file and the reason, rather than guessed at: files that are not ours, another cluster's or replica's files, an
unknown version, a missing segment or snapshot, a log that does not reach its snapshot, and bytes that are not what was written (see
`lockd.raft.journal_format` for how a torn tail is told from damage). A first start that did not finish is begun again.
"""

from __future__ import annotations

from collections.abc import Sequence

from lockd.raft.core.types import HardState, Membership, ReplicaId, Restored, SnapshotMeta, Write
from lockd.raft.disk import Disk
from lockd.raft.journal import (
    Journal,
    JournalContent,
    JournalDamagedError,
    JournalFailedError,
    JournalForeignError,
    JournalOptions,
    segment_name,
    segment_number,
    segment_numbers,
    unfinished_segment,
)
from lockd.raft.snapshots import CURRENT, RECEIVED, SnapshotFile, Snapshots, parse_name, snapshot_name, unfinished_snapshot

__all__ = ["Store"]


class Store:
    """The open journal together with the snapshots; what `DriverIO.write` and `DriverIO.compact` are carried out by."""

    def __init__(self, journal: Journal, snapshots: Snapshots) -> None:
        self.journal = journal
        self.snapshots = snapshots

    @classmethod
    def open(
        cls,
        disk: Disk,
        cluster_id: str,
        replica_id: ReplicaId,
        first: Membership,
        options: JournalOptions | None = None,
    ) -> tuple[Store, Restored]:
        """Recover what is there, or begin with the membership `first` at index 0 where nothing is (empty for a replica that joins).

        What is returned is durable. Raises JournalDamagedError, JournalForeignError and JournalFailedError.
        """
        try:
            return cls._open(disk, cluster_id, replica_id, first, options)
        except OSError as error:
            raise JournalFailedError(f"{type(error).__name__}: {error}") from error

    @classmethod
    def _open(
        cls, disk: Disk, cluster_id: str, replica_id: ReplicaId, first: Membership, options: JournalOptions | None
    ) -> tuple[Store, Restored]:
        names = disk.list()
        for name in names:
            _check_known(name)
        snapshots = Snapshots(disk, cluster_id)
        current = snapshots.current()
        if not segment_numbers(names):
            if any(found.index > 0 for found in current):
                raise JournalDamagedError(segment_name(1), 0, f"the journal is missing beside {_file(current[-1])}")
            for found in current:
                snapshots.meta(found)
            _remove_unfinished(disk)
            meta = snapshots.create_first(first)
            journal = Journal.create(disk, cluster_id, replica_id, options)
            return cls(journal, snapshots), Restored(HardState(), meta, ())
        if not current:
            raise JournalDamagedError(_file(SnapshotFile(0, 0)), 0, "there is a journal and no snapshot beside it")
        meta = snapshots.meta(current[-1])
        journal, content = Journal.open(disk, cluster_id, replica_id, meta.index, options)
        meta = _finish_adoption(snapshots, meta, content)
        _check_reaches(meta, content)
        _remove_unfinished(disk)
        snapshots.remove_older()
        return cls(journal, snapshots), Restored(content.hard_state, meta, tuple(content.entries[meta.index - content.base_index :]))

    def write_many(self, writes: Sequence[Write]) -> None:
        """Make all of these durable, in order; received snapshots among them become current. Raises JournalFailedError, for good."""
        self.journal.write_many(writes)
        for write in writes:
            if write.snapshot is not None:
                self._guard(write.snapshot)

    def _guard(self, meta: SnapshotMeta) -> None:
        try:
            self.snapshots.adopt(meta)
        except OSError as error:
            self.journal.failed = f"{type(error).__name__}: {error}"
            raise JournalFailedError(self.journal.failed) from error

    def compact(self, keep_from: int) -> None:
        """Let the journal drop what lies below `keep_from`. Raises JournalFailedError, for good."""
        self.journal.compact(keep_from)

    def close(self) -> None:
        """Close the journal. Idempotent."""
        self.journal.close()


def _file(found: SnapshotFile) -> str:
    return snapshot_name(CURRENT, found.index, found.term)


def _check_known(name: str) -> None:
    known = (
        segment_number(name) is not None
        or unfinished_segment(name)
        or parse_name(name, CURRENT) is not None
        or parse_name(name, RECEIVED) is not None
        or unfinished_snapshot(name)
    )
    if not known:
        raise JournalForeignError(name, "no file of this name belongs into a replica's directory")


def _finish_adoption(snapshots: Snapshots, meta: SnapshotMeta, content: JournalContent) -> SnapshotMeta:
    """The journal was cut for a received snapshot, but the crash came before the rename: finish it."""
    if content.cut is None or content.cut[0] <= meta.index:
        return meta
    cut = SnapshotFile(*content.cut)
    if not snapshots.received(cut):
        raise JournalDamagedError(_file(cut), 0, "the log continues this snapshot, and the file is missing")
    snapshots.finish_adoption(cut)
    return snapshots.meta(cut)


def _check_reaches(meta: SnapshotMeta, content: JournalContent) -> None:
    file = _file(SnapshotFile(meta.index, meta.term))
    if meta.index < content.base_index:
        raise JournalDamagedError(file, 0, f"the log begins after entry {content.base_index}; a newer snapshot is missing")
    if meta.index > content.last_index:
        raise JournalDamagedError(file, 0, f"the log ends at entry {content.last_index}, before this snapshot")
    term = content.term_at(meta.index)
    if term != meta.term:
        raise JournalDamagedError(file, 0, f"entry {meta.index} has term {term} in the log")


def _remove_unfinished(disk: Disk) -> None:
    """Remove what was not finished, and what was received and not adopted."""
    for name in disk.list():
        if unfinished_segment(name) or unfinished_snapshot(name) or parse_name(name, RECEIVED) is not None:
            disk.remove(name)
    disk.sync()
