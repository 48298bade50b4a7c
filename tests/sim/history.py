"""Whether what the clients saw is linearizable, decided while it happens.

Every answer names a position in one total order: a write its own, a read the value it saw. The history is linearizable exactly if

- every position belongs to one write, and no write has two positions (the order is real);
- whatever began after something else had ended does not come before it in that order (the order respects real time): after an answer with
  position p was given, a later write gets more than p, and a later read sees at least p;
- no read sees a write that nobody has asked for yet (implied: a position exists only after its request was made).

So one integer, the highest position answered so far, decides everything: sound and complete for this register, and fast.
"""

from __future__ import annotations

from tests.sim.world import SimulationError


class History:
    """The order of all writes, and the answers given."""

    __slots__ = ("acknowledged", "floor", "order", "positions", "reads", "requested")

    def __init__(self) -> None:
        self.order: list[tuple[int, int]] = []
        """(session, number) by position, as the first replica that executed it saw it."""
        self.positions: dict[tuple[int, int], int] = {}
        self.requested: set[tuple[int, int]] = set()
        self.acknowledged: dict[tuple[int, int], int] = {}
        self.floor = 0
        self.reads = 0

    def request(self, write: tuple[int, int]) -> int:
        """A client asks for this write for the first time; returns the floor to hand back with the answer."""
        self.requested.add(write)
        return self.floor

    def executed(self, who: str, write: tuple[int, int], position: int) -> None:
        """A replica executed this write as its `position`-th."""
        if position <= len(self.order):
            if self.order[position - 1] != write:
                raise SimulationError(
                    "state machine safety", f"{who} executed {write} at position {position}, others {self.order[position - 1]}"
                )
            return
        if position != len(self.order) + 1:
            raise SimulationError("state machine safety", f"{who} executed {write} at position {position} of {len(self.order)}")
        if write not in self.requested:
            raise SimulationError("nothing from nowhere", f"{who} executed {write}, which nobody asked for")
        if write in self.positions:
            raise SimulationError("applied once", f"{who} executed {write} at {position}, which was executed at {self.positions[write]}")
        self.order.append(write)
        self.positions[write] = position

    def write_answered(self, write: tuple[int, int], position: int, floor: int) -> None:
        """A client was told that its write got this position; `floor` is what `request` returned."""
        if self.positions.get(write) != position:
            raise SimulationError(
                "answers are true", f"{write} was answered with position {position}, its position is {self.positions.get(write)}"
            )
        if position <= floor:
            raise SimulationError("linearizable writes", f"{write} got position {position}, but {floor} was answered before it began")
        known = self.acknowledged.setdefault(write, position)
        if known != position:
            raise SimulationError("applied once", f"{write} was answered with positions {known} and {position}")
        self.floor = max(self.floor, position)

    def read_answered(self, value: int, floor: int) -> None:
        """A client was told that the register holds `value`; `floor` is `self.floor` when the read began."""
        self.reads += 1
        if value < floor:
            raise SimulationError("linearizable reads", f"a read saw {value}, but {floor} was answered before it began")
        if value > len(self.order):
            raise SimulationError("linearizable reads", f"a read saw {value}, but only {len(self.order)} writes were executed")
        self.floor = max(self.floor, value)

    def final(self, who: str, writes: list[tuple[int, int]]) -> None:
        """The state of a replica after everything was healed: it must be the whole order, and hold everything acknowledged."""
        for write, position in self.acknowledged.items():
            if position > len(writes) or writes[position - 1] != write:
                raise SimulationError(
                    "nothing acknowledged is lost", f"{write}, acknowledged at position {position}, is not in the state of {who}"
                )
        if writes != self.order:
            raise SimulationError("convergence", f"{who} holds {len(writes)} writes, the order has {len(self.order)}")
        if len(set(writes)) != len(writes):
            raise SimulationError("applied once", f"{who} holds a write twice")
