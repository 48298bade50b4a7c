"""Facts: what a log entry did, in order, for watchers and for the journal.

`revision` is the entry's log index, `position` the fact's place among the entry's facts, from 0: together they order all facts for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ledger.machine.model import BatchOutcome
from lockd.machine.results import Row
from lockd.machine.types import FencingToken, LockMode, Nanos, RequestId, Resource, Revision, SessionId


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A session began to live."""

    revision: Revision
    position: int
    session: SessionId
    owner: str
    ttl: Nanos


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """A session was closed by its client."""

    revision: Revision
    position: int
    session: SessionId
    owner: str


@dataclass(frozen=True, slots=True)
class SessionExpired:
    """A session was lost: no keepalive came in time."""

    revision: Revision
    position: int
    session: SessionId
    owner: str


@dataclass(frozen=True, slots=True)
class LockGranted:
    """A session holds `resource` under a new token: a new hold, or one whose mode was converted. `permits` > 0: of a semaphore."""

    revision: Revision
    position: int
    resource: Resource
    session: SessionId
    owner: str
    mode: LockMode
    token: FencingToken
    permits: int = 0


@dataclass(frozen=True, slots=True)
class LockReleased:
    """A session gave its hold back. `token` is the last token of the hold."""

    revision: Revision
    position: int
    resource: Resource
    session: SessionId
    owner: str
    token: FencingToken


@dataclass(frozen=True, slots=True)
class LockLost:
    """A hold went with its expired session. The resource stays unavailable until `available_at` (log time; 0: at once)."""

    revision: Revision
    position: int
    resource: Resource
    session: SessionId
    owner: str
    token: FencingToken
    available_at: Nanos


@dataclass(frozen=True, slots=True)
class LockForced:
    """An operator took a hold away from its session."""

    revision: Revision
    position: int
    resource: Resource
    session: SessionId
    owner: str
    token: FencingToken
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class LockDelayEnded:
    """A lost hold no longer keeps its resource unavailable."""

    revision: Revision
    position: int
    resource: Resource


@dataclass(frozen=True, slots=True)
class DeadlockResolved:
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


@dataclass(frozen=True, slots=True)
class WaitTimedOut:
    """A request waited as long as it said it would."""

    revision: Revision
    position: int
    session: SessionId
    owner: str
    request_id: RequestId
    resources: tuple[Resource, ...]


@dataclass(frozen=True, slots=True)
class RowPut:
    """A row was written."""

    revision: Revision
    position: int
    row: Row


@dataclass(frozen=True, slots=True)
class RowDeleted:
    """A row was deleted; `previous` is what it was."""

    revision: Revision
    position: int
    key: Resource
    previous: Row


@dataclass(frozen=True, slots=True)
class RowsCompacted:
    """History below `oldest` is gone."""

    revision: Revision
    position: int
    oldest: Revision


@dataclass(frozen=True, slots=True)
class MessagePublished:
    """A message for the watchers of `topic`. `session` is 0 if none sent it."""

    revision: Revision
    position: int
    topic: Resource
    payload: bytes
    content_type: str
    session: SessionId


@dataclass(frozen=True, slots=True)
class AccountsCreated:
    """A batch of accounts was decided; see ledger.machine.model.BatchOutcome."""

    revision: Revision
    position: int
    outcome: BatchOutcome


@dataclass(frozen=True, slots=True)
class TransfersCreated:
    """A batch of transfers was decided; see ledger.machine.model.BatchOutcome."""

    revision: Revision
    position: int
    outcome: BatchOutcome


@dataclass(frozen=True, slots=True)
class TransfersExpired:
    """Pending transfers ran out of time; the outcome's `resolutions` say which."""

    revision: Revision
    position: int
    outcome: BatchOutcome


@dataclass(frozen=True, slots=True)
class UnknownRefused:
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
