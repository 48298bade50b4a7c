"""Building a transaction: guards, compares and two branches of operations, as one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from lockd.v1 import row_pb2, session_pb2
from lockd_client._core import ledger_codec, requests
from lockd_client.errors import FieldViolation, InvalidArgument
from lockd_client.model import Claim, Guard, Hold, LockMode, Row

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from lockd_client.ledger_model import CreateTransferResult, Transfer

MAX_OPERATIONS = 10_000
MAX_VALUE = 1 << 20

Operator: TypeAlias = Literal["==", "!=", "<", ">"]

_OPERATORS: dict[str, row_pb2.Compare.Operator.ValueType] = {
    "==": row_pb2.Compare.OPERATOR_EQUAL,
    "!=": row_pb2.Compare.OPERATOR_NOT_EQUAL,
    "<": row_pb2.Compare.OPERATOR_LESS,
    ">": row_pb2.Compare.OPERATOR_GREATER,
}


@dataclass(frozen=True, slots=True)
class OperationResult:
    """What one operation of a transaction gave; only the field of its kind is set.

    Attributes:
        put_version: The row's version after a put.
        deleted: How many rows a delete removed.
        row: What a read found.
        transfers: Results of posted transfers, in order.
        holds: What was locked.
        released: For each hold: whether it was still held.
        published: Whether a message went out.
    """

    put_version: int | None = None
    deleted: int | None = None
    row: Row | None = None
    transfers: tuple[CreateTransferResult, ...] = ()
    holds: tuple[Hold, ...] = ()
    released: tuple[bool, ...] = ()
    published: bool = False


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """How a transaction ended: whether its compares held, the log index, and one result for each operation of the branch that ran."""

    succeeded: bool
    revision: int
    results: tuple[OperationResult, ...]


class TransactionBuilder:
    """Collects a transaction. Every method returns the builder; operations go to the branch in force (see `otherwise`)."""

    def __init__(self) -> None:
        self.command = session_pb2.StreamCommand()
        self.guards: list[Guard] = []
        self.size = 64
        self._request = self.command.transact
        self._branch = self._request.success

    def guard(self, *guards: Guard) -> Self:
        """Refuse the whole transaction (FencedError) unless these tokens are the current grants."""
        self.guards.extend(guards)
        self._request.guards.extend(requests.guard_messages(guards))
        return self

    def if_value(self, key: str, operator: Operator, value: bytes) -> Self:
        """Compare a row's value, byte by byte."""
        return self._compare(key, row_pb2.Compare.FIELD_VALUE, operator, value=value)

    def if_version(self, key: str, operator: Operator, version: int) -> Self:
        """Compare a row's version: 0 where it is not there."""
        return self._compare(key, row_pb2.Compare.FIELD_VERSION, operator, number=version)

    def if_mod_revision(self, key: str, operator: Operator, revision: int) -> Self:
        """Compare the log index of a row's last write."""
        return self._compare(key, row_pb2.Compare.FIELD_MOD_REVISION, operator, number=revision)

    def if_create_revision(self, key: str, operator: Operator, revision: int) -> Self:
        """Compare the log index of a row's creation."""
        return self._compare(key, row_pb2.Compare.FIELD_CREATE_REVISION, operator, number=revision)

    def if_exists(self, key: str) -> Self:
        """The row must be there."""
        return self._compare(key, row_pb2.Compare.FIELD_EXISTS, "==", number=1)

    def if_missing(self, key: str) -> Self:
        """The row must not be there."""
        return self._compare(key, row_pb2.Compare.FIELD_EXISTS, "==", number=0)

    def if_held(self, resource: str, operator: Operator, token: int) -> Self:
        """Compare the token of a lock's current grant: 0 where it is free."""
        return self._compare(resource, row_pb2.Compare.FIELD_HELD_TOKEN, operator, number=token)

    def put(self, key: str, value: bytes, *, content_type: str = "", ephemeral: bool = False) -> Self:
        """Write a row of at most 1 MiB; an ephemeral one goes with this client's session.

        Raises:
            InvalidArgument: The value is too long.
        """
        if len(value) > MAX_VALUE:
            violation = FieldViolation("value", f"{len(value)} bytes; at most {MAX_VALUE}")
            raise InvalidArgument(f"The value of {key} has {len(value)} bytes; at most {MAX_VALUE} are allowed.", violations=[violation])
        message = row_pb2.PutRow(key=key, value=value, content_type=content_type, ephemeral=ephemeral)
        return self._operation(row_pb2.Operation(put=message), len(key) + len(value))

    def delete(self, key: str) -> Self:
        """Delete a row, if it is there."""
        return self._operation(row_pb2.Operation(delete=row_pb2.DeleteRow(key=key)), len(key))

    def delete_range(self, start: str, end: str) -> Self:
        """Delete all rows with start <= key < end."""
        return self._operation(row_pb2.Operation(delete_range=row_pb2.DeleteRange(start=start, end=end)), len(start) + len(end))

    def read(self, key: str) -> Self:
        """Read a row, after the operations before it."""
        return self._operation(row_pb2.Operation(read=row_pb2.ReadRow(key=key)), len(key))

    def post(self, transfers: Sequence[Transfer]) -> Self:
        """Post transfers: every one must be created, else the whole transaction is refused (TransfersRefused).

        Raises:
            InvalidArgument: A number does not fit its field.
        """
        message = row_pb2.PostTransfers(packed=ledger_codec.pack_transfers(transfers), metadata=ledger_codec.transfer_metadata(transfers))
        return self._operation(row_pb2.Operation(post_transfers=message), message.ByteSize())

    def lock(self, *resources: str | Claim, mode: LockMode = LockMode.EXCLUSIVE) -> Self:
        """Take locks without waiting: all or the transaction is refused."""
        message = row_pb2.TakeLocks()
        for wanted in requests.as_claims(resources):
            claim = Claim(wanted, mode) if isinstance(wanted, str) else wanted
            message.claims.add(resource=claim.resource, mode=requests.MODES[claim.mode], permits=claim.permits, limit=claim.limit)
        return self._operation(row_pb2.Operation(take_locks=message), 64 * len(message.claims))

    def release(self, *holds: Guard) -> Self:
        """Give locks back."""
        message = row_pb2.ReleaseLocks(holds=requests.guard_messages(holds))
        return self._operation(row_pb2.Operation(release_locks=message), 64 * len(holds))

    def publish(self, topic: str, payload: bytes, *, content_type: str = "") -> Self:
        """Publish a message to whoever watches the topic."""
        message = row_pb2.PublishMessage(topic=topic, payload=payload, content_type=content_type)
        return self._operation(row_pb2.Operation(publish=message), len(topic) + len(payload))

    def otherwise(self) -> Self:
        """From here on operations belong to the branch that runs when a compare does not hold."""
        self._branch = self._request.failure
        return self

    def _compare(
        self, key: str, field: row_pb2.Compare.Field.ValueType, operator: Operator, *, number: int = 0, value: bytes = b""
    ) -> Self:
        if operator not in _OPERATORS:
            violation = FieldViolation("operator", 'one of "==", "!=", "<", ">"')
            raise InvalidArgument(f"{operator!r} is not an operator.", violations=[violation])
        if not 0 <= number < 1 << 64:
            raise InvalidArgument(f"{number} is outside 0 to 2^64-1.", violations=[FieldViolation("number", "outside 0 to 2^64-1")])
        self._request.compares.add(key=key, field=field, operator=_OPERATORS[operator], number=number, value=value)
        self.size += len(key) + len(value) + 24
        return self

    def _operation(self, operation: row_pb2.Operation, size: int) -> Self:
        if len(self._request.success) + len(self._request.failure) >= MAX_OPERATIONS:
            violation = FieldViolation("operations", f"at most {MAX_OPERATIONS}")
            raise InvalidArgument(f"A transaction has at most {MAX_OPERATIONS} operations.", violations=[violation])
        self._branch.append(operation)
        self.size += size + 32
        return self


def result(reply: session_pb2.StreamReply) -> TransactionResult:
    """A transaction's result from its reply."""
    response = reply.transact
    return TransactionResult(response.succeeded, response.revision, tuple(_operation_result(m) for m in response.results))


def _operation_result(m: row_pb2.OperationResult) -> OperationResult:
    kind = m.WhichOneof("kind")
    if kind == "put_version":
        return OperationResult(put_version=m.put_version)
    if kind == "deleted":
        return OperationResult(deleted=m.deleted)
    if kind == "read":
        return OperationResult(row=requests.row(m.read.row) if m.read.HasField("row") else None)
    if kind == "transfers":
        return OperationResult(transfers=tuple(ledger_codec.transfer_results(m.transfers)))
    if kind == "locks":
        return OperationResult(holds=requests.holds_from(m.locks.holds))
    if kind == "released":
        return OperationResult(released=tuple(m.released.released))
    return OperationResult(published=m.published)
