"""The durable log: entries, hard state and the cuts of received snapshots, in order, each batch written and synced once.

See `lockd.raft.journal_format` for the bytes and for what recovery takes for a torn tail and what for damage. The journal replays by one
rule: an entry with index i replaces everything from i on. It is used by one thread at a time.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lockd.raft.core.types import Entry, HardState, ReplicaId, Write
from lockd.raft.disk import Disk, File
from lockd.raft.envelope_entries import decode_entries, encode_entries
from lockd.raft.journal_format import (
    BATCH_HEAD,
    DATA_START,
    RECORD,
    JournalDamagedError,
    JournalError,
    JournalFailedError,
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

__all__ = [
    "Journal",
    "JournalContent",
    "JournalDamagedError",
    "JournalError",
    "JournalFailedError",
    "JournalForeignError",
    "JournalOptions",
]

PREFIX = "journal-"
SUFFIX_UNFINISHED = ".tmp"

_ENTRIES, _HARD_STATE, _CUT = 1, 2, 3
_CUT_POSITION = struct.Struct("<QQ")


def _random_salt() -> int:
    return secrets.randbits(64) | 1


@dataclass(frozen=True, slots=True)
class JournalOptions:
    """How a journal lays out its files. `salt` gives a 64-bit number for every new segment, which clients must not be able to guess."""

    segment_bytes: int = 64 << 20
    salt: Callable[[], int] = _random_salt


@dataclass(slots=True)
class JournalContent:
    """What the journal holds: `entries` follow `base_index`. `base_term` is None where only a newer snapshot knows it."""

    hard_state: HardState = field(default_factory=HardState)
    base_index: int = 0
    base_term: int | None = 0
    entries: list[Entry] = field(default_factory=list)
    cut: tuple[int, int] | None = None
    """(index, term) of the last received snapshot that replaced the log."""

    @property
    def last_index(self) -> int:
        """The last position of the log."""
        return self.base_index + len(self.entries)

    def term_at(self, index: int) -> int | None:
        """The term at `index`; None if it is not known."""
        if index == self.base_index:
            return self.base_term
        at = index - self.base_index - 1
        return self.entries[at].term if 0 <= at < len(self.entries) else None

    def replace(self, entries: Sequence[Entry]) -> None:
        """Entries from `entries[0].index` on are these. Raises ValueError on a gap."""
        first = entries[0].index
        if first > self.last_index + 1:
            raise ValueError(f"entry {first} follows entry {self.last_index}")
        if first <= self.base_index:
            self.base_index, self.base_term = first - 1, None
        del self.entries[first - self.base_index - 1 :]
        self.entries.extend(entries)


@dataclass(frozen=True, slots=True)
class _Segment:
    number: int
    last_index: int
    """The log's end as the segment began: the segments from this one on tell all of the log above it."""
    size: int


