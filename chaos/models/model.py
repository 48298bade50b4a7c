"""What a sequential model is."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Final, Protocol, runtime_checkable

from chaos.history import Op


class Model(Protocol):
    """A sequential object. States are hashable values; a call is an operation, prepared once for many steps."""

    name: str

    def initial(self) -> Hashable:
        """The state before the first call."""

    def prepare(self, op: Op) -> Any:
        """The call of an operation, or None where it says nothing (it failed, is a read of unknown outcome, or is not the model's)."""

    def step(self, state: Any, call: Any) -> Iterable[Hashable]:
        """The states that the call can lead to, with its result; none: it is not legal here.

        A call of unknown outcome has no result: every result that the state allows is possible.
        """

    def show(self, state: Any) -> str:
        """A state for people."""


NOTHING: Final = object()
"""No value: neither None nor any state."""


@runtime_checkable
class ValueModel(Model, Protocol):
    """A model whose states are values that calls give and need: the search uses it to see dead ends early."""

    def gives(self, call: Any) -> Any:
        """The state after the call, where that does not depend on the state before; NOTHING if it changes nothing."""

    def avoids(self, call: Any) -> Any:
        """The only state in which the call is not legal; NOTHING if there is none, or more."""

    def wants(self, call: Any) -> Any:
        """The state that the call needs to be legal, or to change anything; NOTHING if any will do."""
