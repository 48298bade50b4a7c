"""Messages of the wire (ledger.v1) <-> the 128-byte records that the machine and the log know (ledger.md)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

from ledger.machine.model import BATCH_MAX, EVENT_SIZE
from ledger.v1 import ledger_pb2 as pb

METADATA_BYTES_MAX = 4096
_U16_MAX = 0xFFFF

# 128-bit fields as two u64 halves, low first: the wire's Uint128 has the same halves.
_ACCOUNT = struct.Struct("<QQQQQQQQQQQQQIIIHHQ")
_TRANSFER = struct.Struct("<QQQQQQQQQQQQQIIIHHQ")
_BALANCE = struct.Struct("<QQQQQQQQQ56x")

Violation = tuple[str, str]
"""A field's path and what is wrong with it."""


class WireError(ValueError):
    """Messages that have no 128-byte form. `violations` names each field."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{field}: {problem}" for field, problem in violations))
        self.violations = tuple(violations)


def check_packed(packed: bytes, field: str) -> Iterator[Violation]:
    """What is wrong with a packed batch as a whole."""
    if len(packed) % EVENT_SIZE:
        yield field, f"length {len(packed)} is not a multiple of {EVENT_SIZE}"
    elif len(packed) > BATCH_MAX * EVENT_SIZE:
        yield field, f"{len(packed) // EVENT_SIZE} events, at most {BATCH_MAX} are allowed"


def check_metadata(metadata: Sequence[bytes], events: int, field: str) -> Iterator[Violation]:
    """What is wrong with the metadata beside a packed batch of `events`."""
    if metadata and len(metadata) != events:
        yield field, f"{len(metadata)} items for {events} transfers: give none or one for each"
    for position, item in enumerate(metadata):
        if len(item) > METADATA_BYTES_MAX:
            yield f"{field}[{position}]", f"{len(item)} bytes, at most {METADATA_BYTES_MAX} are allowed"


def pack_accounts(accounts: Sequence[pb.Account], field: str = "accounts") -> bytes:
    """The records of `accounts`, back to back. Raises WireError."""
    _check_events(accounts, field)
    return b"".join(
        [
            _ACCOUNT.pack(
                a.id.low,
                a.id.high,
                a.debits_pending.low,
                a.debits_pending.high,
                a.debits_posted.low,
                a.debits_posted.high,
                a.credits_pending.low,
                a.credits_pending.high,
                a.credits_posted.low,
                a.credits_posted.high,
                a.user_data_128.low,
                a.user_data_128.high,
                a.user_data_64,
                a.user_data_32,
                0,
                a.ledger,
                a.code,
                a.flags,
                a.timestamp,
            )
            for a in accounts
        ]
    )


def pack_transfers(transfers: Sequence[pb.Transfer], field: str = "transfers") -> tuple[bytes, list[bytes]]:
    """The records of `transfers`, back to back, and their metadata (empty if none has any). Raises WireError."""
    _check_events(transfers, field)
    metadata = [t.metadata for t in transfers] if any(t.metadata for t in transfers) else []
    problems = [(f"{field}[{i}].metadata", p) for i, m in enumerate(metadata) for _, p in check_metadata([m], 1, "")]
    if problems:
        raise WireError(problems)
    packed = b"".join(
        [
            _TRANSFER.pack(
                t.id.low,
                t.id.high,
                t.debit_account_id.low,
                t.debit_account_id.high,
                t.credit_account_id.low,
                t.credit_account_id.high,
                t.amount.low,
                t.amount.high,
                t.pending_id.low,
                t.pending_id.high,
                t.user_data_128.low,
                t.user_data_128.high,
                t.user_data_64,
                t.user_data_32,
                t.timeout,
                t.ledger,
                t.code,
                t.flags,
                t.timestamp,
            )
            for t in transfers
        ]
    )
    return packed, metadata


def _check_events(events: Sequence[pb.Account | pb.Transfer], field: str) -> None:
    if len(events) > BATCH_MAX:
        raise WireError([(field, f"{len(events)} events, at most {BATCH_MAX} are allowed")])
    problems = [
        (f"{field}[{position}].{name}", f"{value} does not fit 16 bits")
        for position, event in enumerate(events)
        for name, value in (("code", event.code), ("flags", event.flags))
        if value > _U16_MAX
    ]
    if problems:
        raise WireError(problems)


def pack_ids(ids: Iterable[pb.Uint128]) -> bytes:
    """16 bytes an id, little-endian, back to back."""
    return b"".join([struct.pack("<QQ", i.low, i.high) for i in ids])


def uint128(low: int, high: int) -> pb.Uint128:
    """An unsigned 128-bit number of the wire."""
    return pb.Uint128(low=low, high=high)


def unpack_accounts(packed: bytes) -> list[pb.Account]:
    """The messages of 128-byte account records."""
    return [
        pb.Account(
            id=uint128(f[0], f[1]),
            debits_pending=uint128(f[2], f[3]),
            debits_posted=uint128(f[4], f[5]),
            credits_pending=uint128(f[6], f[7]),
            credits_posted=uint128(f[8], f[9]),
            user_data_128=uint128(f[10], f[11]),
            user_data_64=f[12],
            user_data_32=f[13],
            ledger=f[15],
            code=f[16],
            flags=f[17],
            timestamp=f[18],
        )
        for f in _ACCOUNT.iter_unpack(packed)
    ]


def unpack_transfers(packed: bytes, metadata: Sequence[bytes] = ()) -> list[pb.Transfer]:
    """The messages of 128-byte transfer records; `metadata` is empty or parallel to them."""
    found = [
        pb.Transfer(
            id=uint128(f[0], f[1]),
            debit_account_id=uint128(f[2], f[3]),
            credit_account_id=uint128(f[4], f[5]),
            amount=uint128(f[6], f[7]),
            pending_id=uint128(f[8], f[9]),
            user_data_128=uint128(f[10], f[11]),
            user_data_64=f[12],
            user_data_32=f[13],
            timeout=f[14],
            ledger=f[15],
            code=f[16],
            flags=f[17],
            timestamp=f[18],
        )
        for f in _TRANSFER.iter_unpack(packed)
    ]
    for message, item in zip(found, metadata, strict=bool(metadata)):
        message.metadata = item
    return found


def unpack_balances(packed: bytes) -> list[pb.AccountBalance]:
    """The messages of 128-byte balance records (debits pending and posted, credits pending and posted, timestamp)."""
    return [
        pb.AccountBalance(
            debits_pending=uint128(f[0], f[1]),
            debits_posted=uint128(f[2], f[3]),
            credits_pending=uint128(f[4], f[5]),
            credits_posted=uint128(f[6], f[7]),
            timestamp=f[8],
        )
        for f in _BALANCE.iter_unpack(packed)
    ]
