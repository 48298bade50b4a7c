"""Drives the package's node on our loop, and stands between it and the peers, the disk and the state machine.

One *turn* is: tick (elections, commit, application, new entries), send what the followers were not told of, begin to write what is not
durable yet. A leader does not tick while a write is under way, so that no entry is counted before it is durable here; meanwhile proposals
gather, and the next tick appends them all. What promises something durable (votes, acknowledgements) waits in `_held` until the write
that it depends on has ended. Between turns nothing runs but one timer.

The package raises nothing in ordinary operation. If it does, or the state machine or the disk does, nobody knows what state was left
behind: the replica stops for good and says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

from lockd.raft.core.types import ReplicaId, Role
from lockd.raft.port import Committed, SnapshotWriter, StateMachine
from lockd.raft.pysyncobj_engine.journal import DurableJournal
from lockd.raft.pysyncobj_engine.logfile import Row
from lockd.raft.pysyncobj_engine.node import LogNode
from lockd.raft.pysyncobj_engine.reign import Proposals, payload_of
from lockd.raft.pysyncobj_engine.settings import Settings
from lockd.raft.pysyncobj_engine.snapshots import Snapshots
from lockd.raft.pysyncobj_engine.storage import Recovered
from lockd.raft.pysyncobj_engine.transport import Link, Peers
from lockd.raft.pysyncobj_engine.wire import (
    COMMAND_REGULAR,
    BarrierReply,
    BarrierRequest,
    Body,
    Next,
    VoteGranted,
    VoteRequest,
    from_package,
    to_package,
)

__all__ = ["Turns"]

SNAPSHOT_POLL_SECONDS = 0.02
_log = logging.getLogger("lockd.raft.pysyncobj")


class Turns:
    """One running replica. Lives on one event loop, from `begin` to `end`."""

    def __init__(
        self,
        settings: Settings,
        machine: StateMachine,
        recovered: Recovered,
        writer: Executor | None,
        on_failed: Callable[[str], None],
    ) -> None:
        """`writer` runs the blocking writes, one at a time; None: they are run at once (everything is in memory)."""
        self._settings = settings
        self._machine = machine
        self.store = recovered.store
        self._writer = writer
        self._on_failed = on_failed
        self._loop = asyncio.get_running_loop()
        self.failed: str | None = None
        """Why the replica has stopped for good, or None."""
        self.ended = False
        self.reign: int | None = None
        """The term in which this replica leads and has applied everything earlier; None if it does not."""
        self.proposals = Proposals(settings)
        self.journal = DurableJournal(recovered.log, recovered.content)
        self.snapshots = Snapshots(recovered.store, self, fork=settings.fork, index=recovered.snapshot_index)
        self.node = LogNode(settings, self, self.journal, self.snapshots)
        self.peers = Peers(settings, self.received, self.connected)
        self.stale_dropped = 0
        """Acknowledgements and votes of other terms, which were not handed to the package."""
        self.sync_seconds: deque[float] = deque(maxlen=512)
        self._known = (Role.FOLLOWER, self.node.term, self.node.leader_id)
        self._votes: tuple[int, set[ReplicaId]] = (0, set())
        self._held: deque[tuple[int, ReplicaId, int, Body]] = deque()
        self._writing: asyncio.Future[None] | None = None
        self._soon = False
        self._timer: asyncio.TimerHandle | None = None
        self._applied_waits: list[tuple[int, int, Callable[[], None]]] = []
        self._asked: dict[int, Callable[[int], None]] = {}
        self._next_number = 1
        self._snapshot_waits: list[Callable[[str | None], None]] = []

    # --- life ----------------------------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Restore, replay what is known to be committed, and join the cluster. Raises what the state machine or the listener raises."""
        if self.snapshots.index:
            self.restore(self.snapshots.index)
        while self.failed is None and self.node.applied < self.node.commit:
            self.node.apply_some()
            await asyncio.sleep(0)
        await self.peers.start()
        self.wake()

    async def end(self) -> None:
        """Leave: outcomes that are not known are given up, what is written is made durable. Idempotent."""
        if not self.ended:
            self.ended = True
            self._give_up()
        await self.peers.stop()
        await self._written_out()
        self._pump()
        await self._written_out()
        self.snapshots.close()

    async def _written_out(self) -> None:
        if self._writing is not None:
            await asyncio.wait([self._writing])

    @property
    def dead(self) -> bool:
        """Whether nothing happens any more."""
        return self.ended or self.failed is not None

    def fail(self, error: BaseException) -> None:
        """Stop for good."""
        if self.dead:
            return
        self.failed = f"{type(error).__name__}: {error}"
        _log.critical("replica %s stops for good: %s", self._settings.id, self.failed, exc_info=error)
        self._give_up()
        if self._known[0] is not Role.FOLLOWER:
            with contextlib.suppress(Exception):
                self._machine.role_changed(Role.FOLLOWER, self.node.term, None)
        self._on_failed(self.failed)

    def _give_up(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._held.clear()
        self.reign = None
        try:
            if tickets := self.proposals.end():
                self._machine.abandoned(tickets)
        except Exception:  # noqa: BLE001 - the replica stops anyway
            _log.exception("the state machine raised when it was told what was given up")
        self._refuse_asked()
        for _, _, call in sorted(self._applied_waits):
            call()
        self._applied_waits.clear()
        self._end_snapshot_waits(self.failed or "the engine is stopping")

    # --- turns ---------------------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Have a turn once everything that is due at this moment has been handled."""
        if not self._soon and not self.dead:
            self._soon = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._soon = False
        if self.dead:
            return
        if self.journal.grown_bytes >= self._settings.snapshot_every_bytes and not self.snapshots.busy:
            self.node.forceLogCompaction()
        try:
            if not self.node.leads or (self._writing is None and not self.journal.dirty):
                self.node.tick()
                self.node.broadcast()
            elif not self.node.due_in:
                self.node.send_appends()  # a slow disk is no reason for the followers to elect another leader
        except Exception as error:  # noqa: BLE001 - see the module
            self.fail(error)
        self._after()
        if self._writing is None and (self.node.commit > self.node.applied or self.proposals.waiting):
            self.wake()
        self._set_timer()

    def _after(self) -> None:
        if not self.dead:
            self._observe()
            self._pump()

    def _set_timer(self) -> None:
        if self.dead:
            return
        wait = self.node.due_in or self._settings.heartbeat
        if self.snapshots.busy:
            wait = min(wait, SNAPSHOT_POLL_SECONDS)
        at = self._loop.time() + wait + 0.001
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self._turn()

    def _observe(self) -> None:
        """Tell the state machine of changes, and end the reign that they end."""
        known = (self.node.role, self.node.term, self.node.leader_id)
        if known == self._known:
            return
        role, term, leader = known
        moved = known[1:] != self._known[1:]
        self._known = known
        try:
            if self.reign is not None and (role is not Role.LEADER or term != self.reign):
                self.reign = None
                if tickets := self.proposals.end():
                    self._machine.abandoned(tickets)
            if role is Role.LEADER:
                self.reign = term
            if moved:
                self._refuse_asked()
            self._machine.role_changed(role, term, self._settings.member(leader))
        except Exception as error:  # noqa: BLE001 - see the module
            self.fail(error)

    # --- messages ------------------------------------------------------------------------------------------------------------------

    def connected(self, peer: ReplicaId, link: Link) -> None:
        """Messages can, or cannot for now, be sent to a peer."""
        if self.dead:
            return
        if link is Link.NEW:
            self.snapshots.forget(peer)
        self.node.wire.connected(peer, link is not Link.DOWN)
        if link is Link.RESUMED:
            self.node.sent = (0, 0)  # there may be more for it, which should not wait for the next heartbeat
        self.wake()

    def received(self, sender: ReplicaId, term: int, body: Body) -> None:
        """A message arrived."""
        if self.dead:
            return
        if isinstance(body, BarrierRequest):
            self._barrier_asked(sender, body.context)
            return
        if isinstance(body, BarrierReply):
            if (answer := self._asked.pop(body.context, None)) is not None:
                answer(body.index)
            return
        if self._is_stale(sender, term, body):
            self.stale_dropped += 1
            return
        try:
            self.node.wire.received(sender, to_package(body))
        except Exception as error:  # noqa: BLE001 - see the module
            self.fail(error)
        self._after()
        self.wake()

    def _is_stale(self, sender: ReplicaId, term: int, body: Body) -> bool:
        """Whether an answer belongs to another term, or a vote was counted already: the package would take either at face value."""
        if isinstance(body, Next):
            return term != self.node.term
        if isinstance(body, VoteGranted):
            if body.term != self.node.term:
                return True
            if self._votes[0] != body.term:
                self._votes = (body.term, set())
            if sender in self._votes[1]:
                return True
            self._votes[1].add(sender)
        return False

    def send(self, peer: ReplicaId, message: dict[str, Any]) -> bool:
        """Called by the node. What promises something goes out once that is durable; nothing overtakes it."""
        if self.dead:
            return False
        body = from_package(message)
        mark = self.journal.mark if isinstance(body, Next | VoteRequest | VoteGranted) else 0
        if self._held or mark > self.journal.durable:
            self._held.append((mark, peer, self.node.term, body))
            return True
        return self.peers.send(peer, self.node.term, body)

    # --- writing -------------------------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Begin to write what is not durable, unless a write is under way."""
        if self._writing is not None or not self.journal.dirty or self.failed is not None:
            return
        job = self.journal.take()
        began = time.perf_counter()
        if self._writer is not None:
            self._writing = self._loop.run_in_executor(self._writer, job)
            self._writing.add_done_callback(partial(self._written, began))
            return
        try:
            job()
        except Exception as error:  # noqa: BLE001 - see the module
            self.fail(error)
            return
        self._durable(began)

    def _written(self, began: float, job: asyncio.Future[None]) -> None:
        self._writing = None
        error = job.exception()
        if error is not None:
            self.fail(error)
        else:
            self._durable(began)

    def _durable(self, began: float) -> None:
        self.sync_seconds.append(time.perf_counter() - began)
        self.journal.done()
        held, durable = self._held, self.journal.durable
        while held and held[0][0] <= durable:
            _, peer, term, body = held.popleft()
            self.peers.send(peer, term, body)
        if not self.dead:
            self._pump()
            self.wake()

    # --- what the node and the snapshots ask ---------------------------------------------------------------------------------------

    def next_commands(self) -> Sequence[bytes]:
        """Called by the node, when it leads: what to append."""
        return self.proposals.take() if self.reign is not None and not self.dead else ()

    def apply(self, rows: Sequence[Row]) -> None:
        """Called by the node: these entries are committed."""
        if self.dead:
            return
        batch: list[Committed] = []
        empty: list[Row] = []
        for row in rows:
            command, index, term = row
            if command[0] == COMMAND_REGULAR:
                batch.append(Committed(index, term, payload_of(command), self.proposals.committed(command)))
            else:
                empty.append(row)
        if batch:
            try:
                self._machine.apply(batch)
            except Exception as error:  # noqa: BLE001 - never raised into the package, which would apply the entry once more
                self.fail(error)
                return
        for command, index, _ in empty:
            self.proposals.barrier_committed(command, index)
        self._answer_applied(rows[-1][1])

    def freeze(self) -> SnapshotWriter:
        """Called by the snapshots."""
        return self._machine.snapshot_writer()

    def wanted(self, last: Row) -> bool:
        """Called by the snapshots: whether a received one brings something new."""
        return last[1] > self.node.applied

    def restore(self, index: int) -> None:
        """Give the current snapshot to the state machine. Raises what it raises, and SnapshotDamagedError."""
        with self.store.state() as (_, source):
            self._machine.restore(source, index)
        self._answer_applied(index)

    def snapshot_ended(self, error: str | None) -> None:
        """Called by the snapshots."""
        if error is not None:
            _log.error("a snapshot could not be written: %s", error)
        self._end_snapshot_waits(error)

    def _end_snapshot_waits(self, error: str | None) -> None:
        waits, self._snapshot_waits = self._snapshot_waits, []
        for call in waits:
            call(error)

    # --- what the engine asks ------------------------------------------------------------------------------------------------------

    def barrier(self, answer: Callable[[int], None]) -> bool:
        """Have an empty entry committed, here or at the leader; `answer` gets its index, or 0: ask again. False if there is no leader."""
        if self.reign is not None:
            self.proposals.barrier(answer)
            self.wake()
            return True
        leader = self.node.leader_id
        if leader is None or leader == self._settings.id:
            return False
        number, self._next_number = self._next_number, self._next_number + 1
        if not self.peers.send(leader, self.node.term, BarrierRequest(number)):
            return False
        self._asked[number] = answer
        return True

    def _barrier_asked(self, sender: ReplicaId, context: int) -> None:
        def answer(index: int) -> None:
            self.peers.send(sender, self.node.term, BarrierReply(context, index))

        if self.reign is None:
            answer(0)
            return
        self.proposals.barrier(answer)
        self.wake()

    def _refuse_asked(self) -> None:
        asked, self._asked = self._asked, {}
        for answer in asked.values():
            answer(0)

    def when_applied(self, index: int, call: Callable[[], None]) -> None:
        """Call back once this index is applied here, or nothing will be applied any more."""
        if self.dead or self.node.applied >= index:
            call()
            return
        number, self._next_number = self._next_number, self._next_number + 1
        heapq.heappush(self._applied_waits, (index, number, call))

    def _answer_applied(self, index: int) -> None:
        while self._applied_waits and self._applied_waits[0][0] <= index:
            heapq.heappop(self._applied_waits)[2]()

    def take_snapshot(self, ended: Callable[[str | None], None]) -> None:
        """Take a snapshot with the next turn (or wait for the one that is being written); `ended` gets why there is none."""
        self._snapshot_waits.append(ended)
        if not self.snapshots.busy:
            self.snapshots.retry()
            self.node.forceLogCompaction()
            self.wake()
