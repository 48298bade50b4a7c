"""Every refusal, in the documented order of precedence. Nothing here changes anything.

What concerns chains and imported batches (the statuses before `reserved_field` and `reserved_flag`) is in `chains`; it comes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.machine.batch import TransferBatch
from ledger.machine.books import CLOSED, CREDITS_LIMITED, DEBITS_LIMITED, LIMITED, Account, Books
from ledger.machine.expiry import expiry_of
from ledger.machine.model import (
    ACCOUNT,
    MAX_ID,
    MAX_TIMESTAMP,
    MAX_U128,
    NANOS_PER_SECOND,
    TRANSFER,
    ZERO_ID,
    AccountEvent,
    AccountFlags,
    AccountStatus,
    Fate,
    TransferEvent,
    TransferFlags,
    TransferStatus,
)
from ledger.machine.transfers import FAILED

ACCOUNT_IMPORTED: Final = int(AccountFlags.IMPORTED)
ACCOUNT_RESERVED_FLAGS: Final = 0xFFFF & ~sum(AccountFlags)
PENDING: Final = int(TransferFlags.PENDING)
POST: Final = int(TransferFlags.POST_PENDING_TRANSFER)
VOID: Final = int(TransferFlags.VOID_PENDING_TRANSFER)
RESOLVES: Final = POST | VOID
BALANCING_DEBIT: Final = int(TransferFlags.BALANCING_DEBIT)
BALANCING_CREDIT: Final = int(TransferFlags.BALANCING_CREDIT)
BALANCING: Final = BALANCING_DEBIT | BALANCING_CREDIT
CLOSING_DEBIT: Final = int(TransferFlags.CLOSING_DEBIT)
CLOSING_CREDIT: Final = int(TransferFlags.CLOSING_CREDIT)
CLOSING: Final = CLOSING_DEBIT | CLOSING_CREDIT
IMPORTED: Final = int(TransferFlags.IMPORTED)
RESERVED_FLAGS: Final = 0xFFFF & ~sum(TransferFlags)

_ENDED: Final = {
    Fate.POSTED: TransferStatus.PENDING_TRANSFER_ALREADY_POSTED,
    Fate.VOIDED: TransferStatus.PENDING_TRANSFER_ALREADY_VOIDED,
    Fate.EXPIRED: TransferStatus.PENDING_TRANSFER_EXPIRED,
}


@dataclass(slots=True)
class Movement:
    """An accepted transfer: what it moves, between whom, and the pending transfer that it ends, if any."""

    timestamp: int
    amount: int
    debit: Account
    credit: Account
    pending: bytes | None = None


def refuse_account(event: AccountEvent, books: Books, taken: frozenset[int]) -> int:
    """The status of an account event; CREATED when nothing speaks against it. `taken`: timestamps that transfers carry."""
    status = AccountStatus
    account_id, debits_pending, debits_posted, credits_pending, credits_posted, _, _, _, reserved, ledger, code, flags, timestamp = event
    if reserved:
        return status.RESERVED_FIELD
    if flags & ACCOUNT_RESERVED_FLAGS:
        return status.RESERVED_FLAG
    if account_id == ZERO_ID:
        return status.ID_MUST_NOT_BE_ZERO
    if account_id == MAX_ID:
        return status.ID_MUST_NOT_BE_INT_MAX
    existing = books.accounts.get(account_id)
    if existing is not None:
        return _compare_account(event, existing)
    if flags & LIMITED == LIMITED:
        return status.FLAGS_ARE_MUTUALLY_EXCLUSIVE
    if debits_pending != ZERO_ID:
        return status.DEBITS_PENDING_MUST_BE_ZERO
    if debits_posted != ZERO_ID:
        return status.DEBITS_POSTED_MUST_BE_ZERO
    if credits_pending != ZERO_ID:
        return status.CREDITS_PENDING_MUST_BE_ZERO
    if credits_posted != ZERO_ID:
        return status.CREDITS_POSTED_MUST_BE_ZERO
    if not ledger:
        return status.LEDGER_MUST_NOT_BE_ZERO
    if not code:
        return status.CODE_MUST_NOT_BE_ZERO
    if flags & ACCOUNT_IMPORTED and (timestamp in taken or (books.by_time and timestamp <= books.by_time[-1].timestamp)):
        return status.IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS
    return status.CREATED


def _compare_account(event: AccountEvent, existing: Account) -> int:
    """An account with this id exists: is the event a retry of it?"""
    status = AccountStatus
    _, _, _, _, _, user_data_128, user_data_64, user_data_32, _, ledger, code, flags, _ = event
    if flags != existing.flags:
        return status.EXISTS_WITH_DIFFERENT_FLAGS
    if user_data_128 != existing.user_data_128:
        return status.EXISTS_WITH_DIFFERENT_USER_DATA_128
    if user_data_64 != existing.user_data_64:
        return status.EXISTS_WITH_DIFFERENT_USER_DATA_64
    if user_data_32 != existing.user_data_32:
        return status.EXISTS_WITH_DIFFERENT_USER_DATA_32
    if ledger != existing.ledger:
        return status.EXISTS_WITH_DIFFERENT_LEDGER
    if code != existing.code:
        return status.EXISTS_WITH_DIFFERENT_CODE
    return status.EXISTS


def decide_transfer(event: TransferEvent, now: int, books: Books, batch: TransferBatch) -> int | Movement:
    """The status of a transfer event at timestamp `now`, or what it moves when nothing speaks against it."""
    status = TransferStatus
    transfer_id, flags = event[0], event[12]
    if flags & RESERVED_FLAGS:
        return status.RESERVED_FLAG
    if transfer_id == ZERO_ID:
        return status.ID_MUST_NOT_BE_ZERO
    if transfer_id == MAX_ID:
        return status.ID_MUST_NOT_BE_INT_MAX
    existing = batch.find(transfer_id)
    if existing is not None:
        return status.ID_ALREADY_FAILED if existing == FAILED else _compare_transfer(event, TRANSFER.unpack(existing), batch)
    if flags & RESOLVES:
        if flags & RESOLVES == RESOLVES or flags & (PENDING | BALANCING | CLOSING):
            return status.FLAGS_ARE_MUTUALLY_EXCLUSIVE
        return _decide_resolving(event, now, books, batch)
    return _refuse_fields(event) or _decide_moving(event, now, books)


def _compare_transfer(event: TransferEvent, existing: TransferEvent, batch: TransferBatch) -> int:
    """A transfer with this id exists: is the event a retry of it?"""
    status = TransferStatus
    _, debit_id, credit_id, low, high, pending_id, user_data_128, user_data_64, user_data_32, timeout, ledger, code, flags, _ = event
    _, was_debit, was_credit, was_low, was_high, was_pending, was_128, was_64, was_32, was_timeout, was_ledger, was_code, was_flags, _ = (
        existing
    )
    if flags != was_flags:
        return status.EXISTS_WITH_DIFFERENT_FLAGS
    if pending_id != was_pending:
        return status.EXISTS_WITH_DIFFERENT_PENDING_ID
    if timeout != was_timeout:
        return status.EXISTS_WITH_DIFFERENT_TIMEOUT
    amount, was_amount = low | high << 64, was_low | was_high << 64
    same_amount = amount >= was_amount if flags & BALANCING else amount == was_amount
    pending = batch.find(pending_id) if flags & RESOLVES else None
    if pending is not None:
        _, p_debit, p_credit, p_low, p_high, _, p_128, p_64, p_32, _, p_ledger, p_code, _, _ = TRANSFER.unpack(pending)
        if debit_id == ZERO_ID:
            debit_id = p_debit
        if credit_id == ZERO_ID:
            credit_id = p_credit
        if user_data_128 == ZERO_ID:
            user_data_128 = p_128
        user_data_64, user_data_32, ledger, code = user_data_64 or p_64, user_data_32 or p_32, ledger or p_ledger, code or p_code
        p_amount = p_low | p_high << 64
        if flags & VOID:
            same_amount = amount in (0, was_amount)
        elif was_amount == p_amount:
            same_amount = amount >= p_amount
    if debit_id != was_debit:
        return status.EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID
    if credit_id != was_credit:
        return status.EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID
    if not same_amount:
        return status.EXISTS_WITH_DIFFERENT_AMOUNT
    if user_data_128 != was_128:
        return status.EXISTS_WITH_DIFFERENT_USER_DATA_128
    if user_data_64 != was_64:
        return status.EXISTS_WITH_DIFFERENT_USER_DATA_64
    if user_data_32 != was_32:
        return status.EXISTS_WITH_DIFFERENT_USER_DATA_32
    if ledger != was_ledger:
        return status.EXISTS_WITH_DIFFERENT_LEDGER
    if code != was_code:
        return status.EXISTS_WITH_DIFFERENT_CODE
    return status.EXISTS


def _refuse_fields(event: TransferEvent) -> int:
    """What is wrong with an ordinary or pending transfer by itself; 0 if nothing."""
    status = TransferStatus
    _, debit_id, credit_id, _, _, pending_id, _, _, _, timeout, ledger, code, flags, _ = event
    if debit_id == ZERO_ID:
        return status.DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO
    if debit_id == MAX_ID:
        return status.DEBIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX
    if credit_id == ZERO_ID:
        return status.CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO
    if credit_id == MAX_ID:
        return status.CREDIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX
    if debit_id == credit_id:
        return status.ACCOUNTS_MUST_BE_DIFFERENT
    if pending_id != ZERO_ID:
        return status.PENDING_ID_MUST_BE_ZERO
    if not flags & PENDING:
        if timeout:
            return status.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER
        if flags & CLOSING:
            return status.CLOSING_TRANSFER_MUST_BE_PENDING
    if not ledger:
        return status.LEDGER_MUST_NOT_BE_ZERO
    if not code:
        return status.CODE_MUST_NOT_BE_ZERO
    return 0


def _decide_moving(event: TransferEvent, now: int, books: Books) -> int | Movement:
    """An ordinary or pending transfer against the accounts."""
    status = TransferStatus
    _, debit_id, credit_id, low, high, _, _, _, _, timeout, ledger, _, flags, timestamp = event
    debit = books.accounts.get(debit_id)
    if debit is None:
        return status.DEBIT_ACCOUNT_NOT_FOUND
    credit = books.accounts.get(credit_id)
    if credit is None:
        return status.CREDIT_ACCOUNT_NOT_FOUND
    if debit.ledger != credit.ledger:
        return status.ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER
    if debit.ledger != ledger:
        return status.TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS
    if flags & IMPORTED:
        if _regresses(timestamp, books):
            return status.IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS
        if timestamp <= debit.timestamp:
            return status.IMPORTED_EVENT_TIMESTAMP_MUST_POSTDATE_DEBIT_ACCOUNT
        if timestamp <= credit.timestamp:
            return status.IMPORTED_EVENT_TIMESTAMP_MUST_POSTDATE_CREDIT_ACCOUNT
        if timeout:
            return status.IMPORTED_EVENT_TIMEOUT_MUST_BE_ZERO
        now = timestamp
    if debit.flags & CLOSED:
        return status.DEBIT_ACCOUNT_ALREADY_CLOSED
    if credit.flags & CLOSED:
        return status.CREDIT_ACCOUNT_ALREADY_CLOSED
    amount = low | high << 64
    debits = debit.debits_pending + debit.debits_posted
    credits_ = credit.credits_pending + credit.credits_posted
    if flags & BALANCING_DEBIT:
        amount = min(amount, max(0, debit.credits_posted - debits))
    if flags & BALANCING_CREDIT:
        amount = min(amount, max(0, credit.debits_posted - credits_))
    if flags & PENDING:
        if amount + debit.debits_pending > MAX_U128:
            return status.OVERFLOWS_DEBITS_PENDING
        if amount + credit.credits_pending > MAX_U128:
            return status.OVERFLOWS_CREDITS_PENDING
    if amount + debit.debits_posted > MAX_U128:
        return status.OVERFLOWS_DEBITS_POSTED
    if amount + credit.credits_posted > MAX_U128:
        return status.OVERFLOWS_CREDITS_POSTED
    if amount + debits > MAX_U128:
        return status.OVERFLOWS_DEBITS
    if amount + credits_ > MAX_U128:
        return status.OVERFLOWS_CREDITS
    if now + timeout * NANOS_PER_SECOND > MAX_TIMESTAMP:
        return status.OVERFLOWS_TIMEOUT
    if debit.flags & DEBITS_LIMITED and amount + debits > debit.credits_posted:
        return status.EXCEEDS_CREDITS
    if credit.flags & CREDITS_LIMITED and amount + credits_ > credit.debits_posted:
        return status.EXCEEDS_DEBITS
    return Movement(now, amount, debit, credit)


def _decide_resolving(event: TransferEvent, now: int, books: Books, batch: TransferBatch) -> int | Movement:
    """A post or void against the pending transfer that it names."""
    status = TransferStatus
    transfer_id, debit_id, credit_id, low, high, pending_id, _, _, _, timeout, ledger, code, flags, timestamp = event
    if pending_id == ZERO_ID:
        return status.PENDING_ID_MUST_NOT_BE_ZERO
    if pending_id == MAX_ID:
        return status.PENDING_ID_MUST_NOT_BE_INT_MAX
    if pending_id == transfer_id:
        return status.PENDING_ID_MUST_BE_DIFFERENT
    if timeout:
        return status.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER
    pending = batch.find(pending_id)
    if not pending:
        return status.PENDING_TRANSFER_NOT_FOUND
    _, p_debit, p_credit, p_low, p_high, _, _, _, _, _, p_ledger, p_code, p_flags, _ = TRANSFER.unpack(pending)
    if not p_flags & PENDING:
        return status.PENDING_TRANSFER_NOT_PENDING
    if debit_id not in (ZERO_ID, p_debit):
        return status.PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID
    if credit_id not in (ZERO_ID, p_credit):
        return status.PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT_ID
    if ledger not in (0, p_ledger):
        return status.PENDING_TRANSFER_HAS_DIFFERENT_LEDGER
    if code not in (0, p_code):
        return status.PENDING_TRANSFER_HAS_DIFFERENT_CODE
    amount, p_amount = low | high << 64, p_low | p_high << 64
    if flags & POST:
        if amount == MAX_U128:
            amount = p_amount
        elif amount > p_amount:
            return status.EXCEEDS_PENDING_TRANSFER_AMOUNT
    elif amount not in (0, p_amount):
        return status.PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT
    else:
        amount = p_amount
    fate = batch.fate_of(pending_id)
    if fate is not Fate.PENDING:
        return _ENDED[fate]
    expiry = expiry_of(pending)
    if expiry is not None and expiry <= now:
        return status.PENDING_TRANSFER_EXPIRED
    if flags & IMPORTED:
        if _regresses(timestamp, books):
            return status.IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS
        now = timestamp
    debit, credit = books.accounts[p_debit], books.accounts[p_credit]
    if not flags & VOID:
        if debit.flags & CLOSED:
            return status.DEBIT_ACCOUNT_ALREADY_CLOSED
        if credit.flags & CLOSED:
            return status.CREDIT_ACCOUNT_ALREADY_CLOSED
    return Movement(now, amount, debit, credit, pending)


def _regresses(timestamp: int, books: Books) -> bool:
    """An imported transfer must be younger than every transfer, and share its time with no account."""
    return timestamp <= books.last_transfer_timestamp or books.account_has_timestamp(timestamp)


def unpack_account(packed: bytes, position: int) -> AccountEvent:
    """The event at this position of a packed batch."""
    event: AccountEvent = ACCOUNT.unpack_from(packed, position * ACCOUNT.size)
    return event


def unpack_transfer(packed: bytes, position: int) -> TransferEvent:
    """The event at this position of a packed batch."""
    event: TransferEvent = TRANSFER.unpack_from(packed, position * TRANSFER.size)
    return event
