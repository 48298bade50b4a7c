"""The ledger's own state: accounts, running sums, open pending transfers, clocks. The rules are in `decide` and `evolve`."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from ledger.machine.expiry import DueQueue
from ledger.machine.model import ACCOUNT, BATCH_MAX, EVENT_SIZE, HISTORY, AccountFlags

DEBITS_LIMITED: Final = int(AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS)
CREDITS_LIMITED: Final = int(AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS)
LIMITED: Final = DEBITS_LIMITED | CREDITS_LIMITED
KEEPS_HISTORY: Final = int(AccountFlags.HISTORY)
CLOSED: Final = int(AccountFlags.CLOSED)

_SMALL_ID_TAIL: Final = bytes(8)


class Account:
    """One account as it stands, in place. `limited` repeats the two limit flags of `flags` for the bulk path."""

    __slots__ = (
        "code",
        "credits_pending",
        "credits_posted",
        "debits_pending",
        "debits_posted",
        "flags",
        "id",
        "ledger",
        "limited",
        "timestamp",
        "user_data_32",
        "user_data_64",
        "user_data_128",
    )

    def __init__(
        self,
        account_id: bytes,
        user_data: tuple[bytes, int, int],
        ledger: int,
        code: int,
        flags: int,
        timestamp: int,
        balances: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> None:
        self.id = account_id
        self.debits_pending, self.debits_posted, self.credits_pending, self.credits_posted = balances
        self.user_data_128, self.user_data_64, self.user_data_32 = user_data
        self.ledger = ledger
        self.code = code
        self.flags = flags
        self.limited = flags & LIMITED
        self.timestamp = timestamp

    def pack(self) -> bytes:
        """The 128-byte form."""
        return ACCOUNT.pack(
            self.id,
            self.debits_pending.to_bytes(16, "little"),
            self.debits_posted.to_bytes(16, "little"),
            self.credits_pending.to_bytes(16, "little"),
            self.credits_posted.to_bytes(16, "little"),
            self.user_data_128,
            self.user_data_64,
            self.user_data_32,
            0,
            self.ledger,
            self.code,
            self.flags,
            self.timestamp,
        )

    @classmethod
    def unpack(cls, packed: bytes) -> Account:
        """Take back what `pack` made. The length must be 128."""
        (account_id, *balances, user_128, user_64, user_32, _, ledger, code, flags, timestamp) = ACCOUNT.unpack(packed)
        pending_debits, posted_debits, pending_credits, posted_credits = (int.from_bytes(part, "little") for part in balances)
        return cls(
            account_id,
            (user_128, user_64, user_32),
            ledger,
            code,
            flags,
            timestamp,
            (pending_debits, posted_debits, pending_credits, posted_credits),
        )

    def history_line(self, timestamp: int) -> bytes:
        """The balances as they stand, as a line of `HISTORY`."""
        return HISTORY.pack(
            self.id,
            self.debits_pending.to_bytes(16, "little"),
            self.debits_posted.to_bytes(16, "little"),
            self.credits_pending.to_bytes(16, "little"),
            self.credits_posted.to_bytes(16, "little"),
            timestamp,
        )


Sums = tuple[int, int, int, int]
"""debits_pending, debits_posted, credits_pending, credits_posted."""


class Books:
    """All that the machine keeps in memory beside the store of transfers.

    `quick` and `quick_small` find, by ledger, the accounts that a plain transfer may touch without further questions (open, no
    history): by id, and, for ids below 2**64, by number. The four running sums cover all accounts of all ledgers. `scratch` is working
    memory of the bulk path and no part of the state.
    """

    __slots__ = (
        "accounts",
        "by_time",
        "credits_pending",
        "credits_posted",
        "debits_pending",
        "debits_posted",
        "due",
        "last_index",
        "last_timestamp",
        "last_transfer_timestamp",
        "open",
        "quick",
        "quick_small",
        "scratch",
        "sequence",
    )

    def __init__(self) -> None:
        self.accounts: dict[bytes, Account] = {}
        self.by_time: list[Account] = []
        self.quick: dict[int, dict[bytes, Account]] = {}
        self.quick_small: dict[int, dict[int, Account]] = {}
        self.debits_pending = self.debits_posted = self.credits_pending = self.credits_posted = 0
        self.open: dict[bytes, bytes] = {}
        self.due = DueQueue()
        self.last_timestamp = 0
        self.last_transfer_timestamp = 0
        self.sequence = 0
        self.last_index = 0
        self.scratch = bytearray(BATCH_MAX * EVENT_SIZE)

    def sums(self) -> Sums:
        """The running sums."""
        return self.debits_pending, self.debits_posted, self.credits_pending, self.credits_posted

    def add_account(self, account: Account) -> None:
        """Enter a new account, younger than all others."""
        self.accounts[account.id] = account
        self.by_time.append(account)
        self.index_account(account)

    def remove_last_account(self) -> None:
        """Undo the last `add_account`."""
        account = self.by_time.pop()
        del self.accounts[account.id]
        self._drop_from_quick(account)

    def index_account(self, account: Account) -> None:
        """Make `quick` right again after the account was added or its flags changed."""
        if account.flags & (KEEPS_HISTORY | CLOSED):
            self._drop_from_quick(account)
            return
        self.quick.setdefault(account.ledger, {})[account.id] = account
        if account.id[8:] == _SMALL_ID_TAIL:
            self.quick_small.setdefault(account.ledger, {})[int.from_bytes(account.id, "little")] = account

    def _drop_from_quick(self, account: Account) -> None:
        self.quick.get(account.ledger, {}).pop(account.id, None)
        if account.id[8:] == _SMALL_ID_TAIL:
            self.quick_small.get(account.ledger, {}).pop(int.from_bytes(account.id, "little"), None)

    def account_has_timestamp(self, timestamp: int) -> bool:
        """Whether some account was created at exactly this time."""
        place = bisect_left(self.by_time, timestamp, key=_timestamp)
        return place < len(self.by_time) and self.by_time[place].timestamp == timestamp


def _timestamp(account: Account) -> int:
    return account.timestamp
