"""The machine as a whole: entries in order, time, limits, the ledger's part, snapshots through the codec."""

from __future__ import annotations

import io

import pytest

from ledger import codec
from ledger.machine.transfers import MemoryTransfers
from lockd.codec.snapshots import read_rows, write_rows
from lockd.machine import commands as c
from lockd.machine import events
from lockd.machine import results as r
from lockd.machine.invariants import MachineInvariantError
from lockd.machine.state import Machine
from lockd.machine.types import LIMITS, Limits, RequestId, Resource
from tests.unit.machine.rig import SECOND, Rig, S, acquire, claim


def accounts(*numbers: int) -> bytes:
    """Packed accounts of one ledger."""
    return b"".join([codec.pack_account(id=number, ledger=1, code=1) for number in numbers])


def pending(number: int, amount: int, timeout: int) -> bytes:
    """A packed pending transfer from account 1 to account 2, with a timeout in seconds."""
    return codec.pack_transfer(
        id=number, debit_account_id=1, credit_account_id=2, amount=amount, ledger=1, code=1, flags=2, timeout=timeout
    )


def busy() -> Rig:
    """A machine with something of everything."""
    rig = Rig()
    rig.open("ann", ttl=SECOND)
    rig.open("bob")
    rig.token("ann", "t/1", delay=60 * SECOND)
    rig.tick(SECOND)
    rig.open("ann")
    rig.token("ann", "t/2", mode=S)
    rig.get(r.Granted, "ann", c.Acquire((claim("pool", S, 1, 3), claim("pool/x")), 0, SECOND))
    rig.get(r.Granted, "ann", c.Acquire((claim("pool", S, 1, 3),), 0))
    rig.token("bob", "t/2", mode=S)
    rig.wait("bob", "t/1")
    rig.wait("ann", "t/2")
    rig.ask("bob", c.CancelAcquire(RequestId(99)))
    rig.ask("", c.CreateAccounts(accounts(1, 2)))
    rig.ask("bob", c.CreateTransfers(pending(7, 10, 60)))
    row = c.PutRow(Resource("e/1"), b"\x00\xff", "x", ephemeral=True)
    rig.ask("bob", c.Transact((), (), (row, c.PutRow(Resource("k"), b"1"))))
    rig.ask("bob", c.Transact((), (), (c.PutRow(Resource("k"), b"2"), c.GetRow(Resource("k")))))
    return rig


def test_a_tick_lets_time_pass_and_nothing_else() -> None:
    """An entry without requests gives no results; nothing due means no events."""
    rig = Rig()
    assert rig.tick(SECOND) == r.Applied([], [], [])
    assert rig.machine.next_due() is None
    assert rig.machine.log_time == rig.now


@pytest.mark.parametrize("index", [0, 1, 2, -5])
def test_entries_out_of_order_halt_the_machine(index: int) -> None:
    """The log promises growing indexes: an entry again, or an earlier one, is a broken invariant."""
    rig = Rig()
    rig.tick(1)
    rig.tick(1)
    with pytest.raises(MachineInvariantError, match="comes after"):
        rig.machine.apply(index, c.LogEntry(rig.now, ()))


def test_pending_transfers_expire_as_time_passes() -> None:
    """The machine is due when the next pending transfer is; the entry that comes then expires it, and says so."""
    rig = Rig()
    rig.ask("", c.CreateAccounts(accounts(1, 2)))
    rig.ask("", c.CreateTransfers(pending(7, 10, 5)))
    due = rig.machine.next_due()
    assert due is not None
    rig.tick(due - rig.now - 1)
    assert rig.events == []
    rig.tick(1)
    (expired,) = rig.events
    assert isinstance(expired, events.TransfersExpired)
    assert [resolution.pending[:16] for resolution in expired.outcome.resolutions] == [codec.pack_id(7)]
    assert rig.machine.next_due() is None


