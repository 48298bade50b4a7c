"""Is there an order of the calls, each between its invocation and its answer, in which one sequential object gives these answers?

Wing and Gong's search in Lowe's form (Testing for linearizability, 2017): histories are taken apart by key, and a configuration (which
calls have taken effect, the object's state) is never entered twice. Two things keep calls of unknown outcome, which stay open until the end
and may never have happened, from doubling the work each:

- a configuration is also left when one with the same completed calls and state, but fewer unknown calls used, has been there;
- an unknown call is used only right before a call that it does not commute with, as late as it can matter.

Calls that have taken effect are kept as (how many in the order of answers, a few bits beyond), so that long histories stay cheap.
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from chaos.checkers.verdict import Finding, Judgement, Verdict, worst
from chaos.history import Op, Outcome
from chaos.models.model import NOTHING, Model, ValueModel

STEPS: Final = 5_000_000
"""Steps of the model that one key may cost."""
SECONDS: Final = 60.0
"""Time that one key may cost."""
_CONTEXT: Final = 60
_WINDOW: Final = 30
_SHRINK_STEPS: Final = 20_000
_ROOT_STEPS: Final = 500_000
_ROOTS: Final = 500
_SHRINK_SECONDS: Final = 10.0

_Before = tuple[Hashable, Any, int]
_Config = tuple[int, int, int, Hashable, "_Before | None"]
"""How many calls have taken effect in the order of answers, which beyond those, which unknown ones, the state, the last unknown call."""


class BudgetError(Exception):
    """The search was given up."""


@dataclass(slots=True)
class Budget:
    """How much a search may cost."""

    steps: int = STEPS
    until: float = float("inf")
    used: int = 0

    def spend(self) -> None:
        """One step. Raises BudgetError."""
        self.used += 1
        if self.used > self.steps or (not self.used & 1023 and time.monotonic() > self.until):
            raise BudgetError


class _Values:
    """What is known beforehand where states are values, each given by few calls and wanted by some."""

    def __init__(self, model: ValueModel, calls: Sequence[Any], open_calls: Sequence[Any], binding: int) -> None:
        self.givers: dict[Hashable, int] = {model.initial(): 1}
        self.wanting: dict[Hashable, list[int]] = {}
        """By value: the answered calls that need it, in the order of answers."""
        self.avoided: dict[Hashable, int] = {a: i for i, call in enumerate(calls) if (a := model.avoids(call)) is not NOTHING}
        """By value: the last answered call that needs another one."""
        self._binding = binding
        self.wanted_openly: set[Hashable] = {w for call in open_calls if (w := model.wants(call)) is not NOTHING}
        for i, call in enumerate(calls):
            if (w := model.wants(call)) is not NOTHING:
                self.wanting.setdefault(w, []).append(i)
        for call in (*calls, *open_calls):
            if (g := model.gives(call)) is not NOTHING:
                self.givers[g] = self.givers.get(g, 0) + 1

    def useless_from(self, gives: Hashable, calls: int) -> int:
        """The base from which on nobody needs this value any more."""
        if gives is NOTHING or gives in self.wanted_openly:
            return calls
        wanting = self.wanting.get(gives)
        return wanting[-1] + 1 if wanting else 0

    def lost(self, value: Hashable, base: int, mask: int, call: int) -> bool:
        """Whether leaving this value for ever leaves a call behind that needs it."""
        if self.givers.get(value, 0) > 1:
            return False
        for i in reversed(self.wanting.get(value, ())):
            if i < base:
                return False
            if i < self._binding and i != call and not mask >> (i - base) & 1:
                return True
        return False


class _Problem:
    """The calls of one key, indexed for the search."""

    def __init__(self, ops: Iterable[Op], model: Model, binding: int | None = None) -> None:
        """`binding`: how many calls, in the order of answers, certainly need what they saw; None: all."""
        prepared = [(op, call) for op in ops if (call := model.prepare(op)) is not None]
        known = sorted(((op, call) for op, call in prepared if op.ok), key=lambda p: (p[0].completed, p[0].id))
        unknown = sorted(((op, call) for op, call in prepared if op.unknown), key=lambda p: (p[0].invoked, p[0].id))
        self.model = model
        self.known = [op for op, _ in known]
        self.calls = [call for _, call in known]
        self.unknown = [op for op, _ in unknown]
        self.open_calls = [call for _, call in unknown]
        self._values: _Values | None = None
        self._until = [len(known)] * len(unknown)
        if isinstance(model, ValueModel):
            values = self._values = _Values(model, self.calls, self.open_calls, len(known) if binding is None else binding)
            self._until = [values.useless_from(model.gives(call), len(known)) for call in self.open_calls]
        self.active: list[tuple[int, ...]] = []
        """For each call, in the order of answers: those from it on that were invoked before it was answered."""
        self.open: list[tuple[int, ...]] = []
        """For each call: the unknown ones that were invoked before it was answered, and can matter from here on."""
        self.begun: list[int] = []
        """For each call: how many unknown ones were invoked before it was answered."""
        by_invocation = sorted(range(len(known)), key=lambda i: self.known[i].invoked)
        live: list[int] = []
        opened: list[int] = []
        at = at_open = 0
        for base, op in enumerate(self.known):
            while at < len(by_invocation) and self.known[by_invocation[at]].invoked <= op.completed:
                insort(live, by_invocation[at])
                at += 1
            while live and live[0] < base:
                live.pop(0)
            while at_open < len(unknown) and self.unknown[at_open].invoked <= op.completed:
                opened.append(at_open)
                at_open += 1
            self.begun.append(at_open)
            if any(self._until[j] <= base for j in opened):
                opened = [j for j in opened if self._until[j] > base]
            self.active.append(tuple(live))
            self.open.append(tuple(opened))

    def successors(self, config: _Config, budget: Budget) -> Iterator[_Config]:
        """What can take effect next: answered calls first, those that must soon before others."""
        base, mask, used, state, before = config
        step = self.model.step
        values = self._values
        found: list[tuple[int, tuple[Hashable, ...]]] = []
        for i in self.active[base]:
            if mask >> (i - base) & 1:
                continue
            budget.spend()
            states = tuple(step(state, self.calls[i]))
            if states == (state,):
                # It only looks, and sees what is there: whatever order there is, it can be moved to here.
                if before is None or not self._needless(before, self.calls[i], state, -1):
                    yield *_with(base, mask, i), used, state, None
                return
            if states and (values is None or not values.lost(state, base, mask, i)):
                found.append((i, states))
        for i, states in found:
            for after in states:
                if before is None or not self._needless(before, self.calls[i], after, -1):
                    yield *_with(base, mask, i), used, after, None
        if values is not None and values.lost(state, base, mask, -1):
            return
        # Leaving a state can matter by itself, to a call that needs any other.
        leaving = values is not None and values.avoided.get(state, -1) >= base
        for j in range(self.begun[base]) if leaving else self.open[base]:
            if used >> j & 1:
                continue
            budget.spend()
            for after in step(state, self.open_calls[j]):
                if after == state or (before is not None and self._needless(before, self.open_calls[j], after, j)):
                    continue
                yield base, mask, used | 1 << j, after, (state, self.open_calls[j], j)

    def _needless(self, before: _Before, call: Any, after: Hashable, number: int) -> bool:
        """Whether the unknown call before this one made no difference to it, so that it can be left out or come later."""
        earlier, open_call, open_number = before
        for other in self.model.step(earlier, call):
            if other == after:
                return True
            # Two unknown calls that commute are tried in one order only.
            if number < open_number and after in self.model.step(other, open_call):
                return True
        return False


def _with(base: int, mask: int, i: int) -> tuple[int, int]:
    """The calls that have taken effect, and call `i`."""
    return _low(base, mask | 1 << (i - base))


def _low(base: int, mask: int) -> tuple[int, int]:
    while mask & 1:
        mask >>= 1
        base += 1
    return base, mask


class _Search:
    """A depth-first search with memory."""

    def __init__(self, problem: _Problem, roots: Sequence[_Config], budget: Budget, stop: int | None = None) -> None:
        self._problem = problem
        self._roots = roots
        self._budget = budget
        self._stop = stop
        self._seen: dict[tuple[int, int, Hashable], list[int]] = {}
        self.frontier: list[_Config] = []
        """With `stop`: all ways to get so far."""

    def run(self) -> bool:
        """Whether there is an order (with `stop`: nothing; `frontier` is filled). Raises BudgetError."""
        problem, goal = self._problem, len(self._problem.known)
        for root in self._roots:
            if root[0] == goal:
                return True
            if not self._new(root):
                continue
            stack = [problem.successors(root, self._budget)]
            while stack:
                config = next(stack[-1], None)
                if config is None:
                    stack.pop()
                elif self._stop is not None and config[0] >= self._stop:
                    if self._new(config):
                        self.frontier.append(config)
                elif config[0] == goal:
                    return True
                elif self._new(config):
                    stack.append(problem.successors(config, self._budget))
        return False

    def _new(self, config: _Config) -> bool:
        base, mask, used, state, _ = config
        been = self._seen.setdefault((base, mask, state), [])
        if any(other & used == other for other in been):
            return False
        been[:] = [other for other in been if used & other != used]
        been.append(used)
        return True


@dataclass(frozen=True, slots=True)
class KeyResult:
    """The verdict on one key, and for a violation the part that shows it."""

    key: str
    verdict: Verdict
    steps: int
    finding: Finding | None = None


def check_key(key: str, ops: Sequence[Op], model: Model, *, steps: int = STEPS, seconds: float = SECONDS) -> KeyResult:
    """Judge the operations of one object. UNKNOWN if the budget was too small."""
    problem = _Problem(ops, model)
    budget = Budget(steps, time.monotonic() + seconds)
    try:
        if _ordered(problem, budget):
            return KeyResult(key, Verdict.OK, budget.used)
    except BudgetError:
        return KeyResult(key, Verdict.UNKNOWN, budget.used)
    return KeyResult(key, Verdict.VIOLATION, budget.used, _explain(key, problem))


def _ordered(problem: _Problem, budget: Budget) -> bool:
    return _Search(problem, [(0, 0, 0, problem.model.initial(), None)], budget).run()


def check(ops: Sequence[Op], model: Model, *, by_key: bool = True, steps: int = STEPS, seconds: float = SECONDS) -> Judgement:
    """Judge a history, each key apart unless the object spans them all."""
    parts: dict[str, list[Op]] = {}
    for op in ops:
        parts.setdefault(op.key if by_key else "all keys", []).append(op)
    results = [check_key(key, part, model, steps=steps, seconds=seconds) for key, part in sorted(parts.items())]
    verdict = worst(r.verdict for r in results)
    given_up = [r.key for r in results if r.verdict is Verdict.UNKNOWN]
    reason = f"the search was given up for {', '.join(given_up)}" if given_up else ""
    figures = {"keys": len(results), "steps": sum(r.steps for r in results), "operations": len(ops)}
    return Judgement(f"linearizable {model.name}", verdict, tuple(r.finding for r in results if r.finding), reason, figures)


# --- the part of an illegal history that shows it --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Root:
    """A way to get to where the explanation begins: the state, and the ids of later or unknown calls that have taken effect."""

    state: Hashable
    taken: frozenset[int]


def _explain(key: str, problem: _Problem) -> Finding:
    """The fewest calls found that cannot be ordered, whatever became of all others.

    A call is left out by letting go of its answer: it may then have happened at any later time or not at all. What remains illegal so is
    illegal in the whole history too.
    """
    short = _shortest(problem)
    blocked = short.known[-1]
    core, window, states = _core(short, blocked)
    before = " or ".join(states[:8]) + (f" or {len(states) - 8} others" if len(states) > 8 else "")
    where = f" Before the calls shown: {before}." if before else ""
    text = f"{key}: no order of the calls gives these answers. The first answer that none can explain: {blocked.text()}.{where}"
    context = tuple(sorted({op.id for op in (*window, *(o for o in short.unknown if o.completed >= window[0].invoked))}))
    return Finding("not linearizable", text, tuple(sorted(op.id for op in core)), context[-_CONTEXT:])


def _prefix(problem: _Problem, count: int) -> _Problem:
    """The first `count` answers bind; calls that were under way by then may have happened or not."""
    last = problem.known[count - 1].completed
    later = [replace(op, outcome=Outcome.UNKNOWN, result=None) for op in problem.known[count:] if op.invoked <= last]
    return _Problem([*problem.known[:count], *later, *(op for op in problem.unknown if op.invoked <= last)], problem.model)


def _shortest(problem: _Problem) -> _Problem:
    """The shortest prefix without an order, as far as the time allows."""
    low, high = 0, len(problem.known)
    until = time.monotonic() + _SHRINK_SECONDS
    best = _prefix(problem, high)
    while high - low > 1:
        middle = (low + high) // 2
        part = _prefix(problem, middle)
        try:
            legal = _ordered(part, Budget(STEPS, until))
        except BudgetError:
            break
        if legal:
            low = middle
        else:
            high, best = middle, part
    return best


def _core(problem: _Problem, blocked: Op) -> tuple[list[Op], list[Op], list[str]]:
    """The calls that are needed, those among which they were found, and the states that were possible before."""
    last = len(problem.known) - 1
    core, window, states = [blocked], problem.known[-_WINDOW:], list[str]()
    for back in (_WINDOW, 2 * _WINDOW, 4 * _WINDOW):
        first = max(0, last - back)
        try:
            roots = _roots(problem, first)
        except BudgetError:
            break
        window = problem.known[first:]
        since = problem.known[first - 1].completed if first else -1
        core, relaxed = list(window), list(problem.unknown)
        until = time.monotonic() + _SHRINK_SECONDS
        for op in window:
            if op is blocked or op.invoked <= since or time.monotonic() > until:
                continue
            fewer = [other for other in core if other is not op]
            looser = [*relaxed, replace(op, outcome=Outcome.UNKNOWN, result=None)]
            if _illegal(problem.model, fewer, looser, roots):
                core, relaxed = fewer, looser
        states = sorted({problem.model.show(root.state) for root in roots}) if first else []
        if len(core) > 1 or first == 0:
            break
    return core, window, states


def _roots(problem: _Problem, first: int) -> list[_Root]:
    """Every way to have brought the calls before `first` into an order. Raises BudgetError."""
    start: _Config = (0, 0, 0, problem.model.initial(), None)
    if first == 0:
        return [_Root(problem.model.initial(), frozenset())]
    whole = _Problem([*problem.known, *problem.unknown], problem.model, binding=first)
    search = _Search(whole, [start], Budget(_ROOT_STEPS, time.monotonic() + _SHRINK_SECONDS), stop=first)
    search.run()
    found: dict[_Root, None] = {}
    for base, mask, used, state, _ in search.frontier:
        taken = {whole.known[i].id for i in range(first, base)}
        taken |= {whole.known[base + i].id for i in range(mask.bit_length()) if mask >> i & 1}
        taken |= {whole.unknown[j].id for j in range(used.bit_length()) if used >> j & 1}
        found[_Root(state, frozenset(taken))] = None
        if len(found) > _ROOTS:
            raise BudgetError
    return list(found)


def _illegal(model: Model, known: Sequence[Op], relaxed: Sequence[Op], roots: Sequence[_Root]) -> bool:
    problem = _Problem([*known, *relaxed], model)
    configs: list[_Config] = []
    for root in roots:
        mask = sum(1 << i for i, op in enumerate(problem.known) if op.id in root.taken)
        used = sum(1 << j for j, op in enumerate(problem.unknown) if op.id in root.taken)
        configs.append((*_low(0, mask), used, root.state, None))
    try:
        return not _Search(problem, configs, Budget(_SHRINK_STEPS)).run()
    except BudgetError:
        return False
