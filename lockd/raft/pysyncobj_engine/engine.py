"""`lockd.raft.port.Engine` over the published PySyncObj: the control of our tests, selectable with `--engine pysyncobj`.

The package itself is imported when an engine starts, so that this module can be imported without it.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from lockd.raft.core.types import Member, Membership, ReplicaId, Role
from lockd.raft.disk import Disk, MemoryDisk, OsDisk
from lockd.raft.engine_config import EngineConfig
from lockd.raft.port import EngineStatus, NotLeaderError, PeerStatus, RaftError, StateMachine, StorageFailedError, UnavailableError
from lockd.raft.pysyncobj_engine.promises import warnings_text
from lockd.raft.pysyncobj_engine.settings import Settings
from lockd.raft.pysyncobj_engine.storage import recover

if TYPE_CHECKING:
    from lockd.raft.pysyncobj_engine.turns import Turns

__all__ = ["PySyncObjEngine"]

PACKAGE_VERSION = "0.3.17"
T = TypeVar("T")
_log = logging.getLogger("lockd.raft.pysyncobj")


class PySyncObjEngine:
    """A replicated log over PySyncObj 0.3.17. See docs/engine-pysyncobj.md for what it does not promise."""

    def __init__(
        self,
        config: EngineConfig | Settings,
        machine: StateMachine,
        on_failed: Callable[[str], None] | None = None,
        *,
        warn: Callable[[str], None] | None = None,
        disk: Disk | None = None,
    ) -> None:
        """Nothing is opened before `start`. Raises ValueError for a configuration that this engine cannot serve.

        `warn` gets every sentence of `warnings_text` at start (default: the log). `on_failed` is told why the replica stopped for good.
        `disk` stands in for the directory of the configuration, in tests.
        """
        settings = Settings.of(config) if isinstance(config, EngineConfig) else config
        self._settings = settings
        self._machine = machine
        self._warn = warn or _log.warning
        self._on_failed = on_failed
        self._disk = disk
        self._turns: Turns | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._log_close: Callable[[], None] | None = None
        self._opened: Disk | None = None
        self._stopped = False
        self._membership = Membership(tuple(sorted(settings.members, key=lambda member: member.id)))

    # --- life ----------------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Recover from disk, restore and replay into the state machine, and join the cluster.

        Raises RaftError if the package is missing or of another version, JournalDamagedError and JournalForeignError (from
        `lockd.raft.journal_format`), DirectoryInUseError, and OSError (an address in use among them).
        """
        _check_package()
        from lockd.raft.pysyncobj_engine.turns import Turns

        for sentence in warnings_text():
            self._warn(sentence)
        settings = self._settings
        loop = asyncio.get_running_loop()
        try:
            if self._disk is not None:
                self._opened = self._disk
            elif settings.data_dir is None:
                self._opened = MemoryDisk()
            else:
                self._opened = OsDisk(settings.data_dir)
            if isinstance(self._opened, OsDisk):
                self._writer = ThreadPoolExecutor(1, f"log-{settings.id}")
            recovered = await loop.run_in_executor(self._writer, recover, self._opened, settings)
            self._log_close = recovered.log.close
            self._turns = Turns(settings, self._machine, recovered, self._writer, self._failed)
            await self._turns.begin()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop cleanly: outstanding proposals are abandoned, files are closed. Idempotent."""
        self._stopped = True
        if self._turns is not None:
            await self._turns.end()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.shutdown()
        log_close, self._log_close = self._log_close, None
        if log_close is not None:
            log_close()
        opened, self._opened = self._opened, None
        if isinstance(opened, OsDisk):
            opened.close()

    def _failed(self, reason: str) -> None:
        if self._turns is not None:
            self._turns.peers.disconnect()
        if self._on_failed is not None:
            self._on_failed(reason)

    def _running(self) -> Turns:
        turns = self._turns
        if turns is not None and turns.failed is not None:
            raise StorageFailedError(turns.failed)
        if turns is None or self._stopped:
            raise UnavailableError("the engine is not running")
        return turns

    # --- the log -------------------------------------------------------------------------------------------------------------------

    def propose(self, data: bytes) -> int:
        """Append `data` with the next turn and return its ticket.

        Raises NotLeaderError (the package would forward it; its answers get lost), OverloadedError, StorageFailedError, UnavailableError
        when stopped, and ValueError if `data` is too long. Nothing was appended then.
        """
        turns = self._running()
        if turns.reign is None:
            raise NotLeaderError(self.leader())
        ticket = turns.proposals.add(data)
        turns.wake()
        return ticket

    async def read_barrier(self, timeout: float) -> int:
        """Have an empty entry committed, here or by the leader, and wait until it is applied here. Returns its index.

        The package has no read index (6.4), so this costs an entry. Those that wait at one moment share it. Raises UnavailableError after
        `timeout` seconds, and StorageFailedError.
        """
        turns = self._running()
        try:
            async with asyncio.timeout(timeout):
                while not (index := await self._barrier(turns)):
                    self._running()
                    await asyncio.sleep(self._settings.heartbeat)
                applied: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                turns.when_applied(index, partial(_settle, applied, None))
                await applied
        except TimeoutError as error:
            raise UnavailableError(f"no quorum confirmed a read within {timeout} s") from error
        self._running()
        return index

    async def _barrier(self, turns: Turns) -> int:
        """One attempt; 0 if it came to nothing. An answer may be lost with a connection, so none is waited for longer than an election."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if not turns.barrier(partial(_settle, answer)):
            return 0
        done, _ = await asyncio.wait([answer], timeout=None if turns.reign is not None else self._settings.election_max)
        return answer.result() if done else 0

    # --- what is known -------------------------------------------------------------------------------------------------------------

    def leader(self) -> Member | None:
        """The member that leads, as far as is known here."""
        return None if self._turns is None or self._turns.dead else self._settings.member(self._turns.node.leader_id)

    def status(self) -> EngineStatus:
        """Counters and roles, at once. `extra` counts answers of other terms that were dropped and cuts of the log's end."""
        turns = self._turns
        if turns is None:
            return EngineStatus(self._settings.id, "pysyncobj", Role.FOLLOWER, 0, None, 0, 0, 0, 0, 0, 0, self._membership)
        node, journal = turns.node, turns.journal
        syncs = sorted(turns.sync_seconds) or [0.0]
        return EngineStatus(
            id=self._settings.id,
            engine="pysyncobj",
            role=Role.FOLLOWER if turns.dead else node.role,
            term=node.term,
            leader=None if turns.dead else node.leader_id,
            commit=node.commit,
            applied=node.applied,
            first_index=journal.first_index,
            last_index=journal.last_index,
            snapshot_index=turns.snapshots.index,
            log_bytes=journal.log_bytes,
            membership=self._membership,
            peers=self._peers(turns) if turns.reign is not None else (),
            fsync_p50_ms=syncs[len(syncs) // 2] * 1000,
            fsync_p99_ms=syncs[len(syncs) * 99 // 100] * 1000,
            failed=turns.failed,
            extra={
                "outstanding": float(turns.proposals.outstanding),
                "stale_dropped": float(turns.stale_dropped),
                "truncations": float(journal.truncations),
            },
        )

    def _peers(self, turns: Turns) -> tuple[PeerStatus, ...]:
        peers = []
        for member in self._membership.members:
            if member.id != self._settings.id:
                match, following, since = turns.node.progress(member.id)
                state = "connected" if turns.peers.is_up(member.id) else "disconnected"
                peers.append(PeerStatus(member.id, match, following, state, None if since is None else since * 1000))
        return tuple(peers)

    # --- administration ------------------------------------------------------------------------------------------------------------

    async def change_member(self, member: Member | None, *, remove: ReplicaId | None = None, timeout: float = 10.0) -> Membership:
        """Always refused: raises RaftError."""
        del member, remove, timeout
        raise RaftError(
            "the PySyncObj engine does not change the membership of a running cluster: the package lets two changes at once through, "
            "which can make two leaders; form a new cluster, or use the core engine"
        )

    async def transfer_leadership(self, to: ReplicaId, timeout: float = 5.0) -> None:
        """Ask `to` to start an election and wait until it leads. Best effort.

        Raises NotLeaderError, UnavailableError (not in time), RaftError (another one was elected, or there is no such member).
        """
        turns = self._running()
        if turns.reign is None:
            raise NotLeaderError(self.leader())
        if to == self._settings.id:
            return
        if self._settings.member(to) is None:
            raise RaftError(f"{to!r} is not a member")
        loop = asyncio.get_running_loop()
        ask_at = 0.0
        try:
            async with asyncio.timeout(timeout):
                while (leader := self.leader()) is None or leader.id == self._settings.id:
                    if loop.time() >= ask_at and turns.node.transfer(to):
                        ask_at = loop.time() + self._settings.election_max
                    await asyncio.sleep(self._settings.heartbeat / 3)
                    turns = self._running()
        except TimeoutError as error:
            raise UnavailableError(f"{to!r} did not take over within {timeout} s; it may be behind, or unreachable") from error
        if leader.id != to:
            raise RaftError(f"{leader.id!r} was elected instead of {to!r}")

    async def snapshot(self) -> int:
        """Take a snapshot now; returns its index once it is durable; 0 if nothing was applied yet. Raises RaftError if it failed."""
        turns = self._running()
        wanted = turns.node.applied
        while turns.snapshots.index < wanted and wanted > 1:
            ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
            turns.take_snapshot(partial(_settle, ended))
            error = await ended
            turns = self._running()
            if error is not None:
                raise RaftError(f"the snapshot could not be written: {error}")
        return turns.snapshots.index

    @contextmanager
    def saved_state(self) -> Iterator[tuple[int, BinaryIO]]:
        """The newest durable snapshot: its index and the state machine's part. Raises RaftError if there is none yet."""
        turns = self._running()
        if not turns.snapshots.index:
            raise RaftError("no snapshot has been taken yet")
        with turns.store.state() as saved:
            yield saved


def _settle(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


def _check_package() -> None:
    try:
        version = importlib.import_module("pysyncobj.version").VERSION
    except ImportError as error:
        raise RaftError("the engine 'pysyncobj' needs a package that is not installed: pip install 'lockd[pysyncobj]'") from error
    if version != PACKAGE_VERSION:
        raise RaftError(f"the engine 'pysyncobj' works with PySyncObj {PACKAGE_VERSION} only; {version} is installed")
