"""Plans: what goes wrong, and when, drawn from a seed before the run, so that a failing run can be cut down fault by fault."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from tests.sim.cluster import Setup
from tests.sim.world import MS, SECOND


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: when, what, and a few numbers in [0, 1) that say to whom and how much."""

    at: int
    kind: str
    a: float
    b: float
    c: float

    def __str__(self) -> str:
        return f"{self.at / MS:9.3f} ms  {self.kind}({self.a:.4f}, {self.b:.4f}, {self.c:.4f})"


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run, as data."""

    seed: int
    profile: str
    setup: Setup
    faults: tuple[Fault, ...]


PROFILES: dict[str, dict[str, int]] = {
    "calm": {"stop": 2, "transfer": 2, "snapshot": 2, "burst": 2, "crash": 1},
    "network": {"isolate": 4, "cut": 4, "partition": 3, "mend": 3, "storm": 3, "burst": 2, "clock": 1, "pause": 1},
    "crashes": {
        "crash": 3, "double crash": 3, "power": 4, "blackout": 1, "burst": 3, "slow disk": 2, "isolate": 1, "mend": 1, "storm": 1,
    },
    "leaders": {
        "isolate leader": 4, "transfer": 3, "crash leader": 3, "pause leader": 2, "mend": 2, "burst": 2, "storm": 1, "one-way leader": 2,
    },
    "members": {
        "add": 5, "promote": 4, "remove": 4, "two changes": 2, "crash": 2, "isolate": 2, "mend": 2, "transfer": 1, "isolate leader": 1,
        "lonely change": 3,
    },
    "echoes": {"isolate leader": 3, "crash leader": 2, "transfer": 2, "crash": 1, "one-way leader": 2, "burst": 2, "come back": 4},
    "returns": {"come back": 5, "burst": 3, "transfer": 1, "isolate leader": 1, "lag": 1},
    "elections": {"crash leader": 5, "isolate leader": 4, "partition": 4, "pause leader": 1, "cut": 4, "one-way leader": 2},
    "slow disks": {"slow disk": 5, "isolate leader": 4, "transfer": 2, "burst": 4, "crash": 1, "one-way leader": 2},
    "snapshots": {"snapshot": 4, "power": 3, "burst": 5, "lag": 8, "crash": 4, "storm": 1, "slow disk": 1, "crash leader": 1},
    "disks": {"power": 3, "disk error": 3, "disk full": 2, "crash": 3, "slow disk": 3, "blackout": 1, "burst": 2, "snapshot": 2},
    "locks": {
        "stop": 1, "crash": 2, "crash leader": 2, "isolate leader": 2, "transfer": 2, "snapshot": 2, "wall": 3, "pause leader": 1,
        "storm": 1, "burst": 3, "lag": 2, "blackout": 1, "clock": 1, "power": 1,
    },
    "everything": {
        "stop": 1, "isolate": 2, "cut": 2, "partition": 2, "mend": 3, "storm": 2, "burst": 2, "clock": 1, "pause": 1, "crash": 3,
        "power": 2, "blackout": 1, "slow disk": 1, "isolate leader": 2, "transfer": 2, "pause leader": 1, "add": 2, "promote": 2,
        "remove": 1, "two changes": 1, "snapshot": 2, "disk error": 1, "disk full": 1, "wall": 1, "one-way leader": 1,
    },
}  # fmt: skip
"""Profile -> how often each kind of fault is drawn."""


def plan(seed: int, profile: str | None = None) -> Plan:
    """The plan of this seed."""
    rng = random.Random(seed * 7919 + 13)
    name = profile or rng.choice(sorted(PROFILES))
    weights = PROFILES[name]
    setup = Setup(
        voters=rng.choice((3, 3, 5) if name in ("leaders", "slow disks", "echoes") else (3, 3, 3, 5, 5, 4, 2, 1)),
        learners=rng.choice((0, 0, 0, 1)),
        clients=rng.choice((3, 4, 6)),
        operations=rng.choice((6, 8, 10)),
        reads=rng.choice((0.2, 0.4, 0.6)),
        think=rng.choice((10, 30, 60)) * MS,
        padding=rng.choice((20, 80, 300)),
        duration=rng.choice((1200, 1600, 2200)) * MS,
        snapshot_log_bytes=rng.choice((1000, 3000, 100_000)),
        keep_log_bytes=rng.choice((100, 1000, 4000)),
        max_append_bytes=rng.choice((200, 600, 4000)),
        max_inflight_messages=rng.choice((2, 8, 64)),
        disk_max=rng.choice((1, 2, 10, 30)) * MS,
        segment_bytes=rng.choice((4600, 8192, 32768)),
    )
    count = rng.choice((4, 7, 10, 14))
    if name == "snapshots":
        setup = replace(
            setup,
            snapshot_log_bytes=rng.choice((500, 1000)),
            keep_log_bytes=100,
            operations=12,
            reads=0.2,
            segment_bytes=rng.choice((4600, 8192)),
        )
    if name == "locks":
        setup = replace(setup, locks=True, duration=3 * SECOND, think=rng.choice((5, 15, 40)) * MS, operations=15)
    if name == "crashes":  # writes of several sectors
        setup = replace(setup, padding=rng.choice((300, 1500, 3000)), max_append_bytes=6000, disk_max=rng.choice((10, 40)) * MS)
    if name == "returns":
        setup = replace(setup, voters=5, operations=12, reads=0.1, duration=2200 * MS)
    if name == "elections":
        setup = replace(setup, voters=rng.choice((3, 4, 5, 5)), operations=6, think=80 * MS)
        count = 14
    if name in ("echoes", "slow disks"):
        setup = replace(setup, operations=10, reads=0.2)
    kinds, odds = list(weights), list(weights.values())
    faults = [
        Fault(rng.randrange(250 * MS, setup.duration), kind, rng.random(), rng.random(), rng.random())
        for kind in rng.choices(kinds, odds, k=count)
    ]
    if name == "echoes":  # all the time, what was sent long ago keeps coming in
        faults.append(Fault(200 * MS, "echo", rng.random(), rng.random(), rng.random()))
    if name == "returns":  # acknowledgements come late, and again
        faults.append(Fault(200 * MS, "echo", 0.3, 0.3, 0.3))
    if name == "elections":  # answers to candidates come late, and again, and votes take long
        faults.append(Fault(0, "echo", 0.0, 0.3, 0.5 * rng.random()))
    if name in ("slow disks", "elections"):
        faults += [Fault(200 * MS, "slow disk", rng.random(), rng.random(), 1.0) for _ in range(setup.voters)]
    return Plan(seed, name, setup, tuple(sorted(faults, key=lambda fault: fault.at)))


def without(whole: Plan, faults: tuple[Fault, ...]) -> Plan:
    """The same plan with these faults only."""
    return replace(whole, faults=faults)
