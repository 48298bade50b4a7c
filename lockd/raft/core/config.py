"""Settings of the consensus machine, its error, and the small generator behind election jitter."""

from __future__ import annotations

from dataclasses import dataclass

from lockd.raft.core.types import Nanos, ReplicaId

MILLISECOND: Nanos = 1_000_000
MIB = 1 << 20
_MASK = (1 << 64) - 1


class CoreInvariantError(Exception):
    """The machine found itself, its restored state, or its shell in a state that must not exist. The replica must halt.

    Never caused by the content of a message: what a peer sends is accepted, refused or ignored.
    """


@dataclass(frozen=True, slots=True)
class Config:
    """Times in nanoseconds, sizes in bytes (a log entry counts its data and `ENTRY_OVERHEAD`)."""

    election_timeout_min: Nanos = 150 * MILLISECOND
    election_timeout_max: Nanos = 300 * MILLISECOND
    heartbeat: Nanos = 30 * MILLISECOND
    seed: int = 0
    """Election jitter is a function of this and the replica's id: the same seed gives the same run."""
    max_append_bytes: int = MIB
    max_inflight_bytes: int = 8 * MIB
    max_inflight_messages: int = 64
    max_uncommitted_bytes: int = 64 * MIB

    def __post_init__(self) -> None:
        """Refuse settings under which no leader could stay one."""
        if not 0 < self.heartbeat < self.election_timeout_min <= self.election_timeout_max:
            raise ValueError("need 0 < heartbeat < election_timeout_min <= election_timeout_max")
        if min(self.max_append_bytes, self.max_inflight_bytes, self.max_inflight_messages, self.max_uncommitted_bytes) < 1:
            raise ValueError("limits must be positive")


class Jitter:
    """xorshift64* (Vigna 2016): enough to spread election timeouts, and the same on every machine."""

    __slots__ = ("_state",)

    def __init__(self, seed: int, replica: ReplicaId) -> None:
        state = 0xCBF29CE484222325  # FNV-1a over the id, so that replicas with one seed still differ
        for byte in replica.encode():
            state = ((state ^ byte) * 0x100000001B3) & _MASK
        self._state = (state ^ (seed * 0x9E3779B97F4A7C15)) & _MASK or 1

    def between(self, low: int, high: int) -> int:
        """Return a number in [low, high]."""
        x = self._state
        x ^= x >> 12
        x = (x ^ (x << 25)) & _MASK
        x ^= x >> 27
        self._state = x
        return low + ((x * 0x2545F4914F6CDD1D & _MASK) >> 32) % (high - low + 1)
