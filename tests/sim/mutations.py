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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lockd.raft.core import node as core_node
from tests.sim.cluster import Parts
from tests.sim.faults import plan
from tests.sim.run import Outcome, run

CORE = "lockd.raft.core"
MAX_SEEDS = 400
"""A mutation that survives so many histories counts as not caught."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace `old` by `new` in the source of `where` ("module:function" or "module:Class.method")."""

    where: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutation:
    """One deliberate bug."""

    name: str
    group: str
    edits: tuple[Edit, ...] = ()
    profile: str | None = None
    """The kind of schedule to look for it in; None: any."""
    parts: Parts = field(default_factory=Parts)


def _one(name: str, group: str, where: str, old: str, new: str, profile: str | None = None) -> Mutation:
    return Mutation(name, group, (Edit(where, old, new),), profile)


ELECTION = f"{CORE}.election"
REPLICATION = f"{CORE}.replication"
READS = f"{CORE}.reads"
STATE = f"{CORE}.state"

MUTATIONS: tuple[Mutation, ...] = (
    # --- elections
    _one(
        "vote leaves before it is durable",
        "election",
        f"{ELECTION}:on_vote_request",
        "s.then_send.append(VoteReply(",
        "s.out.messages.append(VoteReply(",
    ),
    _one("candidate asks before its own vote is durable", "election", f"{ELECTION}:campaign", "s.then_send +=", "s.out.messages +="),
    _one(
        "term and vote are never written", "election", f"{STATE}:State.finish", "self.written_hard if record else None", "None", "crashes"
    ),
    _one(
        "the vote is written without the candidate",
        "election",
        "lockd.raft.journal_format:encode_hard_state",
        "_NO_VOTE if state.vote is None else len(vote)) + vote",
        "_NO_VOTE)",
        "crashes",
    ),
    _one(
        "two votes in a term",
        "election",
        f"{ELECTION}:on_vote_request",
        "(s.vote == m.sender or (s.vote is None and s.leader is None))",
        "True",
        "elections",
    ),
    _one(
        "votes for any log",
        "election",
        f"{ELECTION}:on_vote_request",
        "fresh = (m.last_term, m.last_index) >= (s.log.last_term, s.log.last_index)",
        "fresh = True",
        "elections",
    ),
    _one(
        "votes by length of the log alone",
        "election",
        f"{ELECTION}:on_vote_request",
        "fresh = (m.last_term, m.last_index) >= (s.log.last_term, s.log.last_index)",
        "fresh = m.last_index >= s.log.last_index",
        "elections",
    ),
    _one(
        "votes of earlier elections are counted",
        "election",
        f"{ELECTION}:on_vote_reply",
        "current = m.term == s.term + 1 if pre_granted else m.pre or m.term == s.term",
        "current = True",
        "elections",
    ),
    Mutation(
        "a pre-vote counts as a vote",
        "election",
        (
            Edit(
                f"{ELECTION}:on_vote_reply",
                "s.role is (Role.PRE_CANDIDATE if m.pre else Role.CANDIDATE)",
                "s.role in (Role.PRE_CANDIDATE, Role.CANDIDATE)",
            ),
            Edit(
                f"{ELECTION}:on_vote_reply",
                "current = m.term == s.term + 1 if pre_granted else m.pre or m.term == s.term",
                "current = True",
            ),
        ),
        "elections",
    ),
    _one(
        "half of the votes is enough",
        "election",
        f"{ELECTION}:_record_vote",
        "len(s.voters) // 2 + 1",
        "max(1, len(s.voters) // 2)",
        "elections",
    ),
    _one(
        "a transfer skips the election",
        "election",
        f"{ELECTION}:on_timeout_now",
        "campaign(s, transfer=True)",
        "campaign(s, transfer=True); _become_leader(s)",
        "leaders",
    ),
    # --- replication and commit
    _one(
        "entries of earlier terms are committed by counting",
        "commit",
        f"{REPLICATION}:advance_commit",
        " and s.log.term_at(index) == s.term",
        "",
        "leaders",
    ),
    _one("a half is a majority", "commit", f"{STATE}:quorum", "(len(values) - 1) // 2", "len(values) // 2"),
    _one(
        "own entries count before they are durable",
        "commit",
        f"{REPLICATION}:advance_commit",
        "s.log.durable if voter == s.id",
        "s.log.last_index if voter == s.id",
    ),
    _one(
        "entries are applied before they are durable",
        "commit",
        f"{STATE}:State.finish",
        "deliverable = min(self.commit, log.durable)",
        "deliverable = self.commit",
    ),
    _one(
        "acknowledged before fsync",
        "commit",
        f"{REPLICATION}:on_append",
        "s.then_send.append(AppendReply(",
        "s.out.messages.append(AppendReply(",
    ),
    _one("a write counts for what overwrote it (ABA)", "commit", f"{CORE}.log:Log._clip", "if self._writes:", "if False:", "slow disks"),
    _one(
        "match moves forward when entries are sent",
        "commit",
        f"{CORE}.progress:Progress.sent",
        "self.next = last + 1",
        "self.next = last + 1; self.match = last",
    ),
    _one(
        "match moves forward on a refusal",
        "commit",
        f"{REPLICATION}:_refused",
        "if m.match <= peer.match:",
        "peer.match = m.match\n    if False:",
        "network",
    ),
    _one(
        "match moves back",
        "commit",
        f"{CORE}.progress:Progress.acknowledged",
        "if match <= self.match:",
        "if match == self.match:",
        "network",
    ),
    _one("acknowledgements of earlier terms count", "commit", f"{REPLICATION}:on_append_reply", "m.term != s.term or ", "", "returns"),
    _one("every append truncates", "commit", f"{REPLICATION}:_resolve", "if term != entry.term:", "if True:", "network"),
    _one(
        "what comes before is not compared",
        "commit",
        f"{REPLICATION}:on_append",
        "elif log.term_at(previous) != m.prev_term:",
        "elif log.term_at(previous) is None:",
        "leaders",
    ),
    _one(
        "followers commit beyond what matches",
        "commit",
        f"{REPLICATION}:on_append",
        "min(m.commit, last)",
        "min(m.commit, log.last_index)",
        "leaders",
    ),
    _one("leaders of earlier terms are obeyed", "commit", f"{REPLICATION}:_follow", "if m.term < s.term:", "if False:", "echoes"),
    _one("a leader never backs up", "commit", f"{REPLICATION}:_refused", "if m.match <= peer.match:", "if True:", "leaders"),
    # --- membership
    _one(
        "two membership changes at once",
        "membership",
        f"{REPLICATION}:_check_membership",
        "s.history.latest_index > s.commit",
        "False",
        "members",
    ),
    _one(
        "a membership change before a commit in the own term",
        "membership",
        f"{REPLICATION}:_check_membership",
        "s.commit < s.term_start",
        "False",
        "members",
    ),
    _one(
        "learners are counted",
        "membership",
        f"{STATE}:State.members_changed",
        "voters_of(membership)",
        "tuple(m.id for m in membership.members)",
        "members",
    ),
    _one(
        "a truncated membership stays in force",
        "membership",
        f"{REPLICATION}:_resolve",
        "if s.history.truncate_from(entry.index):",
        "if False:",
        "members",
    ),
    # --- reads
    _one(
        "the leader answers reads without asking",
        "reads",
        f"{READS}:on_read",
        "s.reads.waiting.append((context, None))",
        "s.answer_read(context, s.commit)",
        "leaders",
    ),
    Mutation(
        "reads before the no-op is committed",
        "reads",
        (
            Edit(f"{READS}:advance", " and s.commit >= s.term_start", ""),
            Edit(f"{REPLICATION}:broadcast", " and s.commit >= s.term_start", ""),
        ),
        "leaders",
    ),
    _one(
        "an echo of any round confirms",
        "reads",
        f"{READS}:advance",
        "reads.confirming[0][0] <= echoed",
        "reads.confirming[0][0] <= s.round",
        "leaders",
    ),
    _one(
        "followers read on their own",
        "reads",
        f"{READS}:on_read",
        "elif s.leader is None:",
        "elif True:\n        s.answer_read(context, s.commit)\n    elif s.leader is None:",
    ),
    _one(
        "a read does not wait for what it must see",
        "reads",
        "lockd.raft.driver:Driver._read_confirmed",
        "if state.index > self.applied:",
        "if False:",
    ),
    # --- sessions, tickets
    Mutation("no deduplication", "sessions", parts=Parts(dedup=False)),
    _one(
        "sessions are not in the snapshot",
        "sessions",
        "tests.sim.register:Register.dump",
        "for session in sorted(self.sessions)",
        "for session in ()",
        "snapshots",
    ),
    _one(
        "lost proposals are not abandoned",
        "sessions",
        "lockd.raft.driver_tickets:Tickets.abandon",
        "return tickets",
        "return []",
        "leaders",
    ),
    Mutation(
        "a lost reign is not noticed, and results go by index, whatever the term",
        "sessions",
        (
            Edit("lockd.raft.driver_tickets:Tickets.match", "entries[stop - 1].term != run.term", "False"),
            Edit("lockd.raft.driver:Driver._role_changed", "if was_leader and not same_reign:", "if False:"),
        ),
        "leaders",
    ),
    _one("failed reads are not told", "sessions", "lockd.raft.driver:Driver._carry_out", "callback(None)", "pass", "leaders"),
    # --- snapshots
    _one("a snapshot replaces newer state", "snapshots", f"{REPLICATION}:on_install", "if meta.index > s.commit:", "if True:", "snapshots"),
    _one(
        "an installed snapshot does not reach the state",
        "snapshots",
        "lockd.raft.driver:Driver._install",
        "self.machine.restore(source, meta.index)",
        "pass",
        "snapshots",
    ),
    _one(
        "entries are applied again after a snapshot",
        "snapshots",
        f"{STATE}:State.install",
        "self.commit = self.delivered = meta.index",
        "self.commit = meta.index",
        "snapshots",
    ),
    _one(
        "a snapshot is installed without cutting the journal",
        "snapshots",
        "lockd.raft.journal:Journal.write_many",
        "if write.snapshot is not None:",
        "if False:",
        "snapshots",
    ),
    Mutation(
        "the snapshot is adopted before the journal is cut",
        "snapshots",
        (
            Edit("lockd.raft.recovery:Store.write_many", "self.journal.write_many(writes)\n", "pass\n"),
            Edit(
                "lockd.raft.recovery:Store.write_many",
                "            self._guard(write.snapshot)\n",
                "            self._guard(write.snapshot)\n    self.journal.write_many(writes)\n",
            ),
        ),
        "snapshots",
    ),
    _one(
        "the journal forgets what no snapshot covers",
        "snapshots",
        "lockd.raft.driver:Driver.snapshot_taken",
        "self.io.compact(keep_from)",
        "self.io.compact(self.node.last_index + 1)",
        "snapshots",
    ),
    _one(
        "the log is dropped before the snapshot is durable",
        "snapshots",
        "lockd.raft.driver:Driver._begin_snapshot",
        "self.io.take_snapshot(",
        "self.io.compact(meta.index + 1); self.io.take_snapshot(",
        "snapshots",
    ),
    # --- disk
    _one("the journal is not synced", "disk", "lockd.raft.journal:Journal._append", "file.sync()", "pass", "crashes"),
    _one("recovery does not sync what it read", "disk", "lockd.raft.journal:Journal._settle", "file.sync()", "pass", "crashes"),
    _one(
        "the name of a new segment is not synced",
        "disk",
        "lockd.raft.journal:Journal._begin_segment",
        "self._disk.sync()",
        "pass",
        "crashes",
    ),
    _one(
        "a new snapshot is not synced", "disk", "lockd.raft.snapshots_format:SnapshotSink.finish", "self._file.sync()", "pass", "snapshots"
    ),
    _one(
        "a torn tail is believed",
        "disk",
        "lockd.raft.journal_format:batch_at",
        "google_crc32c.value(raw[start:stop]) != head[2] or ",
        "",
        "crashes",
    ),
    _one(
        "a failed write is taken for durable",
        "disk",
        "lockd.raft.journal:Journal.write_many",
        "raise JournalFailedError(self.failed) from error",
        "self.failed = None",
        "disks",
    ),
)


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
        "from seed 0 on until one fails. *Seeds* is how many that took, *schedule* the profile of `tests/sim/faults.py` that was used.",
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
