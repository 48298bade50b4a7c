"""Transactions: compares, then one branch, all or nothing, in one entry (semantics, section 4)."""

from __future__ import annotations

from typing import cast

import pytest

from ledger import codec
from ledger.machine.model import TransferStatus
from lockd.machine import commands as c
from lockd.machine import events
from lockd.machine import results as r
from lockd.machine.commands import CompareField as F
from lockd.machine.commands import CompareOperator as O
from lockd.machine.types import Limits, Resource, Revision, SessionId
from tests.unit.machine.rig import SECOND, Rig, S, claim, guard


def put(key: str, value: bytes = b"v", content_type: str = "", *, ephemeral: bool = False) -> c.PutRow:
    """A write."""
    return c.PutRow(Resource(key), value, content_type, ephemeral)


def get(key: str) -> c.GetRow:
    """A read."""
    return c.GetRow(Resource(key))


def tx(*operations: c.Operation, guards: tuple[c.Guard, ...] = (), compares: tuple[c.Compare, ...] = ()) -> c.Transact:
    """A transaction without a failure branch."""
    return c.Transact(guards, compares, operations)


def transfer(number: int, amount: int, debit: int = 1, credit: int = 2, flags: int = 0) -> bytes:
    """A packed transfer."""
    return codec.pack_transfer(id=number, debit_account_id=debit, credit_account_id=credit, amount=amount, ledger=1, code=1, flags=flags)


def bank() -> Rig:
    """Accounts 1 (free), 2 (free) and 3 (may not owe)."""
    rig = Rig()
    rig.open("ann")
    accounts = [codec.pack_account(id=n, ledger=1, code=1, flags=2 if n == 3 else 0) for n in (1, 2, 3)]
    rig.ask("", c.CreateAccounts(b"".join(accounts)))
    return rig


def posted(rig: Rig, account: int) -> int:
    """Credits posted to an account."""
    return codec.unpack_account(rig.machine.ledger.lookup_accounts(codec.pack_id(account))).credits_posted


def test_operations_see_what_came_before_them() -> None:
    """A read after a write in the same transaction sees it; results stand in the order of the operations."""
    rig = Rig()
    done = rig.get(r.Transacted, "", tx(get("k"), put("k", b"1"), get("k"), c.DeleteRow(Resource("k")), get("k")))
    row = r.Row(Resource("k"), b"1", "", rig.machine.index, rig.machine.index, 1, SessionId(0))
    assert done.results == (r.RowRead(None), r.RowPut(1), r.RowRead(row), r.RowsDeleted(1), r.RowRead(None))
    assert done.succeeded
    assert done.revision == rig.machine.index


def test_an_empty_transaction_succeeds() -> None:
    """No compares hold, and nothing is done."""
    assert Rig().ask("", tx()) == r.Transacted(succeeded=True, revision=Revision(1), results=())


