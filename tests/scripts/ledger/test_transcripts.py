"""Golden transcripts of the ledger, by paragraphs of its specification. `LOCKD_REWRITE=1` writes them anew: read the difference."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scripts.ledger.driver import run

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", sorted(path.stem for path in HERE.glob("*.txt")))
def test_transcript(name: str) -> None:
    """The machine answers every command of the transcript with exactly the output that is written there."""
    path = HERE / f"{name}.txt"
    told = path.read_text()
    given = run(told)
    if os.environ.get("LOCKD_REWRITE") == "1":
        path.write_text(given)
    assert given == told


def test_there_is_a_transcript_for_each_paragraph() -> None:
    """None of the transcripts got lost."""
    assert {path.stem for path in HERE.glob("*.txt")} == {
        "accounts",
        "balancing",
        "chains",
        "closing",
        "expiry",
        "failed_ids",
        "history",
        "imported",
        "limits",
        "retries",
        "timestamps",
        "two_phase",
    }
