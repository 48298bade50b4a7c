"""The machine's state as plain rows and back. The first element of a row is its kind; 128-bit values are 16 little-endian bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ledger.machine.books import Account, Books
from ledger.machine.model import EVENT_SIZE
from ledger.machine.transfers import Row, TransferStore

VERSION = 1


def export(books: Books) -> Iterator[Row]:
    """Clocks, then accounts and open pending transfers in order of creation. What follows from these is not written."""
    yield ("ledger", VERSION, books.last_timestamp, books.last_transfer_timestamp, books.sequence, books.last_index)
    for account in books.by_time:
        yield ("account", account.pack())
    for pending in books.open.values():
        yield ("open", pending)


def restore(rows: Iterable[Row], books: Books, store: TransferStore | None) -> None:
    """Fill empty books, and an empty store if one is given, from rows. Raises ValueError on a damaged, foreign or missing row."""
    versions = 0
    for row in rows:
        match row:
            case ("ledger", int(version), int(last_timestamp), int(last_transfer), int(sequence), int(index)):
                if version != VERSION:
                    raise ValueError(f"ledger rows of version {version}; this build reads version {VERSION}")
                versions += 1
                books.last_timestamp, books.last_transfer_timestamp = last_timestamp, last_transfer
                books.sequence, books.last_index = sequence, index
            case ("account", bytes(packed)) if len(packed) == EVENT_SIZE:
                _restore_account(books, Account.unpack(packed))
            case ("open", bytes(packed)) if len(packed) == EVENT_SIZE:
                books.open[packed[:16]] = packed
                books.due.add(packed)
            case (("ledger" | "account" | "open"), *_):
                raise ValueError(f"damaged row of kind {row[0]!r}")
            case _ if store is not None and store.restore_row(row):
                continue
            case _:
                raise ValueError(f"row of a kind that does not belong here: {row[:1]!r}")
    if versions != 1:
        raise ValueError(f"{versions} rows of kind 'ledger' where exactly one is needed")


def _restore_account(books: Books, account: Account) -> None:
    books.add_account(account)
    books.debits_pending += account.debits_pending
    books.debits_posted += account.debits_posted
    books.credits_pending += account.credits_pending
    books.credits_posted += account.credits_posted
