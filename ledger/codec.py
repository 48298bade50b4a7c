"""Values to 128-byte packed forms and back, for the rpc layer and for tests.

Layouts are those of `ledger.machine.model`. Packing raises ValueError that names the field; unpacking raises ValueError on a wrong length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ledger.machine.model import ACCOUNT, BALANCE, RESULT, TRANSFER
from ledger.machine.values import AccountFilter, AccountValue, BalanceValue, EventResult, QueryFilter, TransferValue

ACCOUNT_FILTER_SIZE = 128
QUERY_FILTER_SIZE = 64

ValueT = TypeVar("ValueT")


def _unsigned(field: str, value: object, bits: int) -> int:
    """The value if it is an unsigned integer of that many bits. Raises ValueError otherwise."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{field}: an integer is needed, not {type(value).__name__}")  # noqa: TRY004 - one error type for every bad field
    if value < 0:
        raise ValueError(f"{field}: {value} is negative")
    if value >> bits:
        raise ValueError(f"{field}: {value} does not fit into {bits} bits")
    return int(value)


def pack_id(value: int, field: str = "id") -> bytes:
    """A 128-bit id as 16 little-endian bytes. Raises ValueError naming `field`."""
    return _unsigned(field, value, 128).to_bytes(16, "little")


def pack_ids(ids: Iterable[int]) -> bytes:
    """Ids for a look-up, one after another. Raises ValueError naming the position."""
    return b"".join(pack_id(value, f"ids[{position}]") for position, value in enumerate(ids))


def pack_account(
    *,
    id: int,  # noqa: A002
    debits_pending: int = 0,
    debits_posted: int = 0,
    credits_pending: int = 0,
    credits_posted: int = 0,
    user_data_128: int = 0,
    user_data_64: int = 0,
    user_data_32: int = 0,
    reserved: int = 0,
    ledger: int = 0,
    code: int = 0,
    flags: int = 0,
    timestamp: int = 0,
) -> bytes:
    """An account event of 128 bytes. Raises ValueError naming the field that does not fit."""
    return ACCOUNT.pack(
        pack_id(id),
        pack_id(debits_pending, "debits_pending"),
        pack_id(debits_posted, "debits_posted"),
        pack_id(credits_pending, "credits_pending"),
        pack_id(credits_posted, "credits_posted"),
        pack_id(user_data_128, "user_data_128"),
        _unsigned("user_data_64", user_data_64, 64),
        _unsigned("user_data_32", user_data_32, 32),
        _unsigned("reserved", reserved, 32),
        _unsigned("ledger", ledger, 32),
        _unsigned("code", code, 16),
        _unsigned("flags", flags, 16),
        _unsigned("timestamp", timestamp, 64),
    )


def pack_transfer(
    *,
    id: int,  # noqa: A002
    debit_account_id: int = 0,
    credit_account_id: int = 0,
    amount: int = 0,
    pending_id: int = 0,
    user_data_128: int = 0,
    user_data_64: int = 0,
    user_data_32: int = 0,
    timeout: int = 0,
    ledger: int = 0,
    code: int = 0,
    flags: int = 0,
    timestamp: int = 0,
) -> bytes:
    """A transfer event of 128 bytes. Raises ValueError naming the field that does not fit."""
    amount = _unsigned("amount", amount, 128)
    return TRANSFER.pack(
        pack_id(id),
        pack_id(debit_account_id, "debit_account_id"),
        pack_id(credit_account_id, "credit_account_id"),
        amount & 0xFFFF_FFFF_FFFF_FFFF,
        amount >> 64,
        pack_id(pending_id, "pending_id"),
        pack_id(user_data_128, "user_data_128"),
        _unsigned("user_data_64", user_data_64, 64),
        _unsigned("user_data_32", user_data_32, 32),
        _unsigned("timeout", timeout, 32),
        _unsigned("ledger", ledger, 32),
        _unsigned("code", code, 16),
        _unsigned("flags", flags, 16),
        _unsigned("timestamp", timestamp, 64),
    )


def pack_account_value(value: AccountValue) -> bytes:
    """`pack_account` of a value."""
    return pack_account(**{field: getattr(value, field) for field in AccountValue.__slots__})


def pack_transfer_value(value: TransferValue) -> bytes:
    """`pack_transfer` of a value."""
    return pack_transfer(**{field: getattr(value, field) for field in TransferValue.__slots__})


def pack_results(results: Iterable[EventResult]) -> bytes:
    """Results, 16 bytes each. Raises ValueError naming the field that does not fit."""
    return b"".join(
        RESULT.pack(_unsigned("timestamp", result.timestamp, 64), _unsigned("status", int(result.status), 32), 0) for result in results
    )


def pack_account_filter(value: AccountFilter) -> bytes:
    """An account filter of 128 bytes: account_id, user_data_128, _64, _32, code, 58 reserved bytes, timestamps, limit, flags."""
    return b"".join(
        (
            pack_id(value.account_id, "account_id"),
            pack_id(value.user_data_128, "user_data_128"),
            _unsigned("user_data_64", value.user_data_64, 64).to_bytes(8, "little"),
            _unsigned("user_data_32", value.user_data_32, 32).to_bytes(4, "little"),
            _unsigned("code", value.code, 16).to_bytes(2, "little"),
            bytes(58),
            _pack_range(value),
        )
    )


