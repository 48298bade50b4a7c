"""Deadlocks are resolved at once, and the youngest request of the cycle pays (semantics, section 3)."""

from __future__ import annotations

import pytest

from lockd.machine import commands as c
from lockd.machine import events
from lockd.machine import results as r
from lockd.machine.types import FOREVER, Resource
from lockd.machine.views import wait_graph
from tests.unit.machine.rig import SECOND, Rig, S, X, acquire, claim, guard

DEADLOCK = ("ABORTED", "DEADLOCK")


def ring(size: int) -> Rig:
    """Sessions s0 ... each hold r<n> and, but for the last, wait for the next one's."""
    rig = Rig()
    for number in range(size):
        rig.open(f"s{number}", ttl=3600 * SECOND)
        rig.token(f"s{number}", f"r{number}")
    for number in range(size - 1):
        rig.wait(f"s{number}", f"r{number + 1}")
    return rig


@pytest.mark.parametrize("size", [2, 3, 7, 50])
def test_the_request_that_closes_a_cycle_is_refused_with_the_cycle(size: int) -> None:
    """The last request is the youngest: it gets ABORTED DEADLOCK, and the cycle names every session and what it waits for."""
    rig = ring(size)
    last = f"s{size - 1}"
    refused = rig.get(r.Refused, last, acquire("r0", wait=FOREVER))
    assert (refused.code.name, refused.reason) == DEADLOCK
    order = [size - 1, *range(size - 1)]
    named = [("cycle", f"session {rig.names[f's{n}']} waits for r{(n + 1) % size}") for n in order]
    assert list(refused.details) == named
    event = rig.events[-1]
    assert isinstance(event, events.DeadlockResolved)
    assert event.cycle == tuple((rig.names[f"s{n}"], f"r{(n + 1) % size}") for n in order)
    assert len(rig.machine.locks.waiters) == size - 1
    assert rig.completions == []


def test_two_readers_who_both_want_to_write_are_a_cycle() -> None:
    """SHARED held by both, both convert to EXCLUSIVE: the second is refused and keeps its SHARED; the first goes on when it lets go."""
    rig = Rig()
    rig.open("ann")
    rig.open("bob")
    rig.token("ann", "a", mode=S)
    bobs = rig.token("bob", "a", mode=S)
    rig.wait("ann", "a")
    assert rig.refusal("bob", acquire("a", wait=FOREVER)) == DEADLOCK
    rig.ask("bob", c.Release((guard("a", bobs),)))
    assert rig.done() == {("ann", 2): "granted"}


def test_a_place_in_line_can_be_part_of_a_cycle() -> None:
    """Ann holds a and waits in line behind bob on b, who holds nothing there but waits for a: neither could ever go on."""
    rig = Rig()
    for name in ("ann", "bob", "cid"):
        rig.open(name)
    rig.token("ann", "a", mode=S)
    rig.token("cid", "b", mode=S)
    rig.ask("bob", c.Acquire((claim("a", X), claim("b", X)), FOREVER))
    assert rig.refusal("ann", acquire("b", mode=S, wait=FOREVER)) == DEADLOCK


def test_locks_on_different_levels_make_cycles_too() -> None:
    """Ann holds t/1 and wants u; bob holds u and wants all of t."""
    rig = Rig()
    rig.open("ann")
    rig.open("bob")
    rig.token("ann", "t/1")
    rig.token("bob", "u")
    rig.wait("bob", "t", mode=S)
    refused = rig.get(r.Refused, "ann", acquire("u", wait=FOREVER))
    assert refused.details == (
        ("cycle", f"session {rig.names['ann']} waits for u"),
        ("cycle", f"session {rig.names['bob']} waits for t"),
    )


def test_one_request_that_closes_several_cycles_is_refused_once() -> None:
    """The victim's going breaks them all: nobody else is refused."""
    rig = Rig()
    for name in ("ann", "bob", "cid"):
        rig.open(name)
    rig.token("ann", "a")
    rig.token("bob", "b", mode=S)
    rig.token("cid", "b", mode=S)
    rig.wait("bob", "a", mode=S)
    rig.wait("cid", "a", mode=S)
    assert rig.refusal("ann", acquire("b", wait=FOREVER)) == DEADLOCK
    assert len(rig.machine.locks.waiters) == 2


