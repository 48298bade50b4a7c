"""Locks: all or nothing, first come first served, fenced, and given back (semantics, section 3)."""

from __future__ import annotations

from typing import cast

import pytest

from lockd.machine import commands as c
from lockd.machine import events
from lockd.machine import results as r
from lockd.machine.types import FOREVER, FencingToken, Limits, LockMode, RequestId, Resource
from tests.unit.machine.rig import IX, SECOND, Rig, S, U, X, acquire, claim, guard

HELD = ("ABORTED", "LOCK_HELD")


def rig_of(*names: str, limits: Limits | None = None) -> Rig:
    """A machine with these sessions."""
    rig = Rig(limits) if limits is not None else Rig()
    for name in names:
        rig.open(name, ttl=3600 * SECOND)
    return rig


# --- grants --------------------------------------------------------------------------------------------------------------------


def test_an_acquire_takes_all_or_nothing() -> None:
    """If one of several resources is held, none is taken."""
    rig = rig_of("ann", "bob", "cid")
    rig.token("ann", "b")
    assert rig.refusal("bob", acquire("a", "b", "c")) == HELD
    assert sorted(rig.machine.locks.locks) == ["b"]
    granted = rig.get(r.Granted, "cid", acquire("a", "c"))
    assert [hold.resource for hold in granted.holds] == ["a", "c"]
    assert granted.revision == rig.machine.index


def test_tokens_grow_over_all_grants_and_begin_at_the_index() -> None:
    """Each grant's token is greater than all before, and at least its log index shifted by 20 bits, also within an entry."""
    rig = rig_of("ann", "bob")
    tokens = [rig.token("ann", "a")]
    results = rig.apply(*[rig.request("bob", acquire(f"b{n}", f"c{n}")) for n in range(3)]).results
    tokens += [hold.token for result in results if isinstance(result, r.Granted) for hold in result.holds]
    rig.machine = type(rig.machine).restore(rig.machine.export())
    rig.ask("ann", c.Release((guard("a", tokens[0]),)))
    tokens.append(rig.token("bob", "a"))
    assert tokens == sorted(set(tokens))
    assert tokens[1] == (rig.index - 2) << 20
    assert tokens[-1] == rig.index << 20


def test_a_refused_try_names_at_most_three_holders() -> None:
    """LOCK_HELD says which resource is in the way, and who holds it in which mode."""
    rig = rig_of("ann", "bob", "cid", "dan", "eve")
    for name in ("ann", "bob", "cid", "dan"):
        rig.token(name, "a/b", mode=S)
    refused = rig.get(r.Refused, "eve", acquire("a/b"))
    assert refused.details[0] == ("resource", "a/b")
    assert refused.details[1] == ("holder", f"session {rig.names['ann']} owner ann mode SHARED")
    assert len(refused.details) == 4


def test_the_queue_is_first_come_first_served() -> None:
    """Waiters are granted in the order in which they asked."""
    rig = rig_of("ann", "bob", "cid", "dan")
    token = rig.token("ann", "a")
    for name in ("cid", "bob", "dan"):
        rig.wait(name, "a")
    for holder, after in (("ann", "cid"), ("cid", "bob"), ("bob", "dan")):
        rig.ask(holder, c.Release((guard("a", token),)))
        assert list(rig.done()) == [(after, 1)]
        granted = rig.completions[0].result
        assert isinstance(granted, r.Granted)
        token = granted.holds[0].token


def test_a_reader_does_not_overtake_a_waiting_writer() -> None:
    """SHARED held, EXCLUSIVE waiting: a new SHARED waits behind it, and a try is refused; both readers come after the writer."""
    rig = rig_of("ann", "bob", "cid", "dan")
    token = rig.token("ann", "a", mode=S)
    rig.wait("bob", "a")
    assert rig.refusal("cid", acquire("a", mode=S)) == HELD
    rig.wait("cid", "a", mode=S)
    rig.wait("dan", "a", mode=S)
    rig.ask("ann", c.Release((guard("a", token),)))
    assert rig.done() == {("bob", 1): "granted"}
    granted = rig.completions[0].result
    assert isinstance(granted, r.Granted)
    rig.ask("bob", c.Release((guard("a", granted.holds[0].token),)))
    assert rig.done() == {("cid", 2): "granted", ("dan", 1): "granted"}