def pack_query_filter(value: QueryFilter) -> bytes:
    """A query filter of 64 bytes: user_data_128, _64, _32, ledger, code, 6 reserved bytes, timestamps, limit, flags."""
    return b"".join(
        (
            pack_id(value.user_data_128, "user_data_128"),
            _unsigned("user_data_64", value.user_data_64, 64).to_bytes(8, "little"),
            _unsigned("user_data_32", value.user_data_32, 32).to_bytes(4, "little"),
            _unsigned("ledger", value.ledger, 32).to_bytes(4, "little"),
            _unsigned("code", value.code, 16).to_bytes(2, "little"),
            bytes(6),
            _pack_range(value),
        )
    )


def _pack_range(value: AccountFilter | QueryFilter) -> bytes:
    return b"".join(
        (
            _unsigned("timestamp_min", value.timestamp_min, 64).to_bytes(8, "little"),
            _unsigned("timestamp_max", value.timestamp_max, 64).to_bytes(8, "little"),
            _unsigned("limit", value.limit, 32).to_bytes(4, "little"),
            _unsigned("flags", int(value.flags), 32).to_bytes(4, "little"),
        )
    )


def unpack_account(packed: bytes) -> AccountValue:
    """One account from its 128 bytes."""
    return _one(packed, 128, iter_accounts)


def unpack_transfer(packed: bytes) -> TransferValue:
    """One transfer from its 128 bytes."""
    return _one(packed, 128, iter_transfers)


def unpack_accounts(packed: bytes) -> list[AccountValue]:
    """Accounts, one after another."""
    return list(iter_accounts(packed))


def unpack_transfers(packed: bytes) -> list[TransferValue]:
    """Transfers, one after another."""
    return list(iter_transfers(packed))


def iter_accounts(packed: bytes) -> Iterator[AccountValue]:
    """Accounts, one after another, without holding them all."""
    for account_id, d_pending, d_posted, c_pending, c_posted, user_data, *rest in ACCOUNT.iter_unpack(_whole(packed, 128)):
        yield AccountValue(_wide(account_id), _wide(d_pending), _wide(d_posted), _wide(c_pending), _wide(c_posted), _wide(user_data), *rest)


def iter_transfers(packed: bytes) -> Iterator[TransferValue]:
    """Transfers, one after another, without holding them all."""
    for transfer_id, debit, credit, low, high, pending_id, user_data, *rest in TRANSFER.iter_unpack(_whole(packed, 128)):
        yield TransferValue(_wide(transfer_id), _wide(debit), _wide(credit), low | high << 64, _wide(pending_id), _wide(user_data), *rest)


def unpack_results(packed: bytes) -> list[EventResult]:
    """Results of a batch, in the order of its events."""
    return [EventResult(timestamp, status) for timestamp, status, _ in RESULT.iter_unpack(_whole(packed, RESULT.size))]


def unpack_balances(packed: bytes) -> list[BalanceValue]:
    """Kept balances, 128 bytes each."""
    return [
        BalanceValue(_wide(d_pending), _wide(d_posted), _wide(c_pending), _wide(c_posted), timestamp)
        for d_pending, d_posted, c_pending, c_posted, timestamp in BALANCE.iter_unpack(_whole(packed, BALANCE.size))
    ]


def unpack_account_filter(packed: bytes) -> AccountFilter:
    """An account filter from its 128 bytes. Raises ValueError when reserved bytes are set."""
    if len(packed) != ACCOUNT_FILTER_SIZE:
        raise ValueError(f"an account filter has {ACCOUNT_FILTER_SIZE} bytes, not {len(packed)}")
    if any(packed[46:104]):
        raise ValueError("reserved: bytes must be zero")
    number = int.from_bytes
    return AccountFilter(
        account_id=number(packed[0:16], "little"),
        user_data_128=number(packed[16:32], "little"),
        user_data_64=number(packed[32:40], "little"),
        user_data_32=number(packed[40:44], "little"),
        code=number(packed[44:46], "little"),
        timestamp_min=number(packed[104:112], "little"),
        timestamp_max=number(packed[112:120], "little"),
        limit=number(packed[120:124], "little"),
        flags=number(packed[124:128], "little"),
    )


def unpack_query_filter(packed: bytes) -> QueryFilter:
    """A query filter from its 64 bytes. Raises ValueError when reserved bytes are set."""
    if len(packed) != QUERY_FILTER_SIZE:
        raise ValueError(f"a query filter has {QUERY_FILTER_SIZE} bytes, not {len(packed)}")
    if any(packed[34:40]):
        raise ValueError("reserved: bytes must be zero")
    number = int.from_bytes
    return QueryFilter(
        user_data_128=number(packed[0:16], "little"),
        user_data_64=number(packed[16:24], "little"),
        user_data_32=number(packed[24:28], "little"),
        ledger=number(packed[28:32], "little"),
        code=number(packed[32:34], "little"),
        timestamp_min=number(packed[40:48], "little"),
        timestamp_max=number(packed[48:56], "little"),
        limit=number(packed[56:60], "little"),
        flags=number(packed[60:64], "little"),
    )


def _whole(packed: bytes, size: int) -> bytes:
    if len(packed) % size:
        raise ValueError(f"{len(packed)} bytes are not a whole number of {size}-byte pieces")
    return packed


def _one(packed: bytes, size: int, unpack: Callable[[bytes], Iterator[ValueT]]) -> ValueT:
    if len(packed) != size:
        raise ValueError(f"{size} bytes are needed, not {len(packed)}")
    return next(unpack(packed))


def _wide(packed: bytes) -> int:
    return int.from_bytes(packed, "little")
