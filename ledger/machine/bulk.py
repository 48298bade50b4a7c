"""The fast way for a batch of plain transfers: no flags, no metadata, ids never seen before. Same rules, same results, column by column.

`apply` looks at the whole batch first and changes nothing unless all of it can go this way. The few events that are odd only because of the
accounts they meet (unknown, closed, keeping history, another ledger) are handed one by one to `decide` and `evolve`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from operator import length_hint
from typing import Final, TypeVar

from ledger.machine.batch import TransferBatch
from ledger.machine.books import CREDITS_LIMITED, DEBITS_LIMITED, Account, Books
from ledger.machine.decide import decide_transfer, unpack_transfer
from ledger.machine.evolve import apply_transfer
from ledger.machine.model import (
    BATCH_MAX,
    CREATED,
    EVENT_SIZE,
    MAX_ID,
    MAX_U128,
    RESULT,
    RESULT_SIZE,
    TRANSIENT,
    ZERO_ID,
    BatchOutcome,
    TransferStatus,
)
from ledger.machine.transfers import Append, TransferStore

LITTLE_ENDIAN: Final = struct.pack("=H", 1) == b"\x01\x00"
"""Columns are read in place, in the machine's own byte order, which must be that of the packed form."""

_NOT_QUICK: Final = Account(ZERO_ID, (ZERO_ID, 0, 0), 0, 0, 0, 0)
_EXCEEDS_CREDITS: Final = int(TransferStatus.EXCEEDS_CREDITS)
_EXCEEDS_DEBITS: Final = int(TransferStatus.EXCEEDS_DEBITS)

KeyT = TypeVar("KeyT", int, bytes)

_WORDS: Final = EVENT_SIZE // 8
_GROUP: Final = 128
_IDS: Final = struct.Struct("<" + "16s112x" * _GROUP)
_ID: Final = struct.Struct("<16s112x")
_DEBITS: Final = struct.Struct("<16x16s96x")
_CREDITS: Final = struct.Struct("<32x16s80x")
_ZEROS: Final = bytes(8 * BATCH_MAX)

# One lane of 64 bits an event: all timestamps of a batch are then one multiplication and one addition of large integers.
_ONES: Final = int.from_bytes(b"\x01".ljust(8, b"\0") * BATCH_MAX, "little")
_RAMP: Final = int.from_bytes(struct.pack(f"<{BATCH_MAX}Q", *range(BATCH_MAX)), "little")
_ALL_CREATED: Final = RESULT.pack(0, CREATED, 0) * BATCH_MAX


def apply(books: Books, store: TransferStore, packed: bytes, count: int, start: int, index: int) -> BatchOutcome | None:
    """Apply a plain batch whose first event gets timestamp `start`; None, with nothing changed, if it has to go the general way."""
    if not LITTLE_ENDIAN:
        return None
    words = memoryview(packed).cast("Q")
    ledger = _common_ledger(packed, words, count)
    if not ledger:
        return None
    ids = dict.fromkeys(_ids(packed, count))
    if len(ids) != count or ZERO_ID in ids or MAX_ID in ids:
        return None
    amounts = _wide(words, 6, count)
    total = sum(amounts)
    if total + books.debits_pending + books.debits_posted > MAX_U128 or total + books.credits_pending + books.credits_posted > MAX_U128:
        return None
    if store.lookup(ids.keys(), books.sequence):
        return None
    batch = TransferBatch(books, {}, {})
    zeros = _ZEROS[: 8 * count]
    if words[3::_WORDS].tobytes() == zeros and words[5::_WORDS].tobytes() == zeros:
        small = books.quick_small.get(ledger, {})
        refused, elsewhere = _move_all(books, batch, packed, start, words[2::_WORDS].tolist(), words[4::_WORDS].tolist(), small, amounts)
    else:
        debits = [debit for (debit,) in _DEBITS.iter_unpack(packed)]
        credits_ = [credit for (credit,) in _CREDITS.iter_unpack(packed)]
        refused, elsewhere = _move_all(books, batch, packed, start, debits, credits_, books.quick.get(ledger, {}), amounts)
    moved = total - elsewhere
    books.debits_posted += moved
    books.credits_posted += moved
    results, created = _results_and_transfers(books.scratch, packed, count, start, refused)
    if refused:
        for position, _ in refused:
            ids.pop(packed[position * EVENT_SIZE : position * EVENT_SIZE + 16])
    if created:
        books.last_transfer_timestamp = int.from_bytes(created[-8:], "little")
    books.last_timestamp = start + count - 1
    balances, failed = b"".join(batch.balances), tuple(batch.failed)
    store.append(Append(books.sequence, index, ids.keys(), created, failed, (), balances, None))
    books.sequence += 1
    books.last_index = index
    return BatchOutcome(results=results, created=created, balances=balances, failed=failed)


