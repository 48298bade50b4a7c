"""The examples run as their first lines say, against a real cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lockd_client.testing import LocalCluster

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SAYS = {
    "five_minute_lock.py": "done: six turns, one after another",
    "fenced_writer.py": "the row still says: written by the second client",
    "bank_transfer.py": "payment under a lock: CREATED",
}


@pytest.mark.parametrize("name", sorted(SAYS))
def test_an_example_runs(shared_cluster: LocalCluster, name: str) -> None:
    """The example ends well, and says what it set out to show."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), shared_cluster.endpoints], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert SAYS[name] in done.stdout