def test_a_request_for_several_resources_is_not_starved() -> None:
    """One who waits for a and b keeps his place on a, though a is free: later requests for a wait behind him."""
    rig = rig_of("ann", "bob", "cid")
    token = rig.token("ann", "b")
    rig.wait("bob", "a", "b")
    assert rig.refusal("cid", acquire("a")) == HELD
    rig.wait("cid", "a")
    assert sorted(rig.machine.sessions.live[rig.names["bob"]].holds) == [], "a waiter holds nothing"
    rig.ask("ann", c.Release((guard("b", token),)))
    assert rig.done() == {("bob", 1): "granted"}


def test_a_stream_below_does_not_starve_a_waiter_above() -> None:
    """EXCLUSIVE waiting on `a`: new locks on a/x and a/y, which imply intentions on `a`, wait behind it; elsewhere nothing waits."""
    rig = rig_of("ann", "bob", "cid")
    token = rig.token("ann", "a/x")
    rig.wait("bob", "a")
    assert rig.refusal("cid", acquire("a/y")) == HELD
    assert isinstance(rig.ask("cid", acquire("b/y")), r.Granted)
    rig.wait("cid", "a/y")
    rig.ask("ann", c.Release((guard("a/x", token),)))
    assert rig.done() == {("bob", 1): "granted"}


def test_waiting_on_one_row_keeps_nobody_from_another() -> None:
    """Waiters on a/x have their intentions in line on `a`; those get on with one another, so that a/y stays free to take."""
    rig = rig_of("ann", "bob", "cid")
    rig.token("ann", "a/x")
    rig.wait("bob", "a/x")
    assert isinstance(rig.ask("cid", acquire("a/y")), r.Granted)


def test_taking_a_lock_again_counts() -> None:
    """A session that has what it asks for keeps its token, and gives the lock back as often as it took it."""
    rig = rig_of("ann", "bob")
    token = rig.token("ann", "a")
    again = rig.get(r.Granted, "ann", acquire("a", mode=S))
    assert again.holds == (r.Hold(Resource("a"), X, token, 2),)
    assert rig.events == []
    for last in (False, True):
        assert rig.get(r.Released, "ann", c.Release((guard("a", token),))).released == (True,)
        assert isinstance(rig.ask("bob", acquire("a")), r.Granted) is last


def test_a_row_under_an_own_lock_is_still_locked_itself() -> None:
    """EXCLUSIVE on `a` covers the intention on it; a/x gets its own hold, which outlives the one above."""
    rig = rig_of("ann", "bob")
    above = rig.token("ann", "a")
    below = rig.token("ann", "a/x")
    rig.ask("ann", c.Release((guard("a", above),)))
    assert rig.refusal("bob", acquire("a/x")) == HELD
    assert isinstance(rig.ask("bob", acquire("a/y")), r.Granted)
    rig.ask("ann", c.Release((guard("a/x", below),)))
    assert isinstance(rig.ask("bob", acquire("a/x")), r.Granted)


# --- waits ---------------------------------------------------------------------------------------------------------------------


def test_a_timed_wait_ends_by_log_time_and_not_early() -> None:
    """At its deadline, not before, the waiter gets DEADLINE_EXCEEDED WAIT_TIMEOUT, and leaves the queue."""
    rig = rig_of("ann", "bob")
    rig.token("ann", "a")
    waiting = rig.wait("bob", "a", wait=5 * SECOND)
    assert rig.machine.next_due() == rig.now + 5 * SECOND
    rig.tick(5 * SECOND - 1)
    assert rig.done() == {}
    rig.tick(1)
    assert rig.done() == {("bob", waiting): "WAIT_TIMEOUT"}
    assert isinstance(rig.events[0], events.WaitTimedOut)
    assert not rig.machine.locks.waiters
    assert rig.machine.next_due() == rig.machine.sessions.live[rig.names["ann"]].expires_at


