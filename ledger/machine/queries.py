"""Reads: look-ups by id, and filters with TigerBeetle's meaning.

Zero is "any", time ranges are inclusive, and an invalid filter selects nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from ledger.machine.books import KEEPS_HISTORY, Books
from ledger.machine.model import (
    BALANCE,
    BATCH_MAX,
    HISTORY,
    MAX_TIMESTAMP,
    MAX_U128,
    TRANSFER,
    ZERO_ID,
    AccountFilterFlags,
    Fate,
    QueryFilterFlags,
)
from ledger.machine.transfers import FAILED, TransferStore
from ledger.machine.values import AccountFilter, QueryFilter

_BOTH_SIDES = int(AccountFilterFlags.DEBITS | AccountFilterFlags.CREDITS)


def lookup_accounts(books: Books, packed_ids: bytes) -> bytes:
    """Accounts by id, in the order asked; unknown ones are left out."""
    found = (books.accounts.get(account_id) for account_id in _split_ids(packed_ids))
    return b"".join(account.pack() for account in found if account is not None)


def lookup_transfers(books: Books, store: TransferStore, packed_ids: bytes) -> bytes:
    """Transfers by id, in the order asked; unknown and failed ones are left out."""
    ids = _split_ids(packed_ids)
    known = store.lookup(ids, books.sequence)
    return b"".join(known.get(transfer_id, FAILED) for transfer_id in ids)


def fate(books: Books, store: TransferStore, transfer_id: bytes) -> Fate:
    """Where a two-phase transfer stands."""
    if transfer_id in books.open:
        return Fate.PENDING
    return store.fates([transfer_id], books.sequence).get(transfer_id, Fate.NONE)


def _split_ids(packed_ids: bytes) -> list[bytes]:
    if len(packed_ids) % 16 or len(packed_ids) > 16 * BATCH_MAX:
        return []
    return [packed_ids[start : start + 16] for start in range(0, len(packed_ids), 16)]


def account_filter_problem(selection: AccountFilter) -> str | None:
    """Why the filter is invalid, naming the field; None if it is not."""
    if not 0 < selection.account_id < MAX_U128:
        return "account_id must lie between 1 and 2**128 - 2"
    if not 0 <= selection.flags < 8:
        return "flags has reserved bits set"
    if not selection.flags & _BOTH_SIDES:
        return "flags must name debits, credits or both"
    return _range_problem(selection)


def query_filter_problem(selection: QueryFilter) -> str | None:
    """Why the filter is invalid, naming the field; None if it is not."""
    if selection.flags not in (0, 1):
        return "flags has reserved bits set"
    return _range_problem(selection)


def _range_problem(selection: AccountFilter | QueryFilter) -> str | None:
    if not 0 <= selection.timestamp_min <= MAX_TIMESTAMP:
        return "timestamp_min must be less than 2**63"
    if not 0 <= selection.timestamp_max <= MAX_TIMESTAMP:
        return "timestamp_max must be less than 2**63"
    if selection.timestamp_max and selection.timestamp_min > selection.timestamp_max:
        return "timestamp_min must not be after timestamp_max"
    if not 0 <= selection.user_data_128 <= MAX_U128:
        return "user_data_128 must be less than 2**128"
    if selection.limit <= 0:
        return "limit must be greater than zero"
    return None


def get_account_transfers(store: TransferStore, selection: AccountFilter) -> bytes:
    """Transfers of one account."""
    if account_filter_problem(selection) is not None:
        return b""
    return b"".join(islice(_of_account(store, selection), min(selection.limit, BATCH_MAX)))


def get_account_balances(books: Books, store: TransferStore, selection: AccountFilter) -> bytes:
    """Kept balances of one account, one for each transfer that the filter selects. Expiry leaves none, as it is not a transfer."""
    if account_filter_problem(selection) is not None:
        return b""
    account_id = selection.account_id.to_bytes(16, "little")
    account = books.accounts.get(account_id)
    if account is None or not account.flags & KEEPS_HISTORY:
        return b""
    lines = []
    for transfer in islice(_of_account(store, selection), min(selection.limit, BATCH_MAX)):
        line = store.balance_after(account_id, int.from_bytes(transfer[120:], "little"))
        if line is not None:
            lines.append(BALANCE.pack(*HISTORY.unpack(line)[1:]))
    return b"".join(lines)


def query_accounts(books: Books, selection: QueryFilter) -> bytes:
    """Accounts by the intersection of fields."""
    if query_filter_problem(selection) is not None:
        return b""
    newest_first = bool(selection.flags & QueryFilterFlags.REVERSED)
    user_data_128 = selection.user_data_128.to_bytes(16, "little")
    first, last = selection.timestamp_min, selection.timestamp_max or MAX_TIMESTAMP
    matching = (
        account.pack()
        for account in (reversed(books.by_time) if newest_first else books.by_time)
        if first <= account.timestamp <= last
        and (user_data_128 == ZERO_ID or account.user_data_128 == user_data_128)
        and selection.user_data_64 in (0, account.user_data_64)
        and selection.user_data_32 in (0, account.user_data_32)
        and selection.ledger in (0, account.ledger)
        and selection.code in (0, account.code)
    )
    return b"".join(islice(matching, min(selection.limit, BATCH_MAX)))


def query_transfers(store: TransferStore, selection: QueryFilter) -> bytes:
    """Transfers by the intersection of fields."""
    if query_filter_problem(selection) is not None:
        return b""
    newest_first = bool(selection.flags & QueryFilterFlags.REVERSED)
    transfers = store.transfers(selection.timestamp_min, selection.timestamp_max or MAX_TIMESTAMP, newest_first=newest_first)
    matching = _matching(transfers, selection, selection.ledger)
    return b"".join(islice(matching, min(selection.limit, BATCH_MAX)))


def _of_account(store: TransferStore, selection: AccountFilter) -> Iterator[bytes]:
    account_id = selection.account_id.to_bytes(16, "little")
    newest_first = bool(selection.flags & AccountFilterFlags.REVERSED)
    last = selection.timestamp_max or MAX_TIMESTAMP
    transfers = store.account_transfers(account_id, selection.timestamp_min, last, newest_first=newest_first)
    sides = selection.flags & _BOTH_SIDES
    if sides == AccountFilterFlags.DEBITS:
        transfers = (transfer for transfer in transfers if transfer[16:32] == account_id)
    elif sides == AccountFilterFlags.CREDITS:
        transfers = (transfer for transfer in transfers if transfer[32:48] == account_id)
    return _matching(transfers, selection, 0)


def _matching(transfers: Iterable[bytes], selection: AccountFilter | QueryFilter, ledger: int) -> Iterator[bytes]:
    user_data_128 = selection.user_data_128.to_bytes(16, "little")
    for transfer in transfers:
        _, _, _, _, _, _, was_128, was_64, was_32, _, was_ledger, was_code, _, _ = TRANSFER.unpack(transfer)
        if (
            user_data_128 in (ZERO_ID, was_128)
            and selection.user_data_64 in (0, was_64)
            and selection.user_data_32 in (0, was_32)
            and ledger in (0, was_ledger)
            and selection.code in (0, was_code)
        ):
            yield transfer
