"""The bytes of the journal: segment headers, batches, records, and the judgement of what follows the last valid batch.

A journal is a row of segments, `journal-<number>`. A segment is one preallocated file: a header in its first 4,096 bytes, then batches one
after the other, then zeros. One call of `Journal.write_many` is one batch: one write, one fdatasync. Integers are little-endian.

    segment header   magic 8, version u32, length u32 of what follows, that (cluster id, replica id, number, salt, first batch, the end of
                     the log and the hard state as they were when the segment began), CRC32C of all before
    batch            salt u64, sequence u64, length u32 of the body, CRC32C of the body, CRC32C of the 24 bytes before, mark EDEDEDED; body
    body             records, then one byte ED
    record           type u8, three zero bytes, length u32, content

*What is a torn tail, and what is damage.* Batch n + 1 is written only after the fdatasync of batch n returned. So a crash can spoil one
batch only, the last, of which any subset of sectors may have reached the disk; all the rest of the file was zero. Hence, at the first place
where batch n is due and not valid:

1. a valid batch header of any other number further on, or a next segment that does not begin with n, shows that n was durable once: damage;
2. else n was the last. A torn write leaves at least one stretch of it, up to the edge of a sector, as it was before, that is zero. If no
   stretch of the batch between two sector edges begins or ends with a zero byte, no tear can explain it: damage;
3. else it is a torn tail, which no one was ever told to be durable: it is cut, and the rest of the file made zero again.

The salt is random and new for every segment, so that no data of a client can pass for a header. What remains unseen: damage in the very
last batch that happens to look like a tear, because a stretch of it has a zero byte at its edge.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import google_crc32c

from lockd.raft.core.types import HardState, ReplicaId

__all__ = [
    "BATCH_END",
    "BATCH_HEAD",
    "DATA_START",
    "RECORD",
    "JournalDamagedError",
    "JournalError",
    "JournalFailedError",
    "JournalForeignError",
    "SegmentHeader",
    "batch_at",
    "decode_hard_state",
    "decode_segment_header",
    "encode_hard_state",
    "encode_segment_header",
    "judge_tail",
    "seal_batch",
]

MAGIC = b"lockdjnl"
VERSION = 1
DATA_START = 4096
"""Where the first batch of a segment begins."""
SECTOR = 512

_FILE_HEAD = struct.Struct("<8sII")
_SEGMENT = struct.Struct("<QQQQQ")
_CRC = struct.Struct("<I")
_BATCH = struct.Struct("<QQIIII")
_BATCH_CHECKED = struct.Struct("<QQII")
_HARD = struct.Struct("<QQH")
_NO_VOTE = 0xFFFF
_MARK = 0xEDEDEDED

BATCH_HEAD = _BATCH.size
BATCH_END = b"\xed"
RECORD = struct.Struct("<B3xI")


class JournalError(RuntimeError):
    """Base of what can be wrong with a replica's files."""


class JournalDamagedError(JournalError):
    """What once was durable is not what was written. Starting would lose acknowledged data, so the replica refuses to."""

    def __init__(self, file: str, offset: int, reason: str) -> None:
        super().__init__(f"{file} is damaged at offset {offset}: {reason}")
        self.file = file
        self.offset = offset


class JournalForeignError(JournalError):
    """A file that does not belong to this replica, or that this version does not know."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file} cannot be used: {reason}")
        self.file = file


class JournalFailedError(JournalError):
    """The disk refused a write or a sync. Nothing after the last success is durable, and the journal is of no more use."""


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself. `last_index`, `last_term` and `hard_state` are the journal's as the segment began."""

    cluster_id: str
    replica_id: ReplicaId
    number: int
    salt: int
    first_batch: int
    last_index: int
    last_term: int
    hard_state: HardState


def encode_hard_state(state: HardState) -> bytes:
    """Term, commit and vote as bytes."""
    vote = b"" if state.vote is None else state.vote.encode()
    return _HARD.pack(state.term, state.commit, _NO_VOTE if state.vote is None else len(vote)) + vote


