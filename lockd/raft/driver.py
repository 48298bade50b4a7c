"""The glue between the pure machine and the world: carries out what `Node.step` says, in the right order, without doing any I/O itself.

`Driver` owns the node, the tickets of proposals, the read contexts, the order of application and the decision when to take a snapshot.
What it cannot do, it asks of a `DriverIO`: the asyncio engine (`lockd.raft.engine`) and the simulation implement that, so that both run the
very same code. Everything here is synchronous and runs on one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from lockd.raft.core.node import Node
from lockd.raft.core.types import (
    Entry,
    Input,
    InstallSnapshot,
    Membership,
    Message,
    Nanos,
    Output,
    Persisted,
    Propose,
    ProposeMembership,
    Read,
    ReadState,
    Receive,
    Refusal,
    ReplicaId,
    Restored,
    Role,
    RoleChange,
    SnapshotMeta,
    SnapshotSent,
    SnapshotTaken,
    Tick,
    TransferLeadership,
    Unreachable,
)
from lockd.raft.driver_backlog import Backlog
from lockd.raft.driver_io import ChangeResult, DriverConfig, DriverIO, Lost
from lockd.raft.driver_marks import LogMarks
from lockd.raft.driver_tickets import Tickets
from lockd.raft.port import Member, NotLeaderError, StateMachine, StorageFailedError, UnavailableError

__all__ = ["ChangeResult", "Driver", "DriverConfig", "DriverIO", "Lost"]


class Driver:
    """One replica between its node, its state machine and the world."""

    def __init__(self, node: Node, restored: Restored, machine: StateMachine, io: DriverIO, config: DriverConfig | None = None) -> None:
        """`restored` is what the node was built from. Nothing happens before `start`."""
        self.node = node
        self.machine = machine
        self.io = io
        self.config = config or DriverConfig()
        self.applied = restored.snapshot.index
        """Index of the last entry applied to the state machine."""
        self.snapshot = restored.snapshot
        """The newest durable snapshot."""
        self.role: Role = Role.FOLLOWER
        self.term = restored.hard_state.term
        self.leader: ReplicaId | None = None
        self.failed: str | None = None
        """Why the driver stopped for good, or None."""
        self.closed = False
        self.snapshots_failed = 0
        """How many snapshots could not be written."""
        self._stepping = False
        self._inputs: deque[tuple[Input, Callable[[Output], None] | None]] = deque()
        self._backlog = Backlog(self.config)
        self._then_send: deque[tuple[int, Sequence[Message]]] = deque()
        self._soon = False
        self._wake_at: Nanos = -1
        self._membership = restored.snapshot.membership
        # proposals
        self._tickets = Tickets(self.config)
        self._announce_at: int | None = None
        self._changes: list[tuple[int, int, Membership, Callable[[ChangeResult], None]]] = []
        # reads
        self._reads: list[Callable[[int | None], None]] = []
        self._contexts: dict[int, list[Callable[[int | None], None]]] = {}
        self._next_context = 1
        self._ready: list[tuple[int, list[Callable[[int | None], None]]]] = []
        # snapshots
        self._log = LogMarks(self.config)
        self._taking: SnapshotMeta | None = None
        self._taken: list[tuple[int, Callable[[SnapshotMeta | None], None]]] = []

    # --- life ----------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Restore the state machine from the snapshot and replay what is known to be committed. Raises ValueError on a damaged snapshot."""
        if self.snapshot.index:
            with self.io.open_snapshot(self.snapshot) as source:
                self.machine.restore(source, self.snapshot.index)
        self._membership = self.node.membership
        self.io.membership_changed(self._membership)
        self.tick()

    def close(self) -> None:
        """Stop: what is outstanding is abandoned, and nothing is sent or applied any more. Idempotent."""
        if not self.closed:
            self.closed = True
            self._end_everything()

    def fail(self, reason: str, error: BaseException | None = None) -> None:
        """Stop for good, because of the disk or a broken invariant. Acknowledges nothing any more. Idempotent."""
        if self.failed is None and not self.closed:
            self.failed = reason
            self._end_everything()
            self.io.failed(reason, error)

    def _end_everything(self) -> None:
        self._inputs.clear()
        self._then_send.clear()
        self._backlog.clear()
        self._lose_reign()
        reads = self._reads
        for context in self._contexts.values():
            reads.extend(context)
        for _, callbacks in self._ready:
            reads.extend(callbacks)
        self._reads, self._contexts, self._ready = [], {}, []
        for callback in reads:
            callback(None)
        taken, self._taken = self._taken, []
        for _, done in taken:
            done(None)

    # --- what the application asks ---------------------------------------------------------------------------------------------------

    def propose(self, data: bytes) -> int:
        """Append `data` and return its ticket; goes into the log with all that gathers until `flush`.

        Raises NotLeaderError, OverloadedError, StorageFailedError or UnavailableError (closed); nothing was appended then.
        """
        if self.failed is not None or self.closed:
            self._check_alive()
        if self.role is not Role.LEADER:
            raise NotLeaderError(self.leader_member())
        ticket = self._tickets.add(data)
        if not self._soon:
            self._ask_soon()
        return ticket

    def read(self, callback: Callable[[int | None], None]) -> None:
        """Call `callback` with an index once a local read is linearizable (that index is applied), or with None if that is not known.

        All reads that wait at a moment share one confirmation. May be called again at once after None.
        """
        self._check_alive()
        self._reads.append(callback)
        self._ask_soon()

    def change_membership(self, membership: Membership, callback: Callable[[ChangeResult], None]) -> None:
        """Propose `membership` (4.1) and call back with how it ended. Raises StorageFailedError or UnavailableError."""
        self._check_alive()

        def answered(output: Output) -> None:
            if output.proposed is None:
                callback(output.refused or Refusal.NOT_LEADER)
            else:
                term, index = output.proposed
                self._changes.append((index, term, membership, callback))

        self._step(ProposeMembership(membership), answered)

    def transfer(self, to: ReplicaId, callback: Callable[[Refusal | None], None]) -> None:
        """Begin to hand leadership to `to` (3.10), and call back with a refusal or None; success shows as a change of role."""
        self._check_alive()
        self._step(TransferLeadership(to), lambda output: callback(output.refused))

    def take_snapshot(self, callback: Callable[[SnapshotMeta | None], None]) -> None:
        """Take a snapshot of what is applied; call back with it once durable, or with None after a failure.

        One that is under way and covers all of that already is joined; else another one follows it.
        """
        self._check_alive()
        if self.applied == self.snapshot.index:
            callback(self.snapshot)
            return
        self._taken.append((self.applied, callback))
        if self._taking is None:
            self._begin_snapshot()

    def leader_member(self) -> Member | None:
        """The leader, as far as it is known here."""
        leader = self.leader
        if leader is None:
            return None
        for member in self.node.membership.members:
            if member.id == leader:
                return member
        return None

    def _alive(self) -> bool:
        return self.failed is None and not self.closed

    def _check_alive(self) -> None:
        if self.failed is not None:
            raise StorageFailedError(self.failed)
        if self.closed:
            raise UnavailableError("the replica is stopping")

    # --- what the world reports ------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """The time asked for by `DriverIO.wake` has come. Harmless at any other time."""
        self._wake_at = -1
        self._step(Tick())
        if self._tickets.gathered or self._reads:
            self._ask_soon()

    def flush(self) -> None:
        """Put what has gathered into the log, ask for confirmation of the reads that wait, and apply more of what is committed.

        Harmless at any time.
        """
        self._soon = False
        if self._tickets.gathered:
            self._step(Propose(tuple(self._tickets.gathered)), self._proposed)
        if self._reads and self._alive():
            context = self._next_context
            self._next_context = context + 1
            self._contexts[context], self._reads = self._reads, []
            self._step(Read(context))
        if self._backlog:
            self._step(None)

    def receive(self, message: Message) -> None:
        """A message of a peer whose identity was checked. An `InstallSnapshot` only after the file is durable here as received."""
        if isinstance(message, InstallSnapshot):
            self._step(Receive(message), lambda output: self._after_install(message.meta, output))
        else:
            self._step(Receive(message))

    def persisted(self, number: int) -> None:
        """The write with this number, and all before it, are durable."""
        waiting = self._then_send
        while waiting and waiting[0][0] <= number:
            messages = waiting.popleft()[1]
            if messages:
                self.io.send(messages)
        self._step(Persisted(number))

    def unreachable(self, peer: ReplicaId) -> None:
        """Messages to this peer were lost."""
        self._step(Unreachable(peer))

    def snapshot_sent(self, to: ReplicaId, index: int, ok: bool) -> None:
        """The stream that `DriverIO.stream_snapshot` was asked for ended."""
        self._step(SnapshotSent(to, index, ok))

    def snapshot_taken(self, meta: SnapshotMeta) -> None:
        """The snapshot that `DriverIO.take_snapshot` was asked for is durable and current."""
        if not self._alive():
            return
        self._taking = None
        if meta.index > self.snapshot.index:
            self.snapshot = meta
            keep_from = self._log.keep_from(meta.index, self.node.first_index)
            self._step(SnapshotTaken(meta, keep_from))
            self.io.compact(keep_from)
        taken, self._taken = self._taken, []
        for least, done in taken:
            if least <= self.snapshot.index:
                done(self.snapshot)
            else:
                self._taken.append((least, done))
        self._begin_asked_snapshot()

    def _begin_asked_snapshot(self) -> None:
        if self._taken and self._taking is None and self._alive():
            self._begin_snapshot()

    def snapshot_failed(self, reason: str) -> None:  # noqa: ARG002 - the engine logs it; here it only counts
        """The snapshot could not be written; the next one is due after as much log again."""
        self.snapshots_failed += 1
        self._taking = None
        taken, self._taken = self._taken, []
        for _, done in taken:
            done(None)

    # --- the machinery ---------------------------------------------------------------------------------------------------------------

    def _ask_soon(self) -> None:
        if not self._soon:
            self._soon = True
            self.io.soon()

    def _step(self, item: Input | None, then: Callable[[Output], None] | None = None) -> None:
        """One step of the node: `then` notes what was asked for, the output is carried out, and what is asked meanwhile waits.

        Without an input only the backlog is worked on.
        """
        if self._stepping:
            if item is not None:
                self._inputs.append((item, then))
            return
        if not self._alive():
            return
        self._stepping = True
        try:
            while True:
                if item is None:
                    self._apply_backlog()
                else:
                    output = self.node.step(self.io.now(), item)
                    if then is not None:
                        then(output)
                    self._carry_out(output)
                if not self._inputs or not self._alive():
                    break
                item, then = self._inputs.popleft()
        except Exception as error:  # noqa: BLE001 - whatever it is, this replica's state can no longer be trusted
            self.fail(f"{type(error).__name__}: {error}", error)
            return
        finally:
            self._stepping = False
        deadline = self.node.deadline
        if deadline != self._wake_at and self._alive():
            self._wake_at = deadline
            self.io.wake(deadline)

    def _carry_out(self, output: Output) -> None:
        if output.install is not None:
            self._install(output.install)
        write = output.write
        if write is None:
            pass
        elif self._then_send or write.entries or write.hard_state is not None or write.snapshot is not None:
            self._then_send.append((write.number, write.then_send))
            self.io.write(write)
            if not self._alive():
                return
        else:
            # Nothing in it, and nothing before it that is not durable yet: the answer to a heartbeat need not wait for the disk.
            self.io.send(write.then_send)
        if output.messages:
            self.io.send(output.messages)
        if output.committed:
            self._committed(output.committed)
        if output.reads:
            for state in output.reads:
                self._read_confirmed(state)
        if output.reads_failed:
            for context in output.reads_failed:
                for callback in self._contexts.pop(context, ()):
                    callback(None)
        if output.role is not None:
            self._role_changed(output.role)
        if output.send_snapshot:
            for peer in output.send_snapshot:
                self.io.stream_snapshot(InstallSnapshot(self.node.id, peer, self.node.term, self.snapshot))
        membership = self.node.membership
        if membership is not self._membership:
            changed = membership != self._membership
            self._membership = membership
            if changed:
                self.io.membership_changed(membership)

    # proposals and application

    def _proposed(self, output: Output) -> None:
        """The answer to `flush`. What was refused stays gathered: it is taken later, or abandoned with the reign."""
        if output.proposed is not None:
            self._tickets.appended(*output.proposed)

    def _committed(self, entries: list[Entry]) -> None:
        """Apply these, as far as one turn of the loop allows; behind a backlog they wait for their turn."""
        waiting = bool(self._backlog)
        self._backlog.add(entries)
        if not waiting:
            self._apply_backlog()

    def _apply_backlog(self) -> None:
        """Apply slice after slice for as long as a turn of the loop may take, and go on in the next."""
        backlog = self._backlog
        began = now = self.io.now()
        until = began + self.config.apply_time
        while len(backlog) and self._alive():
            entries = backlog.take()
            self._apply(entries)
            before, now = now, self.io.now()
            backlog.took(len(entries), now - before)
            if now >= until:
                break
        if backlog:
            self._ask_soon()

    def _apply(self, entries: list[Entry]) -> None:
        if entries[0].index != self.applied + 1:
            raise RuntimeError(f"entry {entries[0].index} cannot follow what is applied, {self.applied}")
        batch, lost = self._tickets.match(entries)
        self.applied = entries[-1].index
        self._log.add(entries)
        if batch:
            self.machine.apply(batch)
        if lost:
            self.machine.abandoned(lost)
        self._after_apply(entries)

    def _after_apply(self, entries: list[Entry]) -> None:
        applied = self.applied
        if self._changes:
            self._end_changes(entries)
        self._serve_reads()
        if self._announce_at is not None and applied >= self._announce_at:
            self._announce_at = None
            self.machine.role_changed(self.role, self.term, self.leader_member())
        if self._tickets.gathered:
            self._ask_soon()
        if self._taking is None and self._log.due:
            self._begin_snapshot()

    def _end_changes(self, entries: list[Entry]) -> None:
        first, last = entries[0].index, entries[-1].index
        waiting = []
        for change in self._changes:
            index, term, membership, callback = change
            if index > last:
                waiting.append(change)
            else:
                callback(membership if index >= first and entries[index - first].term == term else Lost)
        self._changes = waiting

    def _lose_reign(self) -> None:
        """Every ticket of the reign that ended, and every change, is abandoned."""
        tickets = self._tickets.abandon()
        changes, self._changes = self._changes, []
        if tickets:
            self.machine.abandoned(tickets)
        for _, _, _, callback in changes:
            callback(Lost)

    def _role_changed(self, change: RoleChange) -> None:
        was_leader = self.role is Role.LEADER
        same_reign = was_leader and change.role is Role.LEADER and change.term == self.term
        self.role, self.term, self.leader = change.role, change.term, change.leader
        if was_leader and not same_reign:
            self._lose_reign()
        if change.role is not Role.LEADER:
            self._announce_at = None
        elif not same_reign:
            # The entry that opens the reign is the last of the log now; once it is applied, so is everything of earlier terms.
            self._announce_at = self.node.last_index
        if self._announce_at is not None and self.applied < self._announce_at:
            return
        self._announce_at = None
        self.machine.role_changed(change.role, change.term, self.leader_member())

    # reads

    def _read_confirmed(self, state: ReadState) -> None:
        callbacks = self._contexts.pop(state.context, None)
        if callbacks is None:
            return
        if state.index > self.applied:
            self._ready.append((state.index, callbacks))
            return
        for callback in callbacks:
            callback(self.applied)

    def _serve_reads(self) -> None:
        """Answer the reads that waited for what is applied now."""
        applied = self.applied
        due = [callbacks for index, callbacks in self._ready if index <= applied]
        if due:
            self._ready = [item for item in self._ready if item[0] > applied]
            for callbacks in due:
                for callback in callbacks:
                    callback(applied)

    # snapshots

    def _install(self, meta: SnapshotMeta) -> None:
        self._backlog.clear()  # the snapshot covers all that was committed here
        with self.io.open_snapshot(meta) as source:
            self.machine.restore(source, meta.index)
        self.applied = meta.index
        self.snapshot = meta
        self._log.installed()
        self._serve_reads()

    def _after_install(self, meta: SnapshotMeta, output: Output) -> None:
        if output.install is None:
            self.io.discard_snapshot(meta)

    def _begin_snapshot(self) -> None:
        term = self.node.term_at(self.applied)
        if term is None:
            raise RuntimeError(f"the log does not know the applied entry {self.applied}")
        meta = SnapshotMeta(self.applied, term, self.node.membership_at(self.applied))
        self._taking = meta
        self._log.begun()
        self.io.take_snapshot(meta, self.machine.snapshot_writer())
