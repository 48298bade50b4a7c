"""Hand-written cases for the checkers of sums, fencing, sessions, convergence and watches."""

from __future__ import annotations

import pytest

from chaos.checkers import convergence, fencing, sessions, totals, watch
from chaos.checkers.fencing import FencedStore, Hold
from chaos.checkers.totals import Books
from chaos.checkers.verdict import Judgement, Verdict, worst
from chaos.checkers.watch import Event
from tests.unit.chaos.tables import history


def rules(judgement: Judgement) -> list[str]:
    """The rules that were broken."""
    return [f.rule for f in judgement.findings]


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ('a 0-1 read -> {"x":10,"y":10}', []),
        ('a 0-1 read -> {"x":10,"y":9}', ["total"]),
        ('a 0-1 read -> {"x":25,"y":-5}', ["floor"]),
        ('a 0-1 read -> !timeout\na 2-3 read -> {"x":0,"y":20}', []),
    ],
)
def test_totals(text: str, broken: list[str]) -> None:
    """A read of all accounts sums to what was there at the beginning, and shows no overdraft."""
    assert rules(totals.check_totals(history(text), 20)) == broken


@pytest.mark.parametrize(
    ("books", "broken"),
    [
        ({"a": Books(1, 5, 0, 0), "b": Books(0, 0, 1, 5)}, []),
        ({"a": Books(1, 5, 0, 0), "b": Books(0, 0, 0, 5)}, ["books"]),
        ({"a": Books(0, 5, 0, 0), "b": Books(0, 0, 0, 6)}, ["books"]),
    ],
)
def test_books(books: dict[str, Books], broken: list[str]) -> None:
    """Debits equal credits, pending and posted apart."""
    assert rules(totals.check_books(books)) == broken


TRANSFERS = "a 0-1 transfer[1] 5 -> true\na 2-3 transfer[2] 5 -> false\na 4-5 transfer[3] 5 -> ?"


@pytest.mark.parametrize(
    ("found", "broken"),
    [
        ({"1": 1}, 0),
        ({"1": 1, "3": 1}, 0),
        ({}, 1),
        ({"1": 2}, 1),
        ({"1": 1, "2": 1}, 1),
        ({"1": 1, "3": 2}, 1),
        ({"1": 1, "9": 1}, 1),
    ],
)
def test_applied_once(found: dict[str, int], broken: int) -> None:
    """What was acknowledged is there once, what was refused is not, what is unknown at most once, and nothing else."""
    assert len(totals.check_applied(history(TRANSFERS), found).findings) == broken


def test_balances() -> None:
    """Final balances are the opening ones and the transfers."""
    assert rules(totals.check_balances({"x": 5, "y": 5}, [("x", "y", 2)], {"x": 3, "y": 7})) == []
    assert rules(totals.check_balances({"x": 5, "y": 5}, [("x", "y", 2)], {"x": 3, "y": 6})) == ["balance"]


def test_nothing_tested_is_unknown() -> None:
    """A run in which too little succeeded is not called ok."""
    ops = history("a 0-1 read -> 1\na 2-3 write 1 -> !refused")
    assert totals.enough(ops, ["read"]).verdict is Verdict.OK
    assert totals.enough(ops, ["read", "write"]).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("a 0-1 acquire -> 5\nb 2-3 acquire -> 7", []),
        ("a 0-1 acquire -> 7\nb 2-3 acquire -> 5", ["token not above"]),
        ("a 0-9 acquire -> 7\nb 2-3 acquire -> 5", []),
        ("a 0-1 acquire[x] -> 7\nb 2-3 acquire[y] -> 5", []),
        ("a 0-1 acquire[x] -> 7\nb 2-3 acquire[y] -> 7", ["token twice"]),
        ("a 0-1 acquire -> 7\nb 2-3 acquire -> held\nc 2-3 acquire -> ?", []),
    ],
)
def test_tokens(text: str, broken: list[str]) -> None:
    """Tokens never repeat, and grow on each resource in real time."""
    assert rules(fencing.check_tokens(history(text))) == broken


