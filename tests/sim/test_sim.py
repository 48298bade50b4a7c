"""Our log under the simulation: fixed seeds, fresh seeds, and that a run is reproducible and a failure small."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from lockd.raft.journal_format import JournalError
from tests.sim.cluster import Cluster, Setup
from tests.sim.mutation_list import MUTATIONS
from tests.sim.mutations import switched_on
from tests.sim.plans import Fault, Plan, plan
from tests.sim.run import CONVERGE_WITHIN, check, minimise, report, run
from tests.sim.storage import JournalStorage
from tests.sim.world import MS, SECOND

CHUNK = 25
FIXED = 200
FRESH = 500
BASE = int(os.environ.get("LOCKD_SIM_SEED") or random.SystemRandom().randrange(10**6, 10**9))


@pytest.mark.parametrize("first", range(0, FIXED, CHUNK))
def test_no_history_of_the_fixed_seeds_breaks_a_promise(first: int) -> None:
    """The seeds that everybody runs: every promise holds at every step, and everything converges after healing."""
    for seed in range(first, first + CHUNK):
        check(seed)


@pytest.mark.parametrize("first", range(0, FRESH, CHUNK))
def test_no_fresh_history_breaks_a_promise(first: int) -> None:
    """Seeds that nobody has run before; LOCKD_SIM_SEED repeats them."""
    print(f"LOCKD_SIM_SEED={BASE}")
    for seed in range(BASE + first, BASE + first + CHUNK):
        check(seed)


@pytest.mark.parametrize(("seed", "profile"), [(3, "everything"), (17, "snapshots"), (101, "members"), (5, "locks")])
def test_a_seed_reproduces_a_run_to_the_byte(seed: int, profile: str) -> None:
    """The same transcript in this process and in another with another hash seed."""
    here = run(plan(seed, profile)).cluster.world.digest()
    assert run(plan(seed, profile)).cluster.world.digest() == here
    there = subprocess.run(
        [sys.executable, "-m", "tests.sim.run", "--seed", str(seed), "--profile", profile],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.split()[-1] == here


def test_different_seeds_give_different_runs() -> None:
    """The seed decides: no two of a few seeds tell the same story."""
    assert len({run(plan(seed)).cluster.world.digest() for seed in range(8)}) == 8


def test_a_failing_history_is_cut_down_and_told() -> None:
    """A failure comes back with fewer faults, the same broken promise, and a transcript that names the seed."""
    mutation = next(mutation for mutation in MUTATIONS if mutation.name == "acknowledged before fsync")
    with switched_on(mutation):
        whole = plan(11)
        failed = run(whole)
        assert failed.failure is not None
        small = minimise(whole, failed.failure)
        assert small.failure is not None
    assert small.failure.check == failed.failure.check == "durable before acknowledged"
    assert len(small.plan.faults) < len(whole.faults)
    text = report(small)
    assert "python -m tests.sim.run --seed 11 --story" in text
    assert "FAILURE durable before acknowledged" in text


def test_a_follower_that_comes_back_does_not_disturb_the_leader() -> None:
    """A follower that was cut off for long rejoins, and the term and the leader stay what they were (9.6, 4.2.3)."""
    for seed in range(20):
        cluster = Cluster(seed, Setup(voters=3, clients=2, operations=20, loss=0.0, duration=2 * SECOND))
        cluster.start()
        cluster.world.run_until(SECOND // 2)
        leader = cluster.leader()
        assert leader is not None
        term = leader.driver.node.term
        follower = next(name for name in cluster.replicas if name != leader.name)
        cluster.network.partition([follower], [name for name in cluster.replicas if name != follower])
        cluster.world.run_until(3 * SECOND // 2)
        cluster.heal()
        cluster.converge(CONVERGE_WITHIN)
        assert cluster.leader() is leader, f"seed {seed}"
        assert leader.driver.node.term == term, f"seed {seed}"


def test_a_leader_that_hears_nobody_stops_leading() -> None:
    """A leader cut off from its majority steps down within about an election timeout (6.2), so that its clients look elsewhere."""
    for seed in range(20):
        cluster = Cluster(seed, Setup(voters=3, duration=2 * SECOND))
        cluster.start()
        cluster.world.run_until(SECOND // 2)
        leader = cluster.leader()
        assert leader is not None
        cluster.network.partition([leader.name], [name for name in cluster.replicas if name != leader.name])
        cluster.world.run_until(SECOND)
        assert leader.driver.node.role.value != "leader", f"seed {seed}"
        assert cluster.leader() is not None, f"seed {seed}: the majority has no leader"


def test_a_flipped_bit_is_refused_or_harmless() -> None:
    """After a replica was stopped, any one bit of its files is flipped: it starts with all that was durable, or refuses to start.

    The one exception is in `lockd.raft.journal_format`: damage within the last batch that looks like a torn write.
    """
    refused = harmless = 0
    for seed in range(150):
        rng = random.Random(seed)
        setup = Setup(voters=1, clients=2, operations=8, duration=SECOND, snapshot_log_bytes=rng.choice((600, 10**6)), segment_bytes=8192)
        cluster = Cluster(seed, setup)
        cluster.start()
        cluster.world.run_until(setup.duration)
        cluster.converge(CONVERGE_WITHIN)
        replica = cluster.replicas["n1"]
        storage = replica.storage
        assert isinstance(storage, JournalStorage)
        assert replica.probe is not None
        durable = replica.probe.durable
        replica.crash(power=True)
        name = rng.choice(storage.disk.list())
        size = storage.disk.open(name).size()
        written = len(bytes(storage.disk.open(name).read_at(0, size)).rstrip(b"\0"))
        storage.disk.flip(name, rng.randrange(max(1, written)), rng.randrange(8))
        try:
            restored = storage.recover()
            if restored.snapshot.index:
                storage.read_snapshot(restored.snapshot)
        except (JournalError, ValueError):
            refused += 1
            continue
        harmless += 1
        last = restored.entries[-1].index if restored.entries else restored.snapshot.index
        assert restored.hard_state.term == durable.hard_state.term, f"seed {seed}: {name}"
        assert last >= durable.last - 1, f"seed {seed}: {name} lost more than its last batch"
        for entry in restored.entries:
            assert entry == cluster.invariants.history[entry.index, entry.term][1], f"seed {seed}: {name} at {entry.index}"
    assert refused > 50
    assert harmless > 20  # most of a segment's first 4,096 bytes say nothing


def test_every_kind_of_fault_strikes() -> None:
    """Over the fixed seeds every kind of fault that the plans can draw does happen, and the interesting events with it."""
    seen: set[str] = set()
    for seed in range(120):
        seen |= {fault.kind for fault in plan(seed).faults}
    for kind in ("crash", "power", "disk error", "two changes", "lonely change", "come back", "lag", "echo", "double crash", "pause"):
        assert kind in seen


def test_a_fault_is_data() -> None:
    """A plan can be written down and run: the same faults on the same setup give the same run."""
    whole = Plan(5, "by hand", Setup(), (Fault(300 * MS, "isolate leader", 0.5, 0.5, 0.5), Fault(900 * MS, "blackout", 0.5, 0.5, 0.5)))
    outcome = run(whole)
    assert outcome.failure is None
    assert outcome.statistics["fault: blackout"] == 1
    assert outcome.statistics["crashes"] >= 3
    assert outcome.cluster.world.digest() == run(whole).cluster.world.digest()