def test_the_youngest_request_is_the_victim_whoever_closes_the_cycle() -> None:
    """A conversion that is granted at once can close a cycle between two who wait already: the younger wait is refused."""
    rig = Rig()
    for name in ("ann", "bob", "cid"):
        rig.open(name)
    rig.token("ann", "a", mode=S)
    rig.token("bob", "c")
    rig.token("cid", "b")
    first = rig.wait("ann", "c")
    assert rig.ask("bob", c.Acquire((claim("a", S), claim("b", X)), FOREVER)) is None
    assert isinstance(rig.ask("ann", acquire("a")), r.Granted)
    assert rig.done() == {("bob", 2): "DEADLOCK"}
    assert list(rig.machine.sessions.live[rig.names["ann"]].waits) == [first]


def test_no_cycle_no_victim() -> None:
    """A long chain, and a crowd behind one lock, are no deadlocks."""
    rig = ring(20)
    for number in range(19, 0, -1):
        assert len(rig.machine.locks.waiters) == number
        released = rig.names[f"s{number}"]
        hold = rig.machine.sessions.live[released].holds[Resource(f"r{number}")]
        rig.ask(f"s{number}", c.Release((guard(f"r{number}", hold.token),)))
        assert rig.done() == {(f"s{number - 1}", 2): "granted"}


def test_tasks_that_share_a_session_queue_like_others() -> None:
    """Two tasks of bob's session and one of cid's want ann's lock, bob's around cid's: a queue, not a cycle, though sessions alternate."""
    rig = Rig()
    for name in ("ann", "bob", "cid"):
        rig.open(name)
    token = rig.token("ann", "a")
    first = rig.wait("bob", "a")
    rig.wait("cid", "a")
    second = rig.wait("bob", "a")
    rig.ask("ann", c.Release((guard("a", token),)))
    assert rig.done() == {("bob", first): "granted", ("bob", second): "granted"}, "taken again by who has it"
    token = rig.machine.sessions.live[rig.names["bob"]].holds[Resource("a")].token
    rig.ask("bob", c.Release((guard("a", token), guard("a", token))))
    assert rig.done() == {("cid", 1): "granted"}


def test_a_line_of_ones_own_can_be_part_of_a_cycle() -> None:
    """Bob waits for a and b, then again for a; cid, who holds b, stands behind bob's second request alone: nobody could go on."""
    rig = Rig()
    for name in ("ann", "bob", "cid"):
        rig.open(name)
    rig.token("ann", "z")
    rig.token("cid", "b")
    assert rig.ask("bob", c.Acquire((claim("a", S), claim("b", X)), FOREVER)) is None
    assert rig.ask("bob", c.Acquire((claim("a", X), claim("z", X)), FOREVER)) is None
    assert rig.refusal("cid", acquire("a", mode=S, wait=FOREVER)) == DEADLOCK


def test_a_semaphore_makes_a_cycle_only_where_it_must() -> None:
    """Ann has 2 of 3 permits. Bob's request for 2 cannot fit beside hers: a cycle. His request for 1 might: no cycle."""
    rig = Rig()
    for name in ("ann", "bob", "cid"):
        rig.open(name)
    rig.get(r.Granted, "ann", c.Acquire((claim("pool", S, 2, 3),), 0))
    rig.get(r.Granted, "cid", c.Acquire((claim("pool", S, 1, 3),), 0))
    rig.token("bob", "b")
    rig.wait("ann", "b")
    assert rig.refusal("bob", c.Acquire((claim("pool", S, 2, 3),), FOREVER)) == DEADLOCK
    assert rig.ask("bob", c.Acquire((claim("pool", S, 1, 3),), FOREVER)) is None


def test_the_wait_for_graph_can_be_seen() -> None:
    """Each edge says who waits for whom because of which resource; a wait in line shows as one for those ahead."""
    rig = Rig()
    for name in ("ann", "bob", "cid"):
        rig.open(name)
    rig.token("ann", "t/1")
    rig.wait("bob", "t/1")
    rig.wait("cid", "t/1")
    named = {session: name for name, session in rig.names.items()}
    assert [(named[edge.waiter], named[edge.holder], edge.resource) for edge in wait_graph(rig.machine)] == [
        ("bob", "ann", "t/1"),
        ("cid", "ann", "t/1"),
        ("cid", "bob", "t/1"),
    ]