def test_who_times_out_lets_those_behind_him_go_on() -> None:
    """When a waiting writer gives up, the readers behind it join the reader that holds."""
    rig = rig_of("ann", "bob", "cid")
    rig.token("ann", "a", mode=S)
    rig.wait("bob", "a", wait=SECOND)
    rig.wait("cid", "a", mode=S)
    rig.tick(SECOND)
    assert rig.done() == {("bob", 1): "WAIT_TIMEOUT", ("cid", 1): "granted"}


def test_a_holder_lost_before_the_deadline_makes_room_in_time() -> None:
    """What falls due in one entry is carried out in the order of time: the lock of a lost session goes to a wait that ends later."""
    rig = rig_of("bob")
    rig.open("ann", ttl=SECOND)
    rig.token("ann", "a")
    rig.wait("bob", "a", wait=2 * SECOND)
    rig.tick(60 * SECOND)
    assert rig.done() == {("bob", 1): "granted"}


def test_the_number_of_waiters_is_bounded() -> None:
    """One waiter more than the limit is RESOURCE_EXHAUSTED."""
    rig = rig_of("ann", "bob", limits=Limits(waiters_per_resource=2))
    rig.token("ann", "a")
    rig.wait("bob", "a")
    rig.wait("bob", "a")
    assert rig.refusal("bob", acquire("a", wait=FOREVER)) == ("RESOURCE_EXHAUSTED", "TOO_MANY_WAITERS")


def test_the_number_of_holds_is_bounded() -> None:
    """A session that would hold more resources than the limit is refused."""
    rig = rig_of("ann", limits=Limits(holds_per_session=2))
    rig.token("ann", "a", "b")
    assert rig.refusal("ann", acquire("c")) == ("RESOURCE_EXHAUSTED", "TOO_MANY_HOLDS")


# --- conversions ---------------------------------------------------------------------------------------------------------------


def test_a_conversion_goes_before_new_requests() -> None:
    """SHARED to EXCLUSIVE waits for the other readers only, not for the writer who asked before."""
    rig = rig_of("ann", "bob", "cid")
    rig.token("ann", "a", mode=S)
    bobs = rig.token("bob", "a", mode=S)
    rig.wait("cid", "a")
    rig.wait("ann", "a")
    rig.ask("bob", c.Release((guard("a", bobs),)))
    assert rig.done() == {("ann", 2): "granted"}


def test_a_conversion_gives_a_new_token_and_keeps_the_count() -> None:
    """Convert up or down: the mode changes for the whole hold, the old token is no longer current, either token releases."""
    rig = rig_of("ann", "bob")
    first = rig.token("ann", "a", mode=S)
    rig.token("ann", "a", mode=S)
    up = rig.get(r.Granted, "ann", c.Convert(Resource("a"), first, X, 0)).holds[0]
    assert (up.mode, up.count) == (X, 2)
    assert up.token > first
    assert rig.refusal("", c.CreateAccounts(b"", (guard("a", first),))) == ("FAILED_PRECONDITION", "FENCED")
    down = rig.get(r.Granted, "ann", c.Convert(Resource("a"), first, S, 0)).holds[0]
    assert (down.mode, down.count) == (S, 2)
    assert down.token > up.token
    assert isinstance(rig.ask("bob", acquire("a", mode=S)), r.Granted)
    assert rig.get(r.Released, "ann", c.Release((guard("a", first), guard("a", up.token), guard("a", down.token)))).released == (
        True,
        True,
        False,
    )


def test_converting_to_the_same_mode_changes_nothing() -> None:
    """The hold comes back with its token as it was."""
    rig = rig_of("ann")
    token = rig.token("ann", "a", mode=U)
    assert rig.get(r.Granted, "ann", c.Convert(Resource("a"), token, U, 0)).holds[0].token == token
    assert rig.events == []


def test_converting_down_lets_others_in() -> None:
    """EXCLUSIVE to SHARED grants the waiting readers in the same entry, and the intention above follows."""
    rig = rig_of("ann", "bob", "cid")
    token = rig.token("ann", "a/x")
    rig.wait("bob", "a/x", mode=S)
    rig.wait("cid", "a", mode=S)
    rig.ask("ann", c.Convert(Resource("a/x"), token, S, 0))
    assert rig.done() == {("bob", 1): "granted", ("cid", 1): "granted"}


