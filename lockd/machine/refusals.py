"""The refusals of the machine: one place for every code, reason and sentence (docs/guarantees.md lists them)."""

from __future__ import annotations

from lockd.machine.results import Refused
from lockd.machine.types import Code

Details = tuple[tuple[str, str], ...]


def invalid(reason: str, message: str, *details: tuple[str, str]) -> Refused:
    """The request can never succeed as it is."""
    return Refused(Code.INVALID_ARGUMENT, reason, message, details)


def precondition(reason: str, message: str, *details: tuple[str, str]) -> Refused:
    """The state does not allow it."""
    return Refused(Code.FAILED_PRECONDITION, reason, message, details)


def exhausted(reason: str, message: str, *details: tuple[str, str]) -> Refused:
    """A limit is reached."""
    return Refused(Code.RESOURCE_EXHAUSTED, reason, message, details)


def aborted(reason: str, message: str, details: Details = ()) -> Refused:
    """Something else was in the way; a new attempt may succeed."""
    return Refused(Code.ABORTED, reason, message, details)


def invalid_path(path: str, why: str, field: str = "resource") -> Refused:
    """The string is no resource path."""
    # A path is quoted shortened: a refusal must not be larger than the limits allow a path to be.
    return invalid("INVALID_PATH", why, (field, path[:128].encode("utf-8", "replace").decode()))


SESSION_REQUIRED = invalid("SESSION_REQUIRED", "the command needs a session: open one and name it in the request")
SESSION_UNKNOWN = precondition("SESSION_UNKNOWN", "there never was a session with this id: open one")
SESSION_EXPIRED = precondition("SESSION_EXPIRED", "the session is over, and its locks with it: open a new one")
WINDOW_FULL = exhausted("WINDOW_FULL", "too many requests of the session are not acknowledged: acknowledge answers before sending more")
INVALID_REQUEST_ID = invalid("INVALID_REQUEST_ID", "a request id is a number from 0 to 2**64 - 1")
REQUEST_ACKNOWLEDGED = precondition("REQUEST_ACKNOWLEDGED", "the answer to this request id was acknowledged before and is forgotten")
REQUEST_ID_REUSED = invalid("REQUEST_ID_REUSED", "this request id was used before, for another command")
REQUEST_ID_REQUIRED = invalid("REQUEST_ID_REQUIRED", "a request that may wait needs a request id, so that it can be asked for again")
CANCELLED = Refused(Code.CANCELLED, "CANCELLED", "the request was cancelled by its session")
WAIT_TIMEOUT = Refused(Code.DEADLINE_EXCEEDED, "WAIT_TIMEOUT", "the lock was not granted within the time the request would wait")
UNKNOWN_COMMAND = invalid("UNKNOWN_COMMAND", "this version does not know the command")
