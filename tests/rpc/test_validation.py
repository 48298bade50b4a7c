"""Bad input is refused field by field, before it reaches the log (semantics, section 10)."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from ledger.v1 import ledger_pb2
from lockd.rpc.errors import InvalidRequestError
from lockd.rpc.validation import CHECKS, validate
from lockd.v1 import common_pb2, lock_pb2, row_pb2, session_pb2

MAX = ledger_pb2.Uint128(low=2**64 - 1, high=2**64 - 1)
CLAIM = lock_pb2.Claim(resource="a/b")
GUARD = common_pb2.Guard(resource="a", token=1)


def transact(*operations: row_pb2.Operation) -> row_pb2.TransactRequest:
    """A transaction of these operations."""
    return row_pb2.TransactRequest(success=operations)


BAD: list[tuple[str, Any, str]] = [
    ("open_session", session_pb2.OpenSessionRequest(ttl=Duration(nanos=1)), "ttl"),
    ("open_session", session_pb2.OpenSessionRequest(ttl=Duration(seconds=3601)), "ttl"),
    ("open_session", session_pb2.OpenSessionRequest(ttl=Duration(seconds=-5)), "ttl"),
    ("open_session", session_pb2.OpenSessionRequest(owner="ü" * 65), "owner"),
    ("acquire", lock_pb2.AcquireRequest(), "claims"),
    ("acquire", lock_pb2.AcquireRequest(claims=[lock_pb2.Claim(resource="")]), "claims[0].resource"),
    ("acquire", lock_pb2.AcquireRequest(claims=[CLAIM, lock_pb2.Claim(resource="a//b")]), "claims[1].resource"),
    ("acquire", lock_pb2.AcquireRequest(claims=[lock_pb2.Claim(resource="a/../b")]), "claims[0].resource"),
    ("acquire", lock_pb2.AcquireRequest(claims=[lock_pb2.Claim(resource="a\x00b")]), "claims[0].resource"),
    ("acquire", lock_pb2.AcquireRequest(claims=[lock_pb2.Claim(resource="x" * 513)]), "claims[0].resource"),
    ("acquire", lock_pb2.AcquireRequest(claims=[lock_pb2.Claim(resource="/".join("x" * 10_000))]), "claims[0].resource"),
    ("acquire", lock_pb2.AcquireRequest(claims=[lock_pb2.Claim(resource="a", mode=17)]), "claims[0].mode"),  # type: ignore[arg-type]
    ("acquire", lock_pb2.AcquireRequest(claims=[CLAIM, CLAIM]), "claims[1].resource"),
    ("acquire", lock_pb2.AcquireRequest(claims=[lock_pb2.Claim(resource="a", permits=3, limit=2)]), "claims[0].permits"),
    ("acquire", lock_pb2.AcquireRequest(claims=[lock_pb2.Claim(resource="a", permits=3)]), "claims[0].limit"),
    ("acquire", lock_pb2.AcquireRequest(claims=[CLAIM], wait=lock_pb2.Wait(timeout=Duration(seconds=-1))), "wait.timeout"),
    ("acquire", lock_pb2.AcquireRequest(claims=[CLAIM], lock_delay=Duration(seconds=4000)), "lock_delay"),
    ("convert", lock_pb2.ConvertRequest(resource="a", mode=-3), "mode"),  # type: ignore[arg-type]
    ("cancel_acquire", lock_pb2.CancelAcquireRequest(), "target_request_id"),
    ("release", lock_pb2.ReleaseRequest(), "holds"),
    ("release", lock_pb2.ReleaseRequest(holds=[common_pb2.Guard(resource="a")]), "holds[0].token"),
    ("force_release", lock_pb2.ForceReleaseRequest(resource="a"), "reason"),
    ("compact_rows", row_pb2.CompactRowsRequest(), "revision"),
    ("transact", transact(row_pb2.Operation()), "success[0]"),
    ("transact", transact(row_pb2.Operation(put=row_pb2.PutRow(key="a", value=bytes((1 << 20) + 1)))), "success[0].put.value"),
    ("transact", transact(row_pb2.Operation(delete_range=row_pb2.DeleteRange(start="b", end="a"))), "success[0].delete_range"),
    ("transact", transact(*[row_pb2.Operation(read=row_pb2.ReadRow(key="a"))] * 10_001), "success"),
    ("transact", row_pb2.TransactRequest(compares=[row_pb2.Compare(key="a")]), "compares[0].field"),
    ("transact", row_pb2.TransactRequest(guards=[common_pb2.Guard(resource=".", token=1)]), "guards[0].resource"),
    ("create_accounts", ledger_pb2.CreateAccountsRequest(), "accounts"),
    ("create_accounts", ledger_pb2.CreateAccountsRequest(packed=bytes(127)), "packed"),
    ("create_accounts", ledger_pb2.CreateAccountsRequest(accounts=[ledger_pb2.Account(code=65_536)]), "accounts[0].code"),
    ("create_transfers", ledger_pb2.CreateTransfersRequest(packed=bytes(128 * 8191)), "packed"),
    ("create_transfers", ledger_pb2.CreateTransfersRequest(packed=bytes(128), metadata=[b"", b""]), "metadata"),
    (
        "create_transfers",
        ledger_pb2.CreateTransfersRequest(transfers=[ledger_pb2.Transfer(), ledger_pb2.Transfer(flags=70_000)]),
        "transfers[1].flags",
    ),
    (
        "create_transfers",
        ledger_pb2.CreateTransfersRequest(transfers=[ledger_pb2.Transfer(metadata=bytes(4097))]),
        "transfers[0].metadata",
    ),
    ("create_transfers", ledger_pb2.CreateTransfersRequest(transfers=[ledger_pb2.Transfer()], packed=bytes(128)), "packed"),
]


@pytest.mark.parametrize(("kind", "message", "field"), BAD, ids=[f"{i}-{kind}-{field[:30]}" for i, (kind, _, field) in enumerate(BAD)])
def test_bad_input_names_its_field(kind: str, message: Any, field: str) -> None:
    """A violation names the field that is wrong."""
    with pytest.raises(InvalidRequestError) as refused:
        validate(kind, message)
    assert field in [name for name, _ in refused.value.violations]


def test_all_violations_are_reported_at_once() -> None:
    """Who made three mistakes is told three times."""
    message = lock_pb2.AcquireRequest(claims=[lock_pb2.Claim(resource=""), lock_pb2.Claim(resource="b", mode=9)])  # type: ignore[arg-type]
    message.wait.timeout.seconds = -4
    with pytest.raises(InvalidRequestError) as refused:
        validate("acquire", message)
    assert [name for name, _ in refused.value.violations] == ["claims[0].resource", "claims[1].mode", "wait.timeout"]


GOOD: list[tuple[str, Any]] = [
    ("open_session", session_pb2.OpenSessionRequest()),
    ("open_session", session_pb2.OpenSessionRequest(ttl=Duration(seconds=3600), owner="é" * 64)),
    ("acquire", lock_pb2.AcquireRequest(claims=[lock_pb2.Claim(resource="ключ/値")], wait=lock_pb2.Wait(forever=True))),
    ("acquire", lock_pb2.AcquireRequest(claims=[lock_pb2.Claim(resource="a", permits=2, limit=2)])),
    ("release", lock_pb2.ReleaseRequest(holds=[GUARD])),
    ("transact", transact(row_pb2.Operation(put=row_pb2.PutRow(key="a", value=bytes(1 << 20))))),
    ("create_transfers", ledger_pb2.CreateTransfersRequest(packed=bytes(128 * 8190), guards=[GUARD])),
]


@pytest.mark.parametrize(("kind", "message"), GOOD)
def test_good_input_passes_unchanged(kind: str, message: Any) -> None:
    """The limits themselves are allowed, and a good message is not touched."""
    before = message.SerializeToString(deterministic=True)
    assert validate(kind, message) is False
    assert message.SerializeToString(deterministic=True) == before


def test_a_batch_of_messages_is_packed_with_its_edge_values() -> None:
    """A transfer of 2^128-1 fits its record, and the log sees only the packed form."""
    transfer = ledger_pb2.Transfer(id=MAX, amount=MAX, code=65_535, ledger=2**32 - 1, user_data_64=2**64 - 1, metadata=b"why")
    message = ledger_pb2.CreateTransfersRequest(transfers=[transfer, ledger_pb2.Transfer()])
    assert validate("create_transfers", message) is True
    assert not message.transfers
    assert (len(message.packed), list(message.metadata)) == (256, [b"why", b""])
    assert message.packed[:16] == b"\xff" * 16


def test_every_logged_command_is_checked() -> None:
    """No command of the wire reaches the log without a check of its own."""
    kinds = {f.name for f in session_pb2.StreamCommand.DESCRIPTOR.oneofs_by_name["command"].fields}
    assert kinds - set(CHECKS) == {"get_row", "lookup_accounts", "lookup_transfers"}