def test_asking_for_more_converts_to_the_supremum() -> None:
    """SHARED held, INTENT_EXCLUSIVE asked for: the hold becomes SHARED_INTENT_EXCLUSIVE, counted twice."""
    rig = rig_of("ann")
    rig.token("ann", "a", mode=S)
    hold = rig.get(r.Granted, "ann", acquire("a", mode=IX)).holds[0]
    assert (hold.mode.name, hold.count) == ("SHARED_INTENT_EXCLUSIVE", 2)


def test_update_avoids_the_readers_deadlock() -> None:
    """Two who read and mean to write take UPDATE: the second waits at once, and the first becomes EXCLUSIVE without a victim."""
    rig = rig_of("ann", "bob")
    first = rig.token("ann", "a", mode=U)
    rig.wait("bob", "a", mode=U)
    up = rig.get(r.Granted, "ann", c.Convert(Resource("a"), first, X, 0)).holds[0]
    rig.ask("ann", c.Release((guard("a", up.token),)))
    assert rig.done() == {("bob", 1): "granted"}


@pytest.mark.parametrize("how", ["release", "force"])
def test_a_conversion_ends_with_its_hold(how: str) -> None:
    """If the hold goes while its conversion waits, the conversion is refused with NOT_HOLDER."""
    rig = rig_of("ann", "bob")
    token = rig.token("ann", "a", mode=S)
    rig.token("bob", "a", mode=S)
    assert rig.ask("ann", c.Convert(Resource("a"), token, X, FOREVER)) is None
    if how == "release":
        rig.ask("ann", c.Release((guard("a", token),)))
    else:
        rig.ask("", c.ForceRelease(Resource("a"), "root", "maintenance"))
    assert rig.done() == {("ann", 2): "NOT_HOLDER"}


def test_converting_needs_the_hold() -> None:
    """Without the hold, with another's token or with a token from nowhere, Convert is NOT_HOLDER."""
    rig = rig_of("ann", "bob")
    token = rig.token("ann", "a", mode=S)
    for who, named in (("bob", token), ("ann", token + 1), ("ann", 0)):
        assert rig.refusal(who, c.Convert(Resource("a"), FencingToken(named), X, 0)) == (
            "FAILED_PRECONDITION",
            "NOT_HOLDER",
        )


# --- release, cancel, force ----------------------------------------------------------------------------------------------------


def test_releasing_is_idempotent() -> None:
    """A second release of the same token changes nothing and says so; nor does one of a lock that was never held."""
    rig = rig_of("ann", "bob")
    token = rig.token("ann", "a")
    assert rig.get(r.Released, "ann", c.Release((guard("a", token),))).released == (True,)
    assert rig.get(r.Released, "ann", c.Release((guard("a", token),))).released == (False,)
    rig.token("bob", "a")
    assert rig.get(r.Released, "ann", c.Release((guard("a", token),))).released == (False,), "a stale token frees nobody else's lock"
    assert rig.get(r.Released, "ann", c.Release((guard("never", 5),))).released == (False,)
    assert rig.refusal("bob", acquire("a", mode=S, wait=-2)) == ("INVALID_ARGUMENT", "INVALID_WAIT")


def test_releasing_another_sessions_grant_is_refused_and_releases_nothing() -> None:
    """NOT_HOLDER, also for the own holds that were named beside it."""
    rig = rig_of("ann", "bob")
    mine, others = rig.token("ann", "a"), rig.token("bob", "b")
    assert rig.refusal("ann", c.Release((guard("a", mine), guard("b", others)))) == ("FAILED_PRECONDITION", "NOT_HOLDER")
    assert rig.refusal("bob", acquire("a")) == HELD


