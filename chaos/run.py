"""One run: a cluster, a workload, nemeses, a history, a verdict."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chaos.checkers import convergence
from chaos.checkers.verdict import Finding, Judgement, Verdict, judge, worst
from chaos.cluster import Cluster
from chaos.history import Header, History, Outcome, Recorder, read
from chaos.nemesis.base import CannotRunError, Nemesis, World, check_machine
from chaos.nemesis.catalogue import find as find_nemeses
from chaos.workloads.base import Context, Workload
from chaos.workloads.catalogue import find as find_workload

CALM: Final = 2.0
"""Seconds that clients go on after the heal, so that the recovery is in the history."""
RECOVERY: Final = 30.0
"""Seconds after the heal in which the cluster must lead and agree again."""
_LAST_CALLS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    workload: str
    nemesis: tuple[str, ...] = ()
    nodes: int = 3
    seconds: float = 30.0
    seed: int = 0
    mode: str = "processes"
    clients: int = 6
    ttl: float = 2.0
    engine: str = "core"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it."""

    history: History
    judgements: tuple[Judgement, ...]
    path: Path

    @property
    def verdict(self) -> Verdict:
        """The worst of all."""
        return worst(j.verdict for j in self.judgements)


def check_history(history: History) -> tuple[Judgement, ...]:
    """Judge a history by its workload's checkers and those of every run. Raises ValueError for a workload that is not known."""
    own = find_workload(history.header.workload).judge(history)
    return (*own, _survived(history), _recovered(history))


def _survived(history: History) -> Judgement:
    """No node ended by itself, unless its disk was made to fail."""
    exits = [f for f in history.faults if f.name == "exit"]
    return judge("nodes", [Finding("node ended", f.detail) for f in exits])


def _recovered(history: History) -> Judgement:
    """After the heal there is a leader, all replicas are in the same state, and every call had ended in time."""
    findings = [Finding("recovery", f.detail) for f in history.faults if f.name == "recovery"]
    findings += [Finding("overdue", f.detail) for f in history.faults if f.name == "overdue"]
    hashes = {op.key: op.result for op in history.of("state_hash") if op.ok and op.result}
    same = convergence.check_equal(hashes)
    return judge("recovery", [*findings, *same.findings], replicas=len(hashes))


async def run(plan: Plan, directory: Path) -> Result:
    """Run it; logs, data and `history.jsonl` go to `directory`. Raises CannotRunError, ValueError."""
    if plan.mode != "processes":
        raise CannotRunError(f"mode {plan.mode} is not there: this build runs processes behind the fault proxy only")
    kinds = find_nemeses(list(plan.nemesis))
    workload_kind = find_workload(plan.workload)
    check_machine(kinds)
    await asyncio.to_thread(_fresh, directory)
    settings: dict[str, Any] = {"engine": plan.engine}
    for kind in kinds:
        settings |= kind.settings
    path = directory / "history.jsonl"
    options = {"clients": plan.clients, "ttl": plan.ttl, "engine": plan.engine}
    header = Header(plan.workload, plan.nemesis, plan.nodes, plan.seconds, plan.seed, plan.mode, time.monotonic_ns(), options)
    moving = any(kind.clock for kind in kinds)
    cluster = Cluster(plan.nodes, directory / "nodes", settings=settings, movable_clock=moving, seed=str(plan.seed))
    async with cluster:
        with Recorder(path, header) as recorder:
            cluster.on_leader = recorder.leader
            cluster.on_exit = lambda name, code, log: recorder.fault("exit", "note", f"{name} ended with {code}: {log}")
            recorder.leader(cluster.leader_name, cluster.term)
            context = Context(cluster, recorder, str(plan.seed), plan.ttl, plan.clients, moving)
            await _work(plan, workload_kind(context), kinds, recorder)
    history = read(path)
    return Result(history, await asyncio.to_thread(check_history, history), path)


def _fresh(directory: Path) -> None:
    """Data of another run would be another cluster's. Raises CannotRunError."""
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise CannotRunError(f"{directory} is not empty: a run needs a directory of its own")


async def _work(plan: Plan, workload: Workload, kinds: Sequence[type[Nemesis]], recorder: Recorder) -> None:
    """Set up, break, heal, look."""
    context, cluster = workload.context, workload.context.cluster
    try:
        await workload.setup()
    except TimeoutError as error:
        raise CannotRunError(str(error)) from error
    clients = [asyncio.ensure_future(_guarded(client)) for client in workload.clients()]
    until = asyncio.get_running_loop().time() + plan.seconds
    try:
        await _break(plan, kinds, context, until)
        recorder.fault("heal", "note")
        await cluster.heal()
        leads = await cluster.wait_leader(RECOVERY)
        await asyncio.sleep(CALM)
        context.stop.set()
        _, late = await asyncio.wait(clients, timeout=_LAST_CALLS)
        for task in late:
            recorder.fault("overdue", "note", "a client did not come to its end")
            task.cancel()
        failures = [e for e in await asyncio.gather(*clients, return_exceptions=True) if isinstance(e, Exception)]
        if failures:
            raise failures[0]
        if leads:
            await _look(workload, recorder)
        else:
            recorder.fault("recovery", "note", f"no leader {RECOVERY:g} s after the heal: {await cluster.describe()}")
    finally:
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, *context.closing, return_exceptions=True)


async def _guarded(client: Awaitable[None]) -> None:
    await client


async def _break(plan: Plan, kinds: Sequence[type[Nemesis]], context: Context, until: float) -> None:
    """Let all nemeses strike until then."""
    worlds = [
        World(context.cluster, context.recorder, random.Random(f"{plan.seed}/{kind.name}"), plan.ttl)  # noqa: S311 - seeded chance
        for kind in kinds
    ]
    async with asyncio.TaskGroup() as group:
        for kind, world in zip(kinds, worlds, strict=True):
            group.create_task(kind(world).run(until))
    await asyncio.sleep(max(0.0, until - asyncio.get_running_loop().time()))


async def _look(workload: Workload, recorder: Recorder) -> None:
    """What is there in the end: the workload's own view, and every replica's hash of its state."""
    try:
        await workload.final()
    except TimeoutError as error:
        recorder.fault("recovery", "note", str(error))
    hashes = await workload.context.cluster.state_hashes(RECOVERY)
    behind = sorted(name for name, value in hashes.items() if not value)
    if behind:
        recorder.fault("recovery", "note", f"{', '.join(behind)} did not catch up within {RECOVERY:g} s after the heal")
    positions = {value.partition("@")[2] for value in hashes.values() if value}
    if len(positions) == 1:
        for name, value in hashes.items():
            if value:
                op = recorder.invoke("final", "state_hash", name)
                recorder.complete(op, Outcome.OK, value)
