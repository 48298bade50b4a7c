"""Counting semaphores on the same queue (semantics, section 3)."""

from __future__ import annotations

from lockd.machine import commands as c
from lockd.machine import results as r
from lockd.machine.types import FOREVER, Nanos
from tests.unit.machine.rig import Rig, S, X, acquire, claim, guard

MISMATCH = ("FAILED_PRECONDITION", "SEMAPHORE_MISMATCH")


def permits(number: int, limit: int = 3, wait: Nanos = 0, resource: str = "pool") -> c.Acquire:
    """Ask for permits."""
    return c.Acquire((claim(resource, S, number, limit),), wait)


def rig_of(*names: str) -> Rig:
    """A machine with these sessions."""
    rig = Rig()
    for name in names:
        rig.open(name)
    return rig


def test_no_more_permits_are_out_than_the_limit() -> None:
    """Permits are granted while they fit, refused to a try when they do not, and can be had again after a release."""
    rig = rig_of("ann", "bob", "cid")
    token = rig.get(r.Granted, "ann", permits(2)).holds[0].token
    rig.get(r.Granted, "bob", permits(1))
    assert rig.refusal("cid", permits(1)) == ("ABORTED", "LOCK_HELD")
    rig.ask("ann", c.Release((guard("pool", token),)))
    assert rig.get(r.Granted, "cid", permits(2)).holds[0].permits == 2


def test_each_grant_of_permits_has_its_own_token() -> None:
    """A session that takes permits twice gets two tokens, both current; each release gives back what that grant took."""
    rig = rig_of("ann", "bob")
    first = rig.get(r.Granted, "ann", permits(1)).holds[0]
    second = rig.get(r.Granted, "ann", permits(2)).holds[0]
    assert (second.count, second.permits) == (2, 3)
    both = (guard("pool", first.token), guard("pool", second.token))
    assert isinstance(rig.ask("ann", c.Transact(both, (), ())), r.Transacted)
    rig.ask("ann", c.Release((guard("pool", second.token),)))
    assert rig.refusal("ann", c.Transact(both, (), ())) == ("FAILED_PRECONDITION", "FENCED")
    assert rig.get(r.Granted, "bob", permits(2)).holds[0].permits == 2
    assert rig.get(r.Released, "ann", c.Release((guard("pool", second.token),))).released == (False,)


def test_a_small_request_does_not_starve_a_large_one() -> None:
    """Three of three wait for one to come back: a later request for the free two waits behind."""
    rig = rig_of("ann", "bob", "cid")
    token = rig.get(r.Granted, "ann", permits(1)).holds[0].token
    assert rig.ask("bob", permits(3, wait=FOREVER)) is None
    assert rig.refusal("cid", permits(1)) == ("ABORTED", "LOCK_HELD")
    rig.ask("ann", c.Release((guard("pool", token),)))
    assert rig.done() == {("bob", 1): "granted"}


def test_a_waiting_request_that_fits_beside_keeps_nobody_waiting() -> None:
    """Bob waits for one permit and for a lock: the permit he will need is kept for him, the others go round."""
    rig = rig_of("ann", "bob", "cid")
    token = rig.token("ann", "a")
    assert rig.ask("bob", c.Acquire((claim("pool", S, 1, 3), claim("a", X)), FOREVER)) is None
    rig.get(r.Granted, "cid", permits(2))
    assert rig.refusal("cid", permits(1)) == ("ABORTED", "LOCK_HELD")
    rig.ask("ann", c.Release((guard("a", token),)))
    assert rig.done() == {("bob", 1): "granted"}


def test_a_resource_is_a_lock_or_a_semaphore_while_anyone_has_or_wants_it() -> None:
    """The other kind, and another limit, are refused with SEMAPHORE_MISMATCH until nobody is left; then everything is open again."""
    rig = rig_of("ann", "bob")
    token = rig.get(r.Granted, "ann", permits(1)).holds[0].token
    assert rig.refusal("bob", acquire("pool")) == MISMATCH
    assert rig.refusal("bob", permits(1, limit=4)) == MISMATCH
    rig.ask("ann", c.Release((guard("pool", token),)))
    token = rig.token("bob", "pool")
    assert rig.refusal("ann", permits(1)) == MISMATCH
    rig.ask("bob", c.Release((guard("pool", token),)))
    assert rig.get(r.Granted, "ann", permits(1, limit=4)).holds[0].permits == 1


def test_permits_cannot_be_converted() -> None:
    """Convert on a semaphore is refused: there is no mode."""
    rig = rig_of("ann")
    token = rig.get(r.Granted, "ann", permits(1)).holds[0].token
    assert rig.refusal("ann", c.Convert(claim("pool").resource, token, X, 0)) == MISMATCH


def test_an_exclusive_lock_above_keeps_permits_in() -> None:
    """Taking permits is like a write below an ancestor: EXCLUSIVE on `t` and permits of t/pool exclude each other."""
    rig = rig_of("ann", "bob")
    token = rig.get(r.Granted, "ann", permits(1, resource="t/pool")).holds[0].token
    assert rig.refusal("bob", acquire("t")) == ("ABORTED", "LOCK_HELD")
    rig.ask("ann", c.Release((guard("t/pool", token),)))
    rig.token("bob", "t")
    assert rig.refusal("ann", permits(1, resource="t/pool")) == ("ABORTED", "LOCK_HELD")


def test_locks_below_a_semaphore_do_not_touch_it() -> None:
    """A lock on pool/x implies an intention on the semaphore `pool`, which has no modes: the two get on."""
    rig = rig_of("ann", "bob")
    rig.get(r.Granted, "ann", permits(3))
    assert isinstance(rig.ask("bob", acquire("pool/x")), r.Granted)
