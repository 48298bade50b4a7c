"""Hand-written histories with known verdicts, judged by the linearizability checker with each model."""

from __future__ import annotations

import pytest

from chaos.checkers.linearizable import check
from chaos.checkers.verdict import Verdict
from chaos.models.bank import Bank
from chaos.models.lock import Lock, RwLock
from chaos.models.model import Model
from chaos.models.queue import FairQueue
from chaos.models.register import Register
from chaos.models.two_phase import TwoPhase
from tests.unit.chaos.tables import history

OK, BAD = Verdict.OK, Verdict.VIOLATION

REGISTER = {
    "nothing happened": (OK, ""),
    "a read of what was written": (OK, "a 0-1 write 1\na 2-3 read -> 1"),
    "a read of nothing": (OK, "a 0-1 read -> null"),
    "a read of nothing after a write": (BAD, "a 0-1 write 1\nb 2-3 read -> null"),
    "a stale read": (BAD, "a 0-1 write 1\na 2-3 write 2\nb 4-5 read -> 1"),
    "a stale read while the write is under way": (OK, "a 0-1 write 1\na 2-9 write 2\nb 4-5 read -> 1"),
    "new, then old, while the write is under way": (BAD, "a 0-1 write 1\na 2-9 write 2\nb 3-4 read -> 2\nb 5-6 read -> 1"),
    "two readers disagree on the order of two writes": (
        BAD,
        "a 0-9 write 1\nb 0-9 write 2\nc 1-2 read -> 1\nc 3-4 read -> 2\nd 5-6 read -> 1",
    ),
    "two writes at once, one order": (OK, "a 0-9 write 1\nb 0-9 write 2\nc 1-2 read -> 1\nc 3-4 read -> 2\nd 5-6 read -> 2"),
    "a value that nobody wrote": (BAD, "a 0-1 write 1\nb 0-9 read -> 7"),
    "an unknown write is seen later": (OK, "a 0-1 write 1 -> ?\nb 5-6 read -> null\nb 7-8 read -> 1"),
    "an unknown write never happens": (OK, "a 0-1 write 1 -> ?\nb 5-6 read -> null"),
    "an unknown write is seen, then gone": (BAD, "a 0-1 write 1 -> ?\nb 5-6 read -> 1\nb 7-8 read -> null"),
    "an unknown write is seen before it began": (BAD, "b 0-1 read -> 1\na 5-6 write 1 -> ?"),
    "an unknown write lands after a known one": (OK, "a 0-1 write 1 -> ?\nb 2-3 write 2\nb 4-5 read -> 2\nb 6-7 read -> 1"),
    "an unknown write lands twice": (
        BAD,
        "a 0-1 write 1 -> ?\nb 2-3 read -> 1\nb 4-5 write 2\nb 6-7 read -> 1",
    ),
    "a failed write is seen": (BAD, "a 0-1 write 1 -> !refused\nb 2-3 read -> 1"),
    "compare-and-set takes place": (OK, "a 0-1 write 1\na 2-3 cas [1,2] -> true\nb 4-5 read -> 2"),
    "compare-and-set of another value succeeds": (BAD, "a 0-1 write 1\na 2-3 cas [7,2] -> true"),
    "compare-and-set of this value fails": (BAD, "a 0-1 write 1\na 2-3 cas [1,2] -> false"),
    "two compare-and-sets of one value": (BAD, "a 0-1 write 1\na 2-9 cas [1,2] -> true\nb 2-9 cas [1,3] -> true"),
    "two compare-and-sets, one wins": (OK, "a 0-1 write 1\na 2-9 cas [1,2] -> true\nb 2-9 cas [1,3] -> false"),
    "an unknown compare-and-set explains a read": (OK, "a 0-1 write 1\na 2-3 cas [1,2] -> ?\nb 4-5 read -> 1\nb 6-7 read -> 2"),
    "a chain of unknown compare-and-sets": (OK, "a 0-1 write 1\na 2-3 cas [1,2] -> ?\nb 2-3 cas [2,3] -> ?\nc 4-5 read -> 3"),
    "a broken chain of unknown compare-and-sets": (BAD, "a 0-1 write 1\na 2-3 cas [1,2] -> ?\nb 2-3 cas [9,3] -> ?\nc 4-5 read -> 3"),
    "a lost update": (BAD, "a 0-1 write 1\nb 2-3 write 2\nc 4-5 read -> 1\nc 6-7 read -> 2"),
    "each key by itself": (OK, "a 0-1 write[x] 1\na 2-3 write[y] 2\nb 4-5 read[x] -> 1\nb 6-7 read[y] -> 2"),
    "one key of two is wrong": (BAD, "a 0-1 write[x] 1\na 2-3 write[y] 2\nb 4-5 read[x] -> 1\nb 6-7 read[y] -> 1"),
    "answered and asked at the same moment may be either way round": (OK, "a 0-5 write 1\nb 5-6 read -> null"),
}

