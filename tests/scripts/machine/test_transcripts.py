"""Golden transcripts of the machine, by paragraphs of semantics, sections 2 to 4.

`LOCKD_REWRITE=1` writes them anew: read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scripts.machine.driver import run

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", sorted(path.stem for path in HERE.glob("*.txt")))
def test_transcript(name: str) -> None:
    """The machine answers every block of the transcript with exactly the output that is written there."""
    path = HERE / f"{name}.txt"
    told = path.read_text()
    given = run(told)
    if os.environ.get("LOCKD_REWRITE") == "1":
        path.write_text(given)
    assert given == told


def test_there_is_a_transcript_for_each_paragraph() -> None:
    """None of the transcripts got lost."""
    assert {path.stem for path in HERE.glob("*.txt")} == {
        "2_1_expiry",
        "2_2_new_leader",
        "2_3_retries",
        "2_4_closing",
        "3_01_modes",
        "3_02_all_or_nothing",
        "3_03_queue",
        "3_04_conversions",
        "3_05_tokens",
        "3_06_deadlocks",
        "3_07_lock_delay",
        "3_08_release",
        "3_09_forced_release",
        "3_10_semaphores",
        "3_11_introspection",
        "4_1_rows",
        "4_2_transactions",
        "4_3_commit",
    }
