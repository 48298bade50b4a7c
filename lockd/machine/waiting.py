"""What a request asks of the lock table, and the request that waits for it."""

from __future__ import annotations

from typing import NamedTuple

from lockd.machine.holds import Lock
from lockd.machine.paths import Lineage
from lockd.machine.sessions import Session
from lockd.machine.types import FencingToken, Nanos, RequestId, Resource


class Want(NamedTuple):
    """One checked claim: a mode on the last of `lineage`, or `permits` of `limit` (the mode is then 0)."""

    lineage: Lineage
    mode: int
    permits: int = 0
    limit: int = 0


class Need(NamedTuple):
    """What a request needs on one resource: the supremum of all modes that its claims ask for or imply there, or permits."""

    resource: Resource
    mode: int
    permits: int = 0
    limit: int = 0
    claimed: bool = False


class Waiter:
    """A request that waits: it holds nothing of what it waits for, and stands in line at every resource it needs.

    `keys` says, for each need, in which line it stands (0: in none, the session has it already); `fresh`, whether it came without
    holding the resource, or has lost it since: only who holds goes before others. `parked` is the place in `needs` of the resource that
    blocks it. With `token` it is a conversion. `deadline` is 0 for a wait without limit.
    """

    __slots__ = (
        "deadline",
        "fresh",
        "keys",
        "lock_delay",
        "locks",
        "needs",
        "parked",
        "request_id",
        "session",
        "since",
        "ticket",
        "token",
        "wants",
    )

    def __init__(
        self,
        ticket: int,
        session: Session,
        request_id: RequestId,
        wants: tuple[Want, ...],
        needs: tuple[Need, ...],
        *,
        deadline: Nanos,
        lock_delay: Nanos,
        since: Nanos,
        token: FencingToken | None = None,
    ) -> None:
        self.ticket = ticket
        self.session = session
        self.request_id = request_id
        self.wants = wants
        self.needs = needs
        self.deadline = deadline
        self.lock_delay = lock_delay
        self.since = since
        self.token = token
        self.locks: list[Lock] = []
        self.keys: list[int] = []
        self.fresh: list[bool] = []
        self.parked = 0

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The resources that the request names."""
        return tuple([want.lineage[-1] for want in self.wants])

    def permits_at(self, lock: Lock) -> int:
        """How many permits of this semaphore it waits for."""
        for need, own in zip(self.needs, self.locks, strict=True):
            if own is lock and need.permits:
                return need.permits
        return 0
