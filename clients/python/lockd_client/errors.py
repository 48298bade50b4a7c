# ruff: noqa: N818 - the names say what happened; "Error" behind each would add nothing.
"""The one tree of errors: every one is a `LockdError` with a gRPC code, a stable reason, and a sentence that says what to do.

`retry_safe` is True where sending the same call again can neither apply it twice nor harm, and may succeed.
The reasons are those of the service (docs/guarantees.md); errors that the client itself finds use reasons of their own,
listed with each class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import grpc

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class LockdError(Exception):
    """Base of every error of this package.

    Attributes:
        code: The gRPC status code.
        reason: A stable word for programs, such as LOCK_HELD.
        message: What happened, for people.
        advice: What to do about it, one sentence.
        retry_safe: Whether the same call may be sent again as it is.
        metadata: Details of the service's ErrorInfo.
    """

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    default_reason: ClassVar[str] = "UNKNOWN"
    default_advice: ClassVar[str] = "Report this: the service answered with something that the client does not know."
    default_retry_safe: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        advice: str = "",
        retry_safe: bool | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code
        self.reason = reason or self.default_reason
        self.advice = advice or self.default_advice
        self.retry_safe = self.default_retry_safe if retry_safe is None else retry_safe
        self.metadata: dict[str, str] = dict(metadata or {})

    def __str__(self) -> str:
        return f"{self.message} [{self.reason}] {self.advice}"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that breaks a rule: its path, such as `transfers[3].amount`, and the rule."""

    field: str
    description: str


class InvalidArgument(LockdError):
    """The call breaks a rule that no state can make right. Found by the client (reason INVALID_ARGUMENT) or by the service."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = "INVALID_ARGUMENT"
    default_advice = "Correct the named fields; the same call will be refused again."

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        advice: str = "",
        retry_safe: bool | None = None,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
    ) -> None:
        super().__init__(message, code=code, reason=reason, advice=advice, retry_safe=retry_safe, metadata=metadata)
        self.violations = tuple(violations)


class NotFound(LockdError):
    """What the call names is not there."""

    default_code = grpc.StatusCode.NOT_FOUND
    default_reason = "NOT_FOUND"
    default_advice = "Check the name or id."


class AlreadyExists(LockdError):
    """What the call would create is there already."""

    default_code = grpc.StatusCode.ALREADY_EXISTS
    default_reason = "ALREADY_EXISTS"
    default_advice = "Use what is there, or another name."


class PermissionDenied(LockdError):
    """The identity of the connection may not do this."""

    default_code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = "PERMISSION_DENIED"
    default_advice = "Ask an operator for the role that this call needs."


class Unauthenticated(LockdError):
    """The connection carries no identity, or one that the service does not know."""

    default_code = grpc.StatusCode.UNAUTHENTICATED
    default_reason = "UNAUTHENTICATED"
    default_advice = "Pass a valid client certificate (tls=) or bearer token (token=)."


class ResourceExhausted(LockdError):
    """A bound of the service is reached. With a known delay the client retries by itself until the deadline."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "OVERLOADED"
    default_advice = "Send less at once, or try again later."
    default_retry_safe = True


class FailedPrecondition(LockdError):
    """The state does not allow the call."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = "FAILED_PRECONDITION"
    default_advice = "Read the state again, then decide anew."


class NotHeld(FailedPrecondition):
    """The session does not hold the lock with this token (NOT_HOLDER)."""

    default_reason = "NOT_HOLDER"
    default_advice = "Nothing was changed; acquire the lock again before you rely on it."


class FencedError(FailedPrecondition):
    """A guard's token is no longer the current grant (FENCED): somebody else may hold the lock. Nothing was applied."""

    default_reason = "FENCED"
    default_advice = "Stop the work under this lock, acquire it again and read the state anew."


class TransfersRefused(FailedPrecondition):
    """A transaction was refused because one of its transfers would not be created (TRANSFERS_REFUSED). Nothing was applied."""

    default_reason = "TRANSFERS_REFUSED"
    default_advice = "Look at the statuses in the metadata, correct the transfers, then send a new transaction."


