"""Deliberate bugs, one at a time: the simulation must catch every one, or it proves nothing.

A mutation is an edit of the source of one function or more, made in memory while the mutation is on: production code has no hooks for this.
If the text to be edited is no longer there, that is an error, so the list cannot rot unnoticed. Left out are bugs that cost no promise but
time (no pre-vote, no stickiness, slow backtracking); `tests.sim.test_sim` has its own test of disturbance.

    python -m tests.sim.mutations                                     what catches each, and after how many seeds
    python -m tests.sim.mutations --report docs/reports/sim-mutations.md
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import inspect
import sys
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockd.raft.core import node as core_node
from tests.sim.mutation_list import MUTATIONS, Mutation
from tests.sim.plans import plan
from tests.sim.run import Outcome, run

MAX_SEEDS = 400
"""A mutation that survives so many histories counts as not caught."""


# --- switching on ---------------------------------------------------------------------------------------------------------------------


def _edited(function: Any, edits: list[tuple[str, str]], where: str) -> Any:
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in edits:
        if old not in source:
            raise LookupError(f"{where} no longer contains {old!r}")
        source = source.replace(old, new)
    code = compile("from __future__ import annotations\n" + source, f"<mutation of {where}>", "exec")
    # The function sees its module as it is, including what other mutations of the same bug have replaced there.
    space: dict[str, Any] = {}
    exec(code, function.__globals__, space)
    return space[function.__name__]


def _holders(function: Any) -> list[tuple[Any, str]]:
    """(module or table, key) wherever this function is known by name."""
    found: list[tuple[Any, str]] = []
    for name in sorted(sys.modules):
        if name.startswith(("lockd.raft", "tests.sim")):
            module = sys.modules[name]
            found += [(module, key) for key, value in vars(module).items() if value is function]
    return found


@contextlib.contextmanager
def switched_on(mutation: Mutation) -> Iterator[None]:
    """Make the edits, and unmake them at the end."""
    grouped: dict[str, list[tuple[str, str]]] = {}
    for edit in mutation.edits:
        grouped.setdefault(edit.where, []).append((edit.old, edit.new))
    undo: list[tuple[Any, Any, Any]] = []
    tables: list[tuple[dict[Any, Any], Any, Any]] = []
    try:
        for where, edits in grouped.items():
            module_name, _, path = where.partition(":")
            owner: Any = importlib.import_module(module_name)
            *classes, name = path.split(".")
            for part in classes:
                owner = getattr(owner, part)
            function = inspect.getattr_static(owner, name)
            new = _edited(function, edits, where)
            if not isinstance(function, types.FunctionType):
                raise LookupError(f"{where} is no plain function")
            for holder, key in [(owner, name)] if classes else _holders(function):
                undo.append((holder, key, function))
                setattr(holder, key, new)
            for table in (core_node._INPUTS, core_node._MESSAGES):
                for kind, handler in list(table.items()):
                    if handler is function:
                        tables.append((table, kind, handler))
                        table[kind] = new
        yield
    finally:
        for holder, key, function in reversed(undo):
            setattr(holder, key, function)
        for table, kind, handler in reversed(tables):
            table[kind] = handler


@dataclass(frozen=True, slots=True)
class Catch:
    """How a mutation was caught."""

    mutation: Mutation
    seeds: int
    """Histories needed, counting the one that failed; 0: not caught."""
    outcome: Outcome | None


def hunt(mutation: Mutation, start: int = 0, limit: int = MAX_SEEDS) -> Catch:
    """Run seed after seed with the mutation on, until one fails."""
    with switched_on(mutation):
        for seed in range(start, start + limit):
            outcome = run(plan(seed, mutation.profile), mutation.parts)
            if outcome.failure is not None:
                return Catch(mutation, seed - start + 1, outcome)
            if seed % 20 == 19:
                del outcome
                gc.collect()
    return Catch(mutation, 0, None)


# --- report ---------------------------------------------------------------------------------------------------------------------------


def report(catches: list[Catch]) -> str:
    """The table, as a page of documentation."""
    caught = sum(1 for catch in catches if catch.seeds)
    lines = [
        "# Deliberate bugs and what catches them",
        "",
        "Written by `python -m tests.sim.mutations --report docs/reports/sim-mutations.md`. Each bug is switched on alone; histories run",
        "from seed 0 on until one fails. *Seeds* is how many that took, *schedule* the profile of `tests/sim/plans.py` that was used.",
        "",
        f"{caught} of {len(catches)} caught.",
        "",
        "| group | bug | schedule | seeds | caught by the check |",
        "|---|---|---|---:|---|",
    ]
    for catch in catches:
        mutation = catch.mutation
        check = catch.outcome.failure.check if catch.outcome is not None and catch.outcome.failure is not None else "**not caught**"
        lines.append(f"| {mutation.group} | {mutation.name} | {mutation.profile or 'any'} | {catch.seeds or '-'} | {check} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--only", help="part of a mutation's name")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--limit", type=int, default=MAX_SEEDS)
    options = parser.parse_args(arguments)
    catches: list[Catch] = []
    for mutation in MUTATIONS:
        if options.only and options.only not in mutation.name:
            continue
        catch = hunt(mutation, options.start, options.limit)
        catches.append(catch)
        verdict = catch.outcome.failure if catch.outcome is not None else "NOT CAUGHT"
        print(f"{catch.seeds:>4}  {mutation.name}: {str(verdict)[:160]}", flush=True)
        gc.collect()
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(report(catches))
    return any(catch.seeds == 0 for catch in catches)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
