"""What a leader knows of one peer, and the flow control towards it (10.2.1; the three states are etcd's)."""

from __future__ import annotations

from collections import deque
from enum import Enum

from lockd.raft.core.types import Nanos, ReplicaId


class PeerState(Enum):
    """How entries flow to a peer."""

    PROBE = "probe"
    """Where the logs agree is unknown: one message at a time."""
    REPLICATE = "replicate"
    """Pipelined: `next` runs ahead of what is acknowledged, within the window."""
    SNAPSHOT = "snapshot"
    """The peer needs entries that the log has dropped; no entries until a snapshot has arrived."""


class Progress:
    """One peer as its leader sees it. Read it from outside; only the machine changes it."""

    __slots__ = ("_window", "id", "inflight_bytes", "last_contact", "match", "next", "paused", "round", "state")

    def __init__(self, replica: ReplicaId, next_index: int) -> None:
        self.id = replica
        self.match = 0
        """The last index known to be durable there and equal to ours."""
        self.next = next_index
        self.state = PeerState.PROBE
        self.paused = False
        """In PROBE: the one message is out."""
        self.round = 0
        """The latest round that it echoed."""
        self.last_contact: Nanos | None = None
        """When it last answered in this term."""
        self.inflight_bytes = 0
        self._window: deque[tuple[int, int]] = deque()

    @property
    def inflight_messages(self) -> int:
        """Messages with entries that are not yet acknowledged."""
        return len(self._window)

    def sent(self, last: int, size: int) -> None:
        """Entries up to `last`, of `size` bytes together, were sent in a pipeline."""
        self.next = last + 1
        self.inflight_bytes += size
        self._window.append((last, size))

    def acknowledged(self, match: int) -> bool:
        """The peer has everything up to `match`, durably. True if that is news."""
        window = self._window
        while window and window[0][0] <= match:
            self.inflight_bytes -= window.popleft()[1]
        if match <= self.match:
            return False
        self.match = match
        self.next = max(self.next, match + 1)
        return True

    def enter(self, state: PeerState, next_index: int, *, paused: bool = False) -> None:
        """Change how entries flow; whatever was in flight is forgotten."""
        self.state = state
        self.next = max(next_index, self.match + 1)
        self.paused = paused
        self.inflight_bytes = 0
        self._window.clear()
