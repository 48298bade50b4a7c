"""The judge of tools/kill_soak.py finds what it is there to find."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lockd_client import Transfer
from tools.kill_soak import Books, View, judge

SENT = {n: Transfer(n, 1, 2, 10 * n, 1, 1) for n in (1, 2, 3)}
BOOKS = Books(sent=SENT, acknowledged={1: 100, 2: 200})
GOOD = View("n1", ((1, 100), (2, 200)), {1: (30, 0), 2: (0, 30)}, b"same")


def test_what_is_right_passes() -> None:
    """All acknowledged ones are there; one with an unknown outcome may be there or not."""
    assert judge(BOOKS, [GOOD, replace(GOOD, node="n2")]) == []
    with_third = View("n1", ((1, 100), (2, 200), (3, 300)), {1: (60, 0), 2: (0, 60)}, b"same")
    assert judge(BOOKS, [with_third]) == []


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (View("n2", ((1, 100),), {1: (10, 0), 2: (0, 10)}, b"same"), "1 acknowledged transfers are missing: \\[2\\]"),
        (View("n2", ((1, 100), (2, 200), (2, 200)), GOOD.balances, b"same"), "there twice"),
        (View("n2", ((1, 100), (2, 201)), GOOD.balances, b"same"), "another timestamp"),
        (View("n2", ((1, 100), (2, 200), (9, 300)), GOOD.balances, b"same"), "never sent"),
        (View("n2", GOOD.transfers, {1: (50, 0), 2: (0, 30)}, b"same"), "account 1 has \\(50, 0\\)"),
        (View("n2", GOOD.transfers, {1: (30, 0)}, b"same"), "account 2 has None"),
        (View("n2", GOOD.transfers, GOOD.balances, b"other"), "the states differ"),
        (View("n2", ((2, 200), (1, 100)), GOOD.balances, b"same"), "different orders"),
    ],
)
def test_what_is_wrong_is_named(bad: View, words: str) -> None:
    """A loss, a double, a changed answer, an invention, a half-applied transfer, diverging nodes: each is found."""
    found = judge(BOOKS, [GOOD, bad])
    with pytest.raises(AssertionError, match=words):
        raise AssertionError("\n".join(found))
