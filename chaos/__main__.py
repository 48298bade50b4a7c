"""`python -m chaos`: run, list, check, report, matrix. Exit codes: 0 ok, 1 violation, 2 unknown, 3 could not run."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from chaos import report
from chaos.checkers.verdict import Judgement, Verdict, worst
from chaos.history import History, HistoryError, Outcome, read
from chaos.nemesis.base import CannotRunError
from chaos.nemesis.catalogue import CATALOGUE as NEMESES
from chaos.run import Plan, Result, check_history, run
from chaos.workloads.catalogue import CATALOGUE as WORKLOADS

EXIT: Final = {Verdict.OK: 0, Verdict.VIOLATION: 1, Verdict.UNKNOWN: 2}
CANNOT_RUN: Final = 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos", description="Faults on a real cluster, judged from its history alone.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("run", "one workload under some nemeses"), ("matrix", "every workload under every nemesis")):
        command = commands.add_parser(name, help=about)
        if name == "run":
            command.add_argument("--workload", required=True, help=", ".join(WORKLOADS))
            command.add_argument("--nemesis", default="none", help="one or more, by commas; see `list`")
            command.add_argument("--seed", type=int, default=None, help="default: by chance, printed")
        else:
            command.add_argument("--workloads", default=",".join(WORKLOADS))
            command.add_argument("--nemeses", default=",".join(("none", *NEMESES)))
            command.add_argument("--seed", type=int, default=0)
            command.add_argument("--summary", type=Path, help="write the table to this file (Markdown)")
        command.add_argument("--nodes", type=int, choices=(1, 3, 5), default=3)
        command.add_argument("--time", type=float, default=30.0, dest="seconds", help="seconds of faults")
        command.add_argument("--mode", default="processes", choices=("processes", "netns", "containers", "external"))
        command.add_argument("--clients", type=int, default=6)
        command.add_argument("--ttl", type=float, default=2.0, help="seconds that sessions live")
        command.add_argument("--engine", default="core", choices=("core", "pysyncobj"))
        command.add_argument("--out", type=Path, help="directory for histories, logs and reports; default: a new temporary one")
    commands.add_parser("list", help="what can be asked for")
    for name, about in (("check", "judge a saved history again"), ("report", "write the page of a saved history")):
        command = commands.add_parser(name, help=about)
        command.add_argument("history", type=Path)
        if name == "report":
            command.add_argument("--out", type=Path, help="default: report.html beside the history")
    return parser


def summary(history: History, judgements: Sequence[Judgement]) -> str:
    """The verdict and what it rests on, for a terminal."""
    counts = {outcome: sum(1 for op in history.ops if op.outcome is outcome) for outcome in Outcome}
    outcomes = ", ".join(f"{n} {o.value}" for o, n in counts.items())
    faults = sum(f.phase == "begin" for f in history.faults)
    lines = [f"{len(history.ops)} operations ({outcomes}), {faults} faults, {len(history.leaders)} leaders"]
    for each in judgements:
        figures = ", ".join(f"{k} {v}" for k, v in each.figures.items())
        lines.append(
            f"  {each.verdict.value:<10} {each.checker}{f' ({figures})' if figures else ''}{f': {each.reason}' if each.reason else ''}"
        )
        lines.extend(f"             {finding.rule}: {finding.text}" for finding in each.findings[:5])
    verdict = worst(j.verdict for j in judgements)
    lines += [f"verdict: {verdict.value}", f"again: {history.header.command()}"]
    return "\n".join(lines)


def _one(plan: Plan, directory: Path) -> Result:
    result = asyncio.run(run(plan, directory))
    report.write(result.history, result.judgements, directory / "report.html")
    return result


def _run(arguments: argparse.Namespace) -> int:
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 31)
    names = tuple(n for n in arguments.nemesis.split(",") if n and n != "none")
    plan = _plan(arguments, arguments.workload, names, seed)
    directory = arguments.out or Path(tempfile.mkdtemp(prefix="lockd-chaos-"))
    print(f"seed {seed}, {directory}", flush=True)
    result = _one(plan, directory)
    print(summary(result.history, result.judgements))
    print(f"report: {directory / 'report.html'}")
    return EXIT[result.verdict]


def _plan(arguments: argparse.Namespace, workload: str, nemesis: tuple[str, ...], seed: int) -> Plan:
    a = arguments
    return Plan(workload, nemesis, a.nodes, a.seconds, seed, a.mode, a.clients, a.ttl, a.engine)


def _matrix(arguments: argparse.Namespace) -> int:
    """Every combination, one after the other; goes on after a violation."""
    directory = arguments.out or Path(tempfile.mkdtemp(prefix="lockd-chaos-"))
    print(f"seed {arguments.seed}, {directory}", flush=True)
    rows = [
        "| workload | nemesis | nodes | seconds | seed | operations | unknown | leaders | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    codes = []
    for workload in arguments.workloads.split(","):
        for nemesis in arguments.nemeses.split(","):
            names = tuple(n for n in nemesis.split("+") if n != "none")
            begin = time.monotonic()
            place = f"{workload}/{nemesis}"
            try:
                result = _one(_plan(arguments, workload, names, arguments.seed), directory / workload / nemesis)
            except CannotRunError as error:
                codes.append(CANNOT_RUN)
                rows.append(
                    f"| {workload} | {nemesis} | {arguments.nodes} | {arguments.seconds:g} | {arguments.seed} | | | | could not run |"
                )
                print(f"{place}: could not run: {error}", flush=True)
                continue
            codes.append(EXIT[result.verdict])
            ops = result.history.ops
            unknown = sum(o.unknown and not o.kind.startswith("~") for o in ops)
            rows.append(
                f"| {workload} | {nemesis} | {arguments.nodes} | {arguments.seconds:g} | {arguments.seed} "
                f"| {len(ops)} | {unknown} | {len(result.history.leaders)} | {result.verdict.value} |"
            )
            print(f"{place}: {result.verdict.value}, {len(ops)} operations, {time.monotonic() - begin:.0f} s", flush=True)
            if result.verdict is not Verdict.OK:
                print(summary(result.history, result.judgements), flush=True)
    if arguments.summary is not None:
        arguments.summary.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return next((code for code in (1, 3, 2) if code in codes), 0)


def _list() -> int:
    for title, kinds in (("workloads", WORKLOADS), ("nemeses", NEMESES)):
        print(f"{title}:")
        for name, kind in kinds.items():
            print(f"  {name:<20} {kind.about}")
    return 0


def _saved(arguments: argparse.Namespace) -> int:
    history = read(arguments.history)
    judgements = check_history(history)
    if arguments.command == "report":
        target = arguments.out or arguments.history.with_name("report.html")
        report.write(history, judgements, target)
        print(f"report: {target}")
    else:
        print(summary(history, judgements))
    return EXIT[worst(j.verdict for j in judgements)]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "list":
            return _list()
        if arguments.command == "run":
            return _run(arguments)
        if arguments.command == "matrix":
            return _matrix(arguments)
        return _saved(arguments)
    except (CannotRunError, HistoryError, ValueError, OSError) as error:
        print(f"could not run: {error}", file=sys.stderr)
        return CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main())
