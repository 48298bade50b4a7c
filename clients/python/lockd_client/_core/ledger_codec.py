"""Ledger values to and from the wire: 128-byte records for whole batches, protobuf messages where a record has no room."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ledger.v1 import ledger_pb2
from lockd.v1 import common_pb2
from lockd_client.errors import FieldViolation, Internal, InvalidArgument
from lockd_client.ledger_model import (
    MAX_BATCH,
    MAX_ID,
    MAX_METADATA,
    Account,
    AccountBalance,
    CreateAccountResult,
    CreateAccountStatus,
    CreateTransferResult,
    CreateTransferStatus,
    Transfer,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lockd_client.ledger_model import AccountFilter, QueryFilter
    from lockd_client.model import Consistency

RECORD_BYTES = 128
RESULT_BYTES = 16
_MASK = (1 << 64) - 1

# The order of the fields is the contract's: id, four 128-bit numbers, user data, ..., timestamp; each 128-bit number low half first.
_RECORD = struct.Struct("<13QIIIHHQ")
# CREATED is -1, which the wire shows as the unsigned 4294967295.
_RESULT = struct.Struct("<QiI")

_WIDTHS = {
    "id": 128,
    "debit_account_id": 128,
    "credit_account_id": 128,
    "amount": 128,
    "pending_id": 128,
    "user_data_128": 128,
    "debits_pending": 128,
    "debits_posted": 128,
    "credits_pending": 128,
    "credits_posted": 128,
    "account_id": 128,
    "user_data_64": 64,
    "timestamp": 64,
    "timestamp_min": 64,
    "timestamp_max": 64,
    "user_data_32": 32,
    "timeout": 32,
    "ledger": 32,
    "limit": 32,
    "code": 16,
    "flags": 16,
}


def _range_violations(prefix: str, value: object) -> list[FieldViolation]:
    """What is out of range in one value, by field."""
    found: list[FieldViolation] = []
    for name, bits in _WIDTHS.items():
        number = getattr(value, name, None)
        if number is None:
            continue
        if not isinstance(number, int) or isinstance(number, bool):
            found.append(FieldViolation(prefix + name, f"must be an int, not {type(number).__name__}"))
        elif not 0 <= number < 1 << bits:
            found.append(FieldViolation(prefix + name, f"{number} is outside 0 to 2^{bits}-1"))
    return found


def _refuse(name: str, values: Sequence[object]) -> InvalidArgument:
    """The error for a batch in which some value does not fit its field."""
    found = [v for i, value in enumerate(values) for v in _range_violations(f"{name}[{i}].", value)]
    first = f"{found[0].field}: {found[0].description}" if found else f"a value of {name} does not fit its field"
    return InvalidArgument(f"{first}.", violations=found)


def _check_count(name: str, count: int) -> None:
    if not 0 < count <= MAX_BATCH:
        violation = FieldViolation(name, f"a call takes 1 to {MAX_BATCH} of them, not {count}")
        raise InvalidArgument(f"A call takes 1 to {MAX_BATCH} {name}, not {count}.", violations=[violation])


def pack_accounts(accounts: Sequence[Account]) -> bytes:
    """128 bytes an account, little-endian, back to back.

    Raises:
        InvalidArgument: A number is out of range (index and field are named), or there are none or too many.
    """
    _check_count("accounts", len(accounts))
    pack = _RECORD.pack
    try:
        return b"".join(
            [
                pack(
                    a.id & _MASK,
                    a.id >> 64,
                    a.debits_pending & _MASK,
                    a.debits_pending >> 64,
                    a.debits_posted & _MASK,
                    a.debits_posted >> 64,
                    a.credits_pending & _MASK,
                    a.credits_pending >> 64,
                    a.credits_posted & _MASK,
                    a.credits_posted >> 64,
                    a.user_data_128 & _MASK,
                    a.user_data_128 >> 64,
                    a.user_data_64,
                    a.user_data_32,
                    0,
                    a.ledger,
                    a.code,
                    a.flags,
                    a.timestamp,
                )
                for a in accounts
            ]
        )
    except (struct.error, TypeError):
        raise _refuse("accounts", accounts) from None


def pack_transfers(transfers: Sequence[Transfer]) -> bytes:
    """128 bytes a transfer, little-endian, back to back; metadata has no place in a record.

    Raises:
        InvalidArgument: A number is out of range (index and field are named), or there are none or too many.
    """
    _check_count("transfers", len(transfers))
    pack = _RECORD.pack
    try:
        return b"".join(
            [
                pack(
                    t.id & _MASK,
                    t.id >> 64,
                    t.debit_account_id & _MASK,
                    t.debit_account_id >> 64,
                    t.credit_account_id & _MASK,
                    t.credit_account_id >> 64,
                    t.amount & _MASK,
                    t.amount >> 64,
                    t.pending_id & _MASK,
                    t.pending_id >> 64,
                    t.user_data_128 & _MASK,
                    t.user_data_128 >> 64,
                    t.user_data_64,
                    t.user_data_32,
                    t.timeout,
                    t.ledger,
                    t.code,
                    t.flags,
                    t.timestamp,
                )
                for t in transfers
            ]
        )
    except (struct.error, TypeError):
        raise _refuse("transfers", transfers) from None


def check_packed(packed: bytes) -> None:
    """A packed batch must be whole records, 1 to 8,190 of them; what is in them is judged by the service.

    Raises:
        InvalidArgument: It is not.
    """
    if len(packed) % RECORD_BYTES:
        violation = FieldViolation("packed", f"{len(packed)} bytes are not a multiple of {RECORD_BYTES}")
        raise InvalidArgument(f"{len(packed)} bytes are not whole {RECORD_BYTES}-byte records.", violations=[violation])
    _check_count("transfers", len(packed) // RECORD_BYTES)


def transfer_metadata(transfers: Sequence[Transfer]) -> list[bytes]:
    """What travels beside the records: nothing, or one item for each transfer.

    Raises:
        InvalidArgument: An item is longer than 4 KiB.
    """
    if not any(t.metadata for t in transfers):
        return []
    for i, t in enumerate(transfers):
        if len(t.metadata) > MAX_METADATA:
            violation = FieldViolation(f"transfers[{i}].metadata", f"{len(t.metadata)} bytes; at most {MAX_METADATA}")
            raise InvalidArgument(f"transfers[{i}].metadata is longer than {MAX_METADATA} bytes.", violations=[violation])
    return [t.metadata for t in transfers]


def number(value: int) -> ledger_pb2.Uint128:
    """A 128-bit number as a message."""
    return ledger_pb2.Uint128(low=value & _MASK, high=value >> 64)


def integer(message: ledger_pb2.Uint128) -> int:
    """The number in a message."""
    return message.high << 64 | message.low


def id_messages(ids: Iterable[int]) -> list[ledger_pb2.Uint128]:
    """Ids of a look-up.

    Raises:
        InvalidArgument: One is not in 0 to 2^128-1, or there are none or too many.
    """
    given = list(ids)
    _check_count("ids", len(given))
    found = [
        FieldViolation(f"ids[{i}]", f"{value!r} is not an int in 0 to 2^128-1")
        for i, value in enumerate(given)
        if not (type(value) is int and 0 <= value <= MAX_ID)
    ]
    if found:
        raise InvalidArgument(f"{found[0].field}: {found[0].description}.", violations=found)
    return [number(value) for value in given]


def account_results(response: ledger_pb2.CreateAccountsResponse) -> list[CreateAccountResult]:
    """Results in the order of the accounts, from either form.

    Raises:
        Internal: A status is not known to this client.
    """
    try:
        if response.packed_results:
            return [CreateAccountResult(_ACCOUNT_STATUS[s], t) for t, s, _ in _RESULT.iter_unpack(response.packed_results)]
        return [CreateAccountResult(_ACCOUNT_STATUS[r.status], r.timestamp) for r in response.results]
    except KeyError as unknown:
        raise _unknown_status(unknown) from None


def transfer_results(response: ledger_pb2.CreateTransfersResponse) -> list[CreateTransferResult]:
    """Results in the order of the transfers, from either form.

    Raises:
        Internal: A status is not known to this client.
    """
    try:
        if response.packed_results:
            return [CreateTransferResult(_TRANSFER_STATUS[s], t) for t, s, _ in _RESULT.iter_unpack(response.packed_results)]
        return [CreateTransferResult(_TRANSFER_STATUS[r.status], r.timestamp) for r in response.results]
    except KeyError as unknown:
        raise _unknown_status(unknown) from None


_ACCOUNT_STATUS = {int(status): status for status in CreateAccountStatus}
_TRANSFER_STATUS = {int(status): status for status in CreateTransferStatus}


def _unknown_status(number: KeyError) -> Internal:
    return Internal(f"The service answered with status {number}, which this client does not know.", advice="Use a newer client.")


def account(message: ledger_pb2.Account) -> Account:
    """An account from its message."""
    return Account(
        id=integer(message.id),
        ledger=message.ledger,
        code=message.code,
        flags=message.flags,
        user_data_128=integer(message.user_data_128),
        user_data_64=message.user_data_64,
        user_data_32=message.user_data_32,
        debits_pending=integer(message.debits_pending),
        debits_posted=integer(message.debits_posted),
        credits_pending=integer(message.credits_pending),
        credits_posted=integer(message.credits_posted),
        timestamp=message.timestamp,
    )


def transfer(message: ledger_pb2.Transfer) -> Transfer:
    """A transfer from its message."""
    return Transfer(
        id=integer(message.id),
        debit_account_id=integer(message.debit_account_id),
        credit_account_id=integer(message.credit_account_id),
        amount=integer(message.amount),
        ledger=message.ledger,
        code=message.code,
        flags=message.flags,
        pending_id=integer(message.pending_id),
        timeout=message.timeout,
        user_data_128=integer(message.user_data_128),
        user_data_64=message.user_data_64,
        user_data_32=message.user_data_32,
        timestamp=message.timestamp,
        metadata=message.metadata,
    )


def balance(message: ledger_pb2.AccountBalance) -> AccountBalance:
    """Balances from their message."""
    return AccountBalance(
        integer(message.debits_pending),
        integer(message.debits_posted),
        integer(message.credits_pending),
        integer(message.credits_posted),
        message.timestamp,
    )


def account_filter(wanted: AccountFilter, consistency: Consistency) -> ledger_pb2.AccountFilter:
    """A filter as its message.

    Raises:
        InvalidArgument: A number is out of range.
    """
    _check_filter(wanted)
    return ledger_pb2.AccountFilter(
        account_id=number(wanted.account_id),
        user_data_128=number(wanted.user_data_128),
        user_data_64=wanted.user_data_64,
        user_data_32=wanted.user_data_32,
        code=wanted.code,
        timestamp_min=wanted.timestamp_min,
        timestamp_max=wanted.timestamp_max,
        limit=wanted.limit,
        debits=wanted.debits,
        credits=wanted.credits,
        reversed=wanted.reversed,
        consistency=common_pb2.Consistency.ValueType(consistency),
    )


def query_filter(wanted: QueryFilter, consistency: Consistency) -> ledger_pb2.QueryFilter:
    """A filter as its message.

    Raises:
        InvalidArgument: A number is out of range.
    """
    _check_filter(wanted)
    return ledger_pb2.QueryFilter(
        user_data_128=number(wanted.user_data_128),
        user_data_64=wanted.user_data_64,
        user_data_32=wanted.user_data_32,
        ledger=wanted.ledger,
        code=wanted.code,
        timestamp_min=wanted.timestamp_min,
        timestamp_max=wanted.timestamp_max,
        limit=wanted.limit,
        reversed=wanted.reversed,
        consistency=common_pb2.Consistency.ValueType(consistency),
    )


def _check_filter(wanted: AccountFilter | QueryFilter) -> None:
    found = _range_violations("filter.", wanted)
    if not found and not 0 < wanted.limit <= MAX_BATCH:
        found = [FieldViolation("filter.limit", f"{wanted.limit} is outside 1 to {MAX_BATCH}")]
    if found:
        raise InvalidArgument(f"{found[0].field}: {found[0].description}.", violations=found)
