"""Look-ups and filters (ledger.md, "Calls"), compared with a plain scan over everything."""

from __future__ import annotations

import operator
from dataclasses import replace
from random import Random

import pytest

from ledger import codec
from ledger.machine.model import AccountFilterFlags, AccountFlags, QueryFilterFlags, TransferFlags
from ledger.machine.queries import account_filter_problem, query_filter_problem
from ledger.machine.state import Ledger
from ledger.machine.values import AccountFilter, AccountValue, BalanceValue, QueryFilter, TransferValue

T0 = 10**12


def filled() -> Ledger:
    """Forty accounts, every fifth with history, and four hundred transfers, some of them posts."""
    rng = Random(3)
    ledger = Ledger()
    accounts = b"".join(
        codec.pack_account(
            id=i,
            ledger=1 + i % 2,
            code=1 + i % 3,
            user_data_128=i % 4,
            user_data_64=i % 2,
            user_data_32=i % 5,
            flags=int(AccountFlags.HISTORY) if i % 5 == 0 else 0,
        )
        for i in range(1, 41)
    )
    ledger.create_accounts(accounts, log_time=T0, index=1)
    for index in range(20):
        events = []
        for position in range(20):
            parity = rng.randrange(2)
            debit, credit = rng.sample(range(1 + parity, 41, 2), 2)
            number = 1 + index * 20 + position
            flags = int(TransferFlags.PENDING) if position % 7 == 0 else 0
            events.append(
                codec.pack_transfer(
                    id=number,
                    debit_account_id=debit,
                    credit_account_id=credit,
                    amount=number,
                    ledger=1 + debit % 2,
                    code=1 + number % 2,
                    user_data_128=number % 3,
                    user_data_64=number % 2,
                    user_data_32=number % 4,
                    flags=flags,
                )
            )
            if flags:
                events.append(codec.pack_transfer(id=10_000 + number, pending_id=number, amount=number // 2, flags=4))
        ledger.create_transfers(b"".join(events), log_time=T0 + 1000 * (index + 1), index=index + 2)
    return ledger


LEDGER = filled()
BY_TIME = operator.attrgetter("timestamp")
EVERY_TRANSFER = codec.unpack_transfers(LEDGER.query_transfers(QueryFilter()))
EVERY_ACCOUNT = codec.unpack_accounts(LEDGER.query_accounts(QueryFilter()))


def agrees(value: AccountValue | TransferValue, selection: QueryFilter | AccountFilter) -> bool:
    """Whether the value passes the fields and the time range of the filter."""
    names = ["user_data_128", "user_data_64", "user_data_32", "code"] + (["ledger"] if isinstance(selection, QueryFilter) else [])
    if any(getattr(selection, name) not in (0, getattr(value, name)) for name in names):
        return False
    return selection.timestamp_min <= value.timestamp <= (selection.timestamp_max or 2**63)


def random_fields(rng: Random) -> dict[str, int]:
    """Some fields of a filter."""
    first, last = sorted((T0 + rng.randrange(-100, 21_000), T0 + rng.randrange(-100, 21_000)))
    fields = {
        "user_data_128": rng.randrange(4),
        "user_data_64": rng.randrange(2),
        "user_data_32": rng.randrange(5),
        "code": rng.randrange(4),
    }
    fields = {name: value for name, value in fields.items() if rng.randrange(3) == 0}
    fields |= {"timestamp_min": first} if rng.randrange(2) else {}
    return fields | ({"timestamp_max": last} if rng.randrange(2) else {})


def test_everything_is_there_in_order_of_time() -> None:
    """QueryTransfers and QueryAccounts with an empty filter give everything, oldest first."""
    assert len(EVERY_TRANSFER) == 460
    assert len(EVERY_ACCOUNT) == 40
    assert sorted(EVERY_TRANSFER, key=BY_TIME) == EVERY_TRANSFER


@pytest.mark.parametrize("seed", range(60))
def test_filters_select_what_a_scan_selects(seed: int) -> None:
    """Filters: the intersection of fields and the inclusive time range, in the asked direction, cut at the limit."""
    rng = Random(seed)
    newest_first = bool(rng.randrange(2))
    query = QueryFilter(**random_fields(rng), ledger=rng.randrange(3), limit=rng.choice((1, 5, 8190)), flags=int(newest_first))
    step = -1 if newest_first else 1
    transfers = [transfer for transfer in EVERY_TRANSFER if agrees(transfer, query)][::step][: query.limit]
    assert codec.unpack_transfers(LEDGER.query_transfers(query)) == transfers
    accounts = [account for account in EVERY_ACCOUNT if agrees(account, query)][::step][: query.limit]
    assert codec.unpack_accounts(LEDGER.query_accounts(query)) == accounts


@pytest.mark.parametrize("seed", range(60))
def test_transfers_of_an_account_are_what_a_scan_finds(seed: int) -> None:
    """GetAccountTransfers: the asked sides of one account, with the same filters; GetAccountBalances: one balance for each of them."""
    rng = Random(seed)
    account_id, sides, newest_first = rng.randrange(1, 42), rng.randrange(1, 4), bool(rng.randrange(2))
    flags = sides | (AccountFilterFlags.REVERSED if newest_first else 0)
    selection = AccountFilter(account_id=account_id, **random_fields(rng), limit=rng.choice((1, 5, 8190)), flags=int(flags))
    found = [
        transfer
        for transfer in EVERY_TRANSFER
        if agrees(transfer, selection)
        and ((sides & 1 and transfer.debit_account_id == account_id) or (sides & 2 and transfer.credit_account_id == account_id))
    ]
    found = found[:: -1 if newest_first else 1][: selection.limit]
    assert codec.unpack_transfers(LEDGER.get_account_transfers(selection)) == found
    kept = codec.unpack_balances(LEDGER.get_account_balances(selection))
    assert [balance.timestamp for balance in kept] == (
        [transfer.timestamp for transfer in found] if account_id % 5 == 0 and account_id <= 40 else []
    )


def test_a_time_range_of_one_instant_selects_that_instant() -> None:
    """Filters: both ends of the time range are inclusive, so that equal ends select one transfer, or one account."""
    for value in (EVERY_TRANSFER[17], EVERY_ACCOUNT[17]):
        query = QueryFilter(timestamp_min=value.timestamp, timestamp_max=value.timestamp)
        found = [*codec.unpack_transfers(LEDGER.query_transfers(query)), *codec.unpack_accounts(LEDGER.query_accounts(query))]
        assert found == [value]


def test_kept_balances_are_those_after_each_transfer() -> None:
    """History: each kept balance is the sum of the account's transfers up to that one; the last one is the account's own."""
    kept = codec.unpack_balances(LEDGER.get_account_balances(AccountFilter(account_id=10)))
    balances = [0, 0, 0, 0]
    amounts = {transfer.id: transfer.amount for transfer in EVERY_TRANSFER}
    expected = []
    for transfer in codec.unpack_transfers(LEDGER.get_account_transfers(AccountFilter(account_id=10))):
        side = 0 if transfer.debit_account_id == 10 else 2
        if transfer.pending_id:
            balances[side] -= amounts[transfer.pending_id]
        balances[side if transfer.flags & TransferFlags.PENDING else side + 1] += transfer.amount
        expected.append(BalanceValue(balances[0], balances[1], balances[2], balances[3], transfer.timestamp))
    assert kept == expected
    account = EVERY_ACCOUNT[9]
    assert [account.debits_pending, account.debits_posted, account.credits_pending, account.credits_posted] == balances


def test_lookups_keep_the_order_asked_and_leave_out_what_is_unknown() -> None:
    """LookupAccounts and LookupTransfers answer in the order asked, repeat what is asked twice, and leave out unknown ids."""
    ids = codec.pack_ids([7, 999, 3, 7])
    assert [account.id for account in codec.unpack_accounts(LEDGER.lookup_accounts(ids))] == [7, 3, 7]
    assert [transfer.id for transfer in codec.unpack_transfers(LEDGER.lookup_transfers(ids))] == [7, 3, 7]


def test_a_lookup_takes_as_many_ids_as_a_batch_has_events() -> None:
    """LookupAccounts and LookupTransfers take up to 8190 ids."""
    ids = codec.pack_id(7) * 8190
    assert len(LEDGER.lookup_accounts(ids)) == len(LEDGER.lookup_transfers(ids)) == 8190 * 128


@pytest.mark.parametrize("packed", [b"x", bytes(17), bytes(16 * 8191)])
def test_a_lookup_that_is_no_list_of_ids_finds_nothing(packed: bytes) -> None:
    """A look-up of a wrong length, or of too many ids, finds nothing and does not raise."""
    assert LEDGER.lookup_accounts(packed) == b""
    assert LEDGER.lookup_transfers(packed) == b""


GOOD = AccountFilter(account_id=5)


@pytest.mark.parametrize(
    ("selection", "field"),
    [
        (replace(GOOD, account_id=0), "account_id"),
        (replace(GOOD, account_id=2**128 - 1), "account_id"),
        (replace(GOOD, account_id=-1), "account_id"),
        (replace(GOOD, flags=0), "flags"),
        (replace(GOOD, flags=int(AccountFilterFlags.REVERSED)), "flags"),
        (replace(GOOD, flags=8), "flags"),
        (replace(GOOD, flags=9), "flags"),
        (replace(GOOD, limit=0), "limit"),
        (replace(GOOD, timestamp_min=2**63), "timestamp_min"),
        (replace(GOOD, timestamp_max=2**63), "timestamp_max"),
        (replace(GOOD, timestamp_min=3, timestamp_max=2), "timestamp_min"),
        (replace(GOOD, user_data_128=2**128), "user_data_128"),
    ],
)
def test_an_invalid_account_filter_selects_nothing_and_names_its_field(selection: AccountFilter, field: str) -> None:
    """Filters: a violated constraint gives no result, and the reason names the field."""
    problem = account_filter_problem(selection)
    assert problem is not None
    assert problem.startswith(field)
    assert LEDGER.get_account_transfers(selection) == b""
    assert LEDGER.get_account_balances(selection) == b""
    assert account_filter_problem(GOOD) is None


@pytest.mark.parametrize(
    ("selection", "field"),
    [
        (QueryFilter(flags=2), "flags"),
        (QueryFilter(limit=0), "limit"),
        (QueryFilter(timestamp_min=2**63), "timestamp_min"),
        (QueryFilter(timestamp_max=2**63), "timestamp_max"),
        (QueryFilter(timestamp_min=3, timestamp_max=2), "timestamp_min"),
        (QueryFilter(user_data_128=-1), "user_data_128"),
    ],
)
def test_an_invalid_query_selects_nothing_and_names_its_field(selection: QueryFilter, field: str) -> None:
    """Filters: the same for queries."""
    problem = query_filter_problem(selection)
    assert problem is not None
    assert problem.startswith(field)
    assert LEDGER.query_transfers(selection) == LEDGER.query_accounts(selection) == b""
    assert query_filter_problem(QueryFilter(flags=int(QueryFilterFlags.REVERSED))) is None