def compare(key: str, field: F, operator: O, number: int = 0, value: bytes = b"") -> c.Compare:
    """One compare."""
    return c.Compare(Resource(key), field, operator, number, value)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (compare("k", F.EXISTS, O.EQUAL, 1), True),
        (compare("no", F.EXISTS, O.EQUAL, 0), True),
        (compare("k", F.EXISTS, O.LESS, 1), False),
        (compare("k", F.VALUE, O.EQUAL, value=b"two"), True),
        (compare("k", F.VALUE, O.NOT_EQUAL, value=b"two"), False),
        (compare("k", F.VALUE, O.LESS, value=b"u"), True),
        (compare("k", F.VALUE, O.GREATER, value=b"u"), False),
        (compare("no", F.VALUE, O.EQUAL, value=b""), False),
        (compare("no", F.VALUE, O.NOT_EQUAL, value=b""), True),
        (compare("no", F.VALUE, O.LESS, value=b"z"), False),
        (compare("no", F.VALUE, O.GREATER, value=b""), False),
        (compare("k", F.VERSION, O.EQUAL, 2), True),
        (compare("no", F.VERSION, O.EQUAL, 0), True),
        (compare("k", F.CREATE_REVISION, O.EQUAL, 2), True),
        (compare("k", F.CREATE_REVISION, O.LESS, 2), False),
        (compare("k", F.MOD_REVISION, O.EQUAL, 3), True),
        (compare("k", F.MOD_REVISION, O.GREATER, 2), True),
        (compare("k", F.MOD_REVISION, O.LESS, 2**64 - 1), True),
        (compare("no", F.MOD_REVISION, O.NOT_EQUAL, 0), False),
        (compare("k", F.HELD_TOKEN, O.EQUAL, 0), True),
        (compare("l", F.HELD_TOKEN, O.EQUAL, 4 << 20), True),
        (compare("l", F.HELD_TOKEN, O.EQUAL, 5 << 20), True),
        (compare("l", F.HELD_TOKEN, O.NOT_EQUAL, 4 << 20), False),
        (compare("l", F.HELD_TOKEN, O.EQUAL, 1), False),
        (compare("l", F.HELD_TOKEN, O.GREATER, 4 << 20), True),
        (compare("l", F.HELD_TOKEN, O.NOT_EQUAL, 0), True),
    ],
)
def test_compares_decide_which_branch_runs(condition: c.Compare, holds: bool) -> None:
    """Value, revisions, version, existence and held token compare as documented; what is not there has revision, version and token 0."""
    rig = Rig()
    opened = rig.apply(rig.request("", c.OpenSession(10 * SECOND, "ann"), 0), rig.request("", c.OpenSession(10 * SECOND, "bob"), 0)).results
    rig.names |= {name: result.session for name, result in zip(("ann", "bob"), opened, strict=True) if isinstance(result, r.SessionOpened)}
    rig.ask("", tx(put("k", b"one")))
    rig.ask("", tx(put("k", b"two")))
    rig.token("ann", "l", mode=S)
    rig.token("bob", "l", mode=S)
    done = rig.get(r.Transacted, "", c.Transact((), (condition,), (put("yes"),), (put("no1"), put("no2"))))
    assert done.succeeded is holds
    assert len(done.results) == (1 if holds else 2)
    assert (rig.machine.rows.get("yes") is not None) is holds
    assert (rig.machine.rows.get("no2") is None) is holds


def test_all_compares_must_hold() -> None:
    """One that does not sends the transaction into the failure branch."""
    rig = Rig()
    both = (compare("a", F.EXISTS, O.EQUAL, 0), compare("b", F.EXISTS, O.EQUAL, 1))
    assert not rig.get(r.Transacted, "", c.Transact((), both, (put("a"),))).succeeded
    assert not len(rig.machine.rows)


def test_a_stale_guard_changes_nothing() -> None:
    """FENCED comes before compares and operations: not even the failure branch runs."""
    rig = Rig()
    refused = rig.get(r.Refused, "", c.Transact((guard("a", 1),), (compare("a", F.EXISTS, O.EQUAL, 1),), (put("a"),), (put("b"),)))
    assert refused.reason == "FENCED"
    assert not len(rig.machine.rows)
    assert rig.events == []


def test_one_commit_checks_guards_writes_posts_publishes_and_releases() -> None:
    """The SDK's commit is one entry: rows, transfers, a message and the release of the locks, in the order given (section 4)."""
    rig = bank()
    token = rig.token("ann", "accounts/1")
    done = rig.get(
        r.Transacted,
        "ann",
        tx(
            put("orders/7", b"paid"),
            c.PostTransfers(transfer(1, 10) + transfer(2, 5)),
            c.Publish(Resource("orders"), b"7 is paid", "text/plain"),
            c.ReleaseLocks((guard("accounts/1", token),)),
            guards=(guard("accounts/1", token),),
        ),
    )
    assert [type(result).__name__ for result in done.results] == ["RowPut", "BatchDone", "Published", "Released"]
    assert posted(rig, 2) == 15
    assert [type(event).__name__ for event in rig.events] == ["TransfersCreated", "RowPut", "MessagePublished", "LockReleased"]
    assert not rig.machine.locks.locks


# --- transfers -----------------------------------------------------------------------------------------------------------------


def test_one_transfer_that_is_not_created_refuses_the_whole_transaction() -> None:
    """TRANSFERS_REFUSED names position and status; no row, no lock, no other transfer is touched."""
    rig = bank()
    refused = rig.get(
        r.Refused,
        "ann",
        tx(
            put("k"),
            c.TakeLocks((claim("a"),)),
            c.PostTransfers(transfer(1, 10)),
            c.PostTransfers(transfer(2, 5) + transfer(3, 9, debit=3)),
        ),
    )
    assert (refused.code.name, refused.reason) == ("FAILED_PRECONDITION", "TRANSFERS_REFUSED")
    assert refused.details == (("position", "2"), ("status", str(int(TransferStatus.EXCEEDS_CREDITS))), ("status_name", "exceeds_credits"))
    assert posted(rig, 2) == 0
    assert not len(rig.machine.rows)
    assert not rig.machine.locks.locks
    assert rig.machine.ledger.lookup_transfers(codec.pack_id(1)) == b""


