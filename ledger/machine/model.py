"""The ledger's vocabulary: statuses, flags, the 128-byte layouts, and the values that cross its border.

Names, numbers and layouts are TigerBeetle's (its public reference of July 2026), so that results can be compared one to one. Ids,
amounts and balances are unsigned 128-bit integers, amounts in minor units; timestamps are nanoseconds of log time, 1 to 2**63 - 1;
timeouts are seconds.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag
from typing import Final, NamedTuple

MAX_U128: Final = (1 << 128) - 1
MAX_TIMESTAMP: Final = (1 << 63) - 1
BATCH_MAX: Final = 8190
"""Most events of one batch, and most results of one query."""
EVENT_SIZE: Final = 128
RESULT_SIZE: Final = 16
NANOS_PER_SECOND: Final = 1_000_000_000

ZERO_ID: Final = bytes(16)
MAX_ID: Final = b"\xff" * 16

ACCOUNT: Final = struct.Struct("<16s16s16s16s16s16sQIIIHHQ")
"""id, debits_pending, debits_posted, credits_pending, credits_posted, user_data_128, _64, _32, reserved, ledger, code, flags, timestamp."""
TRANSFER: Final = struct.Struct("<16s16s16sQQ16s16sQIIIHHQ")
"""id, debit and credit account, amount (low, high), pending_id, user_data_128, _64, _32, timeout, ledger, code, flags, timestamp."""
RESULT: Final = struct.Struct("<QII")
"""timestamp, status, reserved."""
BALANCE: Final = struct.Struct("<16s16s16s16sQ56x")
"""An AccountBalance: debits_pending, debits_posted, credits_pending, credits_posted, timestamp, 56 reserved bytes."""
HISTORY: Final = struct.Struct("<16s16s16s16s16sQ")
"""One line of kept balances: the account's id, then its four balances after the transfer with this timestamp."""

AccountEvent = tuple[bytes, bytes, bytes, bytes, bytes, bytes, int, int, int, int, int, int, int]
TransferEvent = tuple[bytes, bytes, bytes, int, int, bytes, bytes, int, int, int, int, int, int, int]


class AccountFlags(IntFlag):
    """What an account is told to do; in bit order."""

    LINKED = 1
    DEBITS_MUST_NOT_EXCEED_CREDITS = 2
    CREDITS_MUST_NOT_EXCEED_DEBITS = 4
    HISTORY = 8
    IMPORTED = 16
    CLOSED = 32


class TransferFlags(IntFlag):
    """What a transfer is told to do; in bit order."""

    LINKED = 1
    PENDING = 2
    POST_PENDING_TRANSFER = 4
    VOID_PENDING_TRANSFER = 8
    BALANCING_DEBIT = 16
    BALANCING_CREDIT = 32
    CLOSING_DEBIT = 64
    CLOSING_CREDIT = 128
    IMPORTED = 256


class AccountFilterFlags(IntFlag):
    """Which side of an account a query follows, and in which direction of time."""

    DEBITS = 1
    CREDITS = 2
    REVERSED = 4


class QueryFilterFlags(IntFlag):
    """Direction of time of a query."""

    REVERSED = 1


class AccountStatus(IntEnum):
    """What became of one account event; members stand in order of precedence, highest first."""

    CREATED = 0xFFFF_FFFF
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


class TransferStatus(IntEnum):
    """What became of one transfer event; members stand in order of precedence, highest first."""

    CREATED = 0xFFFF_FFFF
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


CREATED: Final = 0xFFFF_FFFF

TRANSIENT: Final = frozenset(
    {
        int(TransferStatus.DEBIT_ACCOUNT_NOT_FOUND),
        int(TransferStatus.CREDIT_ACCOUNT_NOT_FOUND),
        int(TransferStatus.PENDING_TRANSFER_NOT_FOUND),
        int(TransferStatus.DEBIT_ACCOUNT_ALREADY_CLOSED),
        int(TransferStatus.CREDIT_ACCOUNT_ALREADY_CLOSED),
        int(TransferStatus.EXCEEDS_CREDITS),
        int(TransferStatus.EXCEEDS_DEBITS),
    }
)
"""Statuses that depend on the state of the moment: an id that met one of them answers `id_already_failed` for ever."""


class Fate(IntEnum):
    """Where a two-phase transfer stands."""

    NONE = 0
    PENDING = 1
    POSTED = 2
    VOIDED = 3
    EXPIRED = 4


class BatchRefusal(Enum):
    """Why a whole batch was refused: nothing was decided, nothing changed, no timestamp was used."""

    LENGTH_NOT_A_MULTIPLE = "the packed batch is not a whole number of 128-byte events"
    TOO_MANY_EVENTS = "a batch holds at most 8190 events"
    METADATA_COUNT = "metadata must be given for every event of the batch or for none"
    LOG_TIME_OUT_OF_RANGE = "log time must lie between 0 and 2**63 - 1 nanoseconds, with room for the batch"


class LedgerInvariantError(Exception):
    """The books do not balance, or a limit is broken: the replica must halt. The message carries the evidence."""


class Resolution(NamedTuple):
    """A pending transfer ended. `pending` is its 128-byte form; `timestamp` when it was posted, voided or expired."""

    pending: bytes
    fate: Fate
    timestamp: int


class AccountChange(NamedTuple):
    """An account was closed (or opened again) by the transfer event with this timestamp."""

    account_id: bytes
    closed: bool
    timestamp: int


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What one batch, or one round of expiry, did.

    `results`: 16 bytes an event, in order: timestamp u64, status u32, reserved u32, little-endian (`RESULT`).
    `created`: the 128-byte forms of what was created, in order, with final amounts and timestamps.
    `metadata`: one value for each created transfer, when the batch carried metadata.
    `balances`: lines of `HISTORY` for accounts that keep their balances, in the order of the transfers.
    `failed`: ids that failed transiently in this batch, 16 bytes each, in order.
    """

    refusal: BatchRefusal | None = None
    results: bytes = b""
    created: bytes = b""
    metadata: tuple[bytes, ...] | None = None
    resolutions: tuple[Resolution, ...] = ()
    account_changes: tuple[AccountChange, ...] = ()
    balances: bytes = b""
    failed: tuple[bytes, ...] = ()
