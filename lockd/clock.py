"""The event loop's clock for the replica."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from lockd.machine.types import Nanos


class LoopClock:
    """`lockd.replica.Clock` over the running event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def wall(self) -> Nanos:
        """Nanoseconds since the epoch; may jump."""
        return time.time_ns()

    def monotonic(self) -> Nanos:
        """Nanoseconds that never go back."""
        return time.monotonic_ns()

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call after what is now running has finished."""
        self._loop.call_soon(callback)

    def call_at(self, when: Nanos, callback: Callable[[], None]) -> None:
        """Call once `monotonic() >= when`; rounded up, so that the callback never comes too early."""
        delay = max(when - self.monotonic(), 0) / 1e9
        self._loop.call_later(delay + 1e-4, callback)