def test_each_operation_gets_the_results_of_its_own_transfers() -> None:
    """Two postings of one transaction run as one chain, and each operation answers for its part; an empty one answers nothing."""
    rig = bank()
    done = rig.get(
        r.Transacted, "ann", tx(c.PostTransfers(transfer(1, 1)), c.PostTransfers(b""), c.PostTransfers(transfer(2, 2) + transfer(3, 3)))
    )
    lengths = [len(result.results) for result in done.results if isinstance(result, r.BatchDone)]
    assert lengths == [16, 0, 32]
    assert posted(rig, 2) == 6


def test_the_same_operation_twice_is_two_operations() -> None:
    """The second posting of the same transfer exists already, and refuses the transaction."""
    rig = bank()
    operation = c.PostTransfers(transfer(1, 1))
    assert rig.refusal("ann", tx(operation, operation)) == ("FAILED_PRECONDITION", "TRANSFERS_REFUSED")
    assert posted(rig, 2) == 0


def test_an_open_chain_of_the_client_is_refused() -> None:
    """A posting whose last transfer is linked to nothing is refused as the ledger would refuse it, also before another posting."""
    rig = bank()
    refused = rig.get(r.Refused, "ann", tx(c.PostTransfers(transfer(1, 1, flags=1)), c.PostTransfers(transfer(2, 1))))
    assert ("status_name", "linked_event_chain_open") in refused.details
    assert posted(rig, 2) == 0


def test_metadata_goes_with_its_transfers() -> None:
    """Metadata of one posting reaches the ledger's outcome beside empty metadata of the others."""
    rig = bank()
    rig.get(r.Transacted, "ann", tx(c.PostTransfers(transfer(1, 1)), c.PostTransfers(transfer(2, 2), (b"note",))))
    created = rig.events[0]
    assert isinstance(created, events.TransfersCreated)
    assert created.outcome.metadata == (b"", b"note")


# --- locks ---------------------------------------------------------------------------------------------------------------------


def test_locks_are_taken_or_the_transaction_is_refused() -> None:
    """TakeLocks never waits: LOCK_HELD refuses everything; several operations are judged together."""
    rig = Rig()
    rig.open("ann")
    rig.open("bob")
    rig.token("bob", "b")
    assert rig.refusal("ann", tx(put("k"), c.TakeLocks((claim("a"),)), c.TakeLocks((claim("b", S),)))) == ("ABORTED", "LOCK_HELD")
    assert not len(rig.machine.rows)
    assert list(rig.machine.locks.locks) == ["b"]
    twice = tx(c.TakeLocks((claim("a"),)), c.TakeLocks((claim("a"),)))
    assert rig.refusal("ann", twice) == ("INVALID_ARGUMENT", "DUPLICATE_RESOURCE")
    half = c.TakeLocks((claim("p", S, 2, 3),))
    done = rig.get(r.Transacted, "ann", tx(half, c.TakeLocks((claim("a"), claim("c", S)), SECOND)))
    assert [hold.resource for result in done.results if isinstance(result, r.Granted) for hold in result.holds] == ["p", "a", "c"]


def test_locks_can_be_released_and_taken_in_one_transaction() -> None:
    """The waiters come after the whole transaction: what it releases and takes again stays its own."""
    rig = Rig()
    rig.open("ann")
    rig.open("bob")
    token = rig.token("ann", "a")
    rig.wait("bob", "a")
    done = rig.get(r.Transacted, "ann", tx(c.ReleaseLocks((guard("a", token),)), c.TakeLocks((claim("a"),))))
    assert isinstance(done.results[1], r.Granted)
    assert done.results[1].holds[0].token > token
    assert rig.done() == {}


def test_releasing_anothers_lock_refuses_the_transaction() -> None:
    """NOT_HOLDER, and nothing is written."""
    rig = Rig()
    rig.open("ann")
    rig.open("bob")
    token = rig.token("bob", "b")
    assert rig.refusal("ann", tx(put("k"), c.ReleaseLocks((guard("b", token),)))) == ("FAILED_PRECONDITION", "NOT_HOLDER")
    assert not len(rig.machine.rows)


# --- ephemeral rows ------------------------------------------------------------------------------------------------------------


