"""The one narrow way to old transfers: the port, and its in-memory form.

Transfers do not have to live in memory. The machine asks for everything that a batch may need in a few calls before it decides the
first event, and hands over everything that the batch made in one call after the last. Both sides count in *sequence numbers*: the
n-th call of `append` has sequence n, from 0. A look-up names the sequence at which it stands and sees only what was appended before
it, so that a store which is ahead of the machine (a replay after a crash) answers exactly as it did the first time. Log indexes are
too coarse for this: one log entry may carry several batches.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

from ledger.machine.model import EVENT_SIZE, HISTORY, Fate

FAILED: Final = b""
"""What a look-up returns for an id that failed transiently."""

Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Append:
    """What one batch adds. `created` holds 128-byte transfers in the order of `ids`; `metadata`, if any, follows the same order."""

    sequence: int
    index: int
    ids: Collection[bytes]
    created: bytes
    failed: Sequence[bytes] = ()
    fates: Sequence[tuple[bytes, Fate]] = ()
    balances: bytes = b""
    metadata: Sequence[bytes] | None = None


class TransferStore(Protocol):
    """Where transfers live. One owner, one thread; nothing blocks for long; a failure of storage raises and halts the replica."""

    def __len__(self) -> int:
        """How many transfers were ever appended."""

    def lookup(self, ids: Collection[bytes], before: int) -> Mapping[bytes, bytes]:
        """The 128-byte forms of those `ids` (16 bytes each) that exist, `FAILED` for those that failed; unknown ids are left out."""

    def fates(self, pending_ids: Collection[bytes], before: int) -> Mapping[bytes, Fate]:
        """How those pending transfers ended that did end: POSTED, VOIDED or EXPIRED."""

    def timestamps_taken(self, timestamps: Collection[int], before: int) -> frozenset[int]:
        """Those of `timestamps` (nanoseconds) that some transfer carries."""

    def append(self, batch: Append) -> None:
        """Add what batch number `batch.sequence` made. A sequence that is already held is ignored; a gap raises ValueError."""

    def transfers(self, timestamp_min: int, timestamp_max: int, *, newest_first: bool) -> Iterator[bytes]:
        """All transfers of the inclusive time range, by timestamp."""

    def account_transfers(self, account_id: bytes, timestamp_min: int, timestamp_max: int, *, newest_first: bool) -> Iterator[bytes]:
        """Those of one account, on either side, by timestamp."""

    def balance_after(self, account_id: bytes, timestamp: int) -> bytes | None:
        """The `HISTORY` line of this account and transfer timestamp, if one was kept."""

    def metadata(self, transfer_id: bytes) -> bytes | None:
        """What the transfer was created with, if anything."""

    def export(self) -> Iterator[Row]:
        """Rows that hold everything, in a canonical order."""

    def restore_row(self, row: Row) -> bool:
        """Take back one row of `export`, in order, into an empty store; False when the row is of no kind known here."""


_ROWS_PER_CHUNK: Final = 1024
_FATE: Final = struct.Struct("<16sQB")
_FAILURE: Final = struct.Struct("<16sQ")


class MemoryTransfers:
    """Transfers in memory: the batches' bytes as they came, and dictionaries of positions beside them.

    Indexes by account are built when a query first needs them, never while a batch is applied.
    """

    __slots__ = (
        "_accounts_indexed",
        "_by_account",
        "_chunks",
        "_counts",
        "_failed",
        "_fates",
        "_first_counted",
        "_history",
        "_metadata",
        "_positions",
        "_restored",
        "_starts",
        "_total",
    )

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._starts: list[int] = []
        self._total = 0
        self._positions: dict[bytes, int] = {}
        self._failed: dict[bytes, int] = {}
        self._fates: dict[bytes, tuple[Fate, int]] = {}
        self._history: dict[bytes, bytearray] = {}
        self._metadata: dict[bytes, bytes] = {}
        self._counts = array("Q")
        self._first_counted = 0
        self._restored = 0
        self._by_account: dict[bytes, array[int]] = {}
        self._accounts_indexed = 0

    def __len__(self) -> int:
        return self._total

    @property
    def sequence(self) -> int:
        """The sequence number that the next new batch must carry."""
        return self._first_counted + len(self._counts)

    def lookup(self, ids: Collection[bytes], before: int) -> Mapping[bytes, bytes]:
        """See `TransferStore.lookup`."""
        positions, failed = self._positions, self._failed
        found: dict[bytes, bytes] = {}
        if not positions.keys().isdisjoint(ids):
            visible = self._visible(before)
            for transfer_id in ids:
                position = positions.get(transfer_id)
                if position is not None and position < visible:
                    found[transfer_id] = self._at(position)
        if not failed.keys().isdisjoint(ids):
            for transfer_id in ids:
                if failed.get(transfer_id, before) < before:
                    found[transfer_id] = FAILED
        return found

    def fates(self, pending_ids: Collection[bytes], before: int) -> Mapping[bytes, Fate]:
        """See `TransferStore.fates`."""
        found: dict[bytes, Fate] = {}
        for pending_id in pending_ids:
            known = self._fates.get(pending_id)
            if known is not None and known[1] < before:
                found[pending_id] = known[0]
        return found

    def timestamps_taken(self, timestamps: Collection[int], before: int) -> frozenset[int]:
        """See `TransferStore.timestamps_taken`."""
        visible = self._visible(before)
        taken = []
        for timestamp in timestamps:
            position = self._first_at(timestamp)
            if position < visible and self._timestamp(position) == timestamp:
                taken.append(timestamp)
        return frozenset(taken)

    def append(self, batch: Append) -> None:
        """See `TransferStore.append`."""
        if batch.sequence < self.sequence:
            return
        if batch.sequence > self.sequence:
            raise ValueError(f"batch {batch.sequence} does not follow batch {self.sequence - 1}")
        count = len(batch.created) // EVENT_SIZE
        if count:
            self._positions.update(zip(batch.ids, range(self._total, self._total + count), strict=True))
            self._chunks.append(batch.created)
            self._starts.append(self._total)
            self._total += count
        for transfer_id in batch.failed:
            self._failed[transfer_id] = batch.sequence
        for pending_id, fate in batch.fates:
            self._fates[pending_id] = (fate, batch.sequence)
        for line in HISTORY.iter_unpack(batch.balances):
            self._history.setdefault(line[0], bytearray()).extend(HISTORY.pack(*line))
        if batch.metadata is not None:
            for transfer_id, value in zip(batch.ids, batch.metadata, strict=True):
                if value:
                    self._metadata[transfer_id] = value
        self._counts.append(self._total)

    def transfers(self, timestamp_min: int, timestamp_max: int, *, newest_first: bool) -> Iterator[bytes]:
        """See `TransferStore.transfers`."""
        positions = range(self._first_at(timestamp_min), self._first_at(timestamp_max + 1))
        return (self._at(position) for position in (reversed(positions) if newest_first else positions))

    def account_transfers(self, account_id: bytes, timestamp_min: int, timestamp_max: int, *, newest_first: bool) -> Iterator[bytes]:
        """See `TransferStore.account_transfers`."""
        self._index_accounts()
        of_account = self._by_account.get(account_id, array("Q"))
        first = bisect_left(of_account, timestamp_min, key=self._timestamp)
        end = bisect_right(of_account, timestamp_max, key=self._timestamp)
        places = range(first, end)
        return (self._at(of_account[place]) for place in (reversed(places) if newest_first else places))

    def balance_after(self, account_id: bytes, timestamp: int) -> bytes | None:
        """See `TransferStore.balance_after`."""
        lines = self._history.get(account_id, b"")

        def at(line: int) -> int:
            return int.from_bytes(lines[line * HISTORY.size + 80 : line * HISTORY.size + 88], "little")

        count = len(lines) // HISTORY.size
        line = bisect_left(range(count), timestamp, key=at)
        if line == count or at(line) != timestamp:
            return None
        return bytes(lines[line * HISTORY.size : (line + 1) * HISTORY.size])

    def metadata(self, transfer_id: bytes) -> bytes | None:
        """See `TransferStore.metadata`."""
        return self._metadata.get(transfer_id)

    def export(self) -> Iterator[Row]:
        """See `TransferStore.export`. Pieces have fixed sizes, so that equal content gives equal rows however it was batched."""
        yield ("store", self.sequence)
        yield from self._export_transfers()
        yield from _pieces("failed", (_FAILURE.pack(i, sequence) for i, sequence in self._failed.items()))
        yield from _pieces("fates", (_FATE.pack(i, sequence, fate) for i, (fate, sequence) in self._fates.items()))
        step = _ROWS_PER_CHUNK * HISTORY.size
        for lines in self._history.values():
            for start in range(0, len(lines), step):
                yield ("history", bytes(lines[start : start + step]))
        for transfer_id, value in self._metadata.items():
            yield ("metadata", transfer_id, value)

    def _export_transfers(self) -> Iterator[Row]:
        """The log, cut anew into pieces of fixed size."""
        size = _ROWS_PER_CHUNK * EVENT_SIZE
        rest = bytearray()
        for chunk in self._chunks:
            rest += chunk
            whole = len(rest) - len(rest) % size
            for start in range(0, whole, size):
                yield ("transfers", bytes(rest[start : start + size]))
            del rest[:whole]
        if rest:
            yield ("transfers", bytes(rest))

    def restore_row(self, row: Row) -> bool:
        """See `TransferStore.restore_row`. Raises ValueError on a damaged row."""
        match row:
            case ("store", int(sequence)):
                self._first_counted = sequence
            case ("transfers", bytes(packed)) if packed and not len(packed) % EVENT_SIZE:
                ids = [packed[start : start + 16] for start in range(0, len(packed), EVENT_SIZE)]
                self._positions.update(zip(ids, range(self._total, self._total + len(ids)), strict=True))
                self._chunks.append(packed)
                self._starts.append(self._total)
                self._total += len(ids)
                self._restored = self._total
            case ("failed", bytes(packed)) if not len(packed) % _FAILURE.size:
                self._failed.update(_FAILURE.iter_unpack(packed))
            case ("fates", bytes(packed)) if not len(packed) % _FATE.size:
                for pending_id, sequence, fate in _FATE.iter_unpack(packed):
                    self._fates[pending_id] = (Fate(fate), sequence)
            case ("history", bytes(lines)) if lines and not len(lines) % HISTORY.size:
                self._history.setdefault(lines[:16], bytearray()).extend(lines)
            case ("metadata", bytes(transfer_id), bytes(value)):
                self._metadata[transfer_id] = value
            case (("store" | "transfers" | "failed" | "fates" | "history" | "metadata"), *_):
                raise ValueError(f"damaged row of kind {row[0]!r}")
            case _:
                return False
        return True

    def _visible(self, before: int) -> int:
        """How many transfers had been appended when batch `before` was about to be decided."""
        if before >= self.sequence:
            return self._total
        if before < self._first_counted:
            raise ValueError(f"batch {before} lies before this store's first known batch {self._first_counted}")
        return self._counts[before - self._first_counted - 1] if before > self._first_counted else self._restored

    def _at(self, position: int) -> bytes:
        place = bisect_right(self._starts, position) - 1
        start = (position - self._starts[place]) * EVENT_SIZE
        return self._chunks[place][start : start + EVENT_SIZE]

    def _timestamp(self, position: int) -> int:
        return int.from_bytes(self._at(position)[120:], "little")

    def _first_at(self, timestamp: int) -> int:
        """The first position whose timestamp is at least this; timestamps grow with the position, imported ones too."""
        return bisect_left(range(self._total), timestamp, key=self._timestamp)

    def _index_accounts(self) -> None:
        by_account, position = self._by_account, self._accounts_indexed
        while position < self._total:
            place = bisect_right(self._starts, position) - 1
            for debit, credit in struct.iter_unpack("<16x16s16s80x", self._chunks[place]):
                by_account.setdefault(debit, array("Q")).append(position)
                by_account.setdefault(credit, array("Q")).append(position)
                position += 1
        self._accounts_indexed = position


def _pieces(kind: str, entries: Iterator[bytes]) -> Iterator[Row]:
    """Rows of at most `_ROWS_PER_CHUNK` joined entries."""
    while piece := b"".join(islice(entries, _ROWS_PER_CHUNK)):
        yield (kind, piece)
