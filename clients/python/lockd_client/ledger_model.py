"""Values of the ledger: accounts, transfers, results. Amounts are integers in minor units, ids unsigned 128-bit numbers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

MAX_ID = (1 << 128) - 1
"""Not usable as an id; as an amount it means "all" where the ledger says so."""
MAX_BATCH = 8_190
"""Accounts or transfers in one call."""
MAX_METADATA = 4_096
"""Bytes of a transfer's metadata."""


class AccountFlags(IntFlag):
    """Flags of an account, in the protocol's bit order."""

    NONE = 0
    LINKED = 1
    DEBITS_MUST_NOT_EXCEED_CREDITS = 2
    CREDITS_MUST_NOT_EXCEED_DEBITS = 4
    HISTORY = 8
    IMPORTED = 16
    CLOSED = 32


class TransferFlags(IntFlag):
    """Flags of a transfer, in the protocol's bit order."""

    NONE = 0
    LINKED = 1
    PENDING = 2
    POST_PENDING_TRANSFER = 4
    VOID_PENDING_TRANSFER = 8
    BALANCING_DEBIT = 16
    BALANCING_CREDIT = 32
    CLOSING_DEBIT = 64
    CLOSING_CREDIT = 128
    IMPORTED = 256


class CreateAccountStatus(IntEnum):
    """What became of one account of a batch; names and numbers are the protocol's, in order of precedence."""

    UNSPECIFIED = 0
    CREATED = -1
    LINKED_EVENT_FAILED = 1
    LINKED_EVENT_CHAIN_OPEN = 2
    IMPORTED_EVENT_EXPECTED = 22
    IMPORTED_EVENT_NOT_EXPECTED = 23
    TIMESTAMP_MUST_BE_ZERO = 3
    IMPORTED_EVENT_TIMESTAMP_OUT_OF_RANGE = 24
    IMPORTED_EVENT_TIMESTAMP_MUST_NOT_ADVANCE = 25
    RESERVED_FIELD = 4
    RESERVED_FLAG = 5
    ID_MUST_NOT_BE_ZERO = 6
    ID_MUST_NOT_BE_INT_MAX = 7
    EXISTS_WITH_DIFFERENT_FLAGS = 15
    EXISTS_WITH_DIFFERENT_USER_DATA_128 = 16
    EXISTS_WITH_DIFFERENT_USER_DATA_64 = 17
    EXISTS_WITH_DIFFERENT_USER_DATA_32 = 18
    EXISTS_WITH_DIFFERENT_LEDGER = 19
    EXISTS_WITH_DIFFERENT_CODE = 20
    EXISTS = 21
    FLAGS_ARE_MUTUALLY_EXCLUSIVE = 8
    DEBITS_PENDING_MUST_BE_ZERO = 9
    DEBITS_POSTED_MUST_BE_ZERO = 10
    CREDITS_PENDING_MUST_BE_ZERO = 11
    CREDITS_POSTED_MUST_BE_ZERO = 12
    LEDGER_MUST_NOT_BE_ZERO = 13
    CODE_MUST_NOT_BE_ZERO = 14
    IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS = 26


