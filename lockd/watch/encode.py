"""Events of the machine -> lockd.v1.WatchEvent, as bytes that can be put together to responses without being encoded again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from ledger.machine.model import Fate, Resolution
from lockd.machine import events as e
from lockd.machine.results import Row
from lockd.machine.types import Nanos
from lockd.v1 import row_pb2
from lockd.v1 import watch_pb2 as pb

_SECOND = 1_000_000_000
_EVENTS_TAG = bytes([pb.WatchResponse.EVENTS_FIELD_NUMBER << 3 | 2])
EVENT_BYTES_MAX = (8 << 20) - 4_096
"""A message takes 8 MiB; the rest is for what is around the event."""


def timestamp(nanos: Nanos) -> Timestamp:
    """Log time as a protobuf timestamp."""
    return Timestamp(seconds=nanos // _SECOND, nanos=nanos % _SECOND)


def _duration(nanos: Nanos) -> Duration:
    return Duration(seconds=nanos // _SECOND, nanos=nanos % _SECOND)


def _row(row: Row) -> row_pb2.Row:
    return row_pb2.Row(
        key=row.key,
        value=row.value,
        content_type=row.content_type,
        create_revision=row.create_revision,
        mod_revision=row.mod_revision,
        version=row.version,
        session_id=row.session,
    )


def _granted(event: e.LockGranted) -> pb.LockGranted:
    return pb.LockGranted(
        resource=event.resource,
        session_id=event.session,
        owner=event.owner,
        mode=int(event.mode),  # type: ignore[arg-type] # the numbers are the protocol's
        token=event.token,
        permits=event.permits,
    )


def _lost(event: e.LockLost) -> pb.LockLost:
    made = pb.LockLost(resource=event.resource, session_id=event.session, owner=event.owner, token=event.token)
    if event.available_at:
        made.available_at.CopyFrom(timestamp(event.available_at))
    return made


def _forced(event: e.LockForced) -> pb.LockForced:
    return pb.LockForced(
        resource=event.resource, session_id=event.session, owner=event.owner, token=event.token, by=event.by, reason=event.reason
    )


def _deadlock(event: e.DeadlockResolved) -> pb.DeadlockResolved:
    cycle = [pb.DeadlockStep(session_id=session, resource=resource) for session, resource in event.cycle]
    return pb.DeadlockResolved(session_id=event.session, owner=event.owner, request_id=event.request_id, cycle=cycle)


def _timed_out(event: e.WaitTimedOut) -> pb.WaitTimedOut:
    return pb.WaitTimedOut(session_id=event.session, owner=event.owner, request_id=event.request_id, resources=event.resources)


_FATES = {
    Fate.POSTED: pb.PendingResolved.FATE_POSTED,
    Fate.VOIDED: pb.PendingResolved.FATE_VOIDED,
    Fate.EXPIRED: pb.PendingResolved.FATE_EXPIRED,
}


def _resolved(resolutions: Iterable[Resolution]) -> list[pb.PendingResolved]:
    return [
        pb.PendingResolved(
            pending=r.pending, fate=_FATES.get(r.fate, pb.PendingResolved.FATE_UNSPECIFIED), resolved_at=timestamp(r.timestamp)
        )
        for r in resolutions
    ]


def _accounts(event: e.AccountsCreated) -> pb.AccountsCreated | None:
    return pb.AccountsCreated(packed=event.outcome.created) if event.outcome.created else None


def _transfers(event: e.TransfersCreated) -> pb.TransfersCreated | None:
    outcome = event.outcome
    if not outcome.created and not outcome.resolutions:
        return None
    made = pb.TransfersCreated(packed=outcome.created, metadata=outcome.metadata or (), resolved=_resolved(outcome.resolutions))
    if made.ByteSize() > EVENT_BYTES_MAX:
        made.ClearField("metadata")
        made.metadata_omitted = True
    return made


def _expired(event: e.TransfersExpired) -> pb.TransfersExpired | None:
    resolved = _resolved(event.outcome.resolutions)
    return pb.TransfersExpired(resolved=resolved) if resolved else None


_FIELDS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    e.RowPut: ("row_put", lambda event: _row(event.row)),
    e.RowDeleted: ("row_deleted", lambda event: pb.RowDeleted(key=event.key, previous=_row(event.previous))),
    e.RowsCompacted: ("rows_compacted", lambda event: pb.RowsCompacted(oldest_revision=event.oldest)),
    e.LockGranted: ("lock_granted", _granted),
    e.LockReleased: (
        "lock_released",
        lambda event: pb.LockReleased(resource=event.resource, session_id=event.session, owner=event.owner, token=event.token),
    ),
    e.LockLost: ("lock_lost", _lost),
    e.LockForced: ("lock_forced", _forced),
    e.LockDelayEnded: ("lock_delay_ended", lambda event: pb.LockDelayEnded(resource=event.resource)),
    e.DeadlockResolved: ("deadlock_resolved", _deadlock),
    e.WaitTimedOut: ("wait_timed_out", _timed_out),
    e.SessionOpened: (
        "session_opened",
        lambda event: pb.SessionOpened(session_id=event.session, owner=event.owner, ttl=_duration(event.ttl)),
    ),
    e.SessionExpired: ("session_expired", lambda event: pb.SessionExpired(session_id=event.session, owner=event.owner)),
    e.SessionClosed: ("session_closed", lambda event: pb.SessionClosed(session_id=event.session, owner=event.owner)),
    e.UnknownRefused: (
        "command_refused",
        lambda event: pb.CommandRefused(session_id=event.session, kind=event.kind, digest=event.digest),
    ),
    e.AccountsCreated: ("accounts_created", _accounts),
    e.TransfersCreated: ("transfers_created", _transfers),
    e.TransfersExpired: ("transfers_expired", _expired),
    e.MessagePublished: (
        "message",
        lambda event: pb.MessagePublished(
            topic=event.topic, payload=event.payload, content_type=event.content_type, session_id=event.session
        ),
    ),
}


def message(event: Any, log_time: Nanos) -> pb.WatchEvent | None:
    """The message of an event; None if there is nothing to show: a batch that created nothing."""
    name, make = _FIELDS[type(event)]
    inside = make(event)
    if inside is None:
        return None
    fields: dict[str, Any] = {name: inside}
    return pb.WatchEvent(revision=event.revision, position=event.position, log_time=timestamp(log_time), **fields)


def encode(event: object, log_time: Nanos) -> bytes:
    """One event of a response, with its tag and length; empty if there is nothing to show."""
    made = message(event, log_time)
    if made is None:
        return b""
    data = made.SerializeToString()
    return _EVENTS_TAG + _varint(len(data)) + data


def response(frames: Sequence[bytes], progress: int) -> bytes:
    """A serialised lockd.v1.WatchResponse."""
    return b"".join(frames) + pb.WatchResponse(progress_revision=progress).SerializeToString()


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)
