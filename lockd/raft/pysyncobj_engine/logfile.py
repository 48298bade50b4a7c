"""The durable log on disk: one file of checksummed batches, replaced as a whole when its beginning is dropped.

The batches are those of `lockd.raft.journal_format`, and so is the judgement of what is a torn tail and what is damage. One call of
`write` is one batch: one write and one fdatasync. Three records exist: an entry, the hard state (term, vote, commit hint), and a cut
("from index i on, the log is empty"), which is needed because PySyncObj truncates without putting anything in place.

A replacement is written aside, synced, renamed, and the directory synced. It also happens at every start, so that whatever an earlier
process left half-synced is written anew by this one.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from lockd.raft.core.types import HardState, ReplicaId
from lockd.raft.disk import Disk, File
from lockd.raft.journal_format import (
    BATCH_HEAD,
    DATA_START,
    RECORD,
    JournalDamagedError,
    JournalForeignError,
    SegmentHeader,
    batch_at,
    decode_hard_state,
    decode_segment_header,
    encode_hard_state,
    encode_segment_header,
    judge_tail,
    seal_batch,
)

__all__ = ["LOG_NAME", "LOG_UNFINISHED", "LogContent", "LogFile", "LogRecord", "Row"]

LOG_NAME = "pysyncobj-log"
LOG_UNFINISHED = "pysyncobj-log.tmp"
ALLOCATE = 8 << 20
"""Bytes by which the file grows: into allocated zeros a sync is cheaper, and a torn write can be told from damage."""

Row: TypeAlias = tuple[bytes, int, int]
"""An entry as PySyncObj keeps it: command, index, term."""
LogRecord: TypeAlias = Row | HardState | int
"""What goes into the log: an entry, the hard state, or the index from which on everything is cut."""

_ENTRY, _HARD_STATE, _CUT = 17, 18, 19
_POSITION = struct.Struct("<QQ")
_INDEX = struct.Struct("<Q")


@dataclass(slots=True)
class LogContent:
    """What the log holds. `rows` have no gaps; they begin wherever the last replacement began."""

    hard_state: HardState = field(default_factory=HardState)
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Append one entry. Raises ValueError on a gap."""
        if self.rows and row[1] != self.rows[-1][1] + 1:
            raise ValueError(f"entry {row[1]} after entry {self.rows[-1][1]}")
        self.rows.append(row)

    def cut(self, index: int) -> None:
        """Drop everything from `index` on."""
        if self.rows:
            del self.rows[max(0, index - self.rows[0][1]) :]


