"""What the machine does not look at: costs, counted in looks rather than in time."""

from __future__ import annotations

from typing import Any

import pytest

from lockd.machine import commands as c
from lockd.machine import results as r
from lockd.machine.deadlock import _Search
from lockd.machine.queueing import WaitTable
from lockd.machine.sessions import Sessions
from lockd.machine.types import FOREVER, Resource
from tests.unit.machine.rig import SECOND, Rig, acquire, guard

CROWD = 500


class Counter:
    """Counts the calls of a method."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.calls = 0
        original = getattr(owner, name)

        def counting(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, counting)


@pytest.fixture
def crowd() -> Rig:
    """Ann holds t/1 and t/2, and many wait for t/1."""
    rig = Rig()
    rig.open("ann", ttl=3600 * SECOND)
    rig.open("bob", ttl=3600 * SECOND)
    rig.token("ann", "t/1", "t/2")
    opened = rig.apply(*[rig.request("", c.OpenSession(3600 * SECOND, "x"), 0)] * CROWD).results
    rig.names |= {f"w{place}": result.session for place, result in enumerate(opened) if isinstance(result, r.SessionOpened)}
    rig.apply(*[rig.request(f"w{place}", acquire("t/1", wait=FOREVER)) for place in range(CROWD)])
    return rig


def release(rig: Rig, who: str, resource: str) -> r.Applied:
    """Give a lock back, without the check of all invariants that Rig.apply makes: it looks at everything."""
    token = rig.machine.sessions.live[rig.names[who]].holds[Resource(resource)].token
    rig.index += 1
    return rig.machine.apply(rig.index, c.LogEntry(rig.now, (rig.request(who, c.Release((guard(resource, token),))),)))


def test_a_release_looks_only_at_those_it_can_grant(crowd: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of hundreds of waiting writers is granted; of the others only the first is looked at."""
    looks = Counter(monkeypatch, WaitTable, "held")
    assert len(release(crowd, "ann", "t/1").completions) == 1
    assert looks.calls < 8
    looks.calls = 0
    assert len(release(crowd, "w0", "t/1").completions) == 1
    assert looks.calls < 8


def test_a_release_of_one_row_does_not_look_at_the_waiters_of_another(crowd: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds wait for t/1, with their intentions in line on `t`: giving back t/2 looks at none of them."""
    looks = Counter(monkeypatch, WaitTable, "held")
    assert release(crowd, "ann", "t/2").completions == []
    assert looks.calls == 0


def test_a_newcomer_behind_a_crowd_is_no_deadlock_at_a_glance(crowd: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds nothing closes no cycle: the search ends at once, however many wait before him."""
    steps = Counter(monkeypatch, _Search, "step")
    crowd.wait("bob", "t/1")
    assert steps.calls < 10


def test_keepalives_do_not_touch_the_order_of_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand keepalives leave one entry a session in the heap, and the next due time is still exact."""
    rig = Rig()
    rig.open("ann", ttl=10 * SECOND)
    added = Counter(monkeypatch, Sessions, "add")
    for _ in range(1_000):
        rig.apply(rig.request("ann", c.KeepAlive(), 0))
    assert added.calls == 0
    assert len(rig.machine.sessions._due) == 1
    assert rig.machine.next_due() == rig.now + 10 * SECOND
