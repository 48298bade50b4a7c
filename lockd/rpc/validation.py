"""Bad input stops here: field violations before anything reaches the log (semantics, section 10).

The machine refuses the same things on its own account; this layer says it better, sooner, and for all fields at once.
It also brings ledger batches into their packed form, so that the log and every replica see only that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration

from ledger import wire
from ledger.v1 import ledger_pb2
from lockd.codec.commands import nanos
from lockd.machine.paths import PathError, parse_path
from lockd.machine.types import LIMITS, Nanos
from lockd.rpc.errors import InvalidRequestError, Violation
from lockd.v1 import common_pb2, lock_pb2, row_pb2, session_pb2

_MODES = frozenset(lock_pb2.LockMode.values())
_COMPARE_FIELDS = frozenset(row_pb2.Compare.Field.values()) - {0}
_COMPARE_OPERATORS = frozenset(row_pb2.Compare.Operator.values()) - {0}
_WAIT_MAX: Nanos = 366 * 86_400 * 1_000_000_000


def path(value: str, field: str) -> Iterator[Violation]:
    """Violations of a resource path."""
    try:
        parse_path(value)
    except PathError as error:
        yield field, str(error)


def _duration(value: Duration, field: str, low: Nanos, high: Nanos) -> Iterator[Violation]:
    amount = nanos(value)
    if not low <= amount <= high:
        yield field, f"{amount / 1e9:g} s is outside {low / 1e9:g} s to {high / 1e9:g} s"


def _text(value: str, field: str, most: int) -> Iterator[Violation]:
    if len(value.encode()) > most:
        yield field, f"{len(value.encode())} bytes, at most {most} are allowed"


def _count(items: Sequence[object], field: str, most: int, least: int = 0) -> Iterator[Violation]:
    if not least <= len(items) <= most:
        yield field, f"{len(items)} items, {least} to {most} are allowed"


def _guards(guards: Sequence[common_pb2.Guard], field: str = "guards", least: int = 0) -> Iterator[Violation]:
    yield from _count(guards, field, LIMITS.guards_per_command, least)
    for i, guard in enumerate(guards):
        yield from path(guard.resource, f"{field}[{i}].resource")
        if guard.token == 0:
            yield f"{field}[{i}].token", "a fencing token is never 0"


def _mode(mode: int, field: str) -> Iterator[Violation]:
    if mode not in _MODES:
        yield field, f"unknown lock mode {mode}"


def _wait(wait: lock_pb2.Wait) -> Iterator[Violation]:
    if wait.WhichOneof("kind") == "timeout":
        yield from _duration(wait.timeout, "wait.timeout", 0, _WAIT_MAX)


def _claims(claims: Sequence[lock_pb2.Claim], field: str = "claims") -> Iterator[Violation]:
    yield from _count(claims, field, LIMITS.claims_per_acquire, 1)
    seen: set[str] = set()
    for i, claim in enumerate(claims):
        yield from path(claim.resource, f"{field}[{i}].resource")
        yield from _mode(claim.mode, f"{field}[{i}].mode")
        if claim.resource in seen:
            yield f"{field}[{i}].resource", "named twice in one acquire"
        seen.add(claim.resource)
        if claim.limit and not 1 <= claim.permits <= claim.limit:
            yield f"{field}[{i}].permits", f"{claim.permits} is outside 1 to the limit, {claim.limit}"
        if claim.permits and not claim.limit:
            yield f"{field}[{i}].limit", "permits need a limit"


def _open_session(m: session_pb2.OpenSessionRequest) -> Iterator[Violation]:
    if m.HasField("ttl"):
        yield from _duration(m.ttl, "ttl", LIMITS.session_ttl_min, LIMITS.session_ttl_max)
    yield from _text(m.owner, "owner", LIMITS.owner_bytes)


def _acquire(m: lock_pb2.AcquireRequest) -> Iterator[Violation]:
    yield from _claims(m.claims)
    yield from _wait(m.wait)
    if m.HasField("lock_delay"):
        yield from _duration(m.lock_delay, "lock_delay", 0, LIMITS.lock_delay_max)


def _convert(m: lock_pb2.ConvertRequest) -> Iterator[Violation]:
    yield from path(m.resource, "resource")
    yield from _mode(m.mode, "mode")
    yield from _wait(m.wait)


def _cancel(m: lock_pb2.CancelAcquireRequest) -> Iterator[Violation]:
    if m.target_request_id == 0:
        yield "target_request_id", "names no request"


def _release(m: lock_pb2.ReleaseRequest) -> Iterator[Violation]:
    yield from _guards(m.holds, "holds", 1)


def _force_release(m: lock_pb2.ForceReleaseRequest) -> Iterator[Violation]:
    yield from path(m.resource, "resource")
    yield from _text(m.by, "by", LIMITS.owner_bytes)
    yield from _text(m.reason, "reason", LIMITS.reason_bytes)
    if not m.reason.strip():
        yield "reason", "say why: it is kept in the audit trail"


def _compare(m: row_pb2.Compare, field: str) -> Iterator[Violation]:
    yield from path(m.key, f"{field}.key")
    if m.field not in _COMPARE_FIELDS:
        yield f"{field}.field", f"unknown field {m.field}"
    if m.operator not in _COMPARE_OPERATORS:
        yield f"{field}.operator", f"unknown operator {m.operator}"


def _operation(m: row_pb2.Operation, field: str) -> Iterator[Violation]:
    match m.WhichOneof("kind"):
        case "put":
            yield from path(m.put.key, f"{field}.put.key")
            yield from _text(m.put.content_type, f"{field}.put.content_type", LIMITS.content_type_bytes)
            if len(m.put.value) > LIMITS.value_bytes:
                yield f"{field}.put.value", f"{len(m.put.value)} bytes, at most {LIMITS.value_bytes} are allowed"
        case "delete":
            yield from path(m.delete.key, f"{field}.delete.key")
        case "delete_range":
            if m.delete_range.start >= m.delete_range.end:
                yield f"{field}.delete_range", "start must be below end"
        case "read":
            yield from path(m.read.key, f"{field}.read.key")
        case "post_transfers":
            yield from _packed_transfers(m.post_transfers, f"{field}.post_transfers")
        case "take_locks":
            yield from _claims(m.take_locks.claims, f"{field}.take_locks.claims")
        case "release_locks":
            yield from _guards(m.release_locks.holds, f"{field}.release_locks.holds", 1)
        case "publish":
            yield from path(m.publish.topic, f"{field}.publish.topic")
            if len(m.publish.payload) > LIMITS.value_bytes:
                yield f"{field}.publish.payload", f"{len(m.publish.payload)} bytes, at most {LIMITS.value_bytes} are allowed"
        case _:
            yield field, "names no operation that this version knows"


def _transact(m: row_pb2.TransactRequest) -> Iterator[Violation]:
    yield from _guards(m.guards)
    operations = len(m.success) + len(m.failure)
    if operations > LIMITS.operations_per_transaction:
        yield "success", f"{operations} operations, at most {LIMITS.operations_per_transaction} are allowed"
        return
    for i, compare in enumerate(m.compares):
        yield from _compare(compare, f"compares[{i}]")
    for branch, items in (("success", m.success), ("failure", m.failure)):
        for i, item in enumerate(items):
            yield from _operation(item, f"{branch}[{i}]")


def _compact(m: row_pb2.CompactRowsRequest) -> Iterator[Violation]:
    if m.revision == 0:
        yield "revision", "must not be 0"


def _create_accounts(m: ledger_pb2.CreateAccountsRequest) -> Iterator[Violation]:
    yield from _guards(m.guards)
    if m.accounts and m.packed:
        yield "packed", "give accounts or packed, not both"
        return
    if m.accounts:
        try:
            m.packed = wire.pack_accounts(m.accounts)
        except wire.WireError as error:
            yield from error.violations
            return
        del m.accounts[:]
    if not m.packed:
        yield "accounts", "the batch is empty"
    yield from wire.check_packed(m.packed, "packed")


def _create_transfers(m: ledger_pb2.CreateTransfersRequest) -> Iterator[Violation]:
    yield from _guards(m.guards)
    yield from _packed_transfers(m, "")


def _packed_transfers(m: ledger_pb2.CreateTransfersRequest | row_pb2.PostTransfers, field: str) -> Iterator[Violation]:
    dot = f"{field}." if field else ""
    if m.transfers and m.packed:
        yield f"{dot}packed", "give transfers or packed, not both"
        return
    if m.transfers:
        try:
            m.packed, metadata = wire.pack_transfers(m.transfers, f"{dot}transfers")
        except wire.WireError as error:
            yield from error.violations
            return
        del m.transfers[:]
        m.metadata[:] = metadata
    if not m.packed:
        yield f"{dot}transfers", "the batch is empty"
    yield from wire.check_packed(m.packed, f"{dot}packed")
    yield from wire.check_metadata(m.metadata, len(m.packed) // 128, f"{dot}metadata")


def _nothing(_: object) -> Iterable[Violation]:
    return ()


CHECKS: dict[str, Callable[[Any], Iterable[Violation]]] = {
    "keep_alive": _nothing,
    "close_session": _nothing,
    "open_session": _open_session,
    "acquire": _acquire,
    "convert": _convert,
    "cancel_acquire": _cancel,
    "release": _release,
    "force_release": _force_release,
    "transact": _transact,
    "compact_rows": _compact,
    "create_accounts": _create_accounts,
    "create_transfers": _create_transfers,
}
"""From the kind of a command to its checks; a check brings ledger batches into packed form."""


def validate(kind: str, message: Any) -> bool:
    """Check a command that is going to be logged. Raises InvalidRequestError with every violation.

    Returns whether the message was changed: a ledger batch that came as messages is packed now.
    """
    loose = _is_loose(kind, message)
    violations = list(CHECKS[kind](message))
    if violations:
        raise InvalidRequestError(violations)
    return loose


def _is_loose(kind: str, message: Any) -> bool:
    match kind:
        case "create_transfers":
            return bool(message.transfers)
        case "create_accounts":
            return bool(message.accounts)
        case "transact":
            return any(bool(o.post_transfers.transfers) for branch in (message.success, message.failure) for o in branch)
        case _:
            return False
