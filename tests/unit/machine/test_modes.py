"""Modes: the textbook tables, and that the machine lives by them (semantics, section 3)."""

from __future__ import annotations

import pytest

from lockd.machine import commands as c
from lockd.machine import modes
from lockd.machine import results as r
from lockd.machine.types import LockMode
from tests.unit.machine.rig import IS, IX, SIX, Rig, S, U, X, acquire, guard

# Gray and Reuter, chapter 7.8, with the symmetric UPDATE: columns as rows.
TABLE = """
      IS  IX  S   SIX U   X
IS    yes yes yes yes yes no
IX    yes yes no  no  no  no
S     yes no  yes no  yes no
SIX   yes no  no  no  no  no
U     yes no  yes no  no  no
X     no  no  no  no  no  no
"""
NAMED = {"IS": IS, "IX": IX, "S": S, "SIX": SIX, "U": U, "X": X}


def table() -> list[tuple[LockMode, LockMode, bool]]:
    """The cells of the table."""
    head, *lines = TABLE.strip("\n").split("\n")
    return [
        (NAMED[line.split()[0]], NAMED[column], cell == "yes")
        for line in lines
        for column, cell in zip(head.split(), line.split()[1:], strict=True)
    ]


@pytest.mark.parametrize(("one", "other", "together"), table(), ids=lambda value: getattr(value, "name", str(value)))
def test_two_sessions_hold_a_resource_together_exactly_where_the_matrix_says_so(one: LockMode, other: LockMode, together: bool) -> None:
    """A try for `other` while somebody holds `one` is granted where the matrix says yes, and LOCK_HELD where it says no."""
    rig = Rig()
    rig.open("ann")
    rig.open("bob")
    rig.token("ann", "a/b", mode=one)
    answer = rig.ask("bob", acquire("a/b", mode=other))
    assert isinstance(answer, r.Granted) if together else isinstance(answer, r.Refused) and answer.reason == "LOCK_HELD"
    assert modes.COMPATIBLE[one][other] is together


def test_the_supremum_is_the_weakest_mode_that_covers_both() -> None:
    """SUPREMUM gives, for each two modes, the least mode above both in IS < IX, S; S < U; IX, U < SIX < X."""
    above = {IS: {IS, IX, S, U, SIX, X}, IX: {IX, SIX, X}, S: {S, U, SIX, X}, U: {U, SIX, X}, SIX: {SIX, X}, X: {X}}
    for one in NAMED.values():
        for other in NAMED.values():
            common = above[one] & above[other]
            least = next(mode for mode in common if common <= above[mode])
            assert modes.SUPREMUM[one][other] == least


def test_a_supremum_conflicts_with_what_either_mode_conflicts_with() -> None:
    """No mode gets on with a supremum that does not get on with both parts, nor the other way round: waiting for both is waiting for it."""
    for one in NAMED.values():
        for other in NAMED.values():
            assert modes.CONFLICTS[modes.SUPREMUM[one][other]] == modes.CONFLICTS[one] | modes.CONFLICTS[other]


@pytest.mark.parametrize(("mode", "intention"), [(IS, IS), (S, IS), (IX, IX), (U, IX), (SIX, IX), (X, IX)])
def test_a_lock_announces_itself_on_its_ancestors(mode: LockMode, intention: LockMode) -> None:
    """Locking a row takes intention locks on all its ancestors in the same command: what they conflict with waits there."""
    rig = Rig()
    rig.open("ann")
    rig.open("bob")
    rig.token("ann", "a/b/c", mode=mode)
    for ancestor in ("a", "a/b"):
        for other in NAMED.values():
            answer = rig.ask("bob", acquire(ancestor, mode=other))
            assert isinstance(answer, r.Granted) is modes.COMPATIBLE[intention][other], (ancestor, other)
            if isinstance(answer, r.Granted):
                rig.get(r.Released, "bob", c.Release((guard(ancestor, answer.holds[0].token),)))
    assert isinstance(rig.ask("bob", acquire("a/z", mode=X)), r.Granted)