@pytest.mark.parametrize(
    ("holds", "broken"),
    [
        ([Hold("r", "a", 0, 5), Hold("r", "b", 5, 9)], 0),
        ([Hold("r", "a", 0, 6), Hold("r", "b", 5, 9)], 1),
        ([Hold("r", "a", 0, 6), Hold("s", "b", 5, 9)], 0),
        ([Hold("r", "a", 0, 6, shared=True), Hold("r", "b", 5, 9, shared=True)], 0),
        ([Hold("r", "a", 0, 6, shared=True), Hold("r", "b", 5, 9)], 1),
        ([Hold("r", "a", 0, 99), Hold("r", "b", 5, 9), Hold("r", "c", 10, 12)], 2),
    ],
)
def test_holds(holds: list[Hold], broken: int) -> None:
    """Nobody is certain of a lock while somebody else is."""
    assert len(fencing.check_holds(holds).findings) == broken


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("a 0-1 store [5,true] -> true\nb 2-3 store [7,true] -> true\na 4-5 store [5,false] -> false", []),
        ("a 0-1 store [5,true] -> true\nb 2-3 store [7,true] -> true\na 4-5 store [5,false] -> true", ["older token"]),
        ("a 0-1 store [5,true] -> true\nb 2-3 store [7,true] -> true\na 4-5 store [5,true] -> false", ["double grant"]),
    ],
)
def test_store(text: str, broken: list[str]) -> None:
    """A store outside never takes an older token, and never has to refuse a certain holder."""
    assert rules(fencing.check_store(history(text))) == broken


def test_the_store_refuses_older_tokens() -> None:
    """The store keeps the highest token of each resource."""
    store = FencedStore()
    assert [store.write("r", 5, "a"), store.write("r", 7, "b"), store.write("r", 5, "c"), store.write("s", 1, "d")] == [
        True,
        True,
        False,
        True,
    ]
    assert store.values == {"r": "b", "s": "d"}


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("a 0-1 write -> 1\na 2-3 read -> 1\na 4-5 read -> 2\na 6-7 write -> 3", []),
        ("a 0-1 write -> 2\na 2-3 read -> 1", ["read your writes"]),
        ("a 0-1 read -> 2\na 2-3 read -> 1", ["monotonic reads"]),
        ("a 0-1 write -> 2\na 2-3 write -> 1", ["monotonic writes"]),
        ("a 0-1 read -> 2\na 2-3 write -> 2", ["writes follow reads"]),
        ("a 0-1 read -> 2\nb 2-3 read -> 1", []),
        ("a 0-1 read[x] -> 2\na 2-3 read[y] -> 1", []),
    ],
)
def test_session_guarantees(text: str, broken: list[str]) -> None:
    """One client's reads and writes of one key keep to the order of its session."""
    assert rules(sessions.check(history(text))) == broken


def test_convergence() -> None:
    """Replicas agree, what was acknowledged is there, a counter has its sum."""
    assert rules(convergence.check_equal({"a": 1, "b": 1})) == []
    assert rules(convergence.check_equal({"a": 1, "b": 2})) == ["convergence"]
    assert rules(convergence.check_set({1, 2}, {3}, {1, 2, 3})) == []
    assert rules(convergence.check_set({1, 2}, {3}, {1, 4})) == ["lost", "garbage"]
    assert rules(convergence.check_counter(5, 7, 6)) == []
    assert rules(convergence.check_counter(5, 7, 8)) == ["counter"]
    assert rules(convergence.check_counter(-5, -5, -5, floor=0)) == ["floor"]


E1, E2, E3 = Event(1, 0, "a"), Event(2, 0, "b"), Event(2, 1, "c")


@pytest.mark.parametrize(
    ("seen", "broken"),
    [
        ([E1, E2, E3], []),
        ([E1, E3], ["gap"]),
        ([E1, E2, E2, E3], ["duplicate"]),
        ([E1, E3, E2], ["order"]),
        ([E1, E2, E3, Event(2, 2, "x")], ["garbage"]),
    ],
)
def test_watch(seen: list[Event], broken: list[str]) -> None:
    """A watch shows all events once, in order, and nothing else."""
    assert rules(watch.check(seen, [E3, E1, E2], start=1, upto=2)) == broken


def test_a_watch_begins_where_it_was_asked_to() -> None:
    """Events before the start are an error, events after the last known one are not."""
    assert rules(watch.check([E1, E2, E3], [E1, E2, E3], start=2, upto=2)) == ["start", "garbage"]
    assert rules(watch.check([E1, E2, E3], [E1], start=1, upto=1)) == []


def test_the_worst_verdict_counts() -> None:
    """A violation outweighs unknown, which outweighs ok."""
    assert worst([]) is Verdict.OK
    assert worst([Verdict.OK, Verdict.UNKNOWN]) is Verdict.UNKNOWN
    assert worst([Verdict.VIOLATION, Verdict.UNKNOWN]) is Verdict.VIOLATION
