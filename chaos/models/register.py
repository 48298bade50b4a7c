"""A register: read, write, compare-and-set. The value is any JSON scalar; None: nothing was ever written."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from chaos.history import Op, Outcome
from chaos.models.model import NOTHING

_READ, _WRITE, _CAS, _CAS_ANY = range(4)


class Register:
    """`read() -> value`, `write(v)`, `cas([old, new]) -> bool`."""

    name = "register"

    def initial(self) -> Hashable:
        """Nothing was written."""
        return None

    def prepare(self, op: Op) -> Any:
        """(what, argument, result)."""
        if op.outcome is Outcome.FAIL:
            return None
        if op.kind == "read":
            return (_READ, None, op.result) if op.ok else None
        if op.kind == "write":
            return (_WRITE, op.args, None)
        if op.kind == "cas":
            return (_CAS, tuple(op.args), bool(op.result)) if op.ok else (_CAS_ANY, tuple(op.args), None)
        return None

    def step(self, state: Any, call: Any) -> Iterable[Hashable]:
        """One state, or none."""
        what, argument, result = call
        if what == _READ:
            return (state,) if state == result else ()
        if what == _WRITE:
            return (argument,)
        old, new = argument
        if what == _CAS_ANY:
            return (new,) if state == old else (state,)
        if (state == old) is not result:
            return ()
        return (new,) if result else (state,)

    def gives(self, call: Any) -> Any:
        """What is there afterwards."""
        what, argument, result = call
        if what == _WRITE:
            return argument
        if what == _READ or (what == _CAS and not result):
            return NOTHING
        return argument[1]

    def avoids(self, call: Any) -> Any:
        """What must not be there."""
        what, argument, result = call
        return argument[0] if what == _CAS and not result else NOTHING

    def wants(self, call: Any) -> Any:
        """What must be there."""
        what, argument, result = call
        if what == _READ:
            return result
        if what == _WRITE or (what == _CAS and not result):
            return NOTHING
        return argument[0]

    def show(self, state: Any) -> str:
        """The value."""
        return "nothing written" if state is None else f"value {state!r}"
