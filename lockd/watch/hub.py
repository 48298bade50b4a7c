"""The ring of what happened lately, and those who follow it. No I/O, no clock.

The ring holds the events of the last log entries, bounded by their number and by an estimate of their bytes. A watcher is a place in
the ring and no queue of its own: however many watch, and however slowly, they cost no memory. One that follows live and falls too far
behind is cut while the ring still has what it misses, so that it can resume; one that reads old events at its own pace is cut only if
the ring leaves it behind.

Events are kept as the machine made them and encoded when the first watcher asks for them, once for all of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from lockd.machine.types import Nanos

Accept: TypeAlias = Callable[[object], bool]
"""A filter."""
Encode: TypeAlias = Callable[[object, Nanos], bytes]
"""An event and its log time as bytes; empty: nothing to show for it."""
Weigh: TypeAlias = Callable[[Sequence[object]], int]
"""The bytes that events take, with their encoded form: an estimate."""


class CompactedError(Exception):
    """The ring does not go back so far; `oldest` is the first revision that can be asked for."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"the oldest revision that can be watched is {oldest}")
        self.oldest = oldest


class SlowConsumerError(Exception):
    """The watcher did not keep up and was cut. Everything before `resume` has been handed out."""

    def __init__(self, resume: int) -> None:
        super().__init__(f"the watcher fell too far behind; it can resume at revision {resume}")
        self.resume = resume


class TooManyWatchersError(Exception):
    """The node takes no more watchers."""


@dataclass(frozen=True, slots=True)
class HubLimits:
    """Bounds of the ring and of its watchers. What a live watcher may miss is less than the ring, so that it can resume."""

    ring_events: int = 100_000
    ring_bytes: int = 128 << 20
    backlog_events: int = 25_000
    backlog_bytes: int = 32 << 20
    watchers: int = 1_000


@dataclass(slots=True)
class Entry:
    """The events of one log entry."""

    revision: int
    log_time: Nanos
    events: Sequence[object]
    size: int
    events_before: int
    """How many events the hub had seen before this entry."""
    bytes_before: int
    frames: list[bytes | None] | None = None
    """The encoded events, as far as anybody wanted them."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a watcher gets next: `frames` in log order, and the revision up to which it then has everything.

    `more`: the look stopped at its bound, and there is more to look at now.
    """

    frames: list[bytes]
    progress: int
    more: bool


class Watcher:
    """One that follows the ring. Made by `Hub.watch`."""

    __slots__ = ("accept", "cut", "live", "offset", "resume", "sequence", "wake")

    def __init__(self, sequence: int, resume: int, accept: Accept, wake: Callable[[], None]) -> None:
        self.accept = accept
        self.wake = wake
        self.sequence = sequence
        """The entry to read next, counted over all that the hub has seen."""
        self.offset = 0
        """The event to read next inside that entry."""
        self.resume = resume
        """All events before this revision have been handed out or were not wanted."""
        self.live = False
        """Whether it has caught up once: from then on it must keep up."""
        self.cut: SlowConsumerError | CompactedError | None = None


