"""What an accepted event does. Nothing here can refuse or fail: every question was answered in `decide`."""

from __future__ import annotations

from ledger.machine.batch import TransferBatch
from ledger.machine.books import CLOSED, KEEPS_HISTORY, Account, Books
from ledger.machine.decide import CLOSING_CREDIT, CLOSING_DEBIT, PENDING, POST, VOID, Movement
from ledger.machine.model import (
    TRANSFER,
    ZERO_ID,
    AccountChange,
    AccountEvent,
    Fate,
    LedgerInvariantError,
    Resolution,
    TransferEvent,
)

_LOW_HALF = (1 << 64) - 1


def open_account(event: AccountEvent, timestamp: int, books: Books) -> Account:
    """Enter the account with zero balances."""
    account_id, _, _, _, _, user_data_128, user_data_64, user_data_32, _, ledger, code, flags, _ = event
    account = Account(account_id, (user_data_128, user_data_64, user_data_32), ledger, code, flags, timestamp)
    books.add_account(account)
    return account


def apply_transfer(event: TransferEvent, movement: Movement, books: Books, batch: TransferBatch) -> bytes:
    """Move the money and remember the transfer. Returns the 128 bytes that are stored."""
    debit, credit = movement.debit, movement.credit
    batch.touch(debit)
    batch.touch(credit)
    packed = _move(event, movement, books, batch) if movement.pending is None else _resolve(event, movement, movement.pending, books, batch)
    books.last_transfer_timestamp = movement.timestamp
    batch.fresh[event[0]] = packed
    batch.created.append(packed)
    if debit.flags & KEEPS_HISTORY:
        batch.balances.append(debit.history_line(movement.timestamp))
    if credit.flags & KEEPS_HISTORY:
        batch.balances.append(credit.history_line(movement.timestamp))
    return packed


def _move(event: TransferEvent, movement: Movement, books: Books, batch: TransferBatch) -> bytes:
    """An ordinary or pending transfer."""
    transfer_id, debit_id, credit_id, _, _, pending_id, user_128, user_64, user_32, timeout, ledger, code, flags, _ = event
    amount, timestamp = movement.amount, movement.timestamp
    if flags & PENDING:
        _reserve(books, movement.debit, movement.credit, amount)
        if flags & CLOSING_DEBIT:
            set_closed(movement.debit, True, timestamp, books, batch.changes)
        if flags & CLOSING_CREDIT:
            set_closed(movement.credit, True, timestamp, books, batch.changes)
    else:
        _post(books, movement.debit, movement.credit, amount)
    return TRANSFER.pack(
        transfer_id,
        debit_id,
        credit_id,
        amount & _LOW_HALF,
        amount >> 64,
        pending_id,
        user_128,
        user_64,
        user_32,
        timeout,
        ledger,
        code,
        flags,
        timestamp,
    )


def _resolve(event: TransferEvent, movement: Movement, pending: bytes, books: Books, batch: TransferBatch) -> bytes:
    """A post or a void: what the event leaves zero is taken over from the pending transfer."""
    transfer_id, _, _, _, _, pending_id, user_128, user_64, user_32, _, _, _, flags, _ = event
    _, debit_id, credit_id, p_low, p_high, _, p_128, p_64, p_32, _, ledger, code, _, _ = TRANSFER.unpack(pending)
    amount, timestamp = movement.amount, movement.timestamp
    _reserve(books, movement.debit, movement.credit, -(p_low | p_high << 64))
    if flags & POST:
        _post(books, movement.debit, movement.credit, amount)
    if flags & VOID:
        reopen(pending, timestamp, books, batch.changes)
    fate = Fate.POSTED if flags & POST else Fate.VOIDED
    batch.fates[pending_id] = fate
    batch.resolutions.append(Resolution(pending, fate, timestamp))
    return TRANSFER.pack(
        transfer_id,
        debit_id,
        credit_id,
        amount & _LOW_HALF,
        amount >> 64,
        pending_id,
        p_128 if user_128 == ZERO_ID else user_128,
        user_64 or p_64,
        user_32 or p_32,
        0,
        ledger,
        code,
        flags,
        timestamp,
    )


def expire(pending: bytes, timestamp: int, books: Books, changes: list[AccountChange]) -> Resolution:
    """Give back what an open pending transfer had reserved. Raises LedgerInvariantError if the accounts do not hold it."""
    _, debit_id, credit_id, low, high, *_ = TRANSFER.unpack(pending)
    debit, credit = books.accounts[debit_id], books.accounts[credit_id]
    amount = low | high << 64
    if debit.debits_pending < amount or credit.credits_pending < amount:
        raise LedgerInvariantError(f"pending transfer {pending[:16].hex()} of {amount} is not covered by its accounts' pending balances")
    _reserve(books, debit, credit, -amount)
    reopen(pending, timestamp, books, changes)
    return Resolution(pending, Fate.EXPIRED, timestamp)


def _reserve(books: Books, debit: Account, credit: Account, amount: int) -> None:
    debit.debits_pending += amount
    books.debits_pending += amount
    credit.credits_pending += amount
    books.credits_pending += amount


def _post(books: Books, debit: Account, credit: Account, amount: int) -> None:
    debit.debits_posted += amount
    books.debits_posted += amount
    credit.credits_posted += amount
    books.credits_posted += amount


def reopen(pending: bytes, timestamp: int, books: Books, changes: list[AccountChange]) -> None:
    """A closing transfer was voided or expired: its accounts are open again."""
    flags = pending[118]  # the low byte, which holds both closing flags
    if flags & CLOSING_DEBIT:
        set_closed(books.accounts[pending[16:32]], False, timestamp, books, changes)
    if flags & CLOSING_CREDIT:
        set_closed(books.accounts[pending[32:48]], False, timestamp, books, changes)


def set_closed(account: Account, closed: bool, timestamp: int, books: Books, changes: list[AccountChange]) -> None:
    """Close or open the account."""
    account.flags = account.flags | CLOSED if closed else account.flags & ~CLOSED
    books.index_account(account)
    changes.append(AccountChange(account.id, closed, timestamp))
