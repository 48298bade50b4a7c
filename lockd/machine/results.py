"""Results: what the machine answers. Every request gets exactly one, at once or, for a wait, in a later entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from lockd.machine.types import Code, FencingToken, LockMode, Nanos, RequestId, Resource, Revision, SessionId


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was changed. `reason` is stable and documented (docs/guarantees.md); `details` names what it is about."""

    code: Code
    reason: str
    message: str
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A session lives until `expires_at` (log time), and from each keepalive for `ttl`."""

    session: SessionId
    ttl: Nanos
    expires_at: Nanos


@dataclass(frozen=True, slots=True)
class KeptAlive:
    """The session now lives until `expires_at`."""

    ttl: Nanos
    expires_at: Nanos


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The session is closed and its locks are free."""


@dataclass(frozen=True, slots=True)
class Hold:
    """One resource held: `count` is how often the session took it."""

    resource: Resource
    mode: LockMode
    token: FencingToken
    count: int
    permits: int = 0


@dataclass(frozen=True, slots=True)
class Granted:
    """All claims are held, in the order of the request."""

    holds: tuple[Hold, ...]
    revision: Revision


@dataclass(frozen=True, slots=True)
class Released:
    """For each named hold: whether this release changed anything (False: it had been released already)."""

    released: tuple[bool, ...]
    revision: Revision


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a CancelAcquire found: a waiter that is gone, a hold that was released, or nothing."""

    waiting: bool
    released: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A strong row as of some revision (semantics, section 4)."""

    key: Resource
    value: bytes
    content_type: str
    create_revision: Revision
    mod_revision: Revision
    version: int
    session: SessionId


@dataclass(frozen=True, slots=True)
class RowPut:
    """The row's version after the write."""

    version: int


@dataclass(frozen=True, slots=True)
class RowsDeleted:
    """How many rows were there and are gone."""

    count: int


@dataclass(frozen=True, slots=True)
class RowRead:
    """The row, or None."""

    row: Row | None


@dataclass(frozen=True, slots=True)
class BatchDone:
    """A ledger batch ran: `results` holds 16 bytes an event (timestamp u64, status u32, reserved u32; little-endian)."""

    results: bytes


@dataclass(frozen=True, slots=True)
class Published:
    """The message went out."""


OperationResult: TypeAlias = RowPut | RowsDeleted | RowRead | BatchDone | Granted | Released | Published


@dataclass(frozen=True, slots=True)
class Transacted:
    """A transaction ran: whether the compares held, and one result for each operation of the branch that ran."""

    succeeded: bool
    revision: Revision
    results: tuple[OperationResult, ...]


@dataclass(frozen=True, slots=True)
class Compacted:
    """History below `revision` is gone."""

    revision: Revision


Result: TypeAlias = (
    Refused | SessionOpened | KeptAlive | SessionClosed | Granted | Released | Cancelled | BatchDone | Transacted | Compacted
)


@dataclass(frozen=True, slots=True)
class Completion:
    """An earlier request that waited, and now has its result."""

    session: SessionId
    request_id: RequestId
    result: Result


@dataclass(slots=True)
class Applied:
    """What one log entry did. `results` runs parallel to the entry's requests; None means: waiting, a Completion will follow."""

    results: list[Result | None]
    completions: list[Completion]
    events: list[object]
