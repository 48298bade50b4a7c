"""The replica: bytes of the log -> step of the machine -> replies to those who wait.

It gathers the batches that arrive while the log is busy into one entry, stamps the entry with log time, proposes it, applies what
commits, and routes each result back to where its request came from. Everything runs on one thread and nothing blocks; time and
scheduling come in from outside, so that the simulation runs this very code.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from lockd.codec.entries import decode_entry, encode_entry
from lockd.codec.snapshots import read_rows, write_rows
from lockd.machine.commands import LogEntry, Request
from lockd.machine.results import Completion, Result
from lockd.machine.state import Machine
from lockd.machine.types import Nanos, RequestId, SessionId
from lockd.raft.port import Committed, Member, NotLeaderError, OverloadedError, RaftError, Role, UnknownOutcomeError

ENTRY_BYTES_MAX = 4 << 20
"""One log entry gathers at most this much (more only if a single batch is larger)."""


TICK_RETRY: Nanos = 50_000_000
"""After a Tick that the log would not take."""


class Sink(Protocol):
    """Where the replies of a batch go. Called on the event loop; must not block or raise."""

    def deliver(self, replies: Sequence[tuple[RequestId, Result]]) -> None:
        """Results of requests of this sink's session, in the order in which they became known."""

    def unknown(self, request_ids: Sequence[RequestId], error: RaftError) -> None:
        """These requests may or may not take effect: this node can no longer tell. Asking again with the same ids tells."""


class Log(Protocol):
    """The part of an engine (`lockd.raft.port.Engine`) that the replica needs."""

    def propose(self, data: bytes) -> int:
        """Append an entry; its ticket comes back through `apply` or `abandoned`. Raises RaftError: nothing was appended."""


class Clock(Protocol):
    """Time and scheduling, handed in."""

    def wall(self) -> Nanos:
        """Nanoseconds since the epoch; may jump."""

    def monotonic(self) -> Nanos:
        """Nanoseconds that never go back."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call after what is now running has finished."""

    def call_at(self, when: Nanos, callback: Callable[[], None]) -> None:
        """Call once `monotonic() >= when`."""


@dataclass(slots=True)
class Batch:
    """Requests of one sender, with the bytes (a lockd.v1.StreamRequest) that go into the log for them."""

    data: bytes
    requests: Sequence[Request]
    sink: Sink


@dataclass(slots=True)
class _Proposal:
    """An entry of ours in flight: decoded already, so that the leader never decodes what it encoded."""

    entry: LogEntry
    batches: Sequence[Batch]


@dataclass(slots=True)
class Counters:
    """Totals since the start of the process, for metrics."""

    entries: int = 0
    requests: int = 0
    batches: int = 0
    proposals: int = 0
    ticks: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """Bounds of the leader's queues."""

    entries_in_flight: int = 4
    queued_bytes: int = 64 << 20
    queued_requests: int = 262_144


@dataclass(slots=True)
class _Queue:
    batches: deque[Batch] = field(default_factory=deque)
    bytes: int = 0
    requests: int = 0


EventListener = Callable[[int, LogEntry, Sequence[object]], None]