class ClientClosed(FailedPrecondition):
    """The client was closed before or during the call (CLIENT_CLOSED)."""

    default_reason = "CLIENT_CLOSED"
    default_advice = "Connect a new client."


class OutOfRange(LockdError):
    """The position that was asked for is not kept, for example a compacted revision (COMPACTED)."""

    default_code = grpc.StatusCode.OUT_OF_RANGE
    default_reason = "OUT_OF_RANGE"
    default_advice = "Ask for a newer position."


class Aborted(LockdError):
    """The service gave the call up without applying anything."""

    default_code = grpc.StatusCode.ABORTED
    default_reason = "ABORTED"
    default_advice = "Try again from the start."
    default_retry_safe = True


class LockHeld(Aborted):
    """A try found the lock held (LOCK_HELD)."""

    default_reason = "LOCK_HELD"
    default_advice = "Try again later, or allow a wait."


class Deadlock(Aborted):
    """This request closed a cycle of waits and was the youngest in it (DEADLOCK); the metadata names the cycle."""

    default_reason = "DEADLOCK"
    default_advice = "Release what you hold, then try again; take locks in one order, or all at once with lock_many()."


class Cancelled(LockdError):
    """The request was cancelled (CANCELLED); an acquire holds nothing."""

    default_code = grpc.StatusCode.CANCELLED
    default_reason = "CANCELLED"
    default_advice = "Nothing is held; call again if you still want it."
    default_retry_safe = True


class LockLost(LockdError):
    """A lock was lost before it was released (LOCK_LOST): its session ended, or an operator took it away."""

    default_code = grpc.StatusCode.ABORTED
    default_reason = "LOCK_LOST"
    default_advice = "Treat the work under the lock as interrupted: acquire it again and read the state anew."


class SessionLost(LockLost):
    """The session expired, or could not be kept alive in time (SESSION_EXPIRED, SESSION_UNKNOWN): all its locks are lost.

    The next call of the client opens a new session by itself.
    """

    default_reason = "SESSION_EXPIRED"
    default_advice = "Acquire the locks again: the next call opens a new session."


class Unavailable(LockdError):
    """No node could serve the call in time, and it was not applied (reason UNREACHABLE, or the service's own)."""

    default_code = grpc.StatusCode.UNAVAILABLE
    default_reason = "UNREACHABLE"
    default_advice = "Check the endpoints and that a majority of the nodes runs, then try again."
    default_retry_safe = True


class DeadlineExceeded(LockdError):
    """The deadline passed, and nothing was applied: the call never left, was a read, or was a wait that is now cancelled."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_EXCEEDED"
    default_advice = "Try again with more time."
    default_retry_safe = True


class WaitTimeout(DeadlineExceeded):
    """The lock was not granted within the wait (WAIT_TIMEOUT)."""

    default_reason = "WAIT_TIMEOUT"
    default_advice = "Try again, or wait longer."


class UnknownOutcome(LockdError):
    """A write may or may not have been applied (UNKNOWN_OUTCOME); `client.resolve(error)` asks again.

    Attributes:
        request_id: The request's number in its session; 0 if it cannot be asked for again.
        session_id: The session that sent it; 0 if it had none.
    """

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = "UNKNOWN_OUTCOME"
    default_advice = "Call client.resolve() with this error to learn the outcome, or read the state; do not simply send it again."

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        advice: str = "",
        retry_safe: bool | None = None,
        metadata: Mapping[str, str] | None = None,
        request_id: int = 0,
        session_id: int = 0,
    ) -> None:
        super().__init__(message, code=code, reason=reason, advice=advice, retry_safe=retry_safe, metadata=metadata)
        self.request_id = request_id
        self.session_id = session_id


class Internal(LockdError):
    """The service, or the client, broke a promise of its own."""

    default_code = grpc.StatusCode.INTERNAL
    default_reason = "INTERNAL"


class Unimplemented(LockdError):
    """The service does not know this call: it is older than the client, or the call needs an engine that is not running."""

    default_code = grpc.StatusCode.UNIMPLEMENTED
    default_reason = "UNIMPLEMENTED"
    default_advice = "Compare the versions of client and service."
