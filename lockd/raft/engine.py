"""The default engine: our core under asyncio, with one journal thread, gRPC peers and forked snapshots."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, BinaryIO

from lockd.raft import FORK_IS_SAFE
from lockd.raft.core.node import Node
from lockd.raft.core.types import InstallSnapshot, Member, Membership, Message, Nanos, Refusal, ReplicaId, Role, SnapshotMeta, Write
from lockd.raft.disk import MemoryDisk, OsDisk
from lockd.raft.driver import ChangeResult, Driver, Lost
from lockd.raft.engine_config import EngineConfig
from lockd.raft.engine_join import Joiner, answer_join
from lockd.raft.engine_snapshots import SnapshotTaker
from lockd.raft.engine_writer import StoreWriter
from lockd.raft.envelope import MAX_ENTRY, JoinReply, JoinRequest
from lockd.raft.journal import JournalOptions
from lockd.raft.port import (
    EngineStatus,
    NotLeaderError,
    PeerStatus,
    RaftError,
    SnapshotWriter,
    StateMachine,
    StorageFailedError,
    UnavailableError,
)
from lockd.raft.recovery import Store
from lockd.raft.snapshots import SnapshotFile, SnapshotReceiver
from lockd.raft.transport import Transport

__all__ = ["EngineConfig", "RaftEngine"]

STALL_PERIOD = 0.1
STALL = 0.05
READ_RETRY = 0.01
SNAPSHOT_RETRY = 0.1
LATE: Nanos = 30_000_000
LISTEN_FIRST: Nanos = 20_000_000
LISTEN_FIRST_LEADING: Nanos = 5_000_000

_log = logging.getLogger(__name__)


class RaftEngine:
    """See `lockd.raft.port.Engine`. Built on any thread; everything else on the thread of the running loop."""

    def __init__(self, config: EngineConfig, machine: StateMachine, on_failed: Callable[[str], None] | None = None) -> None:
        """Nothing happens before `start`. `on_failed` is called once, with the reason, when the engine has stopped for good by itself."""
        self.config = config
        self._machine = machine
        self._on_failed = on_failed
        self._started = False
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: Nanos = 0
        self._wake_at: Nanos = 0
        self._listening = False
        self._stalls = 0
        self._longest_stall = 0.0
        self._stall_timer: asyncio.TimerHandle | None = None
        self.driver: Driver
        self._store: Store
        self._writer: StoreWriter
        self._transport: Transport
        self._taker: SnapshotTaker

    # --- life ----------------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Recover, restore, replay, and join the cluster.

        Raises JournalDamagedError, JournalForeignError or SnapshotDamagedError (JournalError all of them) for a directory that must not be
        used, DirectoryInUseError, OSError, and ValueError for addresses that cannot be.
        """
        config = self.config
        self._loop = asyncio.get_running_loop()
        self._transport = Transport(config.cluster_id, config.id, config.listen, config.own_address, config.tls, self)
        self._disk = MemoryDisk() if config.data_dir is None else OsDisk(config.data_dir)
        try:
            options = JournalOptions(config.segment_bytes if config.data_dir is not None else min(config.segment_bytes, 1 << 20))
            first = Membership(tuple(sorted(config.members, key=lambda member: member.id)))
            self._store, restored = await self._loop.run_in_executor(
                None, Store.open, self._disk, config.cluster_id, config.id, first, options
            )
            core = dataclasses.replace(config.core, seed=secrets.randbits(32))
            node = Node(config.id, restored, time.monotonic_ns(), core)
            self.driver = Driver(node, restored, self._machine, self, config.driver)
            self._writer = StoreWriter(self._store, self._loop, self._persisted, self._disk_failed)
            fork = config.fork and config.data_dir is not None
            if fork and not FORK_IS_SAFE:
                _log.warning("gRPC was imported with its fork handlers, so snapshots hold up the loop: set GRPC_ENABLE_FORK_SUPPORT=false")
                fork = False
            self._taker = SnapshotTaker(self._store.snapshots, self._snapshot_written, fork=fork)
            await self._transport.start()
        except BaseException:
            await self._transport.stop()
            self._disk.close()
            raise
        self._writer.start()
        self._started = True
        try:
            self.driver.start()
            known = self.driver.node.commit
            while self.driver.applied < known and self.driver.failed is None and not self._stopping:  # noqa: ASYNC110 - each turn replays
                await asyncio.sleep(0)
            if self.driver.failed is not None:
                raise StorageFailedError(self.driver.failed)  # noqa: TRY301 - the same way out
        except BaseException:
            await self.stop()
            raise
        self._watch_stalls(self._loop.time())
        if config.join and (not restored.snapshot.membership.members or not config.learner):
            self._spawn(Joiner(config, self.driver, self._transport).run())

    async def stop(self) -> None:
        """Stop cleanly. Idempotent."""
        if self._stopping or not self._started:
            return
        self._stopping = True
        self.driver.close()
        self._quiet()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._transport.stop()
        await self._writer.stop()
        self._store.close()
        self._disk.close()

    def _quiet(self) -> None:
        for timer in (self._timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._stall_timer = None
        self._taker.stop()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- Engine --------------------------------------------------------------------------------------------------------------------

    def propose(self, data: bytes) -> int:
        """Append `data` to the log and return its ticket. Raises also ValueError, if `data` is longer than `envelope.MAX_ENTRY`."""
        if len(data) > MAX_ENTRY:
            raise ValueError(f"an entry may have {MAX_ENTRY} bytes, not {len(data)}")
        return self.driver.propose(data)

    async def read_barrier(self, timeout: float) -> int:
        """Return an applied index at which a local read is linearizable. Raises UnavailableError, StorageFailedError."""
        deadline = self._loop.time() + timeout
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    answer: asyncio.Future[int | None] = self._loop.create_future()
                    self.driver.read(partial(_resolve, answer))
                    index = await answer
                    if index is not None:
                        return index
                    await asyncio.sleep(READ_RETRY)
        except TimeoutError:
            raise UnavailableError(f"no quorum confirmed the read within {timeout} s") from None

    def leader(self) -> Member | None:
        """The member that leads, as far as is known here."""
        return self.driver.leader_member()

    async def change_member(self, member: Member | None, *, remove: ReplicaId | None = None, timeout: float = 10.0) -> Membership:
        """Add or alter `member`, or `remove` one. Raises NotLeaderError, UnavailableError (the outcome is unknown), RaftError."""
        if (member is None) == (remove is None):
            raise ValueError("either a member to add or alter, or one to remove")
        if member is not None:
            try:
                self._transport.check_address(member.peer_address)
            except ValueError as error:
                raise RaftError(str(error)) from None
        deadline = self._loop.time() + timeout
        while True:
            present = {each.id: each for each in self.driver.node.membership.members}
            if remove is not None:
                if present.pop(remove, None) is None:
                    return self.driver.node.membership
            elif member is not None:
                if present.get(member.id) == member:
                    return self.driver.node.membership
                present[member.id] = member
            wanted = Membership(tuple(present[name] for name in sorted(present)))
            result = await self._change(wanted, deadline - self._loop.time())
            if isinstance(result, Membership):
                return result
            if result is Lost:
                raise UnavailableError("leadership was lost before the change was committed: look at the membership whether it was")
            if result is Refusal.NOT_LEADER:
                raise NotLeaderError(self.leader())
            if result is not Refusal.NOT_READY or self._loop.time() + READ_RETRY > deadline:
                raise RaftError(f"refused: {result.value}" if isinstance(result, Refusal) else "refused")
            await asyncio.sleep(READ_RETRY)

    async def _change(self, wanted: Membership, timeout: float) -> ChangeResult:
        answer: asyncio.Future[ChangeResult] = self._loop.create_future()
        self.driver.change_membership(wanted, lambda result: _resolve(answer, result))
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise UnavailableError("the change was not committed in time; it may still be") from None

    async def transfer_leadership(self, to: ReplicaId, timeout: float = 5.0) -> None:
        """Hand leadership to `to`. Raises NotLeaderError, UnavailableError (not in time), RaftError with the reason of a refusal."""
        refused: list[Refusal | None] = []
        self.driver.transfer(to, refused.append)
        if not refused:
            raise StorageFailedError(self.driver.failed or "the replica is stopping")
        if refused[0] is Refusal.NOT_LEADER:
            raise NotLeaderError(self.leader())
        if refused[0] is not None:
            raise RaftError(f"refused: {refused[0].value}")
        deadline = self._loop.time() + timeout
        while self.driver.leader != to:
            if self._loop.time() > deadline:
                raise UnavailableError(f"{to} did not take over within {timeout} s")
            await asyncio.sleep(READ_RETRY)

    async def snapshot(self) -> int:
        """Take a snapshot now; returns its index once it is durable. Raises RaftError if it could not be written."""
        answer: asyncio.Future[SnapshotMeta | None] = self._loop.create_future()
        self.driver.take_snapshot(lambda meta: _resolve(answer, meta))
        meta = await answer
        if meta is None:
            raise RaftError("the snapshot could not be written; the log says why")
        return meta.index

    @contextmanager
    def saved_state(self) -> Iterator[tuple[int, BinaryIO]]:
        """The newest durable snapshot. Raises RaftError if there is none yet."""
        meta = self.driver.snapshot
        if not meta.index:
            raise RaftError("no snapshot has been taken yet")
        with self.open_snapshot(meta) as source:
            yield meta.index, source

    def status(self) -> EngineStatus:
        """Counters and roles, at once."""
        driver = self.driver
        node = driver.node
        now = time.monotonic_ns()
        peers = tuple(
            PeerStatus(
                peer.id,
                peer.match,
                peer.next,
                peer.state.value,
                None if peer.last_contact is None else (now - peer.last_contact) / 1e6,
            )
            for peer in node.progress.values()
        )
        p50, p99 = self._writer.latencies.percentiles_ms()
        return EngineStatus(
            id=self.config.id,
            engine="core",
            role=driver.role,
            term=node.term,
            leader=driver.leader,
            commit=node.commit,
            applied=driver.applied,
            first_index=node.first_index,
            last_index=node.last_index,
            snapshot_index=driver.snapshot.index,
            log_bytes=node.log_bytes,
            membership=node.membership,
            peers=peers,
            fsync_p50_ms=p50,
            fsync_p99_ms=p99,
            failed=driver.failed,
            extra={
                "fsyncs": self._writer.latencies.count,
                "loop_stalls": self._stalls,
                "loop_stall_max_ms": self._longest_stall * 1e3,
                "snapshot_pause_ms": self._taker.pause_ms,
                "snapshot_pause_max_ms": self._taker.max_pause_ms,
                "snapshots_failed": driver.snapshots_failed,
                "journal_bytes": self._store.journal.size,
                **self._transport.counters(),
            },
        )

    # --- DriverIO ------------------------------------------------------------------------------------------------------------------

    def now(self) -> Nanos:
        """Monotonic time."""
        return time.monotonic_ns()

    def send(self, messages: Sequence[Message]) -> None:
        """To the peers' queues."""
        self._transport.send(messages)

    def write(self, write: Write) -> None:
        """To the journal's thread."""
        self._writer.write(write)

    def compact(self, keep_from: int) -> None:
        """On the journal's thread, in turn."""
        self._writer.call(lambda: self._store.compact(keep_from))

    def discard_snapshot(self, meta: SnapshotMeta) -> None:
        """On the journal's thread, in turn."""
        self._writer.call(lambda: self._store.snapshots.discard(meta))

    def wake(self, at: Nanos) -> None:
        """Tick then. A timer that is due earlier is left alone: it looks again when it rings."""
        self._wake_at = at
        if self._timer is None or at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._arm(at)

    def _arm(self, at: Nanos) -> None:
        self._timer_at = at
        self._timer = self._loop.call_later(max(0, at - time.monotonic_ns()) / 1e9, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = time.monotonic_ns()
        if now < self._wake_at:
            self._arm(self._wake_at)
        elif now - self._wake_at > LATE and not self._listening:
            # It was this process that stood still. What the others said meanwhile waits to be read, and must not pass for their silence.
            self._listening = True
            self._arm(now + (LISTEN_FIRST_LEADING if self.is_leader else LISTEN_FIRST))
        else:
            self._listening = False
            self.driver.tick()

    def soon(self) -> None:
        """At the end of the loop's turn."""
        self._loop.call_soon(self.driver.flush)

    def open_snapshot(self, meta: SnapshotMeta) -> AbstractContextManager[BinaryIO]:
        """From the snapshot files."""
        return self._store.snapshots.open(meta)

    def take_snapshot(self, meta: SnapshotMeta, writer: SnapshotWriter) -> None:
        """In a forked child."""
        self._taker.take(meta, writer)

    def _snapshot_written(self, meta: SnapshotMeta, reason: str | None) -> None:
        if self._stopping:
            return
        if reason is not None:
            _log.error("snapshot at %d failed: %s", meta.index, reason)
            self._writer.call(lambda: self._store.snapshots.forget(meta))
            self.driver.snapshot_failed(reason)
            return

        def publish() -> None:
            self._store.snapshots.publish(meta)
            self._loop.call_soon_threadsafe(self.driver.snapshot_taken, meta)

        self._writer.call(publish)

    def stream_snapshot(self, message: InstallSnapshot) -> None:
        """In a task of its own."""
        self._spawn(self._stream_snapshot(message))

    async def _stream_snapshot(self, message: InstallSnapshot) -> None:
        meta = message.meta
        pieces = self._store.snapshots.pieces(SnapshotFile(meta.index, meta.term))
        ok = await self._transport.send_snapshot(message, pieces)
        if not ok:
            await asyncio.sleep(SNAPSHOT_RETRY)
        self.driver.snapshot_sent(message.to, meta.index, ok)

    def membership_changed(self, membership: Membership) -> None:
        """Connect and part."""
        if membership.members:
            self._transport.set_members(membership.members)

    def failed(self, reason: str, error: BaseException | None) -> None:
        """Step out: no message, no acknowledgement any more."""
        _log.critical("replica %s stopped for good: %s", self.config.id, reason, exc_info=error)
        self._quiet()
        self._spawn(self._transport.stop())
        if self._on_failed is not None:
            self._on_failed(reason)

    def _persisted(self, number: int) -> None:
        self.driver.persisted(number)

    def _disk_failed(self, reason: str) -> None:
        self.driver.fail(reason)

    # --- TransportHandler ----------------------------------------------------------------------------------------------------------

    def admits(self, peer: ReplicaId) -> bool:
        """Members speak. Others only while our own membership may be stale: we know no leader, or are not (yet) a member (4.1)."""
        ids = {member.id for member in self.driver.node.membership.members}
        return peer in ids or self.driver.leader is None or self.config.id not in ids

    def received(self, messages: Sequence[Message]) -> None:
        """From a peer."""
        receive = self.driver.receive
        for message in messages:
            receive(message)

    def unreachable(self, peer: ReplicaId) -> None:
        """Messages were dropped."""
        self.driver.unreachable(peer)

    def begin_snapshot(self, message: InstallSnapshot) -> SnapshotReceiver:
        """Take the file aside."""
        return self._store.snapshots.receive(message.meta)

    async def join(self, request: JoinRequest) -> JoinReply:
        """Add or promote who asks."""
        return await answer_join(self, request)

    # --- the loop's health ---------------------------------------------------------------------------------------------------------

    def _watch_stalls(self, due: float) -> None:
        late = self._loop.time() - due
        if late > STALL:
            self._stalls += 1
            self._longest_stall = max(self._longest_stall, late)
            _log.warning("the event loop stood still for %.0f ms", late * 1e3)
        following = self._loop.time() + STALL_PERIOD
        self._stall_timer = self._loop.call_at(following, self._watch_stalls, following)

    @property
    def is_leader(self) -> bool:
        """Whether this replica leads, as far as it knows."""
        return self.driver.role is Role.LEADER


def _resolve(answer: asyncio.Future[Any], value: object) -> None:
    if not answer.done():
        answer.set_result(value)