def test_cancelling_a_waiter_leaves_no_ghost() -> None:
    """The waiter gets CANCELLED, is gone from every queue, and those behind it go on."""
    rig = rig_of("ann", "bob", "cid")
    rig.token("ann", "a/x", mode=S)
    waiting = rig.wait("bob", "a/x", "b")
    rig.wait("cid", "a/x", mode=S)
    assert rig.ask("bob", c.CancelAcquire(RequestId(waiting))) == r.Cancelled(waiting=True, released=False)
    assert rig.done() == {("bob", waiting): "CANCELLED", ("cid", 1): "granted"}
    assert "b" not in rig.machine.locks.locks


def test_cancelling_a_grant_gives_it_back_once() -> None:
    """An acquire that was granted before the cancel came is released; a second cancel finds nothing."""
    rig = rig_of("ann", "bob")
    rig.token("ann", "a", "b/c")
    target = RequestId(rig.requests["ann"])
    assert rig.ask("ann", c.CancelAcquire(target)) == r.Cancelled(waiting=False, released=True)
    assert not rig.machine.locks.locks
    rig.token("ann", "a")
    assert rig.ask("ann", c.CancelAcquire(target)) == r.Cancelled(waiting=False, released=False)
    assert rig.refusal("bob", acquire("a")) == HELD


def test_a_cancel_that_overtakes_its_acquire_still_wins() -> None:
    """The acquire that comes later under the cancelled id is refused with CANCELLED and takes nothing."""
    rig = rig_of("ann")
    assert rig.apply(rig.request("ann", c.CancelAcquire(RequestId(7)), 0)).results == [r.Cancelled(waiting=False, released=False)]
    late = rig.apply(rig.request("ann", acquire("a"), 7)).results[0]
    assert isinstance(late, r.Refused)
    assert late.reason == "CANCELLED"
    assert not rig.machine.locks.locks


def test_cancelling_a_granted_conversion_leaves_the_hold_as_it_is() -> None:
    """A conversion gained no hold: there is nothing to give back."""
    rig = rig_of("ann")
    token = rig.token("ann", "a", mode=S)
    rig.ask("ann", c.Convert(Resource("a"), token, X, 0))
    assert rig.ask("ann", c.CancelAcquire(RequestId(rig.requests["ann"]))) == r.Cancelled(waiting=False, released=False)
    assert rig.machine.sessions.live[rig.names["ann"]].holds[Resource("a")].mode == X


def test_a_forced_release_is_recorded_and_fences_the_holder() -> None:
    """Who, when and why is in the event; the next waiter gets the lock; the old token guards nothing and releases nothing."""
    rig = rig_of("ann", "bob")
    token = rig.token("ann", "a")
    rig.wait("bob", "a")
    assert rig.ask("", c.ForceRelease(Resource("a"), "root", "stuck")) == r.Released((True,), rig.machine.index)
    forced = rig.events[0]
    assert isinstance(forced, events.LockForced)
    assert (forced.by, forced.reason, forced.owner, forced.token, forced.revision) == ("root", "stuck", "ann", token, rig.machine.index)
    assert rig.done() == {("bob", 1): "granted"}
    assert rig.refusal("ann", c.Transact((guard("a", token),), (), ())) == ("FAILED_PRECONDITION", "FENCED")
    assert rig.get(r.Released, "ann", c.Release((guard("a", token),))).released == (False,)


# --- guards --------------------------------------------------------------------------------------------------------------------


def test_guards_pass_only_while_the_grant_is_current() -> None:
    """FENCED without a hold, with a token of before, of another resource or after the release; with the current one it passes."""
    rig = rig_of("ann", "bob")
    assert rig.refusal("ann", c.Transact((guard("a", 1),), (), ())) == ("FAILED_PRECONDITION", "FENCED")
    token = rig.token("ann", "a")
    other = rig.token("ann", "b")
    assert isinstance(rig.ask("ann", c.Transact((guard("a", token), guard("b", other)), (), ())), r.Transacted)
    assert isinstance(rig.ask("bob", c.Transact((guard("a", token),), (), ())), r.Transacted), "held by anyone"
    refused = rig.get(r.Refused, "ann", c.Transact((guard("a", other),), (), ()))
    assert refused.details == (("resource", "a"), ("token", str(other)), ("current", str(token)))
    rig.ask("ann", c.Release((guard("a", token),)))
    assert rig.refusal("ann", c.Transact((guard("a", token),), (), ())) == ("FAILED_PRECONDITION", "FENCED")


