"""The published PySyncObj node, with the parts around its consensus replaced and the consensus itself left as it is.

What is replaced: the journal, the serializer of full dumps, the transport, the queue of commands and how committed entries are applied.
What is left: elections, votes, appends, truncation, acknowledgements, the commit rule. The package has no seam for most of this, so names
are used that it keeps private; that is why the version is pinned and checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import pysyncobj.syncobj as package
from pysyncobj.config import FAIL_REASON, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from lockd.raft.core.types import ReplicaId, Role
from lockd.raft.pysyncobj_engine.journal import DurableJournal
from lockd.raft.pysyncobj_engine.logfile import Row
from lockd.raft.pysyncobj_engine.settings import Settings
from lockd.raft.pysyncobj_engine.snapshots import Snapshots

__all__ = ["LogNode", "NodeHost", "PackageTransport"]

APPLY_AT_ONCE = 1024
"""Entries that one tick applies at most, so that a long replay does not stall the loop."""


_ROLES = (Role.FOLLOWER, Role.CANDIDATE, Role.LEADER)
_LEADER = 2


class NodeHost(Protocol):
    """What the node asks of the engine."""

    def send(self, peer: ReplicaId, message: dict[str, Any]) -> bool:
        """Send to a peer, not before what the message depends on is durable."""

    def apply(self, rows: Sequence[Row]) -> None:
        """Apply committed entries, in order."""

    def next_commands(self) -> Sequence[bytes]:
        """Commands to append, now that the node leads."""


class PackageTransport(Transport):  # type: ignore[misc]  # the package carries no types
    """The package's side of our transport: what it sends goes to the host; what arrives is handed in through the inherited methods."""

    def __init__(self, host: NodeHost) -> None:
        super().__init__(None, None, [])
        self._host = host
        self._nodes: dict[ReplicaId, Any] = {}

    def _node(self, peer: ReplicaId) -> Any:
        return self._nodes.setdefault(peer, Node(peer))

    def send(self, node: Any, message: dict[str, Any]) -> bool:
        """Called by the package."""
        return self._host.send(ReplicaId(node.id), message)

    def received(self, peer: ReplicaId, message: dict[str, Any]) -> None:
        """A message arrived. Raises whatever the package raises on it."""
        self._onMessageReceived(self._node(peer), message)

    def connected(self, peer: ReplicaId, up: bool) -> None:
        """Messages can, or can no longer, be sent to this peer."""
        if up:
            self._onNodeConnected(self._node(peer))
        else:
            self._onNodeDisconnected(self._node(peer))


class _NoPoller:
    """In the place of the package's poller: it has no sockets."""

    def poll(self, timeout: float) -> None:
        """Nothing to wait for."""


