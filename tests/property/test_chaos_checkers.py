"""The judges are judged: against the definition tried by force, on legal histories, and on planted violations."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.checkers import list_append
from chaos.checkers.linearizable import check
from chaos.checkers.verdict import Verdict
from chaos.history import Op, Outcome
from chaos.models.bank import Bank
from chaos.models.lock import Lock
from chaos.models.model import Model
from chaos.models.register import Register
from tests.property import chaos_histories as histories
from tests.property.chaos_histories import Script, by_force, legal, scramble

OPENING = {"a": 10, "b": 10, "c": 10}
SUBJECTS: list[tuple[Model, Script, object]] = [
    (Register(), histories.register, None),
    (Lock(), histories.lock, (None, 0)),
    (Bank(OPENING), histories.bank, OPENING),
]
SEEDS = st.integers(0, 2**32)


@pytest.mark.parametrize(("model", "script", "state"), SUBJECTS, ids=lambda v: getattr(v, "name", ""))
@settings(max_examples=400, deadline=None)
@given(seed=SEEDS)
def test_the_search_agrees_with_the_definition(model: Model, script: Script, state: object, seed: int) -> None:
    """On small histories, legal or not, with unknown outcomes, the verdict is that of trying every order."""
    rng = random.Random(seed)
    ops = scramble(legal(seed, 6, rng.randrange(1, 4), script, state, unknown=0.3), rng)
    expected = Verdict.OK if by_force(ops, model) else Verdict.VIOLATION
    assert check(ops, model, by_key=False).verdict is expected


@pytest.mark.parametrize(("model", "script", "state"), SUBJECTS, ids=lambda v: getattr(v, "name", ""))
@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, processes=st.integers(1, 6), unknown=st.sampled_from([0.0, 0.02, 0.1]))
def test_a_legal_history_is_never_flagged(model: Model, script: Script, state: object, seed: int, processes: int, unknown: float) -> None:
    """Whatever order things took, a history that a real object made is ok."""
    ops = legal(seed, 150, processes, script, state, unknown=unknown)
    assert check(ops, model, by_key=False).verdict is Verdict.OK


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, processes=st.integers(1, 6))
def test_a_planted_stale_read_is_found(seed: int, processes: int) -> None:
    """A read of a value that was certainly overwritten before is always found, and the read is part of what is shown."""
    ops = legal(seed, 200, processes, histories.register, None)
    rng = random.Random(seed)
    writes = [o for o in ops if o.kind == "write"]
    choices = []
    for op in ops:
        if op.kind == "read":
            over = [w for w in writes if w.completed < op.invoked]
            choices += [(op, w.args) for w in over if any(w.completed < other.invoked for other in over)]
    if not choices:
        return
    victim, stale = rng.choice(choices)
    bad = [replace(o, result=stale) if o is victim else o for o in ops]
    judgement = check(bad, Register())
    assert judgement.verdict is Verdict.VIOLATION
    assert judgement.findings[0].ops


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, processes=st.integers(1, 6))
def test_a_planted_double_grant_is_found(seed: int, processes: int) -> None:
    """A grant to somebody else while the holder certainly held is always found."""
    ops = legal(seed, 200, processes, histories.lock, (None, 0))
    rng = random.Random(seed)
    holds: list[tuple[int, int]] = []
    for grant in ops:
        if grant.kind == "acquire" and isinstance(grant.result, int):
            ends = [o.invoked for o in ops if o.kind == "release" and o.process == grant.process and o.invoked > grant.completed]
            holds += [(grant.completed, min(ends))] if ends and min(ends) - grant.completed > 4 else []
    if not holds:
        return
    begin, end = rng.choice(holds)
    thief = Op(9_999, "thief", "acquire", "k", None, 10**6, Outcome.OK, begin + 1, end - 1)
    assert check([*ops, thief], Lock()).verdict is Verdict.VIOLATION


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, processes=st.integers(1, 6), unknown=st.sampled_from([0.0, 0.05]))
def test_legal_transactions_are_never_flagged(seed: int, processes: int, unknown: float) -> None:
    """Transactions that took effect one after the other show no anomaly."""
    ops = legal(seed, 120, processes, histories.lists, {"x": [], "y": [], "z": []}, unknown=unknown)
    judgement = list_append.check(ops)
    assert judgement.findings == ()


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, processes=st.integers(1, 6))
def test_a_planted_fractured_read_is_found(seed: int, processes: int) -> None:
    """A read that misses the end of what was certainly there before it began is always found."""
    ops = legal(seed, 120, processes, histories.lists, {"x": [], "y": [], "z": []})
    writers = {(k, v): o for o in ops for kind, k, v in o.result if kind == "append"}
    rng = random.Random(seed)
    choices = [
        (o, i)
        for o in ops
        for i, (kind, key, seen) in enumerate(o.result)
        if kind == "r"
        and seen
        and writers[key, seen[-1]].completed < o.invoked
        and not any(k == key for kk, k, _ in o.result if kk == "append")
    ]
    if not choices:
        return
    victim, place = rng.choice(choices)
    result = [[*step] for step in victim.result]
    result[place][2] = result[place][2][:-1]
    bad = [replace(o, result=result) if o is victim else o for o in ops]
    assert list_append.check(bad).verdict is Verdict.VIOLATION


@pytest.mark.parametrize(("script", "model", "state"), [(histories.register, Register(), None), (histories.lock, Lock(), (None, 0))])
def test_the_search_is_fast_enough(script: Script, model: Model, state: object) -> None:
    """Histories of registers and locks are judged at 100,000 operations a minute or more."""
    parts = [[replace(o, key=f"k{k}") for o in legal(k, 2_000, 6, script, state, unknown=0.01)] for k in range(5)]
    ops = [op for part in parts for op in part]
    begin = time.process_time()
    assert check(ops, model).verdict is Verdict.OK
    assert time.process_time() - begin < 60 * len(ops) / 100_000
