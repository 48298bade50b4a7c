"""What can be asked of an event: its kind, the paths and sessions it is about, whether a filter passes it, what it weighs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from lockd.machine import events as e
from lockd.machine.types import Nanos


class Kind(IntEnum):
    """The numbers are the protocol's (lockd.v1.EventKind)."""

    ROWS = 1
    LOCKS = 2
    LEDGER = 3
    MESSAGES = 4
    SESSIONS = 5


KINDS: dict[type, Kind] = {
    e.RowPut: Kind.ROWS,
    e.RowDeleted: Kind.ROWS,
    e.RowsCompacted: Kind.ROWS,
    e.LockGranted: Kind.LOCKS,
    e.LockReleased: Kind.LOCKS,
    e.LockLost: Kind.LOCKS,
    e.LockForced: Kind.LOCKS,
    e.LockDelayEnded: Kind.LOCKS,
    e.DeadlockResolved: Kind.LOCKS,
    e.WaitTimedOut: Kind.LOCKS,
    e.AccountsCreated: Kind.LEDGER,
    e.TransfersCreated: Kind.LEDGER,
    e.TransfersExpired: Kind.LEDGER,
    e.MessagePublished: Kind.MESSAGES,
    e.SessionOpened: Kind.SESSIONS,
    e.SessionExpired: Kind.SESSIONS,
    e.SessionClosed: Kind.SESSIONS,
    e.UnknownRefused: Kind.SESSIONS,
}
"""Every event of the machine has a kind."""

_RESOURCE: Callable[[Any], tuple[str, ...]] = lambda event: (event.resource,)  # noqa: E731 - one entry of the table below
_PATHS: dict[type, Callable[[Any], tuple[str, ...]]] = {
    e.RowPut: lambda event: (event.row.key,),
    e.RowDeleted: lambda event: (event.key,),
    e.LockGranted: _RESOURCE,
    e.LockReleased: _RESOURCE,
    e.LockLost: _RESOURCE,
    e.LockForced: _RESOURCE,
    e.LockDelayEnded: _RESOURCE,
    e.DeadlockResolved: lambda event: tuple([resource for _, resource in event.cycle]),
    e.WaitTimedOut: lambda event: event.resources,
}

AUDITED = frozenset(
    {
        e.LockGranted,
        e.LockReleased,
        e.LockLost,
        e.LockForced,
        e.LockDelayEnded,
        e.DeadlockResolved,
        e.WaitTimedOut,
        e.SessionOpened,
        e.SessionExpired,
        e.SessionClosed,
        e.UnknownRefused,
    }
)
"""What belongs to the audit trail of locks and sessions."""


def paths(event: object) -> tuple[str, ...]:
    """The rows or resources that an event names."""
    named = _PATHS.get(type(event))
    return named(event) if named is not None else ()


def sessions(event: object) -> tuple[int, ...]:
    """The sessions that an event is about."""
    if isinstance(event, e.DeadlockResolved):
        return (event.session, *(session for session, _ in event.cycle))
    session = getattr(event, "session", None)
    return (session,) if session is not None else ()


def below(prefix: str, names: Iterable[str]) -> bool:
    """Whether one of the paths equals `prefix` or lies below it."""
    inside = prefix + "/"
    return any(name == prefix or name.startswith(inside) for name in names)


@dataclass(frozen=True, slots=True)
class Filter:
    """Passes events that meet all that is set; see lockd.v1.WatchFilter."""

    kinds: frozenset[Kind] = frozenset()
    prefix: str = ""
    topic: str = ""

    def accepts(self, event: object) -> bool:
        """Whether it passes."""
        if self.kinds and KINDS.get(type(event)) not in self.kinds:
            return False
        if not self.prefix and not self.topic:
            return True
        if isinstance(event, e.MessagePublished):
            return bool(self.topic) and below(self.topic, (event.topic,))
        return bool(self.prefix) and below(self.prefix, paths(event))


def any_of(filters: Sequence[Filter]) -> Callable[[object], bool]:
    """Passes what any of them passes; everything if there is none."""
    if not filters or any(f == Filter() for f in filters):
        return lambda _: True
    if len(filters) == 1:
        return filters[0].accepts
    tests = [f.accepts for f in filters]
    return lambda event: any(accepts(event) for accepts in tests)


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which events of the audit trail are wanted; 0 and "" do not narrow. `until` is exclusive."""

    prefix: str = ""
    session: int = 0
    since: Nanos = 0
    until: Nanos = 0

    def wants(self, event: object, log_time: Nanos) -> bool:
        """Whether this one is."""
        if type(event) not in AUDITED or log_time < self.since or (self.until and log_time >= self.until):
            return False
        if self.session and self.session not in sessions(event):
            return False
        return not self.prefix or below(self.prefix, paths(event))


# Estimates of CPython's cost: the object, its strings and numbers, its place in lists, and its encoded form beside it.
_EVENT_BYTES = 640
_WEIGHTS: dict[type, Callable[[Any], int]] = {
    # What a deleted row was is shown too.
    e.RowPut: lambda event: 2 * len(event.row.value),
    e.RowDeleted: lambda event: 2 * len(event.previous.value),
    e.MessagePublished: lambda event: 2 * len(event.payload),
    e.DeadlockResolved: lambda event: 256 * len(event.cycle),
    e.WaitTimedOut: lambda event: 64 * len(event.resources),
    e.AccountsCreated: lambda event: 2 * len(event.outcome.created),
    e.TransfersCreated: lambda event: (
        2 * (len(event.outcome.created) + sum([len(m) + 40 for m in event.outcome.metadata or ()])) + 640 * len(event.outcome.resolutions)
    ),
    e.TransfersExpired: lambda event: 640 * len(event.outcome.resolutions),
}


def weigh(events: Sequence[object]) -> int:
    """The bytes that these events take in the ring, with their encoded form: an estimate."""
    total = _EVENT_BYTES * len(events)
    weights = _WEIGHTS
    for event in events:
        more = weights.get(type(event))
        if more is not None:
            total += more(event)
    return total
