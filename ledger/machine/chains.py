"""The course of a batch: events one after another, chains all or nothing, imported batches unmixed.

What is the same for accounts and transfers lives here: both kinds of event end with their flags and their timestamp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from ledger.machine.model import (
    CREATED,
    MAX_TIMESTAMP,
    RESULT,
    AccountEvent,
    AccountFlags,
    AccountStatus,
    TransferEvent,
    TransferFlags,
    TransferStatus,
)

_LINKED: Final = 1

EventT = TypeVar("EventT", AccountEvent, TransferEvent)


class Scope(Protocol):
    """What can be taken back while a chain is under way."""

    def open(self) -> None:
        """A chain begins."""

    def close(self) -> None:
        """The chain succeeded."""

    def roll_back(self) -> None:
        """The chain broke: undo everything since `open`."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The statuses that come before all others, and where to find the imported flag, for one kind of event."""

    imported: int
    chain_failed: int
    chain_open: int
    imported_expected: int
    imported_not_expected: int
    timestamp_must_be_zero: int
    timestamp_out_of_range: int
    timestamp_must_not_advance: int


ACCOUNTS: Final = Kind(
    int(AccountFlags.IMPORTED),
    AccountStatus.LINKED_EVENT_FAILED,
    AccountStatus.LINKED_EVENT_CHAIN_OPEN,
    AccountStatus.IMPORTED_EVENT_EXPECTED,
    AccountStatus.IMPORTED_EVENT_NOT_EXPECTED,
    AccountStatus.TIMESTAMP_MUST_BE_ZERO,
    AccountStatus.IMPORTED_EVENT_TIMESTAMP_OUT_OF_RANGE,
    AccountStatus.IMPORTED_EVENT_TIMESTAMP_MUST_NOT_ADVANCE,
)
TRANSFERS: Final = Kind(
    int(TransferFlags.IMPORTED),
    TransferStatus.LINKED_EVENT_FAILED,
    TransferStatus.LINKED_EVENT_CHAIN_OPEN,
    TransferStatus.IMPORTED_EVENT_EXPECTED,
    TransferStatus.IMPORTED_EVENT_NOT_EXPECTED,
    TransferStatus.TIMESTAMP_MUST_BE_ZERO,
    TransferStatus.IMPORTED_EVENT_TIMESTAMP_OUT_OF_RANGE,
    TransferStatus.IMPORTED_EVENT_TIMESTAMP_MUST_NOT_ADVANCE,
)


def run(
    kind: Kind,
    events: Iterable[EventT],
    count: int,
    start: int,
    scope: Scope,
    decide: Callable[[int, EventT, int], tuple[int, int]],
) -> bytes:
    """Take `count` events in order and return their results, 16 bytes each.

    The event at position p is decided at timestamp `start + p`: `decide(p, event, timestamp)` gives its status and the timestamp to report.
    The first event says whether the batch is an imported one. The chain's scope is open while a chain runs and is undone when it breaks.
    """
    results = bytearray(count * RESULT.size)
    pack = RESULT.pack_into
    cluster_time = start + count - 1
    batch_imported = 0
    chain: int | None = None
    broken = False
    for position, event in enumerate(events):
        flags, timestamp = event[-2], event[-1]
        now = reported = start + position
        imported = flags & kind.imported
        linked = flags & _LINKED
        if position == 0:
            batch_imported = imported
        if linked and chain is None:
            chain = position
            scope.open()
        if linked and position == count - 1:
            status = kind.chain_open
        elif broken:
            status = kind.chain_failed
        elif imported != batch_imported:
            status = kind.imported_not_expected if imported else kind.imported_expected
        elif imported and not 0 < timestamp <= MAX_TIMESTAMP:
            status = kind.timestamp_out_of_range
        elif imported and timestamp >= cluster_time:
            status = kind.timestamp_must_not_advance
        elif timestamp and not imported:
            status = kind.timestamp_must_be_zero
        else:
            status, reported = decide(position, event, now)
        pack(results, position * RESULT.size, reported, status, 0)
        if chain is None:
            continue
        if status != CREATED and not broken:
            broken = True
            scope.roll_back()
            for earlier in range(chain, position):
                pack(results, earlier * RESULT.size, start + earlier, kind.chain_failed, 0)
        if not linked:
            if not broken:
                scope.close()
            chain = None
            broken = False
    return bytes(results)