def test_every_reader_guards_with_a_token_of_its_own() -> None:
    """SHARED by two sessions: both tokens are current, and each ends with its own hold."""
    rig = rig_of("ann", "bob")
    anns, bobs = rig.token("ann", "a", mode=S), rig.token("bob", "a", mode=S)
    assert isinstance(rig.ask("ann", c.Transact((guard("a", anns), guard("a", bobs)), (), ())), r.Transacted)
    rig.ask("bob", c.Release((guard("a", bobs),)))
    assert isinstance(rig.ask("ann", c.Transact((guard("a", anns),), (), ())), r.Transacted)
    assert rig.refusal("ann", c.Transact((guard("a", bobs),), (), ())) == ("FAILED_PRECONDITION", "FENCED")


def test_an_implied_intention_is_no_grant() -> None:
    """Holding a/b gives no token for `a`, whatever number is tried."""
    rig = rig_of("ann")
    token = rig.token("ann", "a/b")
    for number in (0, token, token - 1):
        assert rig.refusal("ann", c.Transact((guard("a", number),), (), ())) == ("FAILED_PRECONDITION", "FENCED")


def test_a_ledger_batch_is_guarded_in_the_entry_that_applies_it() -> None:
    """The holder's batch passes before the release and is FENCED after it, in the same entry."""
    rig = rig_of("ann")
    token = rig.token("ann", "a")
    batch = c.CreateTransfers(b"", (), (guard("a", token),))
    release = c.Release((guard("a", token),))
    first, _, last = rig.apply(rig.request("ann", batch), rig.request("ann", release), rig.request("ann", batch)).results
    assert first == r.BatchDone(b"")
    assert isinstance(last, r.Refused)
    assert last.reason == "FENCED"


# --- lock delay ----------------------------------------------------------------------------------------------------------------


def test_lock_delay_keeps_a_lost_lock_unavailable() -> None:
    """Nobody gets a lost lock, in any mode, nor anything above that would cover it; after the delay the first waiter does."""
    rig = rig_of("bob", "cid")
    rig.open("ann", ttl=SECOND)
    token = rig.token("ann", "a/x", delay=5 * SECOND)
    rig.wait("bob", "a/x", mode=S)
    rig.tick(SECOND)
    lost = rig.events[1]
    assert isinstance(lost, events.LockLost)
    assert (lost.token, lost.available_at) == (token, rig.now + 5 * SECOND)
    assert rig.done() == {}
    refused = rig.get(r.Refused, "cid", acquire("a/x", mode=S))
    assert ("delayed_until", str(lost.available_at)) in refused.details
    assert rig.refusal("cid", acquire("a")) == HELD
    assert isinstance(rig.ask("cid", acquire("a/y")), r.Granted)
    assert rig.refusal("bob", c.Transact((guard("a/x", token),), (), ())) == ("FAILED_PRECONDITION", "FENCED")
    rig.tick(lost.available_at - rig.now - 1)
    assert rig.done() == {}
    rig.tick(1)
    assert rig.done() == {("bob", 1): "granted"}


def test_lock_delay_starts_when_the_loss_is_applied() -> None:
    """It counts from the log time of the entry that expires the session, never from an earlier instant."""
    rig = rig_of("bob")
    rig.open("ann", ttl=SECOND)
    rig.token("ann", "a", delay=5 * SECOND)
    rig.tick(30 * SECOND)
    assert rig.refusal("bob", acquire("a"), after=5 * SECOND - 1) == HELD
    assert isinstance(rig.ask("bob", acquire("a"), after=1), r.Granted)


def test_an_operator_ends_a_lock_delay() -> None:
    """A forced release makes a delayed lock available at once."""
    rig = rig_of("bob")
    rig.open("ann", ttl=SECOND)
    rig.token("ann", "a", delay=3600 * SECOND)
    rig.tick(SECOND)
    rig.wait("bob", "a")
    rig.ask("", c.ForceRelease(Resource("a"), "root", "why"))
    assert rig.done() == {("bob", 1): "granted"}


