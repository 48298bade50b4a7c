"""The port to old transfers and its in-memory form; rows of a snapshot that are damaged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ledger import codec
from ledger.machine.model import HISTORY, Fate
from ledger.machine.state import Ledger
from ledger.machine.transfers import FAILED, Append, MemoryTransfers, Row


def transfer(number: int, timestamp: int) -> bytes:
    """A stored transfer."""
    return codec.pack_transfer(id=number, debit_account_id=1, credit_account_id=2, timestamp=timestamp)


def key(number: int) -> bytes:
    """An id."""
    return codec.pack_id(number)


def add(
    store: MemoryTransfers, sequence: int, *numbers: int, failed: tuple[int, ...] = (), fates: tuple[tuple[int, Fate], ...] = ()
) -> None:
    """Append a batch of transfers whose timestamps are ten times their ids."""
    created = b"".join(transfer(number, 10 * number) for number in numbers)
    ended = [(key(number), fate) for number, fate in fates]
    store.append(Append(sequence, sequence, [key(number) for number in numbers], created, [key(number) for number in failed], ended))


def filled() -> MemoryTransfers:
    """Three batches."""
    store = MemoryTransfers()
    add(store, 0, 1, 2)
    add(store, 1, 3, failed=(9,))
    add(store, 2, 4, 5, fates=((1, Fate.POSTED),))
    return store


def test_a_lookup_sees_only_what_was_appended_before() -> None:
    """Port: transfers, failures and fates of batch n are visible to look-ups that stand after n only."""
    store = filled()
    ids = [key(number) for number in (1, 3, 5, 9, 77)]
    assert store.lookup(ids, 0) == {}
    assert store.lookup(ids, 1) == {key(1): transfer(1, 10)}
    assert store.lookup(ids, 2) == {key(1): transfer(1, 10), key(3): transfer(3, 30), key(9): FAILED}
    assert store.lookup(ids, 3) == {key(1): transfer(1, 10), key(3): transfer(3, 30), key(5): transfer(5, 50), key(9): FAILED}
    assert (store.fates([key(1)], 2), store.fates([key(1), key(2)], 3)) == ({}, {key(1): Fate.POSTED})
    assert store.timestamps_taken([10, 25, 50], 1) == {10}
    assert store.timestamps_taken([10, 25, 50], 3) == {10, 50}


def test_appending_again_is_ignored_and_a_gap_is_refused() -> None:
    """Port: a batch that is already held changes nothing; a batch that does not follow raises."""
    store = filled()
    rows = list(store.export())
    add(store, 1, 8, 9)
    assert list(store.export()) == rows
    assert store.sequence == 3
    assert len(store) == 5
    with pytest.raises(ValueError, match="batch 4 does not follow batch 2"):
        add(store, 4, 8)


def test_a_restored_store_answers_the_same_and_knows_its_floor() -> None:
    """Snapshot: a restored store answers look-ups that stand at or after its snapshot, and refuses those that stand before."""
    store, restored = filled(), MemoryTransfers()
    assert all(restored.restore_row(row) for row in store.export())
    assert list(restored.export()) == list(store.export())
    add(store, 3, 6)
    add(restored, 3, 6)
    ids = [key(number) for number in (5, 6)]
    assert restored.lookup(ids, 3) == store.lookup(ids, 3) == {key(5): transfer(5, 50)}
    assert list(restored.export()) == list(store.export())
    with pytest.raises(ValueError, match="batch 2 lies before"):
        restored.lookup(ids, 2)


def test_rows_do_not_depend_on_how_transfers_were_batched() -> None:
    """Snapshot: equal content gives equal pieces, whatever the batches were."""
    one, many = MemoryTransfers(), MemoryTransfers()
    for sequence in range(30):
        add(one, sequence, *(range(1, 3001) if sequence == 7 else ()))
        add(many, sequence, *range(1 + sequence * 100, 101 + sequence * 100))
    pieces = [[row for row in store.export() if row[0] == "transfers"] for store in (one, many)]
    assert pieces[0] == pieces[1]
    assert len(pieces[0]) == 3


def test_scans_by_time_and_account() -> None:
    """Port: transfers of a time range and of an account, oldest or newest first; an index once built grows with later batches."""
    store = filled()
    assert [found[0] for found in store.transfers(20, 40, newest_first=False)] == [2, 3, 4]
    assert [found[0] for found in store.transfers(0, 2**63, newest_first=True)] == [5, 4, 3, 2, 1]
    assert [found[0] for found in store.account_transfers(key(1), 0, 30, newest_first=False)] == [1, 2, 3]
    add(store, 3, 6)
    assert [found[0] for found in store.account_transfers(key(2), 50, 99, newest_first=True)] == [6, 5]
    assert list(store.account_transfers(key(3), 0, 99, newest_first=True)) == []


def test_kept_balances_are_found_by_account_and_time() -> None:
    """Port: the line of exactly this account and timestamp, or nothing."""
    store = MemoryTransfers()
    lines = [
        HISTORY.pack(key(account), key(timestamp), key(0), key(0), key(0), timestamp) for account, timestamp in ((1, 5), (1, 7), (2, 7))
    ]
    store.append(Append(0, 0, [], b"", balances=b"".join(lines)))
    assert [store.balance_after(key(1), timestamp) for timestamp in (4, 5, 6, 7, 8)] == [None, lines[0], None, lines[1], None]
    assert store.balance_after(key(2), 7) == lines[2]
    assert store.balance_after(key(3), 7) is None


def good_rows() -> list[Row]:
    """The rows of a small ledger."""
    ledger = Ledger()
    ledger.create_accounts(codec.pack_account(id=1, ledger=1, code=1), log_time=5, index=1)
    return list(ledger.export())


def damaged() -> Iterator[tuple[list[Row], str]]:
    """Rows that must be refused, and why."""
    rows = good_rows()
    yield rows[1:], "0 rows of kind 'ledger'"
    yield [*rows, rows[0]], "2 rows of kind 'ledger'"
    yield [("ledger", 2, 0, 0, 0, 0), *rows[1:]], "version 2"
    for row in (
        ("ledger", 1),
        ("account", b"short"),
        ("account", 5),
        ("open", bytes(127)),
        ("store", b"x"),
        ("transfers", bytes(127)),
        ("failed", bytes(3)),
        ("fates", bytes(3)),
        ("history", bytes(3)),
        ("metadata", b"x"),
    ):
        yield [*rows, row], f"damaged row of kind '{row[0]}'"
    yield [*rows, ("foreign", 1)], "does not belong here"
    yield [*rows, ()], "does not belong here"


@pytest.mark.parametrize(("rows", "reason"), list(damaged()))
def test_damaged_rows_are_refused_with_the_reason(rows: list[Row], reason: str) -> None:
    """Snapshot: missing, repeated, damaged or foreign rows raise ValueError that says which."""
    with pytest.raises(ValueError, match=reason):
        Ledger.restore(rows)


def test_store_rows_do_not_belong_to_a_state_with_its_own_store() -> None:
    """Snapshot: with a durable store given, the store's rows are not taken from the snapshot."""
    rows = good_rows()
    store = MemoryTransfers()
    with pytest.raises(ValueError, match="does not belong here"):
        Ledger.restore(rows, store)
    assert Ledger.restore([row for row in rows if row[0] != "store"], store).transfers is store