class Journal:
    """The open journal. Built by `Journal.create` and `Journal.open`."""

    def __init__(self, disk: Disk, cluster_id: str, replica_id: ReplicaId, options: JournalOptions) -> None:
        self._disk = disk
        self._cluster_id = cluster_id
        self._replica_id = replica_id
        self._options = options
        self._segments: list[_Segment] = []
        self._file: File | None = None
        self._offset = 0
        self._salt = 0
        self._batch = 1
        self._last_index = 0
        self._last_term = 0
        self._hard_state = HardState()
        self.failed: str | None = None
        """Why the journal can be used no more, or None."""

    # --- opening -------------------------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        disk: Disk,
        cluster_id: str,
        replica_id: ReplicaId,
        options: JournalOptions | None = None,
    ) -> Journal:
        """A new, empty journal whose log begins after index 0. Raises JournalFailedError."""
        journal = cls(disk, cluster_id, replica_id, options or JournalOptions())
        try:
            journal._begin_segment(1, 0)
        except OSError as error:
            raise JournalFailedError(str(error)) from error
        return journal

    @classmethod
    def open(
        cls,
        disk: Disk,
        cluster_id: str,
        replica_id: ReplicaId,
        oldest: int,
        options: JournalOptions | None = None,
    ) -> tuple[Journal, JournalContent]:
        """Open what is there, cut a torn tail, and tell the content. There must be a segment.

        `oldest` is the index of the snapshot that the log must reach back to: older segments than that takes are left over.
        What is returned is durable. Raises JournalDamagedError, JournalForeignError and JournalFailedError.
        """
        journal = cls(disk, cluster_id, replica_id, options or JournalOptions())
        try:
            return journal, journal._recover(oldest)
        except OSError as error:
            raise JournalFailedError(str(error)) from error

    def _recover(self, oldest: int) -> JournalContent:
        disk = self._disk
        numbers = segment_numbers(disk.list())
        headers: list[SegmentHeader] = []
        for number in reversed(numbers):
            header = self._read_header(number)
            if headers and number != headers[-1].number - 1:
                break
            headers.append(header)
            if header.last_index <= oldest:
                break
        if headers[-1].last_index > oldest and headers[-1].number != 1:
            missing = segment_name(headers[-1].number - 1)
            raise JournalDamagedError(missing, 0, f"the file is missing; the log is needed from entry {oldest + 1} on")
        headers.reverse()
        first = headers[0]
        content = JournalContent(first.hard_state, first.last_index, first.last_term)
        sequence = first.first_batch
        for at, header in enumerate(headers):
            following = headers[at + 1] if at + 1 < len(headers) else None
            sequence = self._replay(header, following, sequence, content)
        left_over = [number for number in numbers if number < first.number]
        for number in left_over:
            disk.remove(segment_name(number))
        disk.sync()
        self._batch = sequence
        self._last_index = content.last_index
        self._last_term = content.term_at(content.last_index) or 0
        self._hard_state = content.hard_state
        return content

    def _read_header(self, number: int) -> SegmentHeader:
        name = segment_name(number)
        file = self._disk.open(name)
        try:
            header = decode_segment_header(name, file.read_at(0, DATA_START))
        finally:
            file.close()
        if header.cluster_id != self._cluster_id:
            raise JournalForeignError(name, f"it belongs to cluster {header.cluster_id!r}, not to {self._cluster_id!r}")
        if header.replica_id != self._replica_id:
            raise JournalForeignError(name, f"it belongs to replica {header.replica_id!r}, not to {self._replica_id!r}")
        if header.number != number:
            raise JournalForeignError(name, f"its header says that it is segment {header.number}")
        return header

    def _replay(self, header: SegmentHeader, following: SegmentHeader | None, sequence: int, content: JournalContent) -> int:
        """Replay one segment; the last one stays open for what comes. Returns the number of the next batch."""
        name = segment_name(header.number)
        file = self._disk.open(name)
        try:
            size = file.size()
            raw = file.read_at(0, size)
            at = last = DATA_START
            while (found := batch_at(raw, at, header.salt, sequence)) is not None:
                _replay_batch(name, raw, *found, content)
                last, at = at, found[1] + 1
                sequence += 1
            if following is None:
                self._settle(file, name, header, raw, last, at, sequence)
            else:
                _check_follows(name, at, sequence, following)
        except BaseException:
            file.close()
            raise
        self._segments.append(_Segment(header.number, header.last_index, size))
        if following is not None:
            file.close()
        else:
            self._file, self._offset, self._salt = file, at, header.salt
        return sequence

    def _settle(self, file: File, name: str, header: SegmentHeader, raw: bytes, last: int, at: int, sequence: int) -> None:
        """Make what was read of the last segment durable, and the rest zero.

        The process before this one may have died before its last sync, or because that failed; after a failed sync pages may look clean
        that never reached the disk. So the last batch is written once more.
        """
        torn = judge_tail(name, raw, at, header.salt, sequence)
        if torn:
            file.truncate(at)
            file.truncate(max(len(raw), at))
        if at > last:
            file.write_at(last, raw[last:at])
        file.sync()

    # --- writing -------------------------------------------------------------------------------------------------------------------

    def write(self, write: Write) -> None:
        """`write_many` of one."""
        self.write_many((write,))

    def write_many(self, writes: Sequence[Write]) -> None:
        """Make all of these durable, in order, with one write and one sync.

        Raises JournalFailedError: the disk refused, and from then on so does the journal; none of `writes` may be taken for durable.
        """
        if self.failed is not None:
            raise JournalFailedError(self.failed)
        pieces: list[bytes] = []
        hard_state, last_index, last_term = self._hard_state, self._last_index, self._last_term
        for write in writes:
            if write.hard_state is not None:
                hard_state = write.hard_state
                raw = encode_hard_state(hard_state)
                pieces += (RECORD.pack(_HARD_STATE, len(raw)), raw)
            if write.snapshot is not None:
                last_index, last_term = write.snapshot.index, write.snapshot.term
                pieces += (RECORD.pack(_CUT, _CUT_POSITION.size), _CUT_POSITION.pack(last_index, last_term))
            if write.entries:
                slot = len(pieces)
                pieces.append(b"")
                pieces[slot] = RECORD.pack(_ENTRIES, encode_entries(write.entries, pieces))
                last = write.entries[-1]
                last_index, last_term = last.index, last.term
        if not pieces:
            return
        try:
            self._append(pieces)
        except OSError as error:
            self.failed = f"{type(error).__name__}: {error}"
            raise JournalFailedError(self.failed) from error
        self._hard_state, self._last_index, self._last_term = hard_state, last_index, last_term

    def _append(self, pieces: list[bytes]) -> None:
        batch = seal_batch(self._salt, self._batch, pieces)
        if self._file is None or self._offset + len(batch) > self._segments[-1].size:
            self._begin_segment(self._segments[-1].number + 1, len(batch))
            batch = seal_batch(self._salt, self._batch, pieces)
        file = self._file
        if file is None:
            raise JournalFailedError("the journal is closed")
        file.write_at(self._offset, batch)
        file.sync()
        self._offset += len(batch)
        self._batch += 1

    def _begin_segment(self, number: int, needed: int) -> None:
        """Make the next segment durable under its name before anything goes into it."""
        name = segment_name(number)
        size = max(self._options.segment_bytes, DATA_START + BATCH_HEAD + needed)
        salt = self._options.salt() | 1
        header = SegmentHeader(
            self._cluster_id, self._replica_id, number, salt, self._batch, self._last_index, self._last_term, self._hard_state
        )
        file = self._disk.create(name + SUFFIX_UNFINISHED, size)
        file.write_at(0, encode_segment_header(header))
        file.sync()
        self._disk.rename(name + SUFFIX_UNFINISHED, name)
        self._disk.sync()
        if self._file is not None:
            self._file.close()
        self._segments.append(_Segment(number, self._last_index, size))
        self._file, self._offset, self._salt = file, DATA_START, salt

    def compact(self, keep_from: int) -> None:
        """Remove the segments that nothing from index `keep_from` on needs. A durable snapshot at `keep_from - 1` or later must exist.

        Raises JournalFailedError.
        """
        if self.failed is not None:
            raise JournalFailedError(self.failed)
        keep = max((at for at, segment in enumerate(self._segments) if segment.last_index < keep_from), default=0)
        if keep == 0:
            return
        try:
            for segment in self._segments[:keep]:
                self._disk.remove(segment_name(segment.number))
            self._disk.sync()
        except OSError as error:
            self.failed = f"{type(error).__name__}: {error}"
            raise JournalFailedError(self.failed) from error
        del self._segments[:keep]

    def close(self) -> None:
        """Close the file. Idempotent."""
        file, self._file = self._file, None
        if self.failed is None:
            self.failed = "the journal is closed"
        if file is not None:
            file.close()

    @property
    def size(self) -> int:
        """Bytes that the segments take on disk."""
        return sum(segment.size for segment in self._segments)


