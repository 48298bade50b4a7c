"""Frozen values for the outside of the ledger: what the packed forms mean, field by field."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AccountValue:
    """An account as it stands. Balances are minor units, unsigned 128-bit; `timestamp` is its creation in nanoseconds of log time."""

    id: int
    debits_pending: int = 0
    debits_posted: int = 0
    credits_pending: int = 0
    credits_posted: int = 0
    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    reserved: int = 0
    ledger: int = 0
    code: int = 0
    flags: int = 0
    timestamp: int = 0


@dataclass(frozen=True, slots=True)
class TransferValue:
    """A transfer. `amount` in minor units, unsigned 128-bit; `timeout` in seconds; `timestamp` in nanoseconds of log time."""

    id: int
    debit_account_id: int = 0
    credit_account_id: int = 0
    amount: int = 0
    pending_id: int = 0
    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    timeout: int = 0
    ledger: int = 0
    code: int = 0
    flags: int = 0
    timestamp: int = 0


@dataclass(frozen=True, slots=True)
class BalanceValue:
    """Balances of an account right after the transfer that has this timestamp."""

    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class EventResult:
    """What became of one event: `status` is an `AccountStatus` or `TransferStatus`.

    `timestamp` is that of the created (or already existing) account or transfer; for every refusal, the time at which it was decided.
    """

    timestamp: int
    status: int


@dataclass(frozen=True, slots=True)
class AccountFilter:
    """Selects transfers (or kept balances) of one account. Zero means "any" for every field but `account_id`, `limit` and `flags`.

    The time range is inclusive, in nanoseconds. `flags` is `AccountFilterFlags`: at least one of DEBITS and CREDITS.
    """

    account_id: int
    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    code: int = 0
    timestamp_min: int = 0
    timestamp_max: int = 0
    limit: int = 8190
    flags: int = 3


@dataclass(frozen=True, slots=True)
class QueryFilter:
    """Selects accounts or transfers by the intersection of fields. Zero means "any"; the time range is inclusive, in nanoseconds."""

    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    ledger: int = 0
    code: int = 0
    timestamp_min: int = 0
    timestamp_max: int = 0
    limit: int = 8190
    flags: int = 0
