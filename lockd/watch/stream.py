"""One watcher's stream: from its place in the hub's ring to whoever writes to the client.

Costs are per batch: one wake-up, one message for all that there is. A client that does not read blocks the write; the hub then cuts the
watcher, and the write is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from lockd.watch.encode import response
from lockd.watch.hub import Accept, Hub, SlowConsumerError, Watcher

LEADERLESS_SECONDS = 3.0
"""After so long without a known leader a node no longer vouches for being current."""


class OutOfTouchError(Exception):
    """The node has not known a leader for some time: what it shows may be old, and another node may know more."""


@dataclass(frozen=True, slots=True)
class Node:
    """What a stream needs to know of its node."""

    applied: Callable[[], int]
    """The last log index that the machine has applied; all its events are in the hub."""
    leader_known: Callable[[], bool]


class WatchStream:
    """Serves one watch. `write` sends one serialised lockd.v1.WatchResponse and returns when there is room for the next."""

    def __init__(self, hub: Hub, node: Node, write: Callable[[bytes], Awaitable[None]], interval: float) -> None:
        self._hub = hub
        self._node = node
        self._write = write
        self._interval = interval
        self._ready = asyncio.Event()
        self._cut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watcher: Watcher | None = None

    async def run(self, start: int, accept: Accept) -> None:
        """Send events from revision `start` on (0: from now), until cancelled.

        Raises:
            CompactedError: The hub does not go back so far, or a snapshot replaced what the watcher had not seen.
            SlowConsumerError: The client does not read fast enough.
            TooManyWatchersError: The node serves too many.
            OutOfTouchError: The node has lost its cluster.
        """
        watcher = self._watcher = self._hub.watch(start, self._node.applied(), accept, self._wake)
        try:
            await self._send(watcher, response((), watcher.resume - 1), watcher.resume)
            await self._follow(watcher)
        finally:
            self._hub.leave(watcher)
            self._cut.cancel()

    def _wake(self) -> None:
        self._ready.set()
        if self._watcher is not None and self._watcher.cut is not None and not self._cut.done():
            self._cut.set_result(None)

    async def _follow(self, watcher: Watcher) -> None:
        loop = asyncio.get_running_loop()
        said = loop.time()
        leaderless_since: float | None = None
        while True:
            self._ready.clear()
            before = watcher.resume
            taken = self._hub.take(watcher, self._node.applied())
            now = loop.time()
            if self._node.leader_known():
                leaderless_since = None
            elif leaderless_since is None:
                leaderless_since = now
            elif now - leaderless_since >= LEADERLESS_SECONDS:
                raise OutOfTouchError("this node has not known a leader for some time")
            if taken.frames or now - said >= self._interval:
                await self._send(watcher, response(taken.frames, taken.progress), before)
                said = loop.time()
            elif taken.more:
                # Nothing passed the filter among many: let others run.
                await asyncio.sleep(0)
            if not taken.more:
                await self._wait(said + self._interval - loop.time())

    async def _wait(self, seconds: float) -> None:
        """Until there is more, at most so long."""
        if seconds <= 0 or self._ready.is_set():
            return
        timer = asyncio.get_running_loop().call_later(seconds, self._ready.set)
        try:
            await self._ready.wait()
        finally:
            timer.cancel()

    async def _send(self, watcher: Watcher, data: bytes, before: int) -> None:
        """Write, unless the watcher is cut meanwhile. `before` is where to resume if this message does not arrive."""
        writing = asyncio.ensure_future(self._write(data))
        try:
            await asyncio.wait((writing, self._cut), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not writing.done():
                writing.cancel()
        if not writing.done() and isinstance(watcher.cut, SlowConsumerError):
            # What is half sent may still arrive: whoever resumes there passes over what it has seen.
            raise SlowConsumerError(before)
        if watcher.cut is None:
            await writing