def decode_hard_state(raw: bytes) -> HardState:
    """The inverse of `encode_hard_state`. Raises ValueError."""
    if len(raw) < _HARD.size:
        raise ValueError("a hard state that is cut short")
    term, commit, length = _HARD.unpack_from(raw)
    vote = raw[_HARD.size :]
    if len(vote) != (0 if length == _NO_VOTE else length):
        raise ValueError("a hard state of a wrong length")
    return HardState(term, None if length == _NO_VOTE else ReplicaId(vote.decode()), commit)


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<H", len(raw)) + raw


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The first bytes of a segment, fewer than `DATA_START`."""
    body = b"".join(
        (
            _text(header.cluster_id),
            _text(header.replica_id),
            _SEGMENT.pack(header.number, header.salt, header.first_batch, header.last_index, header.last_term),
            encode_hard_state(header.hard_state),
        )
    )
    head = _FILE_HEAD.pack(MAGIC, VERSION, len(body)) + body
    if len(head) + _CRC.size > DATA_START:
        raise ValueError("the ids are too long for a segment header")
    return head + _CRC.pack(google_crc32c.value(head))


def decode_segment_header(name: str, raw: bytes) -> SegmentHeader:
    """The header in the first bytes of the segment `name`. Raises JournalDamagedError and JournalForeignError."""
    if len(raw) < _FILE_HEAD.size:
        raise JournalDamagedError(name, 0, "the header is cut short")
    magic, version, length = _FILE_HEAD.unpack_from(raw)
    stop = _FILE_HEAD.size + length
    intact = stop + _CRC.size <= len(raw) and google_crc32c.value(raw[:stop]) == _CRC.unpack_from(raw, stop)[0]
    if not intact:
        if magic == MAGIC and version != VERSION:
            raise JournalForeignError(name, f"its header says version {version}; this program knows {VERSION}")
        raise JournalDamagedError(name, 0, "the header does not match its checksum")
    if magic != MAGIC or version != VERSION:
        raise JournalForeignError(name, f"it is of format {magic!r}, version {version}; this program knows {MAGIC!r}, {VERSION}")
    try:
        at = _FILE_HEAD.size
        cluster_id, at = _read_text(raw, at)
        replica_id, at = _read_text(raw, at)
        number, salt, first_batch, last_index, last_term = _SEGMENT.unpack_from(raw, at)
        hard_state = decode_hard_state(raw[at + _SEGMENT.size : stop])
    except (ValueError, struct.error) as error:
        raise JournalDamagedError(name, 0, f"the header cannot be read: {error}") from error
    return SegmentHeader(cluster_id, ReplicaId(replica_id), number, salt, first_batch, last_index, last_term, hard_state)


def _read_text(raw: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<H", raw, at)
    at += 2
    return raw[at : at + length].decode(), at + length


def seal_batch(salt: int, sequence: int, pieces: list[bytes]) -> bytes:
    """One batch of the records in `pieces`, ready to be written."""
    body = b"".join((*pieces, BATCH_END))
    checked = _BATCH_CHECKED.pack(salt, sequence, len(body), google_crc32c.value(body))
    return b"".join((checked, _CRC.pack(google_crc32c.value(checked)), _CRC.pack(_MARK), body))


def _head_at(raw: bytes, at: int, salt: int) -> tuple[int, int, int] | None:
    """Sequence, length and checksum of the body, if a valid batch header stands at `at`."""
    if len(raw) - at < BATCH_HEAD:
        return None
    found, sequence, length, crc, own, mark = _BATCH.unpack_from(raw, at)
    if found != salt or mark != _MARK or google_crc32c.value(raw[at : at + _BATCH_CHECKED.size]) != own:
        return None
    return sequence, length, crc


def batch_at(raw: bytes, at: int, salt: int, sequence: int) -> tuple[int, int] | None:
    """Where the records of batch `sequence` begin and end, if it stands at `at`, whole; the batch ends one byte later."""
    head = _head_at(raw, at, salt)
    if head is None or head[0] != sequence:
        return None
    start = at + BATCH_HEAD
    stop = start + head[1]
    if stop > len(raw) or stop == start or google_crc32c.value(raw[start:stop]) != head[2] or raw[stop - 1 : stop] != BATCH_END:
        return None
    return start, stop - 1


def judge_tail(name: str, raw: bytes, at: int, salt: int, sequence: int) -> bool:
    """Whether the last segment must be made zero from `at` on, where batch `sequence` is due and not valid; False if it is zero already.

    Raises JournalDamagedError if this is no torn tail (see the module).
    """
    end = len(raw.rstrip(b"\0"))
    if end <= at:
        return False
    mark = struct.pack("<Q", salt)
    found = raw.find(mark, at)
    while found >= 0:
        other = _head_at(raw, found, salt)
        if other is not None and (found != at or other[0] != sequence):
            raise JournalDamagedError(name, at, f"batch {sequence} is not valid, but batch {other[0]} follows it at offset {found}")
        found = raw.find(mark, found + 1)
    head = _head_at(raw, at, salt)
    stop = at + BATCH_HEAD + (head[1] if head else 0)
    if stop <= len(raw) and not _could_be_torn(raw, at, stop):
        raise JournalDamagedError(name, at, f"batch {sequence} does not match its checksum, and no torn write leaves such bytes")
    return True


def _could_be_torn(raw: bytes, at: int, stop: int) -> bool:
    """Whether some stretch of `raw[at:stop]` between sector edges begins or ends with a zero."""
    while at < stop:
        edge = min(stop, at - at % SECTOR + SECTOR)
        if raw[at] == 0 or raw[edge - 1] == 0:
            return True
        at = edge
    return False