class Hub:
    """See the module's text. Everything runs on one thread."""

    def __init__(self, encode: Encode, weigh: Weigh, limits: HubLimits | None = None) -> None:
        self.limits = limits or HubLimits()
        self.oldest = 1
        """The first revision that can be asked for."""
        self._encode = encode
        self._weigh = weigh
        self._ring: deque[Entry] = deque()
        self._first = 0
        """The number of the ring's first entry, counted over all that the hub has seen."""
        self._events = 0
        self._bytes = 0
        # The order of waking is the order of arrival: a dict, not a set.
        self._watchers: dict[Watcher, None] = {}

    @property
    def watchers(self) -> int:
        """How many follow."""
        return len(self._watchers)

    @property
    def events(self) -> int:
        """Events in the ring."""
        return self._events - self._ring[0].events_before if self._ring else 0

    @property
    def size(self) -> int:
        """Estimated bytes in the ring."""
        return self._bytes - self._ring[0].bytes_before if self._ring else 0

    # --- from the log ----------------------------------------------------------------------------------------------------------

    def append(self, revision: int, log_time: Nanos, events: Sequence[object]) -> None:
        """The events of an applied entry. Revisions increase; entries without events need not be told."""
        size = self._weigh(events)
        ring, limits = self._ring, self.limits
        ring.append(Entry(revision, log_time, events, size, self._events, self._bytes))
        self._events += len(events)
        self._bytes += size
        # The last entry stays, whatever its size.
        while (self.events > limits.ring_events or self.size > limits.ring_bytes) and len(ring) > 1:
            self.oldest = ring.popleft().revision + 1
            self._first += 1
        if self._watchers:
            self._tell()

    def restart(self, index: int) -> None:
        """The state was replaced by a snapshot's of this index: what led to it is not known here."""
        self._first += len(self._ring)
        self._ring.clear()
        self.oldest = index + 1
        for watcher in list(self._watchers):
            watcher.sequence, watcher.offset = self._first, 0
            if watcher.resume <= index:
                self._cut(watcher, CompactedError(self.oldest))

    def _tell(self) -> None:
        limits, newest = self.limits, self._first + len(self._ring) - 1
        for watcher in list(self._watchers):
            if watcher.sequence < self._first:
                self._cut(watcher, SlowConsumerError(watcher.resume))
                continue
            # Most have read everything but this entry: then the bounds need no look.
            if watcher.live and watcher.sequence < newest:
                entry = self._ring[watcher.sequence - self._first]
                missed = self._events - entry.events_before - watcher.offset
                if missed > limits.backlog_events or self._bytes - entry.bytes_before - entry.size > limits.backlog_bytes:
                    self._cut(watcher, SlowConsumerError(watcher.resume))
                    continue
            watcher.wake()

    def _cut(self, watcher: Watcher, why: SlowConsumerError | CompactedError) -> None:
        watcher.cut = why
        self._watchers.pop(watcher, None)
        watcher.wake()

    # --- to watchers -----------------------------------------------------------------------------------------------------------

    def watch(self, start: int, applied: int, accept: Accept, wake: Callable[[], None]) -> Watcher:
        """Follow from revision `start` on; 0: after `applied`, the last index that the machine has applied.

        `wake` is called whenever there may be more to take, and when the watcher is cut; it must not block or raise.

        Raises:
            CompactedError: The ring does not go back so far.
            TooManyWatchersError: There are as many as may be.
        """
        if len(self._watchers) >= self.limits.watchers:
            raise TooManyWatchersError(f"this node serves {self.limits.watchers} watchers already")
        first = start or applied + 1
        if first < self.oldest:
            raise CompactedError(self.oldest)
        watcher = Watcher(self._first + self._find(first), first, accept, wake)
        self._watchers[watcher] = None
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """The watcher is gone. Doing so twice is no error."""
        self._watchers.pop(watcher, None)

    def _find(self, revision: int) -> int:
        """The place in the ring of the first entry that is not older."""
        return bisect_left(self._ring, revision, key=lambda entry: entry.revision)

    def take(self, watcher: Watcher, applied: int, *, most: int = 1_000, most_bytes: int = 1 << 20, look: int = 4_096) -> Taken:
        """The next frames for a watcher: until there are `most`, or `most_bytes` of them, or `look` events have been looked at.

        A single frame may be larger than `most_bytes`.

        Raises:
            SlowConsumerError, CompactedError: The watcher was cut.
        """
        if watcher.cut is not None:
            raise watcher.cut
        frames: list[bytes] = []
        size = 0
        looked = 0
        while watcher.sequence < self._first + len(self._ring):
            entry = self._ring[watcher.sequence - self._first]
            if entry.revision < watcher.resume:
                # It was asked to begin at a revision that had not happened yet.
                watcher.sequence += 1
                continue
            # An entry that was begun stays the one to resume at until its last event is out.
            watcher.resume = entry.revision
            for offset in range(watcher.offset, len(entry.events)):
                if len(frames) >= most or size >= most_bytes or looked >= look:
                    watcher.offset = offset
                    return Taken(frames, watcher.resume - 1, more=True)
                looked += 1
                if watcher.accept(entry.events[offset]):
                    frame = self._frame(entry, offset)
                    if frame:
                        frames.append(frame)
                        size += len(frame)
            watcher.sequence += 1
            watcher.offset = 0
            watcher.resume = entry.revision + 1
        watcher.live = True
        watcher.resume = max(watcher.resume, applied + 1)
        return Taken(frames, watcher.resume - 1, more=False)

    def _frame(self, entry: Entry, offset: int) -> bytes:
        if entry.frames is None:
            entry.frames = [None] * len(entry.events)
        frame = entry.frames[offset]
        if frame is None:
            frame = entry.frames[offset] = self._encode(entry.events[offset], entry.log_time)
        return frame

    # --- looking back ----------------------------------------------------------------------------------------------------------

    def since(self, revision: int) -> Iterator[Entry]:
        """The entries of the ring from `revision` on, oldest first. Use it up before anything is appended."""
        return islice(self._ring, self._find(revision), None)