def _common_ledger(packed: bytes, words: memoryview[int], count: int) -> int:
    """The ledger of all events if they have one in common and nothing but plain fields; else 0."""
    kind = words[14::_WORDS].tobytes()
    if kind != kind[:8] * count:
        kinds = set(words[14::_WORDS].tolist())
    else:
        kinds = {words[14]}
    ledger = words[14] & 0xFFFF_FFFF
    for shape in kinds:
        if shape >> 48 or not shape >> 32 or shape & 0xFFFF_FFFF != ledger:
            return 0
    zeros = _ZEROS[: 8 * count]
    if words[8::_WORDS].tobytes() != zeros or words[9::_WORDS].tobytes() != zeros or words[15::_WORDS].tobytes() != zeros:
        return 0
    timeouts = memoryview(packed).cast("I")[27::32]
    return ledger if timeouts.tobytes() == zeros[: 4 * count] else 0


def _ids(packed: bytes, count: int) -> Iterable[bytes]:
    """The transfer ids, in order."""
    whole = count - count % _GROUP
    ids: list[bytes] = []
    for group in _IDS.iter_unpack(memoryview(packed)[: whole * EVENT_SIZE]):
        ids += group
    ids += [transfer_id for (transfer_id,) in _ID.iter_unpack(memoryview(packed)[whole * EVENT_SIZE :])]
    return ids


def _wide(words: memoryview[int], column: int, count: int) -> list[int]:
    """A 128-bit column as integers."""
    low = words[column::_WORDS].tolist()
    high = words[column + 1 :: _WORDS]
    if high.tobytes() == _ZEROS[: 8 * count]:
        return low
    return [under | over << 64 for under, over in zip(low, high.tolist(), strict=True)]


def _move_all(
    books: Books,
    batch: TransferBatch,
    packed: bytes,
    start: int,
    debits: list[KeyT],
    credits_: list[KeyT],
    accounts: dict[KeyT, Account],
    amounts: list[int],
) -> tuple[list[tuple[int, int]], int]:
    """Move every amount. Returns the refused (position, status), and the sum of the amounts that are not the caller's to add up."""
    refused: list[tuple[int, int]] = []
    elsewhere = 0
    remaining = iter(amounts)
    last = len(amounts) - 1
    for debit_key, credit_key, amount in zip(debits, credits_, remaining, strict=True):
        try:
            debit = accounts[debit_key]
            credit = accounts[credit_key]
        except KeyError:
            debit = credit = _NOT_QUICK
        if debit is credit:
            position = last - length_hint(remaining)
            elsewhere += amount
            status = _move_one(books, batch, packed, position, start + position)
            if status != CREATED:
                refused.append((position, status))
            continue
        if debit.limited or credit.limited:
            status = 0
            if debit.limited & DEBITS_LIMITED and debit.debits_pending + debit.debits_posted + amount > debit.credits_posted:
                status = _EXCEEDS_CREDITS
            elif credit.limited & CREDITS_LIMITED and credit.credits_pending + credit.credits_posted + amount > credit.debits_posted:
                status = _EXCEEDS_DEBITS
            if status:
                position = last - length_hint(remaining)
                elsewhere += amount
                refused.append((position, status))
                batch.failed[packed[position * EVENT_SIZE : position * EVENT_SIZE + 16]] = None
                continue
        debit.debits_posted += amount
        credit.credits_posted += amount
    return refused, elsewhere


def _move_one(books: Books, batch: TransferBatch, packed: bytes, position: int, now: int) -> int:
    """An odd event, the general way; returns its status."""
    event = unpack_transfer(packed, position)
    decision = decide_transfer(event, now, books, batch)
    if isinstance(decision, int):
        if decision in TRANSIENT:
            batch.failed[event[0]] = None
        return decision
    apply_transfer(event, decision, books, batch)
    return CREATED


def _results_and_transfers(
    scratch: bytearray, packed: bytes, count: int, start: int, refused: list[tuple[int, int]]
) -> tuple[bytes, bytes]:
    """The packed results, and the packed transfers as they are stored: with their timestamps, without the refused ones."""
    mask = (1 << 64 * count) - 1
    stamps = memoryview(((_RAMP & mask) + (_ONES & mask) * start).to_bytes(8 * count, "little")).cast("Q")
    results = bytearray(_ALL_CREATED[: RESULT_SIZE * count])
    memoryview(results).cast("Q")[::2] = stamps
    view = memoryview(scratch)[: len(packed)]
    view[:] = packed
    view.cast("Q")[15::_WORDS] = stamps
    if not refused:
        return bytes(results), bytes(view)
    kept = []
    after = 0
    for position, status in refused:
        RESULT.pack_into(results, position * RESULT_SIZE, start + position, status, 0)
        kept.append(view[after : position * EVENT_SIZE])
        after = (position + 1) * EVENT_SIZE
    kept.append(view[after:])
    return bytes(results), b"".join(kept)
