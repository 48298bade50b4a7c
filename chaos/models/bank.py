"""A bank: transfers between accounts, and reads of all of them at one moment."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from chaos.history import Op, Outcome

_TRANSFER, _READ = range(2)


class Bank:
    """`transfer([from, to, amount]) -> bool` (False: refused for lack of funds), `read -> {account: balance}`.

    A read names some of the accounts or all. No balance goes below `floor` (None: any may). State: balances in the order of names.
    """

    name = "bank"

    def __init__(self, opening: Mapping[str, int], floor: int | None = 0) -> None:
        self._names = sorted(opening)
        self._opening = tuple(opening[n] for n in self._names)
        self._place = {n: i for i, n in enumerate(self._names)}
        self._floor = floor

    def initial(self) -> Hashable:
        """The opening balances."""
        return self._opening

    def prepare(self, op: Op) -> Any:
        """(what, arguments, result)."""
        if op.outcome is Outcome.FAIL:
            return None
        if op.kind == "transfer":
            source, target, amount = op.args
            return (_TRANSFER, (self._place[source], self._place[target], int(amount)), bool(op.result) if op.ok else None)
        if op.kind == "read" and op.ok:
            return (_READ, tuple((self._place[n], int(v)) for n, v in op.result.items()), None)
        return None

    def step(self, state: Any, call: Any) -> Iterable[Hashable]:
        """One state, or none."""
        what, arguments, result = call
        if what == _READ:
            return (state,) if all(state[i] == v for i, v in arguments) else ()
        source, target, amount = arguments
        enough = self._floor is None or state[source] - amount >= self._floor
        if result is not None and result is not enough:
            return ()
        if not enough:
            return (state,)
        after = list(state)
        after[source] -= amount
        after[target] += amount
        return (tuple(after),)

    def show(self, state: Any) -> str:
        """All balances."""
        return ", ".join(f"{n}={v}" for n, v in zip(self._names, state, strict=True))
