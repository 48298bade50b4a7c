"""Watches to and from the wire, and the place to which a watch has got: all of it but the connection."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from lockd.v1 import watch_pb2 as pb
from lockd_client import watch_model as m
from lockd_client._core.methods import Method
from lockd_client._core.requests import MODE_OF, PERMITS_MODE, row, seconds
from lockd_client.errors import FieldViolation, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from google.protobuf.timestamp_pb2 import Timestamp

WATCH = Method("/lockd.v1.WatchService/Watch", pb.WatchRequest, pb.WatchResponse)
LIST_AUDIT = Method("/lockd.v1.WatchService/ListAudit", pb.ListAuditRequest, pb.ListAuditResponse)

SILENT_NODES_LIMIT = 3_000_000_000
"""Nanoseconds for which nodes that do not answer are hoped to remember what the others have forgotten."""

_KINDS = {
    m.EventKind.ROWS: pb.EVENT_KIND_ROWS,
    m.EventKind.LOCKS: pb.EVENT_KIND_LOCKS,
    m.EventKind.LEDGER: pb.EVENT_KIND_LEDGER,
    m.EventKind.MESSAGES: pb.EVENT_KIND_MESSAGES,
    m.EventKind.SESSIONS: pb.EVENT_KIND_SESSIONS,
}


def nanos(moment: Timestamp) -> int:
    """Nanoseconds since the epoch."""
    return moment.seconds * 1_000_000_000 + moment.nanos


def kinds_of(names: Iterable[m.EventKind | str]) -> tuple[m.EventKind, ...]:
    """Kinds from their names.

    Raises:
        InvalidArgument: There is no such kind.
    """
    found: list[m.EventKind] = []
    for name in names:
        try:
            found.append(m.EventKind(name))
        except ValueError:
            problem = f"{name!r} is none of {', '.join(m.EventKind)}"
            raise InvalidArgument(f"kinds: {problem}.", violations=[FieldViolation("kinds", problem)]) from None
    return tuple(found)


class Progress:
    """How far a watch has got, over all its connections: what to ask for next, and which events have been seen already."""

    def __init__(self, filters: Iterable[m.WatchFilter], start_revision: int, after: m.Place | None) -> None:
        if start_revision < 0 or (after is not None and (after[0] < 1 or after[1] < 0)):
            raise InvalidArgument("A watch begins at a revision of 1 or more; 0: now.")
        if start_revision and after is not None:
            raise InvalidArgument("Give start_revision or after, not both.")
        given = list(filters)
        if m.WatchFilter() in given:
            given = []
        self._filters = [pb.WatchFilter(kinds=[_KINDS[kind] for kind in f.kinds], prefix=f.prefix, topic=f.topic) for f in given]
        self.next_revision = after[0] if after is not None else start_revision
        """The revision to resume at; 0 before the first response to a watch from now on."""
        self._last: m.Place = after if after is not None else (0, 0)

    def request(self, interval: float) -> pb.WatchRequest:
        """Everything from here on."""
        made = pb.WatchRequest(filters=self._filters, start_revision=self.next_revision)
        made.progress_interval.FromNanoseconds(int(interval * 1e9))
        return made

    def take(self, response: pb.WatchResponse) -> list[m.Event]:
        """The events of a response that have not been seen before."""
        found: list[m.Event] = []
        for message in response.events:
            place = (message.revision, message.position)
            if place > self._last:
                found.append(event(message))
                self._last = place
        self.next_revision = max(self.next_revision, response.progress_revision + 1)
        return found


class Search:
    """Which nodes were asked in vain since the last answer, and what they still remember."""

    def __init__(self) -> None:
        self.failures = 0
        """Failures in a row."""
        self.since = 0
        """When the first of them was (monotonic nanoseconds); 0: there is none."""
        self._oldest: dict[str, int] = {}
        self._tried: set[str] = set()

    def answered(self) -> None:
        """A node serves the watch."""
        self.failures = self.since = 0
        self._oldest.clear()
        self._tried.clear()

    def failed(self, address: str) -> None:
        """The node did not serve the watch."""
        self.failures += 1
        self.since = self.since or time.monotonic_ns()
        self._tried.add(address)

    def compacted(self, address: str, oldest: int) -> None:
        """The node does not remember so far back; another one may."""
        self._oldest[address] = oldest
        self.failed(address)

    def given_up(self, addresses: Iterable[str]) -> m.Compacted | None:
        """The end of the watch: every node has forgotten, but for those that have not answered for some time."""
        known = set(addresses)
        silent = known.difference(self._oldest)
        patient = not self._tried.issuperset(known) or time.monotonic_ns() - self.since < SILENT_NODES_LIMIT
        if not self._oldest or (silent and patient):
            return None
        oldest = min(self._oldest.values())
        metadata = {"oldest_revision": str(oldest)}
        return m.Compacted(f"What would come next is no longer remembered; the oldest revision is {oldest}.", metadata=metadata)


def _head(message: pb.WatchEvent) -> tuple[int, int, int]:
    return message.revision, message.position, nanos(message.log_time)


def _resolved(messages: Iterable[pb.PendingResolved]) -> tuple[m.PendingResolved, ...]:
    name = pb.PendingResolved.Fate.Name
    return tuple([m.PendingResolved(r.pending, name(r.fate).removeprefix("FATE_").lower(), nanos(r.resolved_at)) for r in messages])


_EVENTS: dict[str, Callable[[int, int, int, Any], m.Event]] = {
    "row_put": lambda r, p, t, x: m.RowPut(r, p, t, row(x)),
    "row_deleted": lambda r, p, t, x: m.RowDeleted(r, p, t, x.key, row(x.previous)),
    "rows_compacted": lambda r, p, t, x: m.RowsCompacted(r, p, t, x.oldest_revision),
    "lock_granted": lambda r, p, t, x: m.LockGranted(
        r, p, t, x.resource, x.session_id, x.owner, MODE_OF.get(x.mode, PERMITS_MODE), x.token, x.permits
    ),
    "lock_released": lambda r, p, t, x: m.LockReleased(r, p, t, x.resource, x.session_id, x.owner, x.token),
    "lock_lost": lambda r, p, t, x: m.LockLost(r, p, t, x.resource, x.session_id, x.owner, x.token, nanos(x.available_at)),
    "lock_forced": lambda r, p, t, x: m.LockForced(r, p, t, x.resource, x.session_id, x.owner, x.token, x.by, x.reason),
    "lock_delay_ended": lambda r, p, t, x: m.LockDelayEnded(r, p, t, x.resource),
    "deadlock_resolved": lambda r, p, t, x: m.DeadlockResolved(
        r, p, t, x.session_id, x.owner, x.request_id, tuple([(step.session_id, step.resource) for step in x.cycle])
    ),
    "wait_timed_out": lambda r, p, t, x: m.WaitTimedOut(r, p, t, x.session_id, x.owner, x.request_id, tuple(x.resources)),
    "session_opened": lambda r, p, t, x: m.SessionOpened(r, p, t, x.session_id, x.owner, seconds(x.ttl)),
    "session_expired": lambda r, p, t, x: m.SessionExpired(r, p, t, x.session_id, x.owner),
    "session_closed": lambda r, p, t, x: m.SessionClosed(r, p, t, x.session_id, x.owner),
    "command_refused": lambda r, p, t, x: m.CommandRefused(r, p, t, x.session_id, x.kind, x.digest),
    "accounts_created": lambda r, p, t, x: m.AccountsCreated(r, p, t, x.packed),
    "transfers_created": lambda r, p, t, x: m.TransfersCreated(
        r, p, t, x.packed, tuple(x.metadata), _resolved(x.resolved), x.metadata_omitted
    ),
    "transfers_expired": lambda r, p, t, x: m.TransfersExpired(r, p, t, _resolved(x.resolved)),
    "message": lambda r, p, t, x: m.MessagePublished(r, p, t, x.topic, x.payload, x.content_type, x.session_id),
}


def event(message: pb.WatchEvent) -> m.Event:
    """An event from its message; one that this client does not know keeps its place and time only."""
    name = message.WhichOneof("event")
    if name not in _EVENTS:
        return m.Event(*_head(message))
    return _EVENTS[name](*_head(message), getattr(message, name))
