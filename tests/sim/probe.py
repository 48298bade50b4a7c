"""What is looked at: a node whose every step is shown to the invariants, and what is remembered to judge the next step by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lockd.raft.core.membership import decode_membership
from lockd.raft.core.node import Node
from lockd.raft.core.types import (
    AppendReply,
    Entry,
    EntryKind,
    Input,
    Nanos,
    Output,
    ProposeMembership,
    Read,
    Receive,
    Restored,
    Role,
    Write,
)
from tests.sim.invariants import Shadow
from tests.sim.world import SimulationError

if TYPE_CHECKING:
    from tests.sim.replica import Replica


class CheckedNode(Node):
    """The production node, with every step shown to the invariants."""

    probe: Probe

    def step(self, now: Nanos, input: Input) -> Output:  # noqa: A002
        """Step, and look."""
        probe = self.probe
        was_leader, before = self.role is Role.LEADER, self.term
        output = super().step(now, input)
        probe.stepped(self, input, output, was_leader=was_leader, term_before=before)
        return output


class Probe:
    """What is remembered of one process life, to judge the next step by."""

    __slots__ = ("applied", "commit", "contexts", "durable", "log", "matches", "memberships", "replica")

    def __init__(self, replica: Replica, restored: Restored) -> None:
        self.replica = replica
        self.applied = restored.snapshot.index
        self.commit = restored.snapshot.index
        snapshot, terms = restored.snapshot, [entry.term for entry in restored.entries]
        self.log = Shadow(snapshot.index, snapshot.term, list(terms), restored.hard_state)
        self.durable = Shadow(snapshot.index, snapshot.term, terms, restored.hard_state)
        self.contexts: dict[int, int] = {}
        """Reads by context: what was committed when they were asked for."""
        self.matches: dict[str, tuple[int, int]] = {}
        """As leader: (term, match) of each peer."""
        self.memberships = [(snapshot.index, snapshot.membership)]
        """What the log says, by index: the last is in force, committed or not."""
        self._add_memberships(restored.entries)

    def _add_memberships(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.kind is EntryKind.MEMBERSHIP:
                self.memberships.append((entry.index, decode_membership(entry.data)))

    def _follow_memberships(self, write: Write) -> None:
        if write.snapshot is not None:
            self.memberships = [(write.snapshot.index, write.snapshot.membership)]
        if write.entries:
            first = write.entries[0].index
            while len(self.memberships) > 1 and self.memberships[-1][0] >= first:
                self.memberships.pop()
            self._add_memberships(write.entries)

    def stepped(self, node: Node, item: Input, output: Output, *, was_leader: bool, term_before: int) -> None:
        """Look at one step."""
        replica = self.replica
        cluster = replica.cluster
        invariants = cluster.invariants
        name = replica.name
        if type(item) is Read:
            self.contexts[item.context] = invariants.frontier
        if node.term < term_before:
            raise SimulationError("terms never go back", f"{name} went from term {term_before} to {node.term}")
        leads = node.role is Role.LEADER
        if leads and not (was_leader and node.term == term_before):
            invariants.became_leader(name, node.term, self.log, node.membership, self.durable.hard_state)
            cluster.world.note("LEADER", name, f"term {node.term}")
        if output.role is not None:
            invariants.follows(name, node.leader, node.term)
        commit, commit_before = node.commit, self.commit
        if commit != self.commit:
            if commit < self.commit:
                raise SimulationError("commit never goes back", f"{name} went from {self.commit} to {commit}")
            if leads or (was_leader and node.term == term_before):
                invariants.leader_committed(name, node.term, commit, node.term_at(commit), node.membership, cluster.durable)
            elif commit > invariants.frontier:
                raise SimulationError("followers commit what leaders committed", f"{name} commits {commit}, leaders {invariants.frontier}")
            self.commit = commit
        same_reign = was_leader and leads and node.term == term_before
        if output.write is not None:
            write = output.write
            invariants.appended(name, write, self.log, commit_before, leads=same_reign)
            if type(item) is ProposeMembership:
                invariants.changing(name, write, self.log, commit_before, node.term, self.memberships[-1][0])
            self.log.carry_out(write)
            self._follow_memberships(write)
            if node.membership != self.memberships[-1][1]:
                raise SimulationError("membership is the log's", f"{name} is in {node.membership}, its log says {self.memberships[-1]}")
        if type(item) is Receive and same_reign and type(item.message) is AppendReply:
            peer = item.message.sender
            progress = node.progress.get(peer)
            if progress is not None:
                term, before = self.matches.get(peer, (0, 0))
                before = before if term == node.term else 0
                match = progress.match
                if match != before:
                    invariants.believes(name, node.term, peer, match, node.term_at(match), before, cluster.durable.get(peer))
                    self.matches[peer] = (node.term, match)
        if output.install is not None:
            self.applied = output.install.index
        if output.committed:
            self.applied = invariants.handed_out(name, output.committed, self.applied, self.durable)
        if output.reads:
            for state in output.reads:
                floor = self.contexts.pop(state.context, 0)
                if state.index < floor:
                    raise SimulationError("read index", f"{name} may read at {state.index}; {floor} was committed before it asked")