class Replica:
    """Implements `lockd.raft.port.StateMachine` over the pure machine."""

    def __init__(self, clock: Clock, machine: Machine | None = None, limits: ReplicaLimits | None = None) -> None:
        self.machine = machine or Machine()
        self.applied_index = 0
        self.counters = Counters()
        self.on_events: EventListener | None = None
        self.on_role: Callable[[Role, int, Member | None], None] | None = None
        self._clock = clock
        self._limits = limits or ReplicaLimits()
        self._log: Log | None = None
        self._queue = _Queue()
        self._flush_scheduled = False
        self._in_flight: dict[int, _Proposal] = {}
        self._waiting: dict[tuple[SessionId, RequestId], Sink] = {}
        self._leading = False
        self._leader: Member | None = None
        self._anchor: tuple[Nanos, Nanos] = (0, 0)
        self._last_stamp: Nanos = 0
        self._tick_at: Nanos | None = None
        self._tick_in_flight = False

    def attach(self, log: Log) -> None:
        """Give the replica its log; once, before that starts."""
        self._log = log

    @property
    def leading(self) -> bool:
        """Whether this replica takes requests: it leads, and has applied all of its predecessors' entries."""
        return self._leading

    @property
    def leader(self) -> Member | None:
        """The member that leads, as far as is known here."""
        return self._leader

    # --- requests in -----------------------------------------------------------------------------------------------------------

    def submit(self, batch: Batch) -> None:
        """Queue a batch for the log. Raises NotLeaderError or OverloadedError: then nothing of it will happen."""
        if not self.leading:
            raise NotLeaderError(self._leader)
        queue = self._queue
        if queue.bytes + len(batch.data) > self._limits.queued_bytes or queue.requests >= self._limits.queued_requests:
            raise OverloadedError("the queue before the log is full")
        queue.batches.append(batch)
        queue.bytes += len(batch.data)
        queue.requests += len(batch.requests)
        self._schedule_flush()

    def forget(self, sink: Sink) -> None:
        """A sender went away: do not deliver to it any more. Its requests still take effect."""
        for key in [key for key, value in self._waiting.items() if value is sink]:
            del self._waiting[key]

    def _schedule_flush(self) -> None:
        # The flush runs after the callbacks of this turn of the loop: what arrived in the same turn shares the entry.
        if not self._flush_scheduled and len(self._in_flight) < self._limits.entries_in_flight:
            self._flush_scheduled = True
            self._clock.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        queue = self._queue
        while queue.batches and self._leading and len(self._in_flight) < self._limits.entries_in_flight:
            taken: list[Batch] = []
            size = 0
            while queue.batches and (not taken or size + len(queue.batches[0].data) <= ENTRY_BYTES_MAX):
                batch = queue.batches.popleft()
                taken.append(batch)
                size += len(batch.data)
                queue.requests -= len(batch.requests)
            queue.bytes -= size
            if not self._propose(taken):
                return

    def _propose(self, batches: Sequence[Batch], leader_term: int = 0) -> bool:
        log = self._log
        if log is None:
            raise RuntimeError("the replica has no log")
        stamp = self._stamp()
        requests = batches[0].requests if len(batches) == 1 else [r for b in batches for r in b.requests]
        try:
            ticket = log.propose(encode_entry(stamp, [b.data for b in batches], leader_term))
        except RaftError as error:
            for batch in batches:
                batch.sink.unknown([r.request_id for r in batch.requests], error)
            return False
        self._in_flight[ticket] = _Proposal(LogEntry(stamp, tuple(requests), leader_term), batches)
        self.counters.proposals += 1
        return True

    def _stamp(self) -> Nanos:
        """Log time: the wall clock at election, carried on by the monotonic clock; never back, across leaders (semantics, "log time")."""
        wall, monotonic = self._anchor
        now = wall + self._clock.monotonic() - monotonic
        self._last_stamp = max(self._last_stamp + 1, self.machine.log_time + 1, now)
        return self._last_stamp

    # --- the log's side: lockd.raft.port.StateMachine --------------------------------------------------------------------------

    def apply(self, entries: Sequence[Committed]) -> None:
        """Apply committed entries and send out what became known."""
        replies: dict[Sink, list[tuple[RequestId, Result]]] = {}
        for committed in entries:
            proposal = self._in_flight.pop(committed.ticket, None) if committed.ticket is not None else None
            entry = proposal.entry if proposal is not None else decode_entry(committed.data)
            applied = self.machine.apply(committed.index, entry)
            self.applied_index = committed.index
            self.counters.entries += 1
            self.counters.requests += len(entry.requests)
            if proposal is not None:
                self._route(proposal, applied.results, replies)
            if applied.completions:
                self._complete(applied.completions, replies)
            if self.on_events is not None and applied.events:
                self.on_events(committed.index, entry, applied.events)
        for sink, known in replies.items():
            sink.deliver(known)
        if self._leading:
            self._tick_in_flight = False
            self._schedule_tick()
            if self._queue.batches:
                self._schedule_flush()

    def _route(self, proposal: _Proposal, results: Sequence[Result | None], replies: dict[Sink, list[tuple[RequestId, Result]]]) -> None:
        position = 0
        for batch in proposal.batches:
            sink = batch.sink
            known: list[tuple[RequestId, Result]] = []
            for request in batch.requests:
                result = results[position]
                position += 1
                if result is None:
                    self._waiting[request.session, request.request_id] = sink
                else:
                    known.append((request.request_id, result))
            if known:
                replies.setdefault(sink, []).extend(known)
        self.counters.batches += len(proposal.batches)

    def _complete(self, completions: Sequence[Completion], replies: dict[Sink, list[tuple[RequestId, Result]]]) -> None:
        for completion in completions:
            sink = self._waiting.pop((completion.session, completion.request_id), None)
            if sink is not None:
                replies.setdefault(sink, []).append((completion.request_id, completion.result))

    def abandoned(self, tickets: Sequence[int]) -> None:
        """These entries may or may not commit: their senders must ask again."""
        error = UnknownOutcomeError(self._leader)
        for ticket in tickets:
            proposal = self._in_flight.pop(ticket, None)
            for batch in proposal.batches if proposal is not None else ():
                self.counters.unknown += len(batch.requests)
                batch.sink.unknown([r.request_id for r in batch.requests], error)

    def role_changed(self, role: Role, term: int, leader: Member | None) -> None:
        """Open a reign, or end one: then every sender hears that its outcome is unknown here."""
        self._leader = leader
        was, self._leading = self._leading, role is Role.LEADER
        if self._leading and not was:
            self._anchor = (max(self._clock.wall(), self.machine.log_time), self._clock.monotonic())
            self._last_stamp = self.machine.log_time
            self._tick_in_flight = False
            self._propose((), leader_term=term)
        elif was and not self._leading:
            self._end_reign()
        if self.on_role is not None:
            self.on_role(role, term, leader)

    def _end_reign(self) -> None:
        queued, self._queue = self._queue, _Queue()
        for batch in queued.batches:
            batch.sink.unknown([r.request_id for r in batch.requests], NotLeaderError(self._leader))
        waiting, self._waiting = self._waiting, {}
        for (_, request_id), sink in waiting.items():
            sink.unknown([request_id], UnknownOutcomeError(self._leader))
        self._tick_at = None

    def snapshot_writer(self) -> RowsWriter:
        """What writes the present state; runs in a forked child, where the state cannot change under it."""
        return RowsWriter(self.machine)

    def restore(self, source: BinaryIO, index: int) -> None:
        """Replace the machine by the snapshot's."""
        self.machine = Machine.restore(read_rows(source))
        self.applied_index = index

    # --- time ------------------------------------------------------------------------------------------------------------------

    def _schedule_tick(self) -> None:
        """Arrange that a Tick is proposed when something falls due; expiry is a logged command (design.md)."""
        due = self.machine.next_due()
        if due is None or self._tick_in_flight:
            return
        wall, monotonic = self._anchor
        at = monotonic + max(due - wall, 0)
        if self._tick_at is None or at < self._tick_at:
            self._tick_at = at
            self._clock.call_at(at, self._tick)

    def _tick(self) -> None:
        now = self._clock.monotonic()
        if self._tick_at is None or not self._leading or self._tick_in_flight:
            return
        if now < self._tick_at:
            # A timer may ring early, by the resolution of the loop's clock, or be left over from a due time that has moved.
            self._clock.call_at(self._tick_at, self._tick)
            return
        self._tick_at = None
        wall, monotonic = self._anchor
        due = self.machine.next_due()
        if due is None:
            return
        if due > wall + now - monotonic:
            self._schedule_tick()
            return
        self.counters.ticks += 1
        self._tick_in_flight = self._propose(())
        if not self._tick_in_flight:
            self._tick_at = now + TICK_RETRY
            self._clock.call_at(self._tick_at, self._tick)


@dataclass(frozen=True, slots=True)
class RowsWriter:
    """Writes the rows of one machine; see lockd.raft.port.SnapshotWriter."""

    machine: Machine

    def write(self, sink: BinaryIO) -> None:
        """Write the whole state to `sink`."""
        write_rows(self.machine.export(), sink)
