"""Results of the machine -> messages of the wire."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from ledger.v1 import ledger_pb2
from lockd.machine import results as r
from lockd.machine.types import Nanos
from lockd.rpc.errors import from_refusal
from lockd.v1 import lock_pb2, row_pb2, session_pb2

# Signed: the wire's enums are, and CREATED is -1 there.
_RESULT = struct.Struct("<QiI")


def duration(nanoseconds: Nanos) -> Duration:
    """Nanoseconds as a protobuf duration."""
    seconds, rest = divmod(abs(nanoseconds), 1_000_000_000)
    sign = -1 if nanoseconds < 0 else 1
    return Duration(seconds=sign * seconds, nanos=sign * rest)


def hold(h: r.Hold) -> lock_pb2.Hold:
    """One hold."""
    return lock_pb2.Hold(resource=h.resource, mode=int(h.mode), token=h.token, count=h.count, permits=h.permits)  # type: ignore[arg-type]


def row(value: r.Row) -> row_pb2.Row:
    """One strong row."""
    return row_pb2.Row(
        key=value.key,
        value=value.value,
        content_type=value.content_type,
        create_revision=value.create_revision,
        mod_revision=value.mod_revision,
        version=value.version,
        session_id=value.session,
    )


def account_results(packed: bytes) -> list[ledger_pb2.CreateAccountResult]:
    """The results of a batch of accounts, one message each."""
    make = ledger_pb2.CreateAccountResult
    return [make(status=status, timestamp=timestamp) for timestamp, status, _ in _RESULT.iter_unpack(packed)]


def transfer_results(packed: bytes) -> list[ledger_pb2.CreateTransferResult]:
    """The results of a batch of transfers, one message each."""
    make = ledger_pb2.CreateTransferResult
    return [make(status=status, timestamp=timestamp) for timestamp, status, _ in _RESULT.iter_unpack(packed)]


def _granted(result: r.Granted) -> lock_pb2.AcquireResponse:
    return lock_pb2.AcquireResponse(holds=[hold(h) for h in result.holds], revision=result.revision)


def _converted(result: r.Granted) -> lock_pb2.ConvertResponse:
    return lock_pb2.ConvertResponse(hold=hold(result.holds[0]), revision=result.revision)


def _released(result: r.Released) -> lock_pb2.ReleaseResponse:
    return lock_pb2.ReleaseResponse(released=result.released, revision=result.revision)


def _operation(result: r.OperationResult) -> row_pb2.OperationResult:
    make = row_pb2.OperationResult
    match result:
        case r.RowPut():
            return make(put_version=result.version)
        case r.RowsDeleted():
            return make(deleted=result.count)
        case r.RowRead():
            return make(read=row_pb2.GetRowResponse(row=row(result.row) if result.row is not None else None))
        case r.BatchDone():
            return make(transfers=ledger_pb2.CreateTransfersResponse(packed_results=result.results))
        case r.Granted():
            return make(locks=_granted(result))
        case r.Released():
            return make(released=_released(result))
        case r.Published():
            return make(published=True)


def _transacted(result: r.Transacted) -> row_pb2.TransactResponse:
    return row_pb2.TransactResponse(succeeded=result.succeeded, revision=result.revision, results=[_operation(o) for o in result.results])


MESSAGES: dict[str, Callable[[Any], Message]] = {
    "keep_alive": lambda result: session_pb2.KeepAliveResponse(ttl=duration(result.ttl)),
    "close_session": lambda _: session_pb2.CloseSessionResponse(),
    "open_session": lambda result: session_pb2.OpenSessionResponse(session_id=result.session, ttl=duration(result.ttl)),
    "acquire": _granted,
    "convert": _converted,
    "cancel_acquire": lambda result: lock_pb2.CancelAcquireResponse(was_waiting=result.waiting, was_released=result.released),
    "release": _released,
    "force_release": lambda result: lock_pb2.ForceReleaseResponse(released=sum(result.released), revision=result.revision),
    "transact": _transacted,
    "compact_rows": lambda result: row_pb2.CompactRowsResponse(revision=result.revision),
    "create_accounts": lambda result: ledger_pb2.CreateAccountsResponse(packed_results=result.results),
    "create_transfers": lambda result: ledger_pb2.CreateTransfersResponse(packed_results=result.results),
}
"""From the kind of a command to the response message of its result (never of a Refused)."""


def reply(request_id: int, kind: str, result: r.Result) -> session_pb2.StreamReply:
    """The reply on the stream to the command `kind` with this id."""
    if isinstance(result, r.Refused):
        return session_pb2.StreamReply(request_id=request_id, error=from_refusal(result))
    fields: dict[str, Any] = {kind: MESSAGES[kind](result)}
    return session_pb2.StreamReply(request_id=request_id, **fields)
