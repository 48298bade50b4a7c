"""The packed forms (ledger.md, "The 128-byte little-endian record") and the errors that name a field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import codec
from ledger.machine.values import AccountFilter, AccountValue, EventResult, QueryFilter, TransferValue

BITS = {
    "timeout": 32,
    "ledger": 32,
    "code": 16,
    "flags": 16,
    "timestamp": 64,
    "user_data_64": 64,
    "user_data_32": 32,
    "reserved": 32,
    "limit": 32,
    "timestamp_min": 64,
    "timestamp_max": 64,
}


def values(kind: type) -> st.SearchStrategy[object]:
    """Any value of this dataclass whose fields fit."""
    return st.builds(kind, **{item.name: st.integers(0, 2 ** BITS.get(item.name, 128) - 1) for item in fields(kind)})


@given(value=values(TransferValue))
def test_transfers_survive_packing(value: TransferValue) -> None:
    """Every transfer comes back from its 128 bytes unchanged."""
    packed = codec.pack_transfer_value(value)
    assert len(packed) == 128
    assert codec.unpack_transfer(packed) == value


@given(value=values(AccountValue))
def test_accounts_survive_packing(value: AccountValue) -> None:
    """Every account comes back from its 128 bytes unchanged."""
    packed = codec.pack_account_value(value)
    assert len(packed) == 128
    assert codec.unpack_account(packed) == value


@given(value=values(AccountFilter), query=values(QueryFilter))
def test_filters_survive_packing(value: AccountFilter, query: QueryFilter) -> None:
    """Every filter comes back from its bytes unchanged, in TigerBeetle's sizes."""
    assert codec.unpack_account_filter(codec.pack_account_filter(value)) == value
    assert codec.unpack_query_filter(codec.pack_query_filter(query)) == query
    assert (len(codec.pack_account_filter(value)), len(codec.pack_query_filter(query))) == (128, 64)


def test_layout_of_a_transfer_is_the_documented_one() -> None:
    """The fields of a transfer stand in the documented order and widths, little-endian."""
    packed = codec.pack_transfer_value(TransferValue(*range(1, 14)))
    widths = (16, 16, 16, 16, 16, 16, 8, 4, 4, 4, 2, 2, 8)
    assert packed == b"".join(value.to_bytes(width, "little") for value, width in zip(range(1, 14), widths, strict=True))


def test_layout_of_an_account_is_the_documented_one() -> None:
    """The fields of an account stand in the documented order and widths, little-endian."""
    packed = codec.pack_account_value(AccountValue(*range(1, 14)))
    widths = (16, 16, 16, 16, 16, 16, 8, 4, 4, 4, 2, 2, 8)
    assert packed == b"".join(value.to_bytes(width, "little") for value, width in zip(range(1, 14), widths, strict=True))


def test_results_survive_packing() -> None:
    """Results are 16 bytes each, in order."""
    results = [EventResult(2**63 - 1, 2**32 - 1), EventResult(0, 5)]
    packed = codec.pack_results(results)
    assert len(packed) == 32
    assert codec.unpack_results(packed) == results


@pytest.mark.parametrize("field", [item.name for item in fields(TransferValue)])
@pytest.mark.parametrize("bad", [-1, None, "7", 1.0, True, "too large"])
def test_a_bad_transfer_value_is_named(field: str, bad: object) -> None:
    """A value that is negative, too large or no integer raises ValueError with the field's name in front."""
    value = 2 ** BITS.get(field, 128) if bad == "too large" else bad
    with pytest.raises(ValueError, match=f"^{field}: "):
        codec.pack_transfer(**{"id": 1, field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", [item.name for item in fields(AccountValue)])
def test_a_bad_account_value_is_named(field: str) -> None:
    """The same for accounts."""
    with pytest.raises(ValueError, match=f"^{field}: .* does not fit into {BITS.get(field, 128)} bits$"):
        codec.pack_account(**{"id": 1, field: 2 ** BITS.get(field, 128)})


@pytest.mark.parametrize("kind", [AccountFilter, QueryFilter])
def test_a_bad_filter_value_is_named(kind: type) -> None:
    """The same for filters."""
    pack: Callable[[object], bytes] = codec.pack_account_filter if kind is AccountFilter else codec.pack_query_filter  # type: ignore[assignment]
    for item in fields(kind):
        bits = 32 if item.name == "flags" else BITS.get(item.name, 128)
        value = kind(**{"account_id": 1} | {item.name: 2**bits} if kind is AccountFilter else {item.name: 2**bits})
        with pytest.raises(ValueError, match=f"^{item.name}: "):
            pack(value)


def test_ids_of_a_lookup_are_named_by_position() -> None:
    """A bad id in a list is named by its place."""
    assert codec.pack_ids([1, 2]) == (1).to_bytes(16, "little") + (2).to_bytes(16, "little")
    with pytest.raises(ValueError, match=r"^ids\[1\]: -2 is negative$"):
        codec.pack_ids([1, -2])


@pytest.mark.parametrize("unpack", [codec.unpack_account, codec.unpack_transfer, codec.unpack_account_filter, codec.unpack_query_filter])
@pytest.mark.parametrize("length", [0, 1, 63, 127, 129, 256])
def test_a_wrong_length_is_refused(unpack: Callable[[bytes], object], length: int) -> None:
    """Unpacking one value from any other number of bytes raises ValueError."""
    with pytest.raises(ValueError, match=f"{length}"):
        unpack(bytes(length))


@pytest.mark.parametrize("unpack", [codec.unpack_accounts, codec.unpack_transfers, codec.unpack_results, codec.unpack_balances])
def test_a_broken_list_is_refused(unpack: Callable[[bytes], list[object]]) -> None:
    """Unpacking many values from a broken number of bytes raises ValueError; nothing at all is an empty list."""
    assert unpack(b"") == []
    with pytest.raises(ValueError, match="17 bytes are not a whole number"):
        unpack(bytes(17))


def test_reserved_bytes_of_filters_must_be_zero() -> None:
    """Reserved bytes that are set are refused, so that they can mean something one day."""
    account_filter = bytearray(codec.pack_account_filter(AccountFilter(account_id=1)))
    account_filter[46] = 1
    query = bytearray(codec.pack_query_filter(QueryFilter()))
    query[39] = 1
    with pytest.raises(ValueError, match=r"^reserved"):
        codec.unpack_account_filter(bytes(account_filter))
    with pytest.raises(ValueError, match=r"^reserved"):
        codec.unpack_query_filter(bytes(query))


def test_many_values_come_back_in_order() -> None:
    """A packed list gives its values in order."""
    values_in = [TransferValue(id=i, amount=2**100 + i) for i in range(1, 4)]
    packed = b"".join(codec.pack_transfer_value(value) for value in values_in)
    assert [astuple(value) for value in codec.unpack_transfers(packed)] == [astuple(value) for value in values_in]
