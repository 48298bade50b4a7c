"""From google.rpc.Status to the tree of errors, and what the client does about each."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

import lockd_client
from lockd_client import errors
from lockd_client._core.failures import Disposition, from_rpc, from_status
from tests.client.fake_world import status

CODE = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "reason", "cls"),
    [
        (CODE.ABORTED, "LOCK_HELD", errors.LockHeld),
        (CODE.DEADLINE_EXCEEDED, "WAIT_TIMEOUT", errors.WaitTimeout),
        (CODE.ABORTED, "DEADLOCK", errors.Deadlock),
        (CODE.FAILED_PRECONDITION, "NOT_HOLDER", errors.NotHeld),
        (CODE.FAILED_PRECONDITION, "FENCED", errors.FencedError),
        (CODE.FAILED_PRECONDITION, "SESSION_EXPIRED", errors.SessionLost),
        (CODE.NOT_FOUND, "SESSION_UNKNOWN", errors.SessionLost),
        (CODE.INVALID_ARGUMENT, "INVALID_PATH", errors.InvalidArgument),
        (CODE.UNAVAILABLE, "NOT_LEADER", errors.Unavailable),
        (CODE.UNAVAILABLE, "STORAGE_FAILED", errors.Unavailable),
        (CODE.UNAVAILABLE, "UNKNOWN_OUTCOME", errors.UnknownOutcome),
        (CODE.RESOURCE_EXHAUSTED, "OVERLOADED", errors.ResourceExhausted),
        (CODE.CANCELLED, "CANCELLED", errors.Cancelled),
        (CODE.FAILED_PRECONDITION, "TRANSFERS_REFUSED", errors.TransfersRefused),
        (CODE.OUT_OF_RANGE, "COMPACTED", errors.OutOfRange),
        (CODE.PERMISSION_DENIED, "", errors.PermissionDenied),
        (CODE.NOT_FOUND, "SOMETHING_NEW", errors.NotFound),
        (CODE.DATA_LOSS, "SOMETHING_NEW", errors.LockdError),
    ],
)
def test_reason_first_then_code(code: grpc.StatusCode, reason: str, cls: type[errors.LockdError]) -> None:
    """A known reason decides the class; else the code does; every error keeps both, and says what to do."""
    error = from_status(status(code, reason, "what happened", key="value")).to_error()
    assert type(error) is cls
    assert error.code is code
    assert error.reason == (reason or cls.default_reason)
    assert error.message == "what happened"
    assert error.metadata == {"key": "value"}
    assert error.advice.endswith(".")
    assert error.advice in str(error)


def test_field_violations_reach_the_caller() -> None:
    """BadRequest details become violations of InvalidArgument."""
    message = status(CODE.INVALID_ARGUMENT, "INVALID_PATH", "bad")
    bad = error_details_pb2.BadRequest(field_violations=[error_details_pb2.BadRequest.FieldViolation(field="f", description="d")])
    message.details.add().Pack(bad)
    error = from_status(message).to_error()
    assert isinstance(error, errors.InvalidArgument)
    assert error.violations == (errors.FieldViolation("f", "d"),)


@pytest.mark.parametrize(
    ("code", "reason", "retry", "wanted"),
    [
        (CODE.UNAVAILABLE, "NOT_LEADER", None, Disposition.RECONNECT),
        (CODE.UNAVAILABLE, "NO_LEADER", 0.1, Disposition.RECONNECT),
        (CODE.UNAVAILABLE, "", None, Disposition.RECONNECT),
        (CODE.UNAVAILABLE, "UNKNOWN_OUTCOME", None, Disposition.RESEND),
        (CODE.RESOURCE_EXHAUSTED, "OVERLOADED", 0.05, Disposition.RESEND),
        (CODE.RESOURCE_EXHAUSTED, "SESSIONS_FULL", None, Disposition.FAIL),
        (CODE.FAILED_PRECONDITION, "SESSION_EXPIRED", None, Disposition.SESSION_GONE),
        (CODE.ABORTED, "LOCK_HELD", None, Disposition.FAIL),
        (CODE.INVALID_ARGUMENT, "", None, Disposition.FAIL),
    ],
)
def test_what_is_done_about_it(code: grpc.StatusCode, reason: str, retry: float | None, wanted: Disposition) -> None:
    """What can be retried is retried; what cannot is told."""
    assert from_status(status(code, reason, retry_after=retry)).disposition is wanted


def test_only_certain_refusals_count_as_not_applied() -> None:
    """A lost leader may have applied the request; a node that never led has not."""
    assert not from_status(status(CODE.UNAVAILABLE, "UNKNOWN_OUTCOME")).certainly_not_applied
    assert not from_rpc(CODE.UNAVAILABLE, "socket closed", None).certainly_not_applied
    assert from_status(status(CODE.UNAVAILABLE, "NOT_LEADER")).certainly_not_applied


def test_retry_delay_and_leader_are_read() -> None:
    """RetryInfo gives nanoseconds, ErrorInfo the leader's address."""
    failure = from_status(status(CODE.UNAVAILABLE, "NOT_LEADER", retry_after=0.25, leader_address="h:1"))
    assert (failure.retry_after, failure.leader_address) == (250_000_000, "h:1")


def test_a_broken_trailer_is_passed_over() -> None:
    """Details that are no Status leave code and text."""
    failure = from_rpc(CODE.INTERNAL, "text", b"\xff\xff\xff")
    assert (failure.code, failure.message) == (CODE.INTERNAL, "text")
    packed = status_pb2.Status(code=5, message="gone").SerializeToString()
    assert from_rpc(CODE.NOT_FOUND, "x", packed).message == "gone"


def test_every_error_of_the_tree_is_public_and_complete() -> None:
    """Each class is exported, derives from LockdError, and has its own code, reason and advice."""
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.LockdError)]
    assert len(classes) > 20
    for cls in classes:
        assert getattr(lockd_client, cls.__name__) is cls
        error = cls("it happened")
        assert error.reason.isupper()
        assert error.advice.endswith(".")
        assert "it happened" in str(error)


def test_session_lost_is_a_lock_lost() -> None:
    """Whoever handles LockLost handles the loss of the session too."""
    assert issubclass(errors.SessionLost, errors.LockLost)
    assert issubclass(errors.WaitTimeout, errors.DeadlineExceeded)
