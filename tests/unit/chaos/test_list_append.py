"""Hand-written transactions on lists, and the anomaly that each shows."""

from __future__ import annotations

import pytest

from chaos.checkers.graph import components, shortest_cycle
from chaos.checkers.list_append import check
from chaos.checkers.verdict import Verdict
from chaos.history import Op, Outcome


def txns(text: str) -> list[Op]:
    """`process begin-end steps`, steps as `k+1` (append), `k=12` (read [1, 2]), `k=` (read nothing); `?` unknown, `!` failed."""
    ops = []
    for number, line in enumerate(filter(None, map(str.strip, text.splitlines())), 1):
        process, span, *steps = line.split()
        begin, end = map(int, span.split("-"))
        outcome = {"?": Outcome.UNKNOWN, "!": Outcome.FAIL}.get(steps[-1], Outcome.OK)
        steps = [s for s in steps if s not in "?!"]
        result = [["append", s[0], int(s[2:])] if s[1] == "+" else ["r", s[0], [int(c) for c in s[2:]]] for s in steps]
        args = [[k, key, v if k == "append" else None] for k, key, v in result]
        ops.append(Op(number, process, "txn", "", args, result if outcome is Outcome.OK else None, outcome, begin, end))
    return ops


TABLE = {
    "nothing": ("", ""),
    "one after the other": ("", "a 0-1 x+1\nb 2-3 x=1 x+2\nc 4-5 x=12"),
    "two at once": ("", "a 0-9 x+1\nb 0-9 x+2\nc 10-11 x=21"),
    "own append is seen": ("", "a 0-1 x+1 x=1"),
    "own append is not seen": ("internal", "a 0-1 x+1 x="),
    "aborted read": ("G1a", "a 0-1 x+1 !\nb 2-3 x=1"),
    "intermediate read": ("G1b", "a 0-9 x+1 x+2\nb 0-9 x=1\nc 10-11 x=12"),
    "a value out of nowhere": ("garbage", "a 0-1 x=7"),
    "a value twice": ("duplicate", "a 0-1 x+1\nb 2-3 x=11"),
    "two orders": ("incompatible order", "a 0-9 x+1\nb 0-9 x+2\nc 10-11 x=12\nd 10-11 x=21"),
    "writes of two in opposite orders": ("G0", "a 0-9 x+1 y+1\nb 0-9 x+2 y+2\nc 10-11 x=12 y=21"),
    "each reads the other's append": ("G1c", "a 0-9 x+1 y=2\nb 0-9 y+2 x=1"),
    "a stale half of a snapshot": ("G-single", "a 0-9 x+1 y+1\nb 0-9 x=1 y=\nc 10-11 x=1 y=1"),
    "write skew": ("G2", "a 0-9 x= y+1\nb 0-9 y= x+2\nc 10-11 x=2 y=1"),
    "a lost update": ("G-single", "a 0-9 x= x+1\nb 0-9 x= x+2\nc 10-11 x=12"),
    "a stale read in real time": ("G-single-realtime", "a 0-1 x+1\nb 2-3 x=\nc 4-5 x=1"),
    "appends against real time": ("G0-realtime", "a 0-1 x+1\nb 2-3 x+2\nc 4-5 x=21"),
    "an acknowledged append is lost": ("G0-realtime", "a 0-1 x+1\nb 2-3 x+2\nc 4-5 x=2\nc 6-7 x=2"),
    "an unknown append is seen": ("", "a 0-1 x+1 ?\nb 4-5 x=\nc 6-7 x=1"),
    "an unknown append is not seen": ("", "a 0-1 x+1 ?\nb 4-5 x="),
    "an unknown append is seen before it began": ("G1c-realtime", "b 0-1 x=1\na 4-5 x+1 ?"),
    "an unknown append is seen, then not": ("G-single-realtime", "a 0-1 x+1 ?\nb 4-5 x=1\nc 6-7 x="),
    "reads go back": ("G-single-realtime", "a 0-9 x+1\nb 1-2 x=1\nc 3-4 x="),
}


@pytest.mark.parametrize(("anomaly", "text"), TABLE.values(), ids=TABLE.keys())
def test_a_known_history_shows_its_anomaly(anomaly: str, text: str) -> None:
    """Every hand-written history gets the anomaly that a person gave it, and no other first."""
    judgement = check(txns(text))
    assert [f.rule for f in judgement.findings][:1] == ([anomaly] if anomaly else [])
    assert judgement.verdict is (Verdict.VIOLATION if anomaly else Verdict.OK)


def test_without_real_time_a_stale_read_is_serializable() -> None:
    """Plain serializability allows what only real time forbids."""
    assert check(txns(TABLE["a stale read in real time"][1]), realtime=False).verdict is Verdict.OK


def test_a_value_appended_twice_is_refused() -> None:
    """The method rests on unique values: a workload that repeats one is told so."""
    with pytest.raises(ValueError, match="unique"):
        check(txns("a 0-1 x+1\nb 2-3 x+1"))


def test_a_cycle_is_explained_by_its_transactions() -> None:
    """The finding names the transactions of the cycle and nothing else."""
    (finding,) = check(txns("z 0-1 z+9\n" + TABLE["write skew"][1])).findings
    assert finding.ops == (2, 3)


def test_the_shortest_cycle_is_found() -> None:
    """Of two cycles the shorter one is shown, over edges of the wanted kinds only."""
    w, r = frozenset({"w"}), frozenset({"r"})
    edges = {1: {2: w}, 2: {3: w}, 3: {1: w, 2: r}}
    assert shortest_cycle(edges, [1, 2, 3], w) == [1, 2, 3]
    assert shortest_cycle(edges, [1, 2, 3], w | r) == [2, 3]
    assert shortest_cycle(edges, [1, 2, 3], w, r) == [3, 2]
    assert components([1, 2, 3, 4], lambda n: list(edges.get(n, {}))) == [[1, 2, 3]]
