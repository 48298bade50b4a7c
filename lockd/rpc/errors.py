"""The one table of statuses: everything that a caller can be refused with, as google.rpc.Status.

Each status carries a google.rpc.ErrorInfo (stable reason, domain "lockd", metadata), and a RetryInfo where a delay is known
(semantics, section 10).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from lockd.machine.results import Refused
from lockd.raft.port import (
    Member,
    NotLeaderError,
    OverloadedError,
    RaftError,
    StorageFailedError,
    UnavailableError,
    UnknownOutcomeError,
)

DOMAIN = "lockd"
STATUS_KEY = "grpc-status-details-bin"
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_RETRY_OVERLOADED_MS = 50
_RETRY_ELECTION_MS = 100

Violation = tuple[str, str]
"""A field's path and what is wrong with it."""


class InvalidRequestError(Exception):
    """A request that must not reach the log."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{field}: {problem}" for field, problem in self.violations))


def status(
    code: int, reason: str, message: str, metadata: Mapping[str, str] | None = None, retry_ms: int | None = None
) -> status_pb2.Status:
    """A status with its details."""
    made = status_pb2.Status(code=code, message=message)
    made.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata or {}))
    if retry_ms is not None:
        made.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(nanos=retry_ms * 1_000_000)))
    return made


def from_refusal(refused: Refused) -> status_pb2.Status:
    """What the machine refused."""
    return status(refused.code, refused.reason, refused.message, dict(refused.details))


def from_invalid(error: InvalidRequestError) -> status_pb2.Status:
    """Bad input, with its field violations (google.rpc.BadRequest)."""
    made = status(code_pb2.INVALID_ARGUMENT, "INVALID_ARGUMENT", str(error))
    bad = error_details_pb2.BadRequest()
    for field, problem in error.violations:
        bad.field_violations.add(field=field, description=problem)
    made.details.add().Pack(bad)
    return made


def _leader(leader: Member | None) -> dict[str, str]:
    return {"leader_id": leader.id, "leader_address": leader.client_address} if leader is not None else {}


def from_raft(error: RaftError) -> status_pb2.Status:
    """What the log refused, or no longer knows."""
    unavailable = code_pb2.UNAVAILABLE
    match error:
        case UnknownOutcomeError():
            message = f"{error}; ask again with the same request id to learn the outcome"
            return status(unavailable, "UNKNOWN_OUTCOME", message, _leader(error.leader), _RETRY_ELECTION_MS)
        case NotLeaderError(leader=None):
            return status(unavailable, "NO_LEADER", "no leader is known at the moment; try again", None, _RETRY_ELECTION_MS)
        case NotLeaderError():
            leader = _leader(error.leader)
            return status(unavailable, "NOT_LEADER", f"this node does not lead; ask {leader['leader_address']}", leader)
        case OverloadedError():
            return status(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", str(error), None, _RETRY_OVERLOADED_MS)
        case StorageFailedError():
            return status(unavailable, "STORAGE_FAILED", f"this node has stopped: {error}")
        case UnavailableError():
            return status(unavailable, "NO_QUORUM", str(error) or "no quorum answered in time", None, _RETRY_ELECTION_MS)
        case _:
            return status(code_pb2.FAILED_PRECONDITION, "REFUSED", str(error))


def from_error(error: Exception) -> status_pb2.Status:
    """The status of any error that a handler may meet."""
    if isinstance(error, InvalidRequestError):
        return from_invalid(error)
    if isinstance(error, RaftError):
        return from_raft(error)
    return status(code_pb2.INTERNAL, "INTERNAL", f"{type(error).__name__}: {error}")


class RefusedError(Exception):
    """Carries a status out of a handler."""

    def __init__(self, refusal: status_pb2.Status) -> None:
        super().__init__(refusal.message)
        self.status = refusal


async def abort(context: grpc.aio.ServicerContext[Any, Any], refusal: status_pb2.Status) -> NoReturn:
    """End a call with `refusal`, details included."""
    trailing = ((STATUS_KEY, refusal.SerializeToString()),)
    await context.abort(_CODES.get(refusal.code, grpc.StatusCode.UNKNOWN), refusal.message, trailing)
    raise RefusedError(refusal)
