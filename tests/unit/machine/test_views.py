"""What people and services can ask of the state (semantics, section 3: introspection)."""

from __future__ import annotations

from lockd.machine import commands as c
from lockd.machine import views
from tests.unit.machine.rig import SECOND, Rig, S, X, acquire, claim


def rig_of(*names: str) -> Rig:
    """A machine with these sessions."""
    rig = Rig()
    for name in names:
        rig.open(name, ttl=60 * SECOND)
    return rig


def test_holders_and_waiters_have_their_age() -> None:
    """A lock shows who holds it since when, under which token and how often, and who waits since when, in the order of the queue."""
    rig = rig_of("ann", "bob", "cid")
    token = rig.token("ann", "t/1", mode=S)
    rig.token("ann", "t/1", mode=S)
    rig.tick(SECOND)
    waiting = rig.wait("bob", "t/1")
    rig.tick(2 * SECOND)
    rig.wait("cid", "t/1", mode=S)
    (lock,) = views.locks(rig.machine, "t/1", "", 10)
    assert lock.holders == (views.HolderView(rig.names["ann"], "ann", S, token, 2, 3 * SECOND + 3_000, 0),)
    assert lock.waiters[0] == views.WaiterView(
        rig.names["bob"], "bob", X, rig.request("bob", acquire("x"), waiting).request_id, 2 * SECOND + 1_000
    )
    assert [waiter.owner for waiter in lock.waiters] == ["bob", "cid"]
    assert lock.delayed_for == 0


def test_locks_are_listed_by_prefix_and_paged_by_name() -> None:
    """A prefix is whole parts; a page begins after the name that the one before ended with; implied intentions are not listed."""
    rig = rig_of("ann")
    rig.token("ann", *[f"t/{n}" for n in range(5)], "t/1/x", "tt/1", "u")
    assert [lock.resource for lock in views.locks(rig.machine, "t", "", 3)] == ["t/0", "t/1", "t/1/x"]
    assert [lock.resource for lock in views.locks(rig.machine, "t", "t/1/x", 10)] == ["t/2", "t/3", "t/4"]
    assert [lock.resource for lock in views.locks(rig.machine, "t/1", "", 10)] == ["t/1", "t/1/x"]
    assert [lock.resource for lock in views.locks(rig.machine, "", "t/4", 10)] == ["tt/1", "u"]


def test_a_lock_delay_shows_how_long_it_lasts() -> None:
    """Nobody holds a lost lock, and it says for how long it stays unavailable."""
    rig = rig_of("bob")
    rig.open("ann", ttl=SECOND)
    rig.token("ann", "t/1", delay=10 * SECOND)
    rig.tick(SECOND)
    rig.tick(4 * SECOND)
    (lock,) = views.locks(rig.machine, "", "", 10)
    assert (lock.resource, lock.holders, lock.delayed_for) == ("t/1", (), 6 * SECOND)


def test_sessions_are_paged_by_id() -> None:
    """Owner, ttl, time left, holds and waits of each session."""
    rig = rig_of("ann", "bob", "cid")
    rig.token("ann", "a", "b/c")
    rig.wait("bob", "a")
    first, second = views.sessions(rig.machine, 0, 2)
    assert (first.owner, first.ttl, first.holds, first.waits) == ("ann", 60 * SECOND, 3, 0)
    assert (second.owner, second.holds, second.waits) == ("bob", 0, 1)
    assert [session.owner for session in views.sessions(rig.machine, second.session, 2)] == ["cid"]


def test_counts() -> None:
    """How many sessions, locks, rows, accounts and transfers there are."""
    rig = rig_of("ann", "bob")
    rig.token("ann", "a/b")
    rig.ask("", c.Transact((), (), (c.PutRow(claim("k").resource, b""),)))
    assert views.counts(rig.machine) == views.Counts(sessions=2, locks=2, rows=1, accounts=0, transfers=0)


def test_reading_changes_nothing() -> None:
    """Views are pure: the state hash before and after is the same."""
    rig = rig_of("ann", "bob")
    rig.token("ann", "a")
    rig.wait("bob", "a")
    before = rig.machine.state_hash()
    views.locks(rig.machine, "", "", 10)
    views.sessions(rig.machine, 0, 10)
    views.wait_graph(rig.machine)
    views.counts(rig.machine)
    rig.machine.next_due()
    assert rig.machine.state_hash() == before
