"""Plays every transcript of this folder and compares the whole output. LOCKD_REWRITE=1 rewrites them, for a reader to review."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scripts.raft.driver import play

TRANSCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_machines_do_what_the_transcript_says(path: Path) -> None:
    """Given the commands of a transcript, the machines answer what it records, to the letter."""
    text = path.read_text()
    played = play(text)
    if os.environ.get("LOCKD_REWRITE") == "1":
        path.write_text(played)
        return
    assert played == text


def test_there_are_transcripts() -> None:
    """The folder is found: a renamed or empty folder would otherwise pass in silence."""
    assert len(TRANSCRIPTS) >= 10
