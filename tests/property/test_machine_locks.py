"""The lock table against its reference: the same steps give the same grants, waits, refusals and victims (semantics, sections 2 and 3)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from tests.property.lock_reference import RefClaim
from tests.property.machine_pair import FOREVER, Pair
from tests.property.machine_soak import Steps

ELAPSED = st.sampled_from((1, 1, 2, 30))
WAITS = st.sampled_from((0, FOREVER, 40))
RESOURCES = st.sampled_from(("a", "a/x", "a/y", "b"))
MODES = st.integers(1, 6)
PERMITS = st.builds(lambda limit, part: RefClaim("a/pool", 0, min(part, limit), limit), st.sampled_from((1, 3)), st.integers(1, 3))
CLAIMS = st.lists(st.builds(RefClaim, RESOURCES, MODES) | PERMITS, min_size=1, max_size=3, unique_by=lambda claim: claim.resource)
PLACES = st.integers(0, 4)


class LockTable(RuleBasedStateMachine):
    """Rules are log entries; sessions are named by their place among those that live."""

    @initialize(budget=st.sampled_from((1, 100)), ttls=st.lists(st.sampled_from((100, 10_000)), min_size=2, max_size=3))
    def begin(self, budget: int, ttls: list[int]) -> None:
        """A few sessions."""
        self.pair = Pair(budget)
        for ttl in ttls:
            self.pair.open(1, ttl)

    def session(self, place: int) -> int:
        """The session at this place among those that live."""
        return sorted(self.pair.clients)[place % len(self.pair.clients)]

    @rule(elapsed=ELAPSED, ttl=st.sampled_from((100, 10_000)))
    def open(self, elapsed: int, ttl: int) -> None:
        """A session more."""
        self.pair.open(elapsed, ttl)

    @precondition(lambda self: self.pair.clients)
    @rule(elapsed=ELAPSED, place=PLACES, claims=CLAIMS, wait=WAITS, delay=st.sampled_from((0, 0, 60)))
    def acquire(self, elapsed: int, place: int, claims: list[RefClaim], wait: int, delay: int) -> None:
        """Ask for locks and permits."""
        self.pair.acquire(elapsed, self.session(place), claims, wait, delay)

    @precondition(lambda self: self.pair.reference.holds)
    @rule(elapsed=ELAPSED, place=PLACES, mode=MODES, wait=WAITS)
    def convert(self, elapsed: int, place: int, mode: int, wait: int) -> None:
        """Change the mode of a hold."""
        session, resource = sorted(self.pair.reference.holds)[place % len(self.pair.reference.holds)]
        self.pair.convert(elapsed, session, resource, mode, wait)

    @precondition(lambda self: self.pair.reference.holds)
    @rule(elapsed=ELAPSED, place=PLACES)
    def release(self, elapsed: int, place: int) -> None:
        """Give a hold back."""
        session, resource = sorted(self.pair.reference.holds)[place % len(self.pair.reference.holds)]
        self.pair.release(elapsed, session, resource, self.pair.reference.holds[session, resource].tokens[-1])

    @precondition(lambda self: self.pair.clients)
    @rule(elapsed=ELAPSED, place=PLACES, resource=RESOURCES, token=st.integers(0, 8 << 20))
    def release_by_any_token(self, elapsed: int, place: int, resource: str, token: int) -> None:
        """Give back what is perhaps not held."""
        self.pair.release(elapsed, self.session(place), resource, token)

    @precondition(lambda self: self.pair.clients)
    @rule(elapsed=ELAPSED, place=PLACES, back=st.integers(0, 6))
    def cancel(self, elapsed: int, place: int, back: int) -> None:
        """Undo a recent request."""
        session = self.session(place)
        self.pair.cancel(elapsed, session, max(1, self.pair.clients[session].next_request - back))

    @precondition(lambda self: self.pair.clients)
    @rule(elapsed=ELAPSED, place=PLACES)
    def keep_alive(self, elapsed: int, place: int) -> None:
        """A sign of life."""
        self.pair.keep_alive(elapsed, self.session(place))

    @precondition(lambda self: self.pair.clients)
    @rule(elapsed=ELAPSED, place=PLACES)
    def close(self, elapsed: int, place: int) -> None:
        """A session less."""
        self.pair.close(elapsed, self.session(place))

    @rule(elapsed=ELAPSED, resource=RESOURCES)
    def force(self, elapsed: int, resource: str) -> None:
        """An operator takes a resource away."""
        self.pair.force(elapsed, resource)

    @rule(elapsed=st.sampled_from((1, 120)), reign=st.booleans())
    def tick(self, elapsed: int, reign: bool) -> None:
        """Only time passes."""
        self.pair.tick(elapsed, reign=reign)

    @rule()
    def restore(self) -> None:
        """Go on from a snapshot."""
        self.pair.restore()

    @invariant()
    def sound(self) -> None:
        """The machine contradicts itself nowhere."""
        if hasattr(self, "pair"):
            self.pair.machine.check_invariants()


SETTINGS = settings(
    max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def test_machine_and_reference_agree_on_whatever_is_asked() -> None:
    """Whatever is asked of both, they grant, refuse and choose victims alike, also from snapshots, and the invariants hold."""
    run_state_machine_as_test(LockTable, settings=SETTINGS)


@pytest.mark.parametrize("seed", range(12))
def test_machine_and_reference_agree_over_long_runs(seed: int) -> None:
    """250 random steps of up to six sessions leave machine and reference in the same state after each of them."""
    steps = Steps(seed)
    for step in range(250):
        steps.step()
        if step % 25 == 0:
            steps.pair.machine.check_invariants()