def test_an_ephemeral_row_goes_with_its_session() -> None:
    """When the session is closed or lost its rows are deleted in the same entry; a plain write takes a row out of its session's hands."""
    rig = Rig()
    rig.open("ann", ttl=SECOND)
    rig.open("bob")
    rig.ask("ann", tx(put("e/1", ephemeral=True), put("e/2", ephemeral=True), put("plain")))
    rig.ask("bob", tx(put("e/3", ephemeral=True), put("e/2")))
    rig.tick(SECOND)
    assert [row.key for row in rig.machine.rows.range("", None)] == ["e/2", "e/3", "plain"]
    assert [event.key for event in rig.events if isinstance(event, events.RowDeleted)] == ["e/1"]
    rig.ask("bob", c.CloseSession())
    assert [row.key for row in rig.machine.rows.range("", None)] == ["e/2", "plain"]


# --- bad input -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (tx(put("")), "INVALID_PATH"),
        (tx(put("a//b")), "INVALID_PATH"),
        (tx(put("a", b"x" * (2**20 + 1))), "VALUE_TOO_LARGE"),
        (tx(put("a", b"", "x" * 129)), "INVALID_CONTENT_TYPE"),
        (tx(put("a", b"", "\ud800")), "INVALID_CONTENT_TYPE"),
        (tx(put("a", ephemeral=True)), "SESSION_REQUIRED"),
        (tx(get("..")), "INVALID_PATH"),
        (tx(c.DeleteRow(Resource("/"))), "INVALID_PATH"),
        (tx(c.DeleteRange("b", "a")), "INVALID_RANGE"),
        (tx(c.DeleteRange("", "")), "INVALID_RANGE"),
        (tx(c.PostTransfers(b"x" * 127)), "LENGTH_NOT_A_MULTIPLE"),
        (tx(c.PostTransfers(bytes(128), (b"", b""))), "METADATA_COUNT"),
        (tx(c.PostTransfers(bytes(128), (b"x" * 4097,))), "METADATA_TOO_LARGE"),
        (tx(c.PostTransfers(bytes(128 * 8191))), "TOO_MANY_EVENTS"),
        (tx(c.TakeLocks((claim("a"),))), "SESSION_REQUIRED"),
        (tx(c.ReleaseLocks((guard("a", 1),))), "SESSION_REQUIRED"),
        (tx(c.Publish(Resource("a\n"), b"")), "INVALID_PATH"),
        (tx(c.Publish(Resource("a"), b"x" * (2**20 + 1))), "VALUE_TOO_LARGE"),
        (tx(compares=(compare("", F.EXISTS, O.EQUAL),)), "INVALID_PATH"),
        (tx(compares=(compare("a", cast("F", 9), O.EQUAL),)), "INVALID_COMPARE"),
        (tx(compares=(compare("a", F.EXISTS, cast("O", 0)),)), "INVALID_COMPARE"),
        (tx(*[get("a")] * 10_001), "TOO_MANY_OPERATIONS"),
        (c.Transact((), (), (), (put("b"), put("a/../b"))), "INVALID_PATH"),
    ],
)
def test_what_can_never_succeed_refuses_the_whole_transaction(command: c.Transact, reason: str) -> None:
    """Bad operations are found in both branches, before anything is done."""
    rig = Rig()
    assert rig.refusal("", command) == ("INVALID_ARGUMENT", reason)
    assert rig.events == []
    assert not len(rig.machine.rows)


def test_the_limit_of_operations_is_inclusive() -> None:
    """10,000 operations in both branches together are allowed."""
    operations = tuple([put(f"k{n}") for n in range(9_999)])
    done = Rig().get(r.Transacted, "", c.Transact((), (), operations, (put("x"),)))
    assert len(done.results) == 9_999


def test_a_retried_transaction_is_applied_once() -> None:
    """The same request id returns the first result: version 1, not 2."""
    rig = Rig()
    rig.open("ann")
    request = rig.request("ann", tx(put("k")))
    first = rig.apply(request).results
    assert rig.apply(request).results == first
    row = rig.machine.rows.get("k")
    assert row is not None
    assert row.version == 1


def test_limits_are_those_of_the_machine() -> None:
    """A machine with narrower limits refuses what the usual one takes."""
    rig = Rig(Limits(operations_per_transaction=1, value_bytes=1))
    assert rig.refusal("", tx(get("a"), get("b"))) == ("INVALID_ARGUMENT", "TOO_MANY_OPERATIONS")
    assert rig.refusal("", tx(put("a", b"xx"))) == ("INVALID_ARGUMENT", "VALUE_TOO_LARGE")
