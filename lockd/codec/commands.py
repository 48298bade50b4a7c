"""Commands as they come over the wire and lie in the log (lockd.v1.StreamCommand) -> machine values.

Decoding never fails on a parsed message: what this version does not know becomes `Unknown`, which every replica refuses alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.duration_pb2 import Duration

from ledger.v1 import ledger_pb2
from lockd.machine import commands as c
from lockd.machine.types import FOREVER, FencingToken, LockMode, Nanos, RequestId, Resource, Revision, SessionId
from lockd.v1 import common_pb2, lock_pb2, row_pb2, session_pb2

READS = frozenset({"get_row", "lookup_accounts", "lookup_transfers"})
"""Commands of the stream that are answered from state and never logged."""

DEFAULT_TTL: Nanos = 10_000_000_000

_MODES = {int(m): m for m in LockMode}
_FIELDS = {int(f): f for f in c.CompareField}
_OPERATORS = {int(o): o for o in c.CompareOperator}


def nanos(duration: Duration) -> Nanos:
    """A protobuf duration in nanoseconds."""
    return duration.seconds * 1_000_000_000 + duration.nanos


def decode_batch(batch: session_pb2.StreamRequest) -> list[c.Request]:
    """The requests of one batch, without its reads."""
    session = SessionId(batch.session_id)
    acknowledged = RequestId(batch.acknowledged)
    request, decoders = c.Request, _DECODERS
    found: list[c.Request] = []
    for item in batch.commands:
        kind = item.WhichOneof("command")
        decoder = decoders.get(kind or "")
        if decoder is not None:
            command = decoder(getattr(item, kind or ""))
        elif kind in READS:
            continue
        else:
            command = unknown(kind or "unset", item.SerializeToString(deterministic=True))
        found.append(request(session, RequestId(item.request_id), acknowledged, command))
    return found


def unknown(kind: str, content: bytes) -> c.Unknown:
    """The stand-in for what cannot be decoded; the digest lets an auditor find the bytes."""
    return c.Unknown(kind, hashlib.sha256(content).digest())


def _mode(number: int) -> LockMode:
    if number == 0:
        return LockMode.EXCLUSIVE
    # An unknown number passes through as it is: the machine refuses it.
    return _MODES.get(number, number)  # type: ignore[arg-type]


def _wait(wait: lock_pb2.Wait) -> Nanos:
    kind = wait.WhichOneof("kind")
    if kind == "timeout":
        return nanos(wait.timeout)
    return FOREVER if kind == "forever" and wait.forever else 0


def _guards(guards: Iterable[common_pb2.Guard]) -> tuple[c.Guard, ...]:
    return tuple([c.Guard(Resource(g.resource), FencingToken(g.token)) for g in guards])


def _claims(claims: Iterable[lock_pb2.Claim]) -> tuple[c.Claim, ...]:
    return tuple([c.Claim(Resource(m.resource), _mode(m.mode), m.permits, m.limit) for m in claims])


def _open_session(m: session_pb2.OpenSessionRequest) -> c.Command:
    return c.OpenSession(nanos(m.ttl) if m.HasField("ttl") else DEFAULT_TTL, m.owner)


def _keep_alive(_: session_pb2.KeepAliveRequest) -> c.Command:
    return c.KeepAlive()


def _close_session(_: session_pb2.CloseSessionRequest) -> c.Command:
    return c.CloseSession()


def _acquire(m: lock_pb2.AcquireRequest) -> c.Command:
    wait = _wait(m.wait) if m.HasField("wait") else 0
    delay = nanos(m.lock_delay) if m.HasField("lock_delay") else 0
    return c.Acquire(_claims(m.claims), wait, delay)


def _convert(m: lock_pb2.ConvertRequest) -> c.Command:
    return c.Convert(Resource(m.resource), FencingToken(m.token), _mode(m.mode), _wait(m.wait))


def _cancel(m: lock_pb2.CancelAcquireRequest) -> c.Command:
    return c.CancelAcquire(RequestId(m.target_request_id))


def _release(m: lock_pb2.ReleaseRequest) -> c.Command:
    return c.Release(_guards(m.holds))


def _force_release(m: lock_pb2.ForceReleaseRequest) -> c.Command:
    return c.ForceRelease(Resource(m.resource), m.by, m.reason)


def _compact(m: row_pb2.CompactRowsRequest) -> c.Command:
    return c.CompactRows(Revision(m.revision))


def _create_accounts(m: ledger_pb2.CreateAccountsRequest) -> c.Command:
    return c.CreateAccounts(m.packed, _guards(m.guards))


def _create_transfers(m: ledger_pb2.CreateTransfersRequest) -> c.Command:
    return c.CreateTransfers(m.packed, tuple(m.metadata), _guards(m.guards))


def _compare(m: row_pb2.Compare) -> c.Compare:
    field = _FIELDS.get(m.field, m.field)
    operator = _OPERATORS.get(m.operator, m.operator)
    return c.Compare(Resource(m.key), field, operator, m.number, m.value)  # type: ignore[arg-type]


def _operation(m: row_pb2.Operation) -> c.Operation:
    match m.WhichOneof("kind"):
        case "put":
            return c.PutRow(Resource(m.put.key), m.put.value, m.put.content_type, m.put.ephemeral)
        case "delete":
            return c.DeleteRow(Resource(m.delete.key))
        case "delete_range":
            return c.DeleteRange(m.delete_range.start, m.delete_range.end)
        case "read":
            return c.GetRow(Resource(m.read.key))
        case "post_transfers":
            return c.PostTransfers(m.post_transfers.packed, tuple(m.post_transfers.metadata))
        case "take_locks":
            return c.TakeLocks(_claims(m.take_locks.claims))
        case "release_locks":
            return c.ReleaseLocks(_guards(m.release_locks.holds))
        case "publish":
            return c.Publish(Resource(m.publish.topic), m.publish.payload, m.publish.content_type)
        case _:
            # An operation without a kind: an empty key is refused by the machine, and with it the whole transaction.
            return c.GetRow(Resource(""))


def _transact(m: row_pb2.TransactRequest) -> c.Command:
    return c.Transact(
        _guards(m.guards),
        tuple([_compare(x) for x in m.compares]),
        tuple([_operation(x) for x in m.success]),
        tuple([_operation(x) for x in m.failure]),
    )


_DECODERS: dict[str, Callable[[Any], c.Command]] = {
    "keep_alive": _keep_alive,
    "close_session": _close_session,
    "acquire": _acquire,
    "convert": _convert,
    "cancel_acquire": _cancel,
    "release": _release,
    "transact": _transact,
    "create_accounts": _create_accounts,
    "create_transfers": _create_transfers,
    "open_session": _open_session,
    "force_release": _force_release,
    "compact_rows": _compact,
}
