"""Transactions: guards, compares, one branch of operations; all or nothing, in one log entry (semantics, section 4).

Everything that can be refused is refused first. The ledger comes last of these, since it can only try by doing: all transfers of the branch
run as one linked chain, of which either every one is created or none. After it nothing can fail.

The chain shows: transfers posted by a transaction are stored with the flag LINKED, all but the last. And a chain that is refused leaves in
the ledger what every refused batch leaves there: its timestamps are used, and an id that failed for the moment only (EXCEEDS_CREDITS and
the like) is spent, as ledger.md has it; a new attempt needs a new transfer id.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import accumulate

from ledger.machine.model import BATCH_MAX, CREATED, EVENT_SIZE, RESULT, RESULT_SIZE, TransferFlags, TransferStatus
from ledger.machine.state import Ledger
from lockd.machine import commands as c
from lockd.machine import events, refusals
from lockd.machine.claims import needs_of, read_claims
from lockd.machine.locking import LockTable
from lockd.machine.moment import Moment
from lockd.machine.paths import PathError, parse_path
from lockd.machine.results import BatchDone, OperationResult, Published, Refused, RowPut, RowRead, RowsDeleted, Transacted
from lockd.machine.rows import Rows
from lockd.machine.sessions import Session, is_text
from lockd.machine.types import FencingToken, Limits, SessionId

_FLAGS_OFFSET = 118
_FLAGS = struct.Struct("<H")
_LINKED = int(TransferFlags.LINKED)


class Transactions:
    """Runs transactions over locks, rows and ledger."""

    __slots__ = ("_ledger", "_limits", "_locks", "_moment", "_rows")

    def __init__(self, limits: Limits, moment: Moment, locks: LockTable, rows: Rows, ledger: Ledger) -> None:
        self._limits = limits
        self._moment = moment
        self._locks = locks
        self._rows = rows
        self._ledger = ledger

    def run(self, session: Session | None, command: c.Transact) -> Transacted | Refused:
        """Carry out a transaction, or refuse it and change nothing."""
        refused = self._locks.check_guards(command.guards) or self._check(session, command)
        if refused is not None:
            return refused
        succeeded = all(self._holds(compare) for compare in command.compares)
        branch = command.success if succeeded else command.failure
        posted = self._refuse_locks(session, branch) or self._post(branch)
        if isinstance(posted, Refused):
            return posted
        rest = iter(posted)
        results = tuple([self._do(session, operation, rest) for operation in branch])
        self._locks.settle()
        return Transacted(succeeded, self._moment.index, results)

    # --- what is wrong whatever the state --------------------------------------------------------------------------------------

    def _check(self, session: Session | None, command: c.Transact) -> Refused | None:
        limit = self._limits.operations_per_transaction
        operations = len(command.success) + len(command.failure)
        if operations > limit or len(command.compares) > limit:
            return refusals.invalid("TOO_MANY_OPERATIONS", f"a transaction has at most {limit} operations, and as many compares")
        for compare in command.compares:
            refused = self._check_compare(compare)
            if refused is not None:
                return refused
        for operation in (*command.success, *command.failure):
            refused = self._check_operation(session, operation)
            if refused is not None:
                return refused
        return None

    def _check_compare(self, compare: c.Compare) -> Refused | None:
        if not 1 <= int(compare.field) <= len(c.CompareField) or not 1 <= int(compare.operator) <= len(c.CompareOperator):
            return refusals.invalid("INVALID_COMPARE", "a compare names a field or an operator that this version does not know")
        return self._check_path(compare.key, "key")

    def _check_path(self, path: str, field: str) -> Refused | None:
        try:
            parse_path(path, self._limits)
        except PathError as error:
            return refusals.invalid_path(path, str(error), field)
        return None

    def _check_operation(self, session: Session | None, operation: c.Operation) -> Refused | None:
        match operation:
            case c.PutRow():
                if operation.ephemeral and session is None:
                    return refusals.SESSION_REQUIRED
                return self._check_path(operation.key, "key") or self._check_content(operation.value, operation.content_type)
            case c.DeleteRow() | c.GetRow():
                return self._check_path(operation.key, "key")
            case c.DeleteRange():
                bad = operation.start >= operation.end
                return refusals.invalid("INVALID_RANGE", "the start of a range must be below its end") if bad else None
            case c.PostTransfers():
                return self._check_transfers(operation)
            case c.TakeLocks():
                if session is None:
                    return refusals.SESSION_REQUIRED
                wants = self._locks.check_claims(session, operation.claims, operation.lock_delay)
                return wants if isinstance(wants, Refused) else None
            case c.ReleaseLocks():
                return refusals.SESSION_REQUIRED if session is None else self._locks.check_release(session, operation.holds)
            case c.Publish():
                return self._check_path(operation.topic, "topic") or self._check_content(operation.payload, operation.content_type)

    def _check_content(self, content: bytes, content_type: str) -> Refused | None:
        limits = self._limits
        if len(content) > limits.value_bytes:
            return refusals.invalid("VALUE_TOO_LARGE", f"{len(content)} bytes, at most {limits.value_bytes} are allowed")
        if not is_text(content_type, limits.content_type_bytes):
            return refusals.invalid("INVALID_CONTENT_TYPE", f"a content type is Unicode text of at most {limits.content_type_bytes} bytes")
        return None

    def check_metadata(self, metadata: tuple[bytes, ...]) -> Refused | None:
        """Refused if an item of a ledger batch's metadata is too large."""
        limit = self._limits.metadata_bytes
        if any(len(item) > limit for item in metadata):
            return refusals.invalid("METADATA_TOO_LARGE", f"metadata has at most {limit} bytes an event")
        return None

    def _check_transfers(self, operation: c.PostTransfers) -> Refused | None:
        count, rest = divmod(len(operation.packed), EVENT_SIZE)
        if rest:
            return refusals.invalid("LENGTH_NOT_A_MULTIPLE", "the packed batch is not a whole number of 128-byte events")
        if operation.metadata and len(operation.metadata) != count:
            return refusals.invalid("METADATA_COUNT", "metadata must be given for every event of the batch or for none")
        return self.check_metadata(operation.metadata)

    # --- what depends on the state ---------------------------------------------------------------------------------------------

    def _holds(self, compare: c.Compare) -> bool:
        operator = compare.operator
        if compare.field == c.CompareField.HELD_TOKEN:
            if operator in (c.CompareOperator.EQUAL, c.CompareOperator.NOT_EQUAL) and compare.number > 0:
                # Several sessions may share the resource, each under a current token of its own.
                current = self._locks.is_current(c.Guard(compare.key, FencingToken(compare.number)))
                return current == (operator == c.CompareOperator.EQUAL)
            return _relate(self._locks.current_token(compare.key), operator, compare.number)
        row = self._rows.get(compare.key)
        match compare.field:
            case c.CompareField.VALUE:
                # What is not there equals nothing, and is neither less nor greater.
                return operator == c.CompareOperator.NOT_EQUAL if row is None else _relate(row.value, operator, compare.value)
            case c.CompareField.CREATE_REVISION:
                return _relate(row.create_revision if row else 0, operator, compare.number)
            case c.CompareField.MOD_REVISION:
                return _relate(row.mod_revision if row else 0, operator, compare.number)
            case c.CompareField.VERSION:
                return _relate(row.version if row else 0, operator, compare.number)
            case _:
                return _relate(int(row is not None), operator, compare.number)

    def _refuse_locks(self, session: Session | None, branch: tuple[c.Operation, ...]) -> Refused | None:
        claims = tuple([claim for operation in branch if isinstance(operation, c.TakeLocks) for claim in operation.claims])
        if not claims or session is None:
            return None
        # All at once: two operations must not pass one by one and fail together.
        wants = self._locks.check_claims(session, claims, 0)
        if isinstance(wants, Refused):
            return wants
        blocked = self._locks.blocking(session, needs_of(wants))
        return None if blocked is None else self._locks.refuse_held(session, blocked)

    def _post(self, branch: tuple[c.Operation, ...]) -> list[bytes] | Refused:
        """Create all transfers of the branch; the results of each operation that has any, in order."""
        operations = [operation for operation in branch if isinstance(operation, c.PostTransfers) and operation.packed]
        if not operations:
            return []
        counts = [len(operation.packed) // EVENT_SIZE for operation in operations]
        starts = [0, *accumulate(counts)]
        total = starts.pop()
        if total > BATCH_MAX:
            return refusals.invalid("TOO_MANY_EVENTS", f"{total} transfers, at most {BATCH_MAX} are allowed in one transaction")
        chained = bytearray().join([operation.packed for operation in operations])
        for end in (*starts[1:], total):
            if _FLAGS.unpack_from(chained, (end - 1) * EVENT_SIZE + _FLAGS_OFFSET)[0] & _LINKED:
                return _transfers_refused(end - 1, TransferStatus.LINKED_EVENT_CHAIN_OPEN)
        for position in range(total - 1):
            offset = position * EVENT_SIZE + _FLAGS_OFFSET
            _FLAGS.pack_into(chained, offset, _FLAGS.unpack_from(chained, offset)[0] | _LINKED)
        metadata: list[bytes] | None = None
        if any(operation.metadata for operation in operations):
            metadata = [item for operation, count in zip(operations, counts, strict=True) for item in operation.metadata or (b"",) * count]
        moment = self._moment
        outcome = self._ledger.create_transfers(bytes(chained), log_time=moment.log_time, index=moment.index, metadata=metadata)
        if outcome.refusal is not None:
            return refusals.invalid(outcome.refusal.name, outcome.refusal.value)
        moment.events.append(events.TransfersCreated(moment.index, len(moment.events), outcome))
        linked = int(TransferStatus.LINKED_EVENT_FAILED)
        for position, (_, status, _) in enumerate(RESULT.iter_unpack(outcome.results)):
            if status not in (CREATED, linked):
                return _transfers_refused(position, status)
        return [outcome.results[start * RESULT_SIZE : (start + count) * RESULT_SIZE] for start, count in zip(starts, counts, strict=True)]

    # --- nothing can fail any more ---------------------------------------------------------------------------------------------

    def _do(self, session: Session | None, operation: c.Operation, posted: Iterator[bytes]) -> OperationResult:
        rows = self._rows
        match operation:
            case c.PutRow():
                owner = session if operation.ephemeral else None
                return RowPut(rows.put(operation.key, operation.value, operation.content_type, owner))
            case c.DeleteRow():
                return RowsDeleted(int(rows.delete(operation.key)))
            case c.DeleteRange():
                return RowsDeleted(rows.delete_range(operation.start, operation.end))
            case c.GetRow():
                return RowRead(rows.get(operation.key))
            case c.PostTransfers():
                return BatchDone(next(posted) if operation.packed else b"")
            case c.Publish():
                return self._publish(session, operation)
            case c.TakeLocks() | c.ReleaseLocks():
                return self._do_locks(session, operation)

    def _do_locks(self, session: Session | None, operation: c.TakeLocks | c.ReleaseLocks) -> OperationResult:
        if session is None:
            raise TypeError("checked before: locks need a session")
        if isinstance(operation, c.ReleaseLocks):
            return self._locks.give_back(session, operation.holds)
        wants = read_claims(operation.claims, self._limits)
        if isinstance(wants, Refused):
            raise TypeError("checked before: the claims can be read")
        return self._locks.grant(session, wants, operation.lock_delay)

    def _publish(self, session: Session | None, operation: c.Publish) -> Published:
        moment = self._moment
        sender = SessionId(0) if session is None else session.id
        moment.events.append(
            events.MessagePublished(moment.index, len(moment.events), operation.topic, operation.payload, operation.content_type, sender)
        )
        return Published()


def _relate(left: int | bytes, operator: c.CompareOperator, right: int | bytes) -> bool:
    match operator:
        case c.CompareOperator.EQUAL:
            return left == right
        case c.CompareOperator.NOT_EQUAL:
            return left != right
        case c.CompareOperator.LESS:
            return left < right  # type: ignore[operator]
        case _:
            return left > right  # type: ignore[operator]


def _transfers_refused(position: int, status: int) -> Refused:
    return refusals.precondition(
        "TRANSFERS_REFUSED",
        f"transfer {position} of the transaction would not be created",
        ("position", str(position)),
        ("status", str(int(status))),
        ("status_name", TransferStatus(status).name.lower()),
    )
