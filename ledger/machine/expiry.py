"""When pending transfers are due: in order of expiry, then of creation."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import Final

from ledger.machine.model import NANOS_PER_SECOND

_TIMEOUT_AND_TIMESTAMP: Final = struct.Struct("<108xI8xQ")


def expiry_of(pending: bytes) -> int | None:
    """Log time in nanoseconds at which this pending transfer (128 bytes) expires; None if it has no timeout."""
    timeout, timestamp = _TIMEOUT_AND_TIMESTAMP.unpack(pending)
    return timestamp + timeout * NANOS_PER_SECOND if timeout else None


class DueQueue:
    """A heap of (expiry, creation, id). What was posted or voided meanwhile stays until it surfaces, or until it is half of the heap."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, bytes]] = []

    def add(self, pending: bytes) -> None:
        """Remember when this pending transfer is due, if it has a timeout."""
        expiry = expiry_of(pending)
        if expiry is not None:
            heappush(self._heap, (expiry, int.from_bytes(pending[120:], "little"), pending[:16]))

    def next(self, still_open: Mapping[bytes, bytes]) -> int | None:
        """The earliest expiry of a transfer that is still open."""
        heap = self._heap
        while heap and heap[0][2] not in still_open:
            heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, now: int, limit: int, still_open: Mapping[bytes, bytes]) -> list[bytes]:
        """Take out at most `limit` open pending transfers whose expiry is `now` or before, in order."""
        taken: list[bytes] = []
        while len(taken) < limit:
            expiry = self.next(still_open)
            if expiry is None or expiry > now:
                break
            taken.append(still_open[heappop(self._heap)[2]])
        return taken

    def compact(self, still_open: Mapping[bytes, bytes]) -> None:
        """Drop what is no longer open once it outweighs what is; the order of the rest does not change."""
        if len(self._heap) > 1024 and len(self._heap) > 2 * len(still_open):
            self._heap = [entry for entry in self._heap if entry[2] in still_open]
            heapify(self._heap)