def test_a_batch_that_is_no_batch_is_refused() -> None:
    """A packed length that is no multiple of 128, too many events, and oversized metadata are INVALID_ARGUMENT, without an event."""
    rig = Rig()
    for command, reason in (
        (c.CreateAccounts(b"x"), "LENGTH_NOT_A_MULTIPLE"),
        (c.CreateTransfers(bytes(128 * 8191)), "TOO_MANY_EVENTS"),
        (c.CreateTransfers(bytes(128), (b"", b"")), "METADATA_COUNT"),
        (c.CreateTransfers(bytes(128), (b"x" * 4097,)), "METADATA_TOO_LARGE"),
    ):
        assert rig.refusal("", command) == ("INVALID_ARGUMENT", reason)
        assert rig.events == []


def test_a_batch_answers_event_by_event() -> None:
    """BatchDone carries 16 bytes an event; the fact carries the outcome."""
    rig = Rig()
    done = rig.get(r.BatchDone, "", c.CreateAccounts(accounts(1, 2, 1)))
    assert len(done.results) == 48
    (created,) = rig.events
    assert isinstance(created, events.AccountsCreated)
    assert len(created.outcome.created) == 256


def test_a_snapshot_travels_through_the_codec() -> None:
    """Written to bytes and read back, a machine with sessions, answers, holds, ghosts, waiters, rows and transfers is the same."""
    rig = busy()
    stream = io.BytesIO()
    write_rows(rig.machine.export(), stream)
    stream.seek(0)
    restored = Machine.restore(read_rows(stream))
    restored.check_invariants()
    assert restored.state_hash() == rig.machine.state_hash()
    kinds = {row[0] for row in restored.export()}
    assert kinds == {"machine", "limits", "session", "answer", "hold", "ghost", "waiter", "rows", "row", "past", "ledger"}


def test_a_restored_machine_goes_on() -> None:
    """Waiters are granted, delays end and retries are answered as if nothing had happened."""
    rig = busy()
    twin = Rig()
    twin.machine, twin.index, twin.now = Machine.restore(rig.machine.export()), rig.index, rig.now
    twin.names, twin.requests = rig.names, dict(rig.requests)
    for one in (rig, twin):
        one.ask("ann", c.CloseSession())
        one.tick(60 * SECOND)
        one.tick(60 * SECOND)
    assert twin.events == rig.events
    assert twin.machine.state_hash() == rig.machine.state_hash()


def test_limits_are_part_of_the_state() -> None:
    """A machine restored from a snapshot has the limits of the one that was exported, whatever this version's defaults are."""
    machine = Machine(Limits(claims_per_acquire=7))
    assert Machine.restore(machine.export()).limits == Limits(claims_per_acquire=7)
    assert Machine.restore(Machine().export()).limits is LIMITS
    assert machine.state_hash() != Machine().state_hash()


def test_a_durable_store_of_transfers_stays_out_of_the_snapshot() -> None:
    """With transfers=False the export leaves the store's rows out, and the machine is restored onto the store itself."""
    rig = Rig()
    rig.ask("", c.CreateAccounts(accounts(1, 2)))
    rig.ask("", c.CreateTransfers(pending(7, 10, 60)))
    store = rig.machine.ledger.transfers
    assert isinstance(store, MemoryTransfers)
    rows = list(rig.machine.export(transfers=False))
    assert len(rows) < len(list(rig.machine.export()))
    restored = Machine.restore(rows, store)
    assert restored.state_hash() == rig.machine.state_hash()


def test_equal_histories_have_equal_hashes_and_others_do_not() -> None:
    """The state hash tells states apart that differ in anything: a token, a count, an answer."""
    hashes = set()
    for commands in ([], [acquire("a")], [acquire("a"), acquire("a")], [acquire("b")], [acquire("a", mode=S)], [acquire("a", delay=1)]):
        rig = Rig()
        rig.open("ann")
        for command in commands:
            rig.ask("ann", command)
        rig.index = 10
        rig.now = 105 * SECOND
        rig.apply(rig.request("ann", c.KeepAlive(), 0))
        hashes.add(rig.machine.state_hash())
        assert Machine.restore(rig.machine.export()).state_hash() in hashes
    assert len(hashes) == 6
