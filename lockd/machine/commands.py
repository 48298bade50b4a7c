"""Commands: what the log carries to the machine. One union, frozen values.

Everything that reaches the machine through a client has been checked by the rpc layer, but the machine does not rely on
it: it refuses what breaks a rule, alike on every replica, and never raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from lockd.machine.types import FencingToken, LockMode, Nanos, RequestId, Resource, Revision, SessionId


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Start a session that lives `ttl` of log time from now and from each keepalive. `owner` is a label for people, never authority."""

    ttl: Nanos
    owner: str


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Extend the session of the request to log time plus its ttl."""


@dataclass(frozen=True, slots=True)
class CloseSession:
    """End the session of the request: its holds and waits go in the same entry, without lock delay."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One resource that an acquire wants. With `limit` > 0 it is a counting semaphore: `permits` of `limit` (mode is then ignored)."""

    resource: Resource
    mode: LockMode
    permits: int = 0
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Acquire:
    """Take all claims or none, in one entry. `wait`: 0 is try, FOREVER has no limit, else nanoseconds of log time.

    `lock_delay`: after the holding session is lost (not released), the resources stay unavailable that long.
    """

    claims: tuple[Claim, ...]
    wait: Nanos
    lock_delay: Nanos = 0


@dataclass(frozen=True, slots=True)
class Convert:
    """Change the mode of a hold, up or down; up may wait like an acquire and goes before new requests."""

    resource: Resource
    token: FencingToken
    mode: LockMode
    wait: Nanos


@dataclass(frozen=True, slots=True)
class CancelAcquire:
    """Undo an acquire or conversion of the same session by its request id: a waiter is removed, a hold that it gained is released."""

    target: RequestId


@dataclass(frozen=True, slots=True)
class Guard:
    """Asserts that `token` is the current grant of `resource`, held by anyone (semantics, section 3: enforced tokens)."""

    resource: Resource
    token: FencingToken


@dataclass(frozen=True, slots=True)
class Release:
    """Give back holds, each named with its token. Idempotent."""

    holds: tuple[Guard, ...]


@dataclass(frozen=True, slots=True)
class ForceRelease:
    """An operator takes a lock away from whoever holds it: recorded with who and why; the old tokens are fenced."""

    resource: Resource
    by: str
    reason: str


class CompareField(IntEnum):
    """What a Compare looks at. EXISTS compares 1 or 0; HELD_TOKEN the token of the current grant, 0 if free."""

    VALUE = 1
    CREATE_REVISION = 2
    MOD_REVISION = 3
    VERSION = 4
    EXISTS = 5
    HELD_TOKEN = 6


class CompareOperator(IntEnum):
    """How a Compare relates what is there (left) to what was given (right)."""

    EQUAL = 1
    NOT_EQUAL = 2
    LESS = 3
    GREATER = 4


@dataclass(frozen=True, slots=True)
class Compare:
    """One condition of a transaction. `value` is used for VALUE, `number` for all others."""

    key: Resource
    field: CompareField
    operator: CompareOperator
    number: int = 0
    value: bytes = b""


@dataclass(frozen=True, slots=True)
class PutRow:
    """Write a row. With `ephemeral` it belongs to the session of the request and goes with it."""

    key: Resource
    value: bytes
    content_type: str = ""
    ephemeral: bool = False


@dataclass(frozen=True, slots=True)
class DeleteRow:
    """Delete one row, if it is there."""

    key: Resource


@dataclass(frozen=True, slots=True)
class DeleteRange:
    """Delete all rows with start <= key < end."""

    start: str
    end: str


@dataclass(frozen=True, slots=True)
class GetRow:
    """Read one row at this point of the log."""

    key: Resource


@dataclass(frozen=True, slots=True)
class PostTransfers:
    """Ledger transfers as part of a transaction: every one must be created, or the whole transaction is refused."""

    packed: bytes
    metadata: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class TakeLocks:
    """Acquire without waiting, as part of a transaction."""

    claims: tuple[Claim, ...]
    lock_delay: Nanos = 0


@dataclass(frozen=True, slots=True)
class ReleaseLocks:
    """Release, as part of a transaction."""

    holds: tuple[Guard, ...]


@dataclass(frozen=True, slots=True)
class Publish:
    """Send a message to the watchers of `topic`, in log order with everything else."""

    topic: Resource
    payload: bytes
    content_type: str = ""


Operation: TypeAlias = PutRow | DeleteRow | DeleteRange | GetRow | PostTransfers | TakeLocks | ReleaseLocks | Publish


@dataclass(frozen=True, slots=True)
class Transact:
    """Guards, then compares, then `success` or `failure` operations: atomic, one log entry (semantics, section 4)."""

    guards: tuple[Guard, ...]
    compares: tuple[Compare, ...]
    success: tuple[Operation, ...]
    failure: tuple[Operation, ...] = ()


@dataclass(frozen=True, slots=True)
class CompactRows:
    """Forget row history below `revision`."""

    revision: Revision


@dataclass(frozen=True, slots=True)
class CreateAccounts:
    """A ledger batch of packed 128-byte account records (ledger.md)."""

    packed: bytes
    guards: tuple[Guard, ...] = ()


@dataclass(frozen=True, slots=True)
class CreateTransfers:
    """A ledger batch of packed 128-byte transfer records (ledger.md); `metadata` is empty or has one item a transfer."""

    packed: bytes
    metadata: tuple[bytes, ...] = ()
    guards: tuple[Guard, ...] = ()


@dataclass(frozen=True, slots=True)
class Unknown:
    """A command that this version cannot decode: refused, alike on every replica, with an audit event."""

    kind: str
    digest: bytes


Command: TypeAlias = (
    OpenSession
    | KeepAlive
    | CloseSession
    | Acquire
    | Convert
    | CancelAcquire
    | Release
    | ForceRelease
    | Transact
    | CompactRows
    | CreateAccounts
    | CreateTransfers
    | Unknown
)


@dataclass(frozen=True, slots=True)
class Request:
    """A command with the identity that makes its retry harmless (semantics, section 2).

    All request ids of the session below `acknowledged` have been answered and will not be asked for again.
    """

    session: SessionId
    request_id: RequestId
    acknowledged: RequestId
    command: Command


@dataclass(frozen=True, slots=True)
class LogEntry:
    """The content of one committed log entry: requests that gathered, stamped by the leader.

    An entry without requests is a Tick: it only lets time pass. `leader_term` > 0 opens a leader's reign: before anything
    else, every live session is extended to `log_time` plus its ttl (semantics, section 2).
    """

    log_time: Nanos
    requests: tuple[Request, ...]
    leader_term: int = 0
