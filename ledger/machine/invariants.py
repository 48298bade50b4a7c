"""What must hold at every index. A breach shows a fault in the program or damage to the state: it raises, it is never repaired."""

from __future__ import annotations

from ledger.machine.books import CREDITS_LIMITED, DEBITS_LIMITED, Books
from ledger.machine.model import MAX_U128, TRANSFER, LedgerInvariantError


def check_sums(books: Books) -> None:
    """Sum of debits equals sum of credits, pending and posted apart, by the running sums of all ledgers together."""
    if books.debits_pending != books.credits_pending or books.debits_posted != books.credits_posted or books.debits_pending < 0:
        raise LedgerInvariantError(f"running sums (debits pending, posted, credits pending, posted) do not balance: {books.sums()}")


def check_all(books: Books) -> None:
    """Per ledger debits equal credits; balances are 128-bit; limits are kept; what is pending is what open transfers reserve."""
    check_sums(books)
    by_ledger: dict[int, list[int]] = {}
    for account in books.by_time:
        balances = (account.debits_pending, account.debits_posted, account.credits_pending, account.credits_posted)
        debits, credits_ = balances[0] + balances[1], balances[2] + balances[3]
        if min(balances) < 0 or debits > MAX_U128 or credits_ > MAX_U128:
            raise LedgerInvariantError(f"account {account.id.hex()}: balances out of range: {balances}")
        if account.flags & DEBITS_LIMITED and debits > account.credits_posted:
            raise LedgerInvariantError(f"account {account.id.hex()}: debits exceed credits: {balances}")
        if account.flags & CREDITS_LIMITED and credits_ > account.debits_posted:
            raise LedgerInvariantError(f"account {account.id.hex()}: credits exceed debits: {balances}")
        sums = by_ledger.setdefault(account.ledger, [0, 0, 0, 0])
        for place, balance in enumerate(balances):
            sums[place] += balance
    for ledger, (debits_pending, debits_posted, credits_pending, credits_posted) in by_ledger.items():
        if debits_pending != credits_pending or debits_posted != credits_posted:
            raise LedgerInvariantError(f"ledger {ledger} does not balance: {by_ledger[ledger]}")
    totals = tuple(sum(sums[place] for sums in by_ledger.values()) for place in range(4))
    if totals != books.sums():
        raise LedgerInvariantError(f"running sums {books.sums()} differ from the accounts' {totals}")
    _check_pending(books)


def _check_pending(books: Books) -> None:
    """Each account's pending balances are the sum of the open transfers that name it."""
    debits: dict[bytes, int] = {}
    credits_: dict[bytes, int] = {}
    for pending in books.open.values():
        _, debit, credit, low, high, *_ = TRANSFER.unpack(pending)
        debits[debit] = debits.get(debit, 0) + (low | high << 64)
        credits_[credit] = credits_.get(credit, 0) + (low | high << 64)
    for account in books.by_time:
        reserved = debits.get(account.id, 0), credits_.get(account.id, 0)
        if reserved != (account.debits_pending, account.credits_pending):
            held = account.debits_pending, account.credits_pending
            raise LedgerInvariantError(f"account {account.id.hex()}: pending balances {held}, open transfers reserve {reserved}")