def _check_follows(name: str, at: int, sequence: int, following: SegmentHeader) -> None:
    if following.first_batch != sequence:
        raise JournalDamagedError(name, at, f"batch {sequence} is not valid, but {segment_name(following.number)} follows it")


def _replay_batch(name: str, raw: bytes, at: int, stop: int, content: JournalContent) -> None:
    start = at
    try:
        while at < stop:
            at = _replay_record(raw, at, stop, content)
    except ValueError as error:
        raise JournalDamagedError(name, start, f"a batch that is whole holds {error}") from error


def _replay_record(raw: bytes, at: int, stop: int, content: JournalContent) -> int:
    if stop - at < RECORD.size:
        raise ValueError("a record that is cut short")
    kind, length = RECORD.unpack_from(raw, at)
    at += RECORD.size
    end: int = at + length
    if end > stop:
        raise ValueError("a record that is cut short")
    if kind == _ENTRIES:
        content.replace(decode_entries(raw, at, end))
    elif kind == _HARD_STATE:
        content.hard_state = decode_hard_state(raw[at:end])
    elif kind == _CUT and length == _CUT_POSITION.size:
        content.cut = index, term = _CUT_POSITION.unpack_from(raw, at)
        content.base_index, content.base_term, content.entries = index, term, []
    else:
        raise ValueError(f"a record of unknown type {kind}")
    return end


def segment_name(number: int) -> str:
    """The name of a segment's file."""
    return f"{PREFIX}{number:016d}"


def segment_number(name: str) -> int | None:
    """The number of a segment's file, or None if `name` is no such name."""
    digits = name.removeprefix(PREFIX)
    return int(digits) if name.startswith(PREFIX) and len(digits) == 16 and digits.isdigit() and digits.isascii() else None


def segment_numbers(names: Sequence[str]) -> list[int]:
    """The numbers of the segments among `names`, rising."""
    return sorted(number for name in names if (number := segment_number(name)) is not None)


def unfinished_segment(name: str) -> bool:
    """Whether this is the file of a segment that was never finished."""
    return name.endswith(SUFFIX_UNFINISHED) and segment_number(name.removesuffix(SUFFIX_UNFINISHED)) is not None
