"""The working set of one batch of transfers: what was fetched before, what was made so far, and how to take back a broken chain."""

from __future__ import annotations

from collections.abc import Mapping

from ledger.machine.books import Account, Books
from ledger.machine.model import AccountChange, Fate, Resolution

_Balances = tuple[Account, int, int, int, int, int]


class TransferBatch:
    """Everything that later events of the batch must see, and that the store gets at its end.

    Between `open` and `close` (or `roll_back`) every touched account is noted in an undo log; the lists are simply cut back.
    """

    __slots__ = (
        "_books",
        "_mark",
        "_undo",
        "balances",
        "changes",
        "created",
        "failed",
        "fates",
        "fresh",
        "known",
        "known_fates",
        "metadata",
        "offered",
        "resolutions",
    )

    def __init__(
        self,
        books: Books,
        known: Mapping[bytes, bytes],
        known_fates: Mapping[bytes, Fate],
        offered: Mapping[int, bytes] | None = None,
    ) -> None:
        self._books = books
        self.known = known
        self.known_fates = known_fates
        self.offered = offered
        self.fresh: dict[bytes, bytes] = {}
        self.fates: dict[bytes, Fate] = {}
        self.failed: dict[bytes, None] = {}
        self.created: list[bytes] = []
        self.metadata: list[bytes] = []
        self.resolutions: list[Resolution] = []
        self.changes: list[AccountChange] = []
        self.balances: list[bytes] = []
        self._undo: list[_Balances] | None = None
        self._mark: tuple[int, int, int, int, int, tuple[int, int, int, int]] = (0, 0, 0, 0, 0, (0, 0, 0, 0))

    def find(self, transfer_id: bytes) -> bytes | None:
        """The transfer with this id as it is visible now: 128 bytes, `FAILED`, or None."""
        found = self.fresh.get(transfer_id)
        if found is not None:
            return found
        if transfer_id in self.failed:
            return b""
        return self.known.get(transfer_id)

    def fate_of(self, pending_id: bytes) -> Fate:
        """Where an existing pending transfer stands now."""
        return self.fates.get(pending_id) or self.known_fates.get(pending_id, Fate.PENDING)

    def touch(self, account: Account) -> None:
        """Note the account's balances and flags before they change."""
        if self._undo is not None:
            self._undo.append(
                (
                    account,
                    account.debits_pending,
                    account.debits_posted,
                    account.credits_pending,
                    account.credits_posted,
                    account.flags,
                )
            )

    def open(self) -> None:
        """A chain begins."""
        self._undo = []
        self._mark = (
            len(self.created),
            len(self.resolutions),
            len(self.changes),
            len(self.balances),
            self._books.last_transfer_timestamp,
            self._books.sums(),
        )

    def close(self) -> None:
        """The chain succeeded as a whole."""
        self._undo = None

    def roll_back(self) -> None:
        """The chain broke: everything since `open` is undone, except that failed ids stay failed."""
        books = self._books
        for account, debits_pending, debits_posted, credits_pending, credits_posted, flags in reversed(self._undo or ()):
            account.debits_pending = debits_pending
            account.debits_posted = debits_posted
            account.credits_pending = credits_pending
            account.credits_posted = credits_posted
            if account.flags != flags:
                account.flags = flags
                books.index_account(account)
        self._undo = None
        created, resolutions, changes, balances, books.last_transfer_timestamp, sums = self._mark
        books.debits_pending, books.debits_posted, books.credits_pending, books.credits_posted = sums
        for transfer in self.created[created:]:
            del self.fresh[transfer[:16]]
        for resolution in self.resolutions[resolutions:]:
            del self.fates[resolution.pending[:16]]
        del self.created[created:], self.metadata[created:]
        del self.resolutions[resolutions:], self.changes[changes:], self.balances[balances:]