LOCK = {
    "taken and given back": (OK, "a 0-1 acquire -> 5\na 2-3 release [5] -> true\nb 4-5 acquire -> 9"),
    "two holders": (BAD, "a 0-1 acquire -> 5\nb 2-3 acquire -> 9"),
    "two holders, asked at once": (BAD, "a 0-9 acquire -> 5\nb 0-9 acquire -> 9\na 20-21 release [5] -> true\nb 20-21 release [9] -> true"),
    "handed over while the release is under way": (OK, "a 0-1 acquire -> 5\na 2-9 release [5] -> true\nb 3-4 acquire -> 9"),
    "a token again": (BAD, "a 0-1 acquire -> 5\na 2-3 release [5] -> true\nb 4-5 acquire -> 5"),
    "an older token": (BAD, "a 0-1 acquire -> 5\na 2-3 release [5] -> true\nb 4-5 acquire -> 4"),
    "refused while held": (OK, "a 0-1 acquire -> 5\nb 2-3 acquire -> held"),
    "refused while free": (BAD, "a 0-1 acquire -> 5\na 2-3 release [5] -> true\nb 4-5 acquire -> held"),
    "refused, since an acquire of unknown outcome holds it": (OK, "a 0-1 acquire -> ?\nb 4-5 acquire -> held"),
    "an unknown acquire, and its end": (OK, "a 0-1 acquire -> ?\na 1- ~expire\nb 4-5 acquire -> held\nb 6-7 acquire -> 9"),
    "an unknown acquire without an end": (BAD, "a 0-1 acquire -> ?\nb 4-5 acquire -> held\nb 6-7 acquire -> 9"),
    "an unknown release happens late": (OK, "a 0-1 acquire -> 5\na 2-3 release [5] -> ?\nb 4-5 acquire -> held\nb 6-7 acquire -> 9"),
    "expired, then granted": (OK, "a 0-1 acquire -> 5\na 8- ~expire\nb 4-9 acquire -> 9"),
    "granted before it could expire": (BAD, "a 0-1 acquire -> 5\na 8- ~expire\nb 4-7 acquire -> 9"),
    "released twice by two": (BAD, "a 0-1 acquire -> 5\na 2-3 release [5] -> true\nb 4-5 release [5] -> true"),
    "told that it was lost while it was held": (BAD, "a 0-1 acquire -> 5\na 2-3 release [5] -> false"),
    "told that it was lost when it had expired": (OK, "a 0-1 acquire -> 5\na 2- ~expire\na 8-9 release [5] -> false"),
    "a guarded write of the holder": (OK, "a 0-1 acquire -> 5\na 2-3 guarded [5] -> true"),
    "a guarded write of a former holder": (
        BAD,
        "a 0-1 acquire -> 5\na 2- ~expire\nb 4-5 acquire -> 9\na 6-7 guarded [5] -> true",
    ),
    "a former holder is fenced": (OK, "a 0-1 acquire -> 5\na 2- ~expire\nb 4-5 acquire -> 9\na 6-7 guarded [5] -> false"),
    "a holder is fenced": (BAD, "a 0-1 acquire -> 5\na 6-7 guarded [5] -> false"),
}

