"""Random histories that are legal by construction: each call takes effect at one moment between its invocation and its answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

from chaos.history import Op, Outcome
from chaos.models.model import Model

Script = Callable[[random.Random, str, int, Any], tuple[str, Any, Any, Any]]
"""(randomness, process, number, state) -> (kind, arguments, result, state afterwards)."""


def legal(seed: int, count: int, processes: int, script: Script, state: Any, *, unknown: float = 0.0) -> list[Op]:
    """A history of one key. Some calls end as unknown: they take effect at any later time, or never; their process is new afterwards."""
    rng = random.Random(seed)
    moments: list[tuple[int, int, int, str, bool]] = []
    for p in range(processes):
        now, life = rng.randrange(1000), 0
        for _ in range(count // processes):
            begin = now
            lost = rng.random() < unknown
            effect = begin + rng.randrange(1, 1000) + (rng.randrange(1, 50_000) if lost else 0)
            end = begin + 1000 if lost else effect + rng.randrange(1, 1000)
            moments.append((effect, begin, end, f"p{p}.{life}", lost))
            now = end + rng.randrange(1, 500)
            life += lost
    ops = []
    for number, (_, begin, end, process, lost) in enumerate(sorted(moments), 1):
        kind, args, result, after = script(rng, process, number, state)
        if not (lost and rng.random() < 0.4):
            state = after
        ops.append(Op(number, process, kind, "k", args, None if lost else result, Outcome.UNKNOWN if lost else Outcome.OK, begin, end))
    return ops


def register(rng: random.Random, _: str, number: int, state: Any) -> tuple[str, Any, Any, Any]:
    """Reads, unique writes, compare-and-sets that mostly fit."""
    kind = rng.choice(("read", "read", "write", "cas"))
    if kind == "read":
        return kind, None, state, state
    if kind == "write":
        return kind, number, None, number
    old = state if rng.random() < 0.7 else rng.randrange(number)
    return kind, [old, number], state == old, number if state == old else state


def lock(rng: random.Random, process: str, number: int, state: Any) -> tuple[str, Any, Any, Any]:
    """The holder gives it back or uses it, others try to take it."""
    holder, token = state
    if holder == process:
        if rng.random() < 0.5:
            return "guarded", [token], True, state
        return "release", [token], True, (None, token)
    if holder is None:
        return "acquire", None, number, (process, number)
    return "acquire", None, "held", state


def bank(rng: random.Random, _: str, __: int, state: Any) -> tuple[str, Any, Any, Any]:
    """Transfers among three accounts, and reads of all."""
    if rng.random() < 0.4:
        return "read", None, dict(state), state
    source, target = rng.sample(sorted(state), 2)
    amount = rng.randrange(1, 9)
    enough = state[source] >= amount
    after = {**state, source: state[source] - amount, target: state[target] + amount} if enough else state
    return "transfer", [source, target, amount], enough, after


def lists(rng: random.Random, _: str, number: int, state: Any) -> tuple[str, Any, Any, Any]:
    """Transactions of one to four reads and appends over three lists."""
    after = {key: list(value) for key, value in state.items()}
    args, result = [], []
    for step in range(rng.randrange(1, 5)):
        key = rng.choice("xyz")
        if rng.random() < 0.5:
            value = number * 10 + step
            after[key].append(value)
            args.append(["append", key, value])
            result.append(["append", key, value])
        else:
            args.append(["r", key, None])
            result.append(["r", key, list(after[key])])
    return "txn", args, result, after


def by_force(ops: list[Op], model: Model) -> bool:
    """The definition, tried literally: every order of every choice of unknown calls."""
    calls = [(op, call) for op in ops if (call := model.prepare(op)) is not None]
    known = [c for c in calls if c[0].ok]
    maybe = [c for c in calls if c[0].unknown]
    for chosen in range(1 << len(maybe)):
        part = known + [c for i, c in enumerate(maybe) if chosen >> i & 1]
        if any(_fits(order, model) for order in permutations(part)):
            return True
    return False


def _fits(order: tuple[tuple[Op, Any], ...], model: Model) -> bool:
    for i, (op, _) in enumerate(order):
        for later, _ in order[i + 1 :]:
            if later.ok and later.completed < op.invoked:
                return False
    states = {model.initial()}
    for _, call in order:
        states = {after for state in states for after in model.step(state, call)}
    return bool(states)


def scramble(ops: list[Op], rng: random.Random) -> list[Op]:
    """Some results are swapped, some outcomes are forgotten, so that the verdict is open."""
    changed = list(ops)
    for _ in range(rng.randrange(3)):
        i = rng.randrange(len(changed))
        same = [o for o in changed if o.kind == changed[i].kind and o.ok]
        if changed[i].ok and same:
            changed[i] = replace(changed[i], result=rng.choice(same).result)
    for _ in range(rng.randrange(3)):
        i = rng.randrange(len(changed))
        changed[i] = replace(changed[i], outcome=Outcome.UNKNOWN, result=None)
    return changed
