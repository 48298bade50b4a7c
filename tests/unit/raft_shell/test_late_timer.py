"""A process that stood still does not take its own absence for the silence of others."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from lockd.raft.core.types import Member, ReplicaId, Role
from lockd.raft.engine import EngineConfig, RaftEngine
from tests.unit.raft_shell.cluster import Appender

MS = 1_000_000


class Clockwork:
    """An engine's timer, with time and loop moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
        self.now = 1_000 * MS
        self.ticks: list[int] = []
        self.due: tuple[int, Callable[[], None]] | None = None
        members = (Member(ReplicaId("a"), "127.0.0.1:1", ""),)
        self.engine = RaftEngine(EngineConfig(ReplicaId("a"), "test", None, "127.0.0.1:1", members=members), Appender())
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.now)
        monkeypatch.setattr(self.engine, "_loop", SimpleNamespace(call_later=self._call_later), raising=False)
        driver = SimpleNamespace(tick=lambda: self.ticks.append(self.now // MS), role=role)
        monkeypatch.setattr(self.engine, "driver", driver, raising=False)

    def _call_later(self, delay: float, callback: Callable[[], None]) -> SimpleNamespace:
        self.due = (self.now + round(delay * 1e9), callback)
        return SimpleNamespace(cancel=lambda: None)

    def ring(self, late: int = 0) -> None:
        """The timer rings, so many nanoseconds too late."""
        assert self.due is not None
        (at, callback), self.due = self.due, None
        self.now = at + late
        callback()


@pytest.mark.parametrize(("role", "patience"), [(Role.FOLLOWER, 20), (Role.LEADER, 5)])
def test_after_a_stall_messages_are_read_before_time_is_judged(monkeypatch: pytest.MonkeyPatch, role: Role, patience: int) -> None:
    """A timer that rings much too late waits a moment more, once; if nothing that came in has moved it by then, it counts."""
    clock = Clockwork(monkeypatch, role)
    clock.engine.wake(clock.now + 100 * MS)
    clock.ring(late=500 * MS)
    assert clock.ticks == []
    clock.ring()
    assert clock.ticks == [1_600 + patience]


def test_what_was_heard_after_a_stall_moves_the_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat that had waited puts the timeout off, as it would have done in time."""
    clock = Clockwork(monkeypatch, Role.FOLLOWER)
    clock.engine.wake(clock.now + 100 * MS)
    clock.ring(late=500 * MS)
    clock.engine.wake(clock.now + 200 * MS)
    clock.ring()
    assert clock.ticks == []
    clock.ring()
    assert clock.ticks == [1_800]


def test_a_timer_in_time_counts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is noticed no later for all this."""
    clock = Clockwork(monkeypatch, Role.FOLLOWER)
    clock.engine.wake(clock.now + 100 * MS)
    clock.ring(late=10 * MS)
    assert clock.ticks == [1_110]