RW_LOCK = {
    "two readers": (OK, "a 0-1 acquire shared -> 1\nb 2-3 acquire shared -> 2"),
    "a reader and a writer": (BAD, "a 0-1 acquire shared -> 1\nb 2-3 acquire exclusive -> 2"),
    "two writers": (BAD, "a 0-1 acquire exclusive -> 1\nb 2-3 acquire exclusive -> 2"),
    "a writer after the readers": (
        OK,
        "a 0-1 acquire shared -> 1\nb 2-3 acquire shared -> 2\na 4-5 release -> true\nb 4-6 release -> true\nc 7-8 acquire exclusive -> 3",
    ),
    "a writer before the last reader is gone": (
        BAD,
        "a 0-1 acquire shared -> 1\nb 2-3 acquire shared -> 2\na 4-5 release -> true\nc 7-8 acquire exclusive -> 3",
    ),
    "a reader is refused on a free lock": (BAD, "a 0-1 acquire shared -> held"),
    "a writer expires": (OK, "a 0-1 acquire exclusive -> 1\na 2- ~expire\nb 3-4 acquire shared -> 2\nc 5-6 acquire shared -> 3"),
}

QUEUE = {
    "first come, first served": (
        OK,
        "a 0-1 enqueue\na 2-3 grant\nb 4-5 enqueue\nc 6-7 enqueue\na 8-9 release\nb 10-11 grant\nb 12-13 release\nc 14-15 grant",
    ),
    "overtaken": (BAD, "a 0-1 enqueue\na 2-3 grant\nb 4-5 enqueue\nc 6-7 enqueue\na 8-9 release\nc 10-11 grant"),
    "came at once: either order": (OK, "a 0-1 enqueue\na 2-3 grant\nb 4-7 enqueue\nc 4-7 enqueue\na 8-9 release\nc 10-11 grant"),
    "the first one left": (OK, "a 0-1 enqueue\na 2-3 grant\nb 4-5 enqueue\nc 6-7 enqueue\nb 7-8 leave\na 8-9 release\nc 10-11 grant"),
    "granted without a release": (BAD, "a 0-1 enqueue\na 2-3 grant\nb 4-5 enqueue\nb 6-7 grant"),
}

BANK = {
    "a transfer": (OK, 'a 0-1 transfer ["x","y",5] -> true\nb 2-3 read -> {"x":5,"y":15}'),
    "half a transfer": (BAD, 'a 0-9 transfer ["x","y",5] -> true\nb 2-3 read -> {"x":5,"y":10}'),
    "refused for lack of funds": (OK, 'a 0-1 transfer ["x","y",50] -> false'),
    "refused although there are funds": (BAD, 'a 0-1 transfer ["x","y",5] -> false'),
    "an overdraft": (BAD, 'a 0-1 transfer ["x","y",7] -> true\nb 2-3 transfer ["x","y",7] -> true'),
    "an unknown transfer is seen": (OK, 'a 0-1 transfer ["x","y",5] -> ?\nb 2-3 read -> {"x":10,"y":10}\nb 4-5 read -> {"x":5,"y":15}'),
    "an unknown transfer is applied twice": (BAD, 'a 0-1 transfer ["x","y",2] -> ?\nb 4-5 read -> {"x":6,"y":14}'),
    "money from nowhere": (BAD, 'b 4-5 read -> {"x":10,"y":11}'),
}

