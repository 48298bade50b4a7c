"""A short selection of chaos against real nodes; `python -m chaos matrix` runs all of it."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from chaos.__main__ import summary
from chaos.checkers.verdict import Verdict
from chaos.node import CannotRunError
from chaos.run import Plan, run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SEED = int(os.environ.get("CHAOS_SEED", random.SystemRandom().randrange(1 << 31)))

SELECTION = [
    ("lock", ("partition-leader",), 3, 6.0),
    ("bank", ("kill-leader", "lossy-links"), 3, 6.0),
    ("register", ("partition-halves", "transfer"), 5, 6.0),
    ("list-append", ("storm",), 3, 6.0),
]


@pytest.mark.parametrize(("workload", "nemesis", "nodes", "seconds"), SELECTION, ids=[f"{w}-{'-'.join(n)}" for w, n, *_ in SELECTION])
async def test_what_was_promised_holds_under_faults(
    workload: str, nemesis: tuple[str, ...], nodes: int, seconds: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under faults, by a seed that is printed, the history is judged ok: nothing that was promised is broken, and the cluster recovers."""
    with capsys.disabled():
        print(f"\nchaos seed {SEED}: {workload} under {', '.join(nemesis)}", flush=True)
    result = await run(Plan(workload, nemesis, nodes, seconds, SEED), tmp_path / "run")
    said = summary(result.history, result.judgements)
    assert result.verdict is Verdict.OK, f"{said}\nhistory: {result.path}"
    assert any(fault.phase == "begin" for fault in result.history.faults), said


async def test_a_run_leaves_no_process_behind(tmp_path: Path) -> None:
    """Neither a run that ends nor one that cannot begin leaves a node or a proxy running."""
    directory = tmp_path / "run"
    marked = SEED + (1 << 32)
    await run(Plan("register", (), 1, 0.5, marked), directory)
    with pytest.raises(CannotRunError):
        await run(Plan("register", (), 1, 0.5, marked, engine="no such engine"), tmp_path / "other")
    left = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(tmp_path) in command or f"chaos.proxy {marked}" in command:
                left.append(command)
    assert left == []
