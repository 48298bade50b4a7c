"""The one thread that touches the disk: while one sync runs, everything that is asked for meanwhile gathers and becomes the next batch."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from lockd.raft.core.types import Write
from lockd.raft.envelope_bulk import data_of
from lockd.raft.journal import JournalFailedError
from lockd.raft.recovery import Store

__all__ = ["Latencies", "StoreWriter"]

GROUP_BYTES = 16 << 20
"""A batch ends here, so that one that gathered behind a slow sync does not make the next one slow as well."""


class Latencies:
    """The last so many durations, for percentiles."""

    def __init__(self, size: int = 1024) -> None:
        self._recent: deque[float] = deque(maxlen=size)
        self.count = 0

    def add(self, seconds: float) -> None:
        """One more."""
        self._recent.append(seconds)
        self.count += 1

    def percentiles_ms(self) -> tuple[float, float]:
        """(p50, p99) in milliseconds; zeros before the first."""
        values = sorted(self._recent.copy())
        if not values:
            return 0.0, 0.0
        return values[len(values) // 2] * 1e3, values[min(len(values) - 1, len(values) * 99 // 100)] * 1e3


class StoreWriter:
    """Carries out writes, and other work on the store between them, strictly in the order asked for."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop, done: Callable[[int], None], failed: Callable[[str], None]) -> None:
        """`done` gets the number of the last write that became durable; both are called on the loop."""
        self.latencies = Latencies()
        """Of one batch: write and fdatasync."""
        self._store = store
        self._loop = loop
        self._done = done
        self._failed = failed
        self._queue: queue.SimpleQueue[Write | Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="lockd-journal", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def write(self, write: Write) -> None:
        """Make `write` durable after all that was asked for before."""
        self._queue.put(write)

    def call(self, work: Callable[[], None]) -> None:
        """Do this after all that was asked for before; an OSError or JournalFailedError of it fails the store."""
        self._queue.put(work)

    async def stop(self) -> None:
        """Finish what was asked for, and end. Idempotent."""
        self._queue.put(None)
        if self._thread.is_alive():
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        try:
            while (item := self._queue.get()) is not None:
                following: Write | Callable[[], None] | None = item
                while following is not None:
                    if isinstance(following, Write):
                        following = self._group(following)
                    else:
                        following()
                        following = None
        except (JournalFailedError, OSError) as error:
            self._tell(self._failed, f"the disk failed: {error}")
        except Exception as error:  # noqa: BLE001 - a thread that ended in silence would leave every proposal waiting
            self._tell(self._failed, f"the journal thread ended: {type(error).__name__}: {error}")

    def _group(self, first: Write) -> Write | Callable[[], None] | None:
        """Write `first` and all that waits behind it; returns what came next and is no write."""
        group = [first]
        size = _size(first)
        following: Write | Callable[[], None] | None = None
        while size < GROUP_BYTES:
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                break
            if not isinstance(following, Write):
                if following is None:
                    self._queue.put(None)
                break
            group.append(following)
            size += _size(following)
            following = None
        began = time.perf_counter()
        self._store.write_many(group)
        self.latencies.add(time.perf_counter() - began)
        self._tell(self._done, group[-1].number)
        return following

    def _tell(self, what: Callable[..., None], argument: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(what, argument)


def _size(write: Write) -> int:
    return sum(map(len, map(data_of, write.entries))) if write.entries else 0
