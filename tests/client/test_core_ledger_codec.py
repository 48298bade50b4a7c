"""Ledger values on the wire: the packed records, ranges, statuses."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.v1 import ledger_pb2
from lockd_client import (
    MAX_BATCH,
    Account,
    AccountFilter,
    AccountFlags,
    Consistency,
    CreateAccountStatus,
    CreateTransferStatus,
    InvalidArgument,
    QueryFilter,
    Transfer,
    TransferFlags,
)
from lockd_client._core import ledger_codec as codec

U128 = st.integers(0, (1 << 128) - 1)
U64 = st.integers(0, (1 << 64) - 1)
U32 = st.integers(0, (1 << 32) - 1)
U16 = st.integers(0, (1 << 16) - 1)


@given(st.tuples(U128, U128, U128, U128, U128, U128, U64, U32, U32, U32, U16, U16, U64))
def test_a_transfer_record_has_the_contracts_layout(v: tuple[int, ...]) -> None:
    """128 bytes little-endian: six 128-bit fields, then user data, timeout, ledger, code, flags, timestamp, at their places."""
    transfer = Transfer(
        id=v[0],
        debit_account_id=v[1],
        credit_account_id=v[2],
        amount=v[3],
        pending_id=v[4],
        user_data_128=v[5],
        user_data_64=v[6],
        user_data_32=v[7],
        timeout=v[8],
        ledger=v[9],
        code=v[10],
        flags=v[11],
        timestamp=v[12],
    )
    record = codec.pack_transfers([transfer])
    assert len(record) == 128
    assert [int.from_bytes(record[i * 16 : i * 16 + 16], "little") for i in range(6)] == list(v[:6])
    assert struct.unpack("<QIIIHHQ", record[96:]) == v[6:]


def test_an_account_record_has_the_contracts_layout() -> None:
    """Balances follow the id; a reserved zero stands before the ledger."""
    account = Account(id=1 << 127, ledger=7, code=8, flags=9, user_data_128=3 << 64, user_data_64=4, user_data_32=5)
    record = codec.pack_accounts([account])
    assert int.from_bytes(record[:16], "little") == 1 << 127
    assert record[16:80] == bytes(64)
    assert int.from_bytes(record[80:96], "little") == 3 << 64
    assert struct.unpack("<QIIIHHQ", record[96:]) == (4, 5, 0, 7, 8, 9, 0)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": -1}, "id"),
        ({"amount": 1 << 128}, "amount"),
        ({"code": 65_536}, "code"),
        ({"ledger": 1 << 32}, "ledger"),
        ({"timeout": -5}, "timeout"),
        ({"user_data_64": 1 << 64}, "user_data_64"),
        ({"flags": 1 << 16}, "flags"),
        ({"amount": 1.5}, "amount"),
        ({"debit_account_id": "7"}, "debit_account_id"),
    ],
)
def test_a_number_out_of_range_is_named(change: dict[str, Any], field: str) -> None:
    """Index and field are told, and nothing is packed."""
    good: dict[str, Any] = {"id": 1, "debit_account_id": 1, "credit_account_id": 2, "amount": 5, "ledger": 1, "code": 1}
    with pytest.raises(InvalidArgument) as caught:
        codec.pack_transfers([Transfer(**good), Transfer(**(good | change))])
    assert [v.field for v in caught.value.violations] == [f"transfers[1].{field}"]
    assert f"transfers[1].{field}" in caught.value.message


@pytest.mark.parametrize("count", [0, MAX_BATCH + 1])
def test_a_batch_has_bounds(count: int) -> None:
    """None and more than 8,190 are refused before anything is sent."""
    with pytest.raises(InvalidArgument):
        codec.pack_transfers([Transfer(id=1)] * count)
    with pytest.raises(InvalidArgument):
        codec.pack_accounts([Account(1, 1, 1)] * count)
    with pytest.raises(InvalidArgument):
        codec.check_packed(bytes(128) * count)
    with pytest.raises(InvalidArgument):
        codec.id_messages([1] * count)


def test_a_torn_record_is_refused() -> None:
    """Packed bytes must be whole records."""
    with pytest.raises(InvalidArgument):
        codec.check_packed(bytes(127))


@pytest.mark.parametrize("bad", [-1, 1 << 128, "1", True])
def test_an_id_out_of_range_is_named(bad: int) -> None:
    """A look-up names the position of the bad id."""
    with pytest.raises(InvalidArgument) as caught:
        codec.id_messages([1, bad])
    assert caught.value.violations[0].field == "ids[1]"


def test_metadata_travels_beside_the_records() -> None:
    """One item for each transfer, or nothing at all; more than 4 KiB is refused."""
    assert codec.transfer_metadata([Transfer(1), Transfer(2)]) == []
    assert codec.transfer_metadata([Transfer(1), Transfer(2, metadata=b"x")]) == [b"", b"x"]
    with pytest.raises(InvalidArgument, match=r"transfers\[0\].metadata"):
        codec.transfer_metadata([Transfer(1, metadata=bytes(4_097))])


def test_filters_are_checked() -> None:
    """A limit of zero and numbers out of range are refused."""
    with pytest.raises(InvalidArgument, match=r"filter\.limit"):
        codec.account_filter(AccountFilter(1, limit=0), Consistency.LINEARIZABLE)
    with pytest.raises(InvalidArgument, match=r"filter\.code"):
        codec.query_filter(QueryFilter(code=1 << 16), Consistency.EVENTUAL)
    made = codec.account_filter(AccountFilter(1 << 64, reversed=True), Consistency.EVENTUAL)
    assert (made.account_id.high, made.account_id.low, made.reversed, made.consistency) == (1, 0, True, 2)


@given(U128, U128, U64)
def test_values_come_back_from_their_messages(number: int, amount: int, timestamp: int) -> None:
    """128-bit numbers survive the two halves of the message."""
    account = codec.account(ledger_pb2.Account(id=codec.number(number), credits_posted=codec.number(amount), timestamp=timestamp))
    assert (account.id, account.credits_posted, account.timestamp) == (number, amount, timestamp)
    transfer = codec.transfer(ledger_pb2.Transfer(id=codec.number(number), amount=codec.number(amount), metadata=b"m"))
    assert (transfer.id, transfer.amount, transfer.metadata) == (number, amount, b"m")


def test_results_are_read_from_both_forms() -> None:
    """Packed results show CREATED as the unsigned -1; messages as -1."""
    packed = struct.pack("<QII", 5, 0xFFFF_FFFF, 0) + struct.pack("<QII", 6, ledger_pb2.CREATE_TRANSFER_STATUS_EXISTS, 0)
    results = codec.transfer_results(ledger_pb2.CreateTransfersResponse(packed_results=packed))
    assert [(r.status, r.timestamp, r.ok) for r in results] == [
        (CreateTransferStatus.CREATED, 5, True),
        (CreateTransferStatus.EXISTS, 6, True),
    ]
    message = ledger_pb2.CreateAccountsResponse(
        results=[ledger_pb2.CreateAccountResult(status=ledger_pb2.CREATE_ACCOUNT_STATUS_RESERVED_FLAG, timestamp=1)]
    )
    (account,) = codec.account_results(message)
    assert (account.status, account.ok) == (CreateAccountStatus.RESERVED_FLAG, False)


def test_statuses_are_the_protocols() -> None:
    """Names and numbers of both enums are those of the proto file, all of them."""
    for ours, prefix, theirs in (
        (CreateAccountStatus, "CREATE_ACCOUNT_STATUS_", ledger_pb2.CreateAccountStatus),
        (CreateTransferStatus, "CREATE_TRANSFER_STATUS_", ledger_pb2.CreateTransferStatus),
    ):
        assert {prefix + status.name: status.value for status in ours} == dict(theirs.items())


def test_flags_are_in_the_contracts_order() -> None:
    """Bit order as ledger.md lists it."""
    accounts = ["LINKED", "DEBITS_MUST_NOT_EXCEED_CREDITS", "CREDITS_MUST_NOT_EXCEED_DEBITS", "HISTORY", "IMPORTED", "CLOSED"]
    assert [AccountFlags[name] for name in accounts] == [1 << i for i in range(6)]
    transfers = (
        "LINKED PENDING POST_PENDING_TRANSFER VOID_PENDING_TRANSFER BALANCING_DEBIT BALANCING_CREDIT CLOSING_DEBIT CLOSING_CREDIT IMPORTED"
    )
    assert [TransferFlags[name] for name in transfers.split()] == [1 << i for i in range(9)]
