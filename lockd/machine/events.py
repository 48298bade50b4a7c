"""Facts: what a log entry did, in order, for watchers and for the journal.

`revision` is the entry's log index, `position` the fact's place among the entry's facts, from 0: together they order all facts for ever.

They are named tuples, not dataclasses like other values, because one is made for nearly every request: a frozen dataclass takes three times
as long to make. As tuples they compare by content alone; ask for their type first.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from ledger.machine.model import BatchOutcome
from lockd.machine.results import Row
from lockd.machine.types import FencingToken, LockMode, Nanos, RequestId, Resource, Revision, SessionId


class SessionOpened(NamedTuple):
    """A session began to live."""

    revision: Revision
    position: int
    session: SessionId
    owner: str
    ttl: Nanos


class SessionClosed(NamedTuple):
    """A session was closed by its client."""

    revision: Revision
    position: int
    session: SessionId
    owner: str


class SessionExpired(NamedTuple):
    """A session was lost: no keepalive came in time."""

    revision: Revision
    position: int
    session: SessionId
    owner: str


class LockGranted(NamedTuple):
    """A session holds `resource` under a new token: a new hold, or one whose mode was converted. `permits` > 0: of a semaphore."""

    revision: Revision
    position: int
    resource: Resource
    session: SessionId
    owner: str
    mode: LockMode
    token: FencingToken
    permits: int = 0


class LockReleased(NamedTuple):
    """A session gave its hold back. `token` is the last token of the hold."""

    revision: Revision
    position: int
    resource: Resource
    session: SessionId
    owner: str
    token: FencingToken


class LockLost(NamedTuple):
    """A hold went with its expired session. The resource stays unavailable until `available_at` (log time; 0: at once)."""

    revision: Revision
    position: int
    resource: Resource
    session: SessionId
    owner: str
    token: FencingToken
    available_at: Nanos


class LockForced(NamedTuple):
    """An operator took a hold away from its session."""

    revision: Revision
    position: int
    resource: Resource
    session: SessionId
    owner: str
    token: FencingToken
    by: str
    reason: str


class LockDelayEnded(NamedTuple):
    """A lost hold no longer keeps its resource unavailable."""

    revision: Revision
    position: int
    resource: Resource


class DeadlockResolved(NamedTuple):
    """A request that waited was refused so that the others of the cycle can go on.

    Each step of `cycle` is (a waiting session, the resource it waits for), held or asked for before by the session of the next step; the
    last step leads to the first.
    """

    revision: Revision
    position: int
    session: SessionId
    owner: str
    request_id: RequestId
    cycle: tuple[tuple[SessionId, Resource], ...]


class WaitTimedOut(NamedTuple):
    """A request waited as long as it said it would."""

    revision: Revision
    position: int
    session: SessionId
    owner: str
    request_id: RequestId
    resources: tuple[Resource, ...]


class RowPut(NamedTuple):
    """A row was written."""

    revision: Revision
    position: int
    row: Row


class RowDeleted(NamedTuple):
    """A row was deleted; `previous` is what it was."""

    revision: Revision
    position: int
    key: Resource
    previous: Row


class RowsCompacted(NamedTuple):
    """History below `oldest` is gone."""

    revision: Revision
    position: int
    oldest: Revision


class MessagePublished(NamedTuple):
    """A message for the watchers of `topic`. `session` is 0 if none sent it."""

    revision: Revision
    position: int
    topic: Resource
    payload: bytes
    content_type: str
    session: SessionId


class AccountsCreated(NamedTuple):
    """A batch of accounts was decided; see ledger.machine.model.BatchOutcome."""

    revision: Revision
    position: int
    outcome: BatchOutcome


class TransfersCreated(NamedTuple):
    """A batch of transfers was decided; see ledger.machine.model.BatchOutcome."""

    revision: Revision
    position: int
    outcome: BatchOutcome


class TransfersExpired(NamedTuple):
    """Pending transfers ran out of time; the outcome's `resolutions` say which."""

    revision: Revision
    position: int
    outcome: BatchOutcome


class UnknownRefused(NamedTuple):
    """A command that this version cannot decode was refused."""

    revision: Revision
    position: int
    session: SessionId
    kind: str
    digest: bytes


Event: TypeAlias = (
    SessionOpened
    | SessionClosed
    | SessionExpired
    | LockGranted
    | LockReleased
    | LockLost
    | LockForced
    | LockDelayEnded
    | DeadlockResolved
    | WaitTimedOut
    | RowPut
    | RowDeleted
    | RowsCompacted
    | MessagePublished
    | AccountsCreated
    | TransfersCreated
    | TransfersExpired
    | UnknownRefused
)
