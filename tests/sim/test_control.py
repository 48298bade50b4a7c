"""The control: the simulation finds what the published PySyncObj loses. If it did not, its silence on our core would mean nothing."""

from __future__ import annotations

from tests.sim import pysyncobj_control

SEEDS = range(24)


def test_the_published_pysyncobj_loses_acknowledged_writes() -> None:
    """Within a bounded number of seeds, a write that was acknowledged is in no log that still counts, though no disk lost anything."""
    losses = []
    for seed in SEEDS:
        verdict = pysyncobj_control.run(seed)
        if verdict.lost:
            losses.append(verdict)
            break
    assert losses, f"none of the seeds {SEEDS} lost a write: the control is not what it was, or the simulation has gone blind"


def test_the_control_is_reproducible() -> None:
    """A seed of the control shows the same run twice."""
    assert pysyncobj_control.run(3) == pysyncobj_control.run(3)


def test_a_quiet_schedule_loses_nothing() -> None:
    """Without faults the same harness reports no loss and every write: what it reports elsewhere is not of its own making."""
    control = pysyncobj_control.Control(5)
    control.delay = control.byte_time = 0
    with pysyncobj_control.virtual(control):
        verdict = control.run(faults=False)
    assert verdict.lost == ()
    assert verdict.settled
    assert verdict.acknowledged == verdict.asked > 100
