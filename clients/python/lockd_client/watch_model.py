"""What a watch shows: typed, frozen events, and how a watch can end. Times are nanoseconds of log time since the epoch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from lockd_client._core.records import accounts, transfers
from lockd_client.errors import OutOfRange

if TYPE_CHECKING:
    from lockd_client.ledger_model import Account, Transfer
    from lockd_client.model import LockMode, Row


class Compacted(OutOfRange):
    """No node remembers what the watch would have to show next (COMPACTED): events were missed for good.

    Attributes:
        oldest_revision: The first revision that can still be watched.
    """

    default_reason = "COMPACTED"
    default_advice = "Read the state anew, then watch from the revision of that reading."

    @property
    def oldest_revision(self) -> int:
        """The first revision that can still be watched, on the node that remembers most."""
        return int(self.metadata.get("oldest_revision", "0"))


class EventKind(StrEnum):
    """What an event is about."""

    ROWS = "rows"
    LOCKS = "locks"
    LEDGER = "ledger"
    MESSAGES = "messages"
    SESSIONS = "sessions"


@dataclass(frozen=True, slots=True)
class WatchFilter:
    """Passes events that meet all that is set.

    Attributes:
        kinds: Which kinds; empty: all.
        prefix: Only rows and locks whose path equals this or lies below it.
        topic: Only messages whose topic equals this or lies below it. With a prefix too, either will do.
    """

    kinds: tuple[EventKind, ...] = ()
    prefix: str = ""
    topic: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """One fact. `revision` (the log index) and `position` order all facts for ever.

    This class itself stands for a fact that this client is too old to know.
    """

    revision: int
    position: int
    log_time: int

    @property
    def place(self) -> tuple[int, int]:
        """Revision and position: what `after` of a watch takes to go on behind this event."""
        return self.revision, self.position


@dataclass(frozen=True, slots=True)
class RowPut(Event):
    """A row was written."""

    row: Row


@dataclass(frozen=True, slots=True)
class RowDeleted(Event):
    """A row was deleted; `previous` is what it was."""

    key: str
    previous: Row


@dataclass(frozen=True, slots=True)
class RowsCompacted(Event):
    """Row history below `oldest_revision` is gone."""

    oldest_revision: int


@dataclass(frozen=True, slots=True)
class LockGranted(Event):
    """A session holds the resource under a new token: a new hold, or one whose mode was converted."""

    resource: str
    session_id: int
    owner: str
    mode: LockMode
    token: int
    permits: int


@dataclass(frozen=True, slots=True)
class LockReleased(Event):
    """A session gave its hold back."""

    resource: str
    session_id: int
    owner: str
    token: int


@dataclass(frozen=True, slots=True)
class LockLost(Event):
    """A hold went with its session. `available_at`: until then the lock delay keeps the resource; 0: it is available at once."""

    resource: str
    session_id: int
    owner: str
    token: int
    available_at: int


@dataclass(frozen=True, slots=True)
class LockForced(Event):
    """An operator took a hold away."""

    resource: str
    session_id: int
    owner: str
    token: int
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class LockDelayEnded(Event):
    """A lost hold no longer keeps its resource unavailable."""

    resource: str


@dataclass(frozen=True, slots=True)
class DeadlockResolved(Event):
    """A request was refused so that the others of its cycle can go on; each step is a session and the resource it waits for."""

    session_id: int
    owner: str
    request_id: int
    cycle: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class WaitTimedOut(Event):
    """A request waited as long as it said it would."""

    session_id: int
    owner: str
    request_id: int
    resources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SessionOpened(Event):
    """A session began; `ttl` in seconds."""

    session_id: int
    owner: str
    ttl: float


@dataclass(frozen=True, slots=True)
class SessionExpired(Event):
    """A session was lost: no keepalive came in time."""

    session_id: int
    owner: str


@dataclass(frozen=True, slots=True)
class SessionClosed(Event):
    """A session was closed by its client."""

    session_id: int
    owner: str


@dataclass(frozen=True, slots=True)
class CommandRefused(Event):
    """A command that the service cannot decode was refused."""

    session_id: int
    kind: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class AccountsCreated(Event):
    """Accounts of one batch. `packed`: 128-byte records, back to back."""

    packed: bytes

    @property
    def accounts(self) -> tuple[Account, ...]:
        """The accounts, unpacked anew each time."""
        return accounts(self.packed)


@dataclass(frozen=True, slots=True)
class PendingResolved:
    """A pending transfer was posted, voided or expired at a log time; `packed` is its 128-byte record."""

    packed: bytes
    fate: str
    resolved_at: int

    @property
    def transfer(self) -> Transfer:
        """The pending transfer, unpacked."""
        return transfers(self.packed, ())[0]


@dataclass(frozen=True, slots=True)
class TransfersCreated(Event):
    """Transfers of one batch. `packed`: 128-byte records, back to back; `metadata`: nothing, or an item for each.

    `metadata_omitted`: there is metadata that did not fit into a message; look the transfers up.
    """

    packed: bytes
    metadata: tuple[bytes, ...]
    resolved: tuple[PendingResolved, ...]
    metadata_omitted: bool

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """The transfers, unpacked anew each time."""
        return transfers(self.packed, self.metadata)


@dataclass(frozen=True, slots=True)
class TransfersExpired(Event):
    """Pending transfers ran out of time."""

    resolved: tuple[PendingResolved, ...]


@dataclass(frozen=True, slots=True)
class MessagePublished(Event):
    """A message to a topic; `session_id` is 0 if it was sent without one."""

    topic: str
    payload: bytes
    content_type: str
    session_id: int


@dataclass(frozen=True, slots=True)
class AuditTrail:
    """What a node remembers of locks and sessions: events in log order, from `oldest_revision` up to `revision` at most."""

    events: tuple[Event, ...]
    oldest_revision: int
    revision: int


Place: TypeAlias = tuple[int, int]
"""Revision and position of an event."""
