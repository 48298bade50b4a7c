"""From `google.rpc.Status` to one exception of the tree, and to what the client does about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from lockd_client import errors
from lockd_client.errors import FieldViolation, LockdError

if TYPE_CHECKING:
    from collections.abc import Mapping

_BY_REASON: dict[str, type[LockdError]] = {
    "LOCK_HELD": errors.LockHeld,
    "WAIT_TIMEOUT": errors.WaitTimeout,
    "DEADLOCK": errors.Deadlock,
    "NOT_HOLDER": errors.NotHeld,
    "FENCED": errors.FencedError,
    "SESSION_EXPIRED": errors.SessionLost,
    "SESSION_UNKNOWN": errors.SessionLost,
    "INVALID_PATH": errors.InvalidArgument,
    "REQUEST_ACKNOWLEDGED": errors.FailedPrecondition,
    "REQUEST_ID_REUSED": errors.Internal,
    "NOT_LEADER": errors.Unavailable,
    "NO_LEADER": errors.Unavailable,
    "UNKNOWN_OUTCOME": errors.UnknownOutcome,
    "OVERLOADED": errors.ResourceExhausted,
    "STORAGE_FAILED": errors.Unavailable,
    "CANCELLED": errors.Cancelled,
    "TRANSFERS_REFUSED": errors.TransfersRefused,
    "COMPACTED": errors.OutOfRange,
    "STALE_REPLICA": errors.Unavailable,
    "FORWARD_FAILED": errors.Unavailable,
}

_BY_CODE: dict[grpc.StatusCode, type[LockdError]] = {
    cls.default_code: cls
    for cls in (
        errors.InvalidArgument,
        errors.NotFound,
        errors.AlreadyExists,
        errors.PermissionDenied,
        errors.Unauthenticated,
        errors.ResourceExhausted,
        errors.FailedPrecondition,
        errors.OutOfRange,
        errors.Aborted,
        errors.Cancelled,
        errors.Unavailable,
        errors.DeadlineExceeded,
        errors.Internal,
        errors.Unimplemented,
    )
}

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

_ADVICE: dict[str, str] = {
    "NO_LEADER": "Wait for an election, or check that a majority of the nodes runs.",
    "STORAGE_FAILED": "An operator must look at the node's disk; another node may serve meanwhile.",
    "STALE_REPLICA": "Try again, ask another node, or accept an older answer (EVENTUAL).",
    "INVALID_PATH": 'A path is 1 to 16 parts joined by "/", at most 512 bytes, no part empty, "." or "..".',
}


class Disposition(Enum):
    """What to do about a refusal."""

    FAIL = auto()
    """Tell the caller."""
    RECONNECT = auto()
    """Find the leader, then send the same request again with the same id."""
    RESEND = auto()
    """Send the same request again with the same id, after a pause, on the same connection."""
    SESSION_GONE = auto()
    """The session is lost."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A status in parts."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[FieldViolation, ...] = ()
    retry_after: int | None = None
    """Nanoseconds, from RetryInfo."""

    @property
    def leader_address(self) -> str:
        """Where the leader is, as far as the node that refused knows."""
        return self.metadata.get("leader_address", "")

    @property
    def disposition(self) -> Disposition:
        """What the client does about it."""
        reason = self.reason
        if reason in ("SESSION_EXPIRED", "SESSION_UNKNOWN"):
            return Disposition.SESSION_GONE
        if reason in ("NOT_LEADER", "NO_LEADER", "STORAGE_FAILED"):
            return Disposition.RECONNECT
        if reason in ("UNKNOWN_OUTCOME", "STALE_REPLICA", "FORWARD_FAILED"):
            return Disposition.RESEND
        if self.code is grpc.StatusCode.RESOURCE_EXHAUSTED and self.retry_after is not None:
            return Disposition.RESEND
        return Disposition.RECONNECT if self.code is grpc.StatusCode.UNAVAILABLE else Disposition.FAIL

    @property
    def certainly_not_applied(self) -> bool:
        """False where the request may have been applied although it was refused."""
        if self.reason:
            return self.reason != "UNKNOWN_OUTCOME" and self.reason != "FORWARD_FAILED"
        return self.code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNKNOWN)

    def to_error(self) -> LockdError:
        """The exception for the caller: by reason first, then by code."""
        cls = _BY_REASON.get(self.reason) or _BY_CODE.get(self.code, LockdError)
        message = self.message or f"The service answered {self.code.name}."
        advice = _ADVICE.get(self.reason, "")
        if issubclass(cls, errors.InvalidArgument):
            return cls(message, code=self.code, reason=self.reason, advice=advice, metadata=self.metadata, violations=self.violations)
        return cls(message, code=self.code, reason=self.reason, advice=advice, metadata=self.metadata)


def from_status(status: status_pb2.Status) -> Failure:
    """Take a `google.rpc.Status` with its ErrorInfo, RetryInfo and BadRequest apart; unknown details are passed over."""
    reason = ""
    metadata: dict[str, str] = {}
    violations: tuple[FieldViolation, ...] = ()
    retry_after: int | None = None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry_after = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay.ToNanoseconds()
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            violations = tuple(FieldViolation(v.field, v.description) for v in bad.field_violations)
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return Failure(code, status.message, reason, metadata, violations, retry_after)


def from_rpc(code: grpc.StatusCode, details: str | None, trailing: bytes | None) -> Failure:
    """A failed RPC: from its `grpc-status-details-bin` trailer where there is one, else from its code and text."""
    if trailing:
        try:
            return from_status(status_pb2.Status.FromString(trailing))
        except DecodeError:
            return Failure(code, details or "")
    return Failure(code, details or "")