class LogNode(package.SyncObj):  # type: ignore[misc]  # the package carries no types
    """One replica of the package, ticked by the engine."""

    def __init__(self, settings: Settings, host: NodeHost, journal: DurableJournal, snapshots: Snapshots) -> None:
        """`journal` begins with the snapshot's two entries, or with the package's first entry."""
        self.wire = PackageTransport(host)
        others = [Node(member.id) for member in settings.members if member.id != settings.id]
        super().__init__(Node(settings.id), others, _conf(settings), nodeClass=Node, transport=self.wire)
        self._host = host
        self._journal = journal
        self.sent = (0, 0)
        """Last index and commit index that were broadcast."""
        # What the constructor read from a journal of its own is read from ours.
        self._poller = _NoPoller()
        self._SyncObj__raftLog = journal
        self._SyncObj__raftCurrentTerm = max(journal.getCurrentTerm(), journal[-1][2])
        self._SyncObj__votedForNodeId = journal.getVotedForNodeId()
        self._SyncObj__raftCommitIndex = max(journal.getRaftCommitIndex(), snapshots.index)
        self._SyncObj__serializer = snapshots
        self._SyncObj__needLoadDumpFile = False
        self._SyncObj__raftLastApplied = journal.applied = max(1, snapshots.index)

    # --- what the package calls on itself ------------------------------------------------------------------------------------------

    def _checkCommandsToApply(self) -> None:  # noqa: N802 - the package's name
        """Append what was proposed. The package's version would forward it to another leader, with a callback that may never come."""
        if self._SyncObj__raftState != _LEADER:
            return
        for command in self._host.next_commands():
            self._journal.add(command, self._journal.last_index + 1, self.raftCurrentTerm)

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802 - the package's name
        """Apply committed entries as one batch, each once. The package's version applies an entry again when applying it raised."""
        applied, commit = self._SyncObj__raftLastApplied, self._SyncObj__raftCommitIndex
        if commit <= applied:
            return False
        rows = self._SyncObj__getEntries(applied + 1, min(commit - applied, APPLY_AT_ONCE))
        if rows:
            self._SyncObj__raftLastApplied = self._journal.applied = rows[-1][1]
            self._host.apply(rows)
        return False

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802 - the package's name
        """The package's, and remember what went out."""
        self.sent = (self._journal.last_index, self._SyncObj__raftCommitIndex)
        super()._SyncObj__sendAppendEntries()

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:  # noqa: N802, N803 - the package's names
        """The package's, when a snapshot was received."""
        super()._SyncObj__loadDumpFile(clearJournal)
        self._journal.applied = self._SyncObj__raftLastApplied

    # --- what the engine calls -----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One tick: elections, the commit rule, application, heartbeats, new entries, and the start or end of a snapshot."""
        self._onTick(0.0)

    def apply_some(self) -> None:
        """Apply some of what is committed."""
        self._SyncObj__applyLogEntries()

    def send_appends(self) -> None:
        """Send appends, or heartbeats, now."""
        self._SyncObj__sendAppendEntries()

    def broadcast(self) -> None:
        """Send appends now if there is something that the followers were not told of yet."""
        if self.leads and self.sent != (self._journal.last_index, self._SyncObj__raftCommitIndex):
            self.send_appends()

    @property
    def leads(self) -> bool:
        """Whether the package calls itself leader; it may not have applied all earlier entries yet."""
        return bool(self._SyncObj__raftState == _LEADER)

    @property
    def leads_and_applied(self) -> bool:
        """Whether it leads and the first entry of its own term, and so all earlier ones, are applied."""
        return self.leads and self._SyncObj__raftLastApplied >= self._SyncObj__noopIDx

    @property
    def role(self) -> Role:
        """The role; a leader that has not applied all earlier entries is still called a candidate."""
        role = _ROLES[self._SyncObj__raftState]
        return Role.CANDIDATE if role is Role.LEADER and not self.leads_and_applied else role

    @property
    def leader_id(self) -> ReplicaId | None:
        """Who leads, as far as is known; None while that is this replica and it is not ready."""
        leader = self._SyncObj__raftLeader
        if leader is None or (self.leads and not self.leads_and_applied):
            return None
        return ReplicaId(leader.id)

    @property
    def term(self) -> int:
        """The current term."""
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def applied(self) -> int:
        """Index of the last applied entry."""
        return int(self._SyncObj__raftLastApplied)

    @property
    def commit(self) -> int:
        """Index of the last entry known to be committed."""
        return int(self._SyncObj__raftCommitIndex)

    @property
    def due_in(self) -> float:
        """Seconds until the next tick has something to do; never less than zero."""
        due = self._SyncObj__newAppendEntriesTime if self.leads else self._SyncObj__raftElectionDeadline
        return float(max(0.0, due - package.monotonicTime()))

    def progress(self, peer: ReplicaId) -> tuple[int, int, float | None]:
        """(match, next, seconds since the last answer) of a peer; meaningful on a leader only."""
        node = Node(peer)
        answered = self._SyncObj__lastResponseTime.get(node)
        since = None if answered is None else package.monotonicTime() - answered
        return self._SyncObj__raftMatchIndex.get(node, 0), self._SyncObj__raftNextIndex.get(node, 0), since

    def transfer(self, to: ReplicaId) -> bool:
        """Ask a peer to start an election now. False if it has not got all entries (or this replica does not lead)."""
        answers: list[int] = []
        self.transferLeadership(Node(to), lambda _, reason: answers.append(reason))
        return answers == [FAIL_REASON.SUCCESS]


def _conf(settings: Settings) -> Any:
    return SyncObjConf(
        autoTick=False,
        raftMinTimeout=settings.election_min,
        raftMaxTimeout=settings.election_max,
        appendEntriesPeriod=settings.append_period,
        connectionTimeout=settings.election_max,
        leaderFallbackTimeout=settings.step_down,
        # Entries go out in batches, whenever the engine says so. No entry may be as long as a batch: it would travel pickled, in pieces.
        appendEntriesUseBatch=True,
        appendEntriesBatchSizeBytes=settings.append_bytes,
        logCompactionMinEntries=settings.snapshot_every_entries,
        logCompactionMinTime=float("inf"),
        dynamicMembershipChange=False,
        # Never called, for the serializer is replaced; given so that the package leaves its own state out of snapshots.
        serializer=_never,
        deserializer=_never,
        fullDumpFile="unused",
    )


def _never(*_: object) -> None:
    raise AssertionError("the package's own serializer is not used")