class CreateTransferStatus(IntEnum):
    """What became of one transfer of a batch; names and numbers are the protocol's, in order of precedence."""

    UNSPECIFIED = 0
    CREATED = -1
    LINKED_EVENT_FAILED = 1
    LINKED_EVENT_CHAIN_OPEN = 2
    IMPORTED_EVENT_EXPECTED = 56
    IMPORTED_EVENT_NOT_EXPECTED = 57
    TIMESTAMP_MUST_BE_ZERO = 3
    IMPORTED_EVENT_TIMESTAMP_OUT_OF_RANGE = 58
    IMPORTED_EVENT_TIMESTAMP_MUST_NOT_ADVANCE = 59
    RESERVED_FLAG = 4
    ID_MUST_NOT_BE_ZERO = 5
    ID_MUST_NOT_BE_INT_MAX = 6
    EXISTS_WITH_DIFFERENT_FLAGS = 36
    EXISTS_WITH_DIFFERENT_PENDING_ID = 40
    EXISTS_WITH_DIFFERENT_TIMEOUT = 44
    EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID = 37
    EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID = 38
    EXISTS_WITH_DIFFERENT_AMOUNT = 39
    EXISTS_WITH_DIFFERENT_USER_DATA_128 = 41
    EXISTS_WITH_DIFFERENT_USER_DATA_64 = 42
    EXISTS_WITH_DIFFERENT_USER_DATA_32 = 43
    EXISTS_WITH_DIFFERENT_LEDGER = 67
    EXISTS_WITH_DIFFERENT_CODE = 45
    EXISTS = 46
    ID_ALREADY_FAILED = 68
    FLAGS_ARE_MUTUALLY_EXCLUSIVE = 7
    DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO = 8
    DEBIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX = 9
    CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO = 10
    CREDIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX = 11
    ACCOUNTS_MUST_BE_DIFFERENT = 12
    PENDING_ID_MUST_BE_ZERO = 13
    PENDING_ID_MUST_NOT_BE_ZERO = 14
    PENDING_ID_MUST_NOT_BE_INT_MAX = 15
    PENDING_ID_MUST_BE_DIFFERENT = 16
    TIMEOUT_RESERVED_FOR_PENDING_TRANSFER = 17
    CLOSING_TRANSFER_MUST_BE_PENDING = 64
    LEDGER_MUST_NOT_BE_ZERO = 19
    CODE_MUST_NOT_BE_ZERO = 20
    DEBIT_ACCOUNT_NOT_FOUND = 21
    CREDIT_ACCOUNT_NOT_FOUND = 22
    ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER = 23
    TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS = 24
    PENDING_TRANSFER_NOT_FOUND = 25
    PENDING_TRANSFER_NOT_PENDING = 26
    PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID = 27
    PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT_ID = 28
    PENDING_TRANSFER_HAS_DIFFERENT_LEDGER = 29
    PENDING_TRANSFER_HAS_DIFFERENT_CODE = 30
    EXCEEDS_PENDING_TRANSFER_AMOUNT = 31
    PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT = 32
    PENDING_TRANSFER_ALREADY_POSTED = 33
    PENDING_TRANSFER_ALREADY_VOIDED = 34
    PENDING_TRANSFER_EXPIRED = 35
    IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS = 60
    IMPORTED_EVENT_TIMESTAMP_MUST_POSTDATE_DEBIT_ACCOUNT = 61
    IMPORTED_EVENT_TIMESTAMP_MUST_POSTDATE_CREDIT_ACCOUNT = 62
    IMPORTED_EVENT_TIMEOUT_MUST_BE_ZERO = 63
    DEBIT_ACCOUNT_ALREADY_CLOSED = 65
    CREDIT_ACCOUNT_ALREADY_CLOSED = 66
    OVERFLOWS_DEBITS_PENDING = 47
    OVERFLOWS_CREDITS_PENDING = 48
    OVERFLOWS_DEBITS_POSTED = 49
    OVERFLOWS_CREDITS_POSTED = 50
    OVERFLOWS_DEBITS = 51
    OVERFLOWS_CREDITS = 52
    OVERFLOWS_TIMEOUT = 53
    EXCEEDS_CREDITS = 54
    EXCEEDS_DEBITS = 55