TWO_PHASE = {
    "posted": (OK, "a 0-1 pend 9 -> created\na 2-3 post 9 -> created\nb 4-5 read -> posted"),
    "posted twice": (BAD, "a 0-1 pend 9 -> created\na 2-9 post 9 -> created\nb 2-9 post 9 -> created"),
    "posted and voided": (BAD, "a 0-1 pend 9 -> created\na 2-9 post 9 -> created\nb 2-9 void -> created"),
    "one of post and void wins": (
        OK,
        "a 0-1 pend 9 -> created\na 2-9 post 9 -> created\nb 2-9 void -> pending_transfer_already_posted",
    ),
    "posted before it was there": (BAD, "a 0-1 post 9 -> created\nb 2-3 pend 9 -> created"),
    "expired, then refused": (OK, "a 0-1 pend 9 -> created\nx 4- ~expire\na 6-7 post 9 -> pending_transfer_expired"),
    "expired too early": (BAD, "a 0-1 pend 9 -> created\nx 8- ~expire\na 6-7 post 9 -> pending_transfer_expired"),
    "posted after it was seen to be expired": (
        BAD,
        "a 0-1 pend 9 -> created\nx 2- ~expire\nb 3-4 read -> expired\na 6-7 post 9 -> created",
    ),
    "an unknown post shows": (OK, "a 0-1 pend 9 -> created\na 2-3 post 9 -> ?\nb 4-5 void -> pending_transfer_already_posted"),
    "more than was reserved": (OK, "a 0-1 pend 9 -> created\na 2-3 post 10 -> exceeds_pending_transfer_amount\na 4-5 post 9 -> created"),
}

TABLES: list[tuple[Model, bool, dict[str, tuple[Verdict, str]]]] = [
    (Register(), True, REGISTER),
    (Lock(), True, LOCK),
    (RwLock(), True, RW_LOCK),
    (FairQueue(), True, QUEUE),
    (Bank({"x": 10, "y": 10}), False, BANK),
    (TwoPhase(), True, TWO_PHASE),
]
CASES = [
    pytest.param(model, by_key, verdict, text, id=f"{model.name}: {name}")
    for model, by_key, table in TABLES
    for name, (verdict, text) in table.items()
]


@pytest.mark.parametrize(("model", "by_key", "verdict", "text"), CASES)
def test_a_known_history_gets_its_verdict(model: Model, by_key: bool, verdict: Verdict, text: str) -> None:
    """Every hand-written history gets the verdict that a person gave it."""
    assert check(history(text), model, by_key=by_key).verdict is verdict


def test_there_are_enough_known_histories() -> None:
    """At least sixty histories, of both verdicts, are written by hand."""
    assert len(CASES) >= 60
    assert min(sum(p.values[2] is v for p in CASES) for v in (OK, BAD)) >= 25


def test_the_explanation_leaves_out_what_does_not_matter() -> None:
    """Of a long history with one stale read, the shown part is the old write, what proves that it was overwritten, and the read."""
    lines = [f"a {10 * i}-{10 * i + 1} write {i}" for i in range(40)]
    lines += ["b 500-501 read -> 39", "c 502-503 read -> 20"]
    judgement = check(history("\n".join(lines)), Register())
    (finding,) = judgement.findings
    assert finding.ops == (21, 41, 42)
    assert "read(k, None) -> 20" in finding.text


def test_the_part_shown_is_illegal_by_itself() -> None:
    """What the explanation keeps is still a violation when all other answers are let go."""
    text = "\n".join([*(f"a {10 * i}-{10 * i + 1} write {i}" for i in range(5)), "b 50-51 read -> 1", "c 60-61 write 9"])
    ops = history(text)
    (finding,) = check(ops, Register()).findings
    assert set(finding.ops) <= {op.id for op in ops}
    assert 6 in finding.ops
    assert 7 not in finding.ops


def test_a_small_budget_gives_unknown() -> None:
    """A search that is given up is neither ok nor a violation."""
    text = "\n".join(f"p{i} 0-99 cas [{i},{i + 1}] -> false" for i in range(8)) + "\nq 0-99 write 3\nr 0-99 write 4\ns 100-101 read -> 7"
    judgement = check(history(text), Register(), steps=5)
    assert judgement.verdict is Verdict.UNKNOWN
    assert "given up" in judgement.reason