class LogFile:
    """The open log. Used by one thread at a time. Every method may raise OSError, after which the file must not be used again."""

    def __init__(self, disk: Disk, cluster_id: str, replica_id: ReplicaId) -> None:
        """Nothing is opened: call `replace` for a new log, or `read` and then `replace`."""
        self._disk = disk
        self._cluster_id = cluster_id
        self._replica_id = replica_id
        self._file: File | None = None
        self._number = 0
        self._salt = 0
        self._batch = 1
        self._offset = DATA_START
        self._begun = DATA_START
        self._size = 0

    def read(self) -> LogContent:
        """Read what an earlier process left, without its torn tail.

        Raises JournalDamagedError (with file and offset), JournalForeignError, and FileNotFoundError if there is no log.
        """
        file = self._disk.open(LOG_NAME)
        try:
            raw = file.read_at(0, file.size())
        finally:
            file.close()
        header = decode_segment_header(LOG_NAME, raw[:DATA_START])
        if header.cluster_id != self._cluster_id:
            raise JournalForeignError(LOG_NAME, f"it belongs to cluster {header.cluster_id!r}, not to {self._cluster_id!r}")
        if header.replica_id != self._replica_id:
            raise JournalForeignError(LOG_NAME, f"it belongs to replica {header.replica_id!r}, not to {self._replica_id!r}")
        self._number = header.number
        content = LogContent(header.hard_state)
        at, batch = DATA_START, header.first_batch
        while (found := batch_at(raw, at, header.salt, batch)) is not None:
            _replay(raw, *found, content)
            at, batch = found[1] + 1, batch + 1
        judge_tail(LOG_NAME, raw, at, header.salt, batch)
        return content

    def replace(self, content: LogContent) -> None:
        """Make the log exactly this, atomically and durably."""
        self._number += 1
        self._salt = secrets.randbits(64) | 1
        last = content.rows[-1] if content.rows else (b"", 0, 0)
        header = SegmentHeader(self._cluster_id, self._replica_id, self._number, self._salt, 1, last[1], last[2], content.hard_state)
        if LOG_UNFINISHED in self._disk.list():
            self._disk.remove(LOG_UNFINISHED)
        batch = seal_batch(self._salt, 1, _pieces(content.rows)) if content.rows else b""
        size = _rounded(DATA_START + len(batch))
        file = self._disk.create(LOG_UNFINISHED, size)
        try:
            file.write_at(0, encode_segment_header(header))
            if batch:
                file.write_at(DATA_START, batch)
            file.sync()
            self._disk.rename(LOG_UNFINISHED, LOG_NAME)
            self._disk.sync()
        except BaseException:
            file.close()
            raise
        if self._file is not None:
            self._file.close()
        self._file, self._size = file, size
        self._offset = self._begun = DATA_START + len(batch)
        self._batch = 2 if batch else 1

    def write(self, records: Sequence[LogRecord]) -> None:
        """Make these durable, in order, with one write and one sync."""
        file = self._file
        if file is None:
            raise OSError("the log is closed")
        batch = seal_batch(self._salt, self._batch, _pieces(records))
        stop = self._offset + len(batch)
        if stop > self._size:
            file.truncate(size := _rounded(stop))
            self._size = size
        file.write_at(self._offset, batch)
        file.sync()
        self._offset = stop
        self._batch += 1

    @property
    def used(self) -> int:
        """Bytes written to the file."""
        return self._offset

    @property
    def grown(self) -> int:
        """Bytes written since the log was replaced."""
        return self._offset - self._begun

    def close(self) -> None:
        """Close the file. Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _rounded(size: int) -> int:
    return -(-(size + BATCH_HEAD) // ALLOCATE) * ALLOCATE


def _pieces(records: Sequence[LogRecord]) -> list[bytes]:
    pieces: list[bytes] = []
    for record in records:
        if isinstance(record, tuple):
            command, index, term = record
            pieces += (RECORD.pack(_ENTRY, _POSITION.size + len(command)), _POSITION.pack(index, term), command)
        elif isinstance(record, HardState):
            raw = encode_hard_state(record)
            pieces += (RECORD.pack(_HARD_STATE, len(raw)), raw)
        else:
            pieces += (RECORD.pack(_CUT, _INDEX.size), _INDEX.pack(record))
    return pieces


def _replay(raw: bytes, at: int, stop: int, content: LogContent) -> None:
    start = at
    try:
        while at < stop:
            at = _replay_record(raw, at, stop, content)
    except (ValueError, struct.error) as error:
        raise JournalDamagedError(LOG_NAME, start, f"a batch that is whole holds {error}") from error


def _replay_record(raw: bytes, at: int, stop: int, content: LogContent) -> int:
    if stop - at < RECORD.size:
        raise ValueError("a record that is cut short")
    kind, length = RECORD.unpack_from(raw, at)
    at += RECORD.size
    end = at + length
    if end > stop:
        raise ValueError("a record that is cut short")
    if kind == _ENTRY and length > _POSITION.size:
        index, term = _POSITION.unpack_from(raw, at)
        content.add((raw[at + _POSITION.size : end], index, term))
    elif kind == _HARD_STATE:
        content.hard_state = decode_hard_state(raw[at:end])
    elif kind == _CUT and length == _INDEX.size:
        content.cut(_INDEX.unpack_from(raw, at)[0])
    else:
        raise ValueError(f"a record of unknown type {kind}")
    return int(end)