def test_a_lost_semaphore_permit_stays_out_for_its_delay() -> None:
    """Only the lost session's permits are delayed; the others go round."""
    rig = rig_of("bob")
    rig.open("ann", ttl=SECOND)
    rig.get(r.Granted, "ann", c.Acquire((claim("pool", S, 2, 3),), 0, 5 * SECOND))
    rig.tick(SECOND)
    assert rig.refusal("bob", c.Acquire((claim("pool", S, 2, 3),), 0)) == HELD
    assert isinstance(rig.ask("bob", c.Acquire((claim("pool", S, 1, 3),), 0)), r.Granted)
    rig.tick(5 * SECOND)
    assert isinstance(rig.ask("bob", c.Acquire((claim("pool", S, 2, 3),), 0)), r.Granted)


# --- bad input -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (c.Acquire((), 0), "NO_CLAIMS"),
        (acquire("a", "b", "a"), "DUPLICATE_RESOURCE"),
        (acquire(*[f"r{n}" for n in range(1_025)]), "TOO_MANY_CLAIMS"),
        (acquire("a//b"), "INVALID_PATH"),
        (acquire("/".join(["p"] * 10_000)), "INVALID_PATH"),
        (acquire("\ud800"), "INVALID_PATH"),
        (acquire("a", mode=cast("LockMode", 7)), "INVALID_MODE"),
        (acquire("a", mode=cast("LockMode", 0)), "INVALID_MODE"),
        (acquire("a", mode=cast("LockMode", -(2**80))), "INVALID_MODE"),
        (acquire("a", wait=-2), "INVALID_WAIT"),
        (acquire("a", delay=-1), "INVALID_LOCK_DELAY"),
        (acquire("a", delay=3600 * SECOND + 1), "INVALID_LOCK_DELAY"),
        (c.Acquire((claim("a", S, 1, 0),), 0), "INVALID_PERMITS"),
        (c.Acquire((claim("a", S, 0, 1),), 0), "INVALID_PERMITS"),
        (c.Acquire((claim("a", S, 4, 3),), 0), "INVALID_PERMITS"),
        (c.Acquire((claim("a", S, -1, 3),), 0), "INVALID_PERMITS"),
        (c.Acquire((claim("a", S, 1, 2**40),), 0), "INVALID_PERMITS"),
        (c.Convert(Resource(""), FencingToken(1), X, 0), "INVALID_PATH"),
        (c.Convert(Resource("a"), FencingToken(1), cast("LockMode", 9), 0), "INVALID_MODE"),
        (c.Release(()), "NO_CLAIMS"),
        (c.Release((guard("..", 1),)), "INVALID_PATH"),
        (c.Release((guard("a", 1),) * 1_025), "TOO_MANY_CLAIMS"),
        (c.Transact((guard("a", 1),) * 1_025, (), ()), "TOO_MANY_GUARDS"),
        (c.Transact((guard("a\x00", 1),), (), ()), "INVALID_PATH"),
        (c.ForceRelease(Resource("/"), "root", "why"), "INVALID_PATH"),
        (c.ForceRelease(Resource("a"), "x" * 129, "why"), "INVALID_TEXT"),
        (c.ForceRelease(Resource("a"), "root", "x" * 513), "INVALID_TEXT"),
    ],
)
def test_what_can_never_succeed_is_an_invalid_argument(command: c.Command, reason: str) -> None:
    """Bad paths, modes, permits, waits, delays, duplicates, none and too many are refused and leave no trace."""
    rig = rig_of("ann")
    assert rig.refusal("ann", command) == ("INVALID_ARGUMENT", reason)
    assert not rig.machine.locks.locks
    assert rig.events == []


def test_a_bad_path_is_quoted_shortened() -> None:
    """The refusal's details hold no more of a bad path than helps."""
    refused = rig_of("ann").get(r.Refused, "ann", acquire("x" * 5_000))
    assert refused.details == (("resource", "x" * 128),)
