"""The long form of the fuzz tests, by hand."""

from __future__ import annotations

import os
import random

import pytest

from lockd.raft.envelope import MAX_FRAME
from tests.unit.raft_shell.test_envelope import MESSAGES, frame, mutate, whatever


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif("LOCKD_SOAK" not in os.environ, reason="long: set LOCKD_SOAK=1 (make soak)")
def test_a_million_mutated_frames() -> None:
    """Of 10^6 frames near to valid ones none does more than raise ValueError, and what decodes is no larger than what was sent allows."""
    seed = int(os.environ.get("LOCKD_SOAK_SEED", "1"))
    rng = random.Random(seed)
    valid = [frame([message]) for message in MESSAGES] + [frame(MESSAGES)]
    decoded = 0
    for _ in range(1_000_000):
        raw = mutate(rng, rng.choice(valid))
        assert len(raw) < MAX_FRAME
        try:
            messages = whatever(raw)
        except ValueError:
            continue
        assert isinstance(messages, list)
        assert len(messages) <= len(raw) // 13
        decoded += 1
    assert decoded > 1000, f"seed {seed}"
