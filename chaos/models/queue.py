"""The queue of a lock: granted in the order of arrival."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from chaos.history import Op, Outcome


class FairQueue:
    """`enqueue`, `grant`, `release`, `leave`, each by a process: a grant goes to the head of the queue, and only while nobody holds.

    State: (holder, queue). An acquire is two operations here: when it was seen in the queue, and when it was granted.
    """

    name = "queue"

    def initial(self) -> Hashable:
        """Nobody holds, nobody waits."""
        return (None, ())

    def prepare(self, op: Op) -> Any:
        """(what, process)."""
        if op.outcome is Outcome.FAIL or op.kind not in ("enqueue", "grant", "release", "leave", "~leave"):
            return None
        return (op.kind.lstrip("~"), op.process)

    def step(self, state: Any, call: Any) -> Iterable[Hashable]:
        """One state, or none."""
        what, process = call
        holder, queue = state
        if what == "enqueue":
            return () if process in queue or holder == process else ((holder, (*queue, process)),)
        if what == "grant":
            return ((process, queue[1:]),) if holder is None and queue and queue[0] == process else ()
        if what == "release":
            return ((None, queue),) if holder == process else ()
        if holder == process:
            return ((None, queue),)
        return ((holder, tuple(p for p in queue if p != process)),)

    def show(self, state: Any) -> str:
        """Who holds and who waits."""
        holder, queue = state
        return f"held by {holder}, waiting: {', '.join(queue) or 'nobody'}"
