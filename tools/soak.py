"""Run very many simulated histories in parallel processes, and write down what they went through.

    python tools/soak.py --seeds 100000 --jobs 2 --report docs/reports/sim-soak.md
    python tools/soak.py --start 100000 --seeds 100000 --jobs 2

Stops at the first history that breaks a promise, with its minimised transcript. The report says what was run, not where or when. If it is
ended from outside (SIGTERM, SIGINT, SIGHUP) it says so, and reports the histories until then.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.sim.plans import PROFILES, plan
from tests.sim.run import minimise, report, run

CHUNK = 50
"""Seeds that one process takes at a time."""


def soak_chunk(first: int, count: int) -> tuple[Counter[str], int | None]:
    """Run a few seeds. The statistics, and the first seed that failed."""
    total: Counter[str] = Counter()
    for seed in range(first, first + count):
        outcome = run(plan(seed))
        if outcome.failure is not None:
            return total, seed
        total.update(outcome.statistics)
        total["histories"] += 1
        total[f"profile: {outcome.plan.profile}"] += 1
        del outcome
    gc.collect()
    return total, None


def _star(arguments: tuple[int, int]) -> tuple[Counter[str], int | None]:
    return soak_chunk(*arguments)


def _chunks(start: int, seeds: int) -> Iterator[tuple[int, int]]:
    for first in range(start, start + seeds, CHUNK):
        yield first, min(CHUNK, start + seeds - first)


class EndedError(BaseException):
    """Somebody wants this process to end."""


def _end(number: int, _frame: object) -> None:
    raise EndedError(signal.Signals(number).name)


def _leave_signals_to_the_parent() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def soak(start: int, seeds: int, jobs: int) -> tuple[Counter[str], int | None]:
    """Run seeds in order; stops at the first failure, or when a signal says so: the histories until then are counted."""
    total: Counter[str] = Counter()
    began = shown = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(jobs, _leave_signals_to_the_parent, maxtasksperchild=40) as pool:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _end)
        results = pool.imap(_star, _chunks(start, seeds))
        while True:
            try:
                statistics, failed = next(results)
            except StopIteration:
                break
            except EndedError as ended:
                print(f"ended by {ended} after {total['histories']} histories", flush=True)
                break
            total.update(statistics)
            if failed is not None:
                return total, failed
            now = time.monotonic()
            if now - shown > 10:
                shown = now
                done = total["histories"]
                print(f"{done} of {seeds} histories, {done / (now - began) * 60:.0f} a minute, no promise broken", flush=True)
    return total, None


def page(start: int, total: Counter[str]) -> str:
    """The report: facts of the runs, the same on every machine."""
    seeds = total["histories"]
    lines = [
        "# Soak of the simulation",
        "",
        f"Seeds {start} to {start + seeds - 1}: {seeds} histories, no promise broken.",
        f"Again: `python tools/soak.py --start {start} --seeds {seeds} --jobs 2 --report docs/reports/sim-soak.md`.",
        "",
        "| what the histories went through | count |",
        "|---|---:|",
    ]
    kinds = sorted(name for name in total if name.startswith("fault: "))
    rest = sorted(name for name in total if not name.startswith(("fault: ", "profile: ", "histories")))
    lines += [f"| {name} | {total[name]} |" for name in rest]
    lines += [
        f"| faults in all | {sum(total[name] for name in kinds)} |",
        "",
        "| fault | count |",
        "|---|---:|",
        *(f"| {name.removeprefix('fault: ')} | {total[name]} |" for name in kinds),
        "",
        "| schedule | histories |",
        "|---|---:|",
        *(f"| {name} | {total['profile: ' + name]} |" for name in sorted(PROFILES)),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100_000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    total, failed = soak(options.start, options.seeds, options.jobs)
    if failed is not None:
        outcome = run(plan(failed))
        if outcome.failure is None:
            print(f"seed {failed} failed in its process and not here: the simulation is not deterministic")
            return 2
        print(report(minimise(outcome.plan, outcome.failure)))
        return 1
    print(page(options.start, total))
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(page(options.start, total))
    return 0


if __name__ == "__main__":
    sys.exit(main())