@dataclass(frozen=True, slots=True)
class Account:
    """An account. To create one, leave the balances and the timestamp zero.

    Attributes:
        id: 1 to 2^128-2.
        ledger: 1 to 2^32-1; only accounts of one ledger can exchange transfers.
        code: 1 to 65,535: what kind of account it is; yours to define.
        flags: See AccountFlags.
        user_data_128: 0 to 2^128-1, yours.
        user_data_64: 0 to 2^64-1, yours.
        user_data_32: 0 to 2^32-1, yours.
        debits_pending: Minor units, 0 to 2^128-1; set by the cluster, like the three that follow.
        debits_posted: Minor units.
        credits_pending: Minor units.
        credits_posted: Minor units.
        timestamp: Nanoseconds of log time, set by the cluster.
    """

    id: int
    ledger: int
    code: int
    flags: int = 0
    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    debits_pending: int = 0
    debits_posted: int = 0
    credits_pending: int = 0
    credits_posted: int = 0
    timestamp: int = 0


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer of `amount` from the debit account to the credit account. Immutable: a correction is a new transfer.

    Attributes:
        id: 1 to 2^128-2. The same id again is never a second transfer.
        debit_account_id: Zero only in a post or void, where it means "as in the pending transfer"; so do the next four.
        credit_account_id: As above.
        amount: Minor units, 0 to 2^128-1.
        ledger: 1 to 2^32-1, the ledger of both accounts.
        code: 1 to 65,535: what kind of transfer it is; yours to define.
        flags: See TransferFlags.
        pending_id: The pending transfer that a post or void is about.
        timeout: Whole seconds, 0 to 2^32-1, until a pending transfer expires; 0: never.
        user_data_128: 0 to 2^128-1, yours.
        user_data_64: 0 to 2^64-1, yours.
        user_data_32: 0 to 2^32-1, yours.
        timestamp: Nanoseconds of log time, set by the cluster (or given, with IMPORTED).
        metadata: At most 4,096 bytes, stored and hashed, never interpreted.
    """

    id: int
    debit_account_id: int = 0
    credit_account_id: int = 0
    amount: int = 0
    ledger: int = 0
    code: int = 0
    flags: int = 0
    pending_id: int = 0
    timeout: int = 0
    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    timestamp: int = 0
    metadata: bytes = b""


@dataclass(frozen=True, slots=True)
class CreateAccountResult:
    """The result for one account, at the same position as the account in the call."""

    status: CreateAccountStatus
    timestamp: int
    """Nanoseconds of log time; of the first one where it exists already."""

    @property
    def ok(self) -> bool:
        """Whether the account is there exactly as asked: created now, or by an earlier call."""
        return self.status in (CreateAccountStatus.CREATED, CreateAccountStatus.EXISTS)


@dataclass(frozen=True, slots=True)
class CreateTransferResult:
    """The result for one transfer, at the same position as the transfer in the call."""

    status: CreateTransferStatus
    timestamp: int
    """Nanoseconds of log time; of the first one where it exists already."""

    @property
    def ok(self) -> bool:
        """Whether the transfer is there exactly as asked: created now, or by an earlier call."""
        return self.status in (CreateTransferStatus.CREATED, CreateTransferStatus.EXISTS)


@dataclass(frozen=True, slots=True)
class AccountBalance:
    """The balances of an account after one transfer. Minor units; the time in nanoseconds of log time."""

    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class AccountFilter:
    """Which transfers (or balances) of one account are wanted. Zero fields do not filter.

    Attributes:
        account_id: The account.
        code: 1 to 65,535.
        timestamp_min: Nanoseconds, inclusive; 0: open. So is timestamp_max.
        limit: 1 to 8,190.
        debits: Where it is debited.
        credits: Where it is credited.
        reversed: Newest first.
    """

    account_id: int
    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    code: int = 0
    timestamp_min: int = 0
    timestamp_max: int = 0
    limit: int = MAX_BATCH
    debits: bool = True
    credits: bool = True
    reversed: bool = False


@dataclass(frozen=True, slots=True)
class QueryFilter:
    """Which accounts or transfers are wanted. Zero fields do not filter; bounds and limit as in AccountFilter."""

    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    ledger: int = 0
    code: int = 0
    timestamp_min: int = 0
    timestamp_max: int = 0
    limit: int = MAX_BATCH
    reversed: bool = False
