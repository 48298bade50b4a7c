"""One history: plan, cluster, faults, healing, verdict. And from a failing history the smallest one that still fails.

python -m tests.sim.run --seed 17            one history; prints its verdict and the hash of its transcript
python -m tests.sim.run --seed 17 --story    with the transcript
python -m tests.sim.run --seeds 1000         many; the first that fails is minimised and printed
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace

from tests.sim.cluster import Cluster, Parts
from tests.sim.faults import Nemesis
from tests.sim.plans import Fault, Plan, plan, without
from tests.sim.world import MS, SECOND, SimulationError

CONVERGE_WITHIN = 6 * SECOND
"""Simulated time in which a healed cluster must agree and answer everything."""


@dataclass(slots=True)
class Outcome:
    """What a history showed."""

    plan: Plan
    failure: SimulationError | None
    statistics: Counter[str]
    cluster: Cluster

    def story(self, last: int | None = None) -> str:
        """The transcript, or its last lines."""
        lines = self.cluster.world.lines()
        return "\n".join(lines if last is None else lines[-last:])


def run(whole: Plan, parts: Parts | None = None) -> Outcome:
    """Run one plan. What breaks a promise is in the outcome; anything else raises."""
    cluster = Cluster(whole.seed, whole.setup, parts)
    failure: SimulationError | None = None
    collecting = gc.isenabled()
    gc.disable()
    try:
        cluster.start()
        nemesis = Nemesis(cluster)
        nemesis.schedule(whole.faults)
        cluster.world.run_until(whole.setup.duration)
        cluster.heal()
        cluster.converge(CONVERGE_WITHIN)
    except SimulationError as error:
        failure = error
        cluster.world.note("FAILURE", str(error))
    finally:
        if collecting:
            gc.enable()
    return Outcome(whole, failure, cluster.statistics, cluster)


def minimise(whole: Plan, failure: SimulationError, parts: Parts | None = None, tries: int = 200) -> Outcome:
    """The smallest plan found that breaks the same promise: fewer faults, fewer operations, a shorter run."""
    best = run(whole, parts)
    if best.failure is None:
        return best

    def attempt(candidate: Plan) -> bool:
        nonlocal best, tries
        if tries <= 0:
            return False
        tries -= 1
        outcome = run(candidate, parts)
        if outcome.failure is not None and outcome.failure.check == failure.check:
            best = outcome
            return True
        return False

    faults = best.plan.faults
    size = max(1, len(faults) // 2)
    while size >= 1 and tries > 0:
        at = 0
        while at < len(best.plan.faults):
            kept: tuple[Fault, ...] = best.plan.faults[:at] + best.plan.faults[at + size :]
            if not attempt(without(best.plan, kept)):
                at += size
        size //= 2
    for clients in (1, 2, 3):
        if clients < best.plan.setup.clients and attempt(replace(best.plan, setup=replace(best.plan.setup, clients=clients))):
            break
    for operations in (1, 2, 4):
        if operations < best.plan.setup.operations and attempt(replace(best.plan, setup=replace(best.plan.setup, operations=operations))):
            break
    for duration in (400, 600, 800, 1100):
        shorter = duration * MS
        if shorter < best.plan.setup.duration:
            kept = tuple(fault for fault in best.plan.faults if fault.at < shorter)
            if attempt(replace(best.plan, faults=kept, setup=replace(best.plan.setup, duration=shorter))):
                break
    return best


def report(outcome: Outcome, last: int = 400) -> str:
    """A failing history, for people."""
    failure = outcome.failure
    head = [
        f"seed {outcome.plan.seed}, profile {outcome.plan.profile}: {failure or 'no failure'}",
        f"again: python -m tests.sim.run --seed {outcome.plan.seed} --story",
        f"setup: {outcome.plan.setup}",
        "faults:",
        *(f"  {fault}" for fault in outcome.plan.faults),
        f"transcript (last {last} lines), hash {outcome.cluster.world.digest()}:",
    ]
    return "\n".join(head) + "\n" + outcome.story(last)


def check(seed: int) -> Counter[str]:
    """Run one seed; raise AssertionError with a minimised transcript if it fails."""
    outcome = run(plan(seed))
    if outcome.failure is not None:
        raise AssertionError(report(minimise(outcome.plan, outcome.failure)))
    return outcome.statistics


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--profile")
    parser.add_argument("--story", action="store_true")
    parser.add_argument("--keep-going", action="store_true", help="count failures instead of stopping at the first")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        outcome = run(plan(options.seed, options.profile))
        if options.story:
            print(outcome.story())
        verdict = outcome.failure or "ok"
        print(f"seed {options.seed}, profile {outcome.plan.profile}: {verdict}; transcript hash {outcome.cluster.world.digest()}")
        return outcome.failure is not None
    total: Counter[str] = Counter()
    failures: dict[str, list[int]] = {}
    began = time.process_time()
    for seed in range(options.start, options.start + options.seeds):
        outcome = run(plan(seed, options.profile))
        total.update(outcome.statistics)
        if outcome.failure is not None:
            if not options.keep_going:
                print(report(minimise(outcome.plan, outcome.failure)))
                return 1
            failures.setdefault(outcome.failure.check, []).append(seed)
        if seed % 20 == 19:
            del outcome
            gc.collect()
    took = time.process_time() - began
    for name in sorted(total):
        print(f"{total[name]:>10}  {name}")
    for name, seeds in sorted(failures.items()):
        print(f"FAILED {len(seeds):>5}  {name}: {seeds[:12]}")
    print(f"{options.seeds} histories, {sum(map(len, failures.values()))} failures, {took / options.seeds * 1000:.1f} ms CPU each")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
