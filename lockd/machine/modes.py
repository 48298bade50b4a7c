"""Lock modes: which go together, which covers which, and what a mode asks of the ancestors.

Gray and Reuter, "Transaction Processing" (1993), chapter 7.8; Gray, Lorie, Putzolu and Traiger, "Granularity of Locks" (1976). UPDATE is
the symmetric one of SQL Server: it goes with readers that are there and that come, but not with another UPDATE, so that of several
readers who mean to write exactly one may, and no two of them wait for each other.
"""

from __future__ import annotations

from typing import Final

from lockd.machine.types import LockMode

NONE: Final = 0
IS: Final = int(LockMode.INTENT_SHARED)
IX: Final = int(LockMode.INTENT_EXCLUSIVE)
S: Final = int(LockMode.SHARED)
SIX: Final = int(LockMode.SHARED_INTENT_EXCLUSIVE)
U: Final = int(LockMode.UPDATE)
X: Final = int(LockMode.EXCLUSIVE)

MODES: Final = (IS, IX, S, SIX, U, X)

MODE_OF: Final = (LockMode.INTENT_SHARED, *LockMode)
"""The mode with a number, without the cost of calling LockMode(number); place 0 only keeps the others where they belong."""

COMPATIBLE: Final[tuple[tuple[bool, ...], ...]] = (
    # none   IS     IX     S      SIX    U      X
    (True, True, True, True, True, True, True),  # none
    (True, True, True, True, True, True, False),  # IS
    (True, True, True, False, False, False, False),  # IX
    (True, True, False, True, False, True, False),  # S
    (True, True, False, False, False, False, False),  # SIX
    (True, True, False, True, False, False, False),  # U
    (True, False, False, False, False, False, False),  # X
)
"""COMPATIBLE[one][other]: whether two sessions may hold the modes at the same time."""

SUPREMUM: Final[tuple[tuple[int, ...], ...]] = (
    # none IS  IX   S    SIX  U    X
    (NONE, IS, IX, S, SIX, U, X),  # none
    (IS, IS, IX, S, SIX, U, X),  # IS
    (IX, IX, IX, SIX, SIX, SIX, X),  # IX
    (S, S, SIX, S, SIX, U, X),  # S
    (SIX, SIX, SIX, SIX, SIX, SIX, X),  # SIX
    (U, U, SIX, U, SIX, U, X),  # U
    (X, X, X, X, X, X, X),  # X
)
"""SUPREMUM[one][other]: the weakest mode that covers both (IS < IX, S; S < U; IX, U < SIX < X)."""

INTENTION: Final = (NONE, IS, IX, IS, IX, IX, IX)
"""INTENTION[mode]: what holding `mode` asks of each ancestor. UPDATE announces a write, hence INTENT_EXCLUSIVE."""

CONFLICTS: Final = tuple(sum(1 << other for other in MODES if not COMPATIBLE[mode][other]) for mode in range(7))
"""CONFLICTS[mode]: the incompatible modes as a set of bits, 1 << mode."""
