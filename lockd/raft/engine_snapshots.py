"""Taking a snapshot without stopping the world: a forked child writes the state as it was at the fork.

The child shares nothing with its parent but the memory it got a copy of: it closes every descriptor, so that no socket of a parent that
died stays open through it, resets the signals, collects no garbage (which would copy the whole heap), calls the writer, and ends by
`os._exit`. It touches no event loop, gRPC, lock or log. The parent learns of its end through a pidfd.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
import warnings
from collections.abc import Callable

from lockd.raft.core.types import SnapshotMeta
from lockd.raft.port import SnapshotWriter
from lockd.raft.snapshots import Snapshots

__all__ = ["SnapshotTaker"]

NICE = 5
_MAX_REASON = 2000


class SnapshotTaker:
    """Writes snapshots, at most one at a time, in a child or (without `fork`) right away."""

    def __init__(self, snapshots: Snapshots, ended: Callable[[SnapshotMeta, str | None], None], *, fork: bool) -> None:
        """`ended` gets the reason of a failure, or None once the bytes are durable under their unfinished name. Called on the loop."""
        self.pause_ms = 0.0
        """How long the loop stood still for the latest snapshot."""
        self.max_pause_ms = 0.0
        self._snapshots = snapshots
        self._ended = ended
        self._fork = fork
        self._child: int | None = None
        self._pidfd = self._report = -1
        self._frozen = False

    def take(self, meta: SnapshotMeta, writer: SnapshotWriter) -> None:
        """Begin. Never calls `ended` before it returns."""
        began = time.perf_counter()
        if self._fork:
            self._begin_child(meta, writer)
        else:
            reason = None
            try:
                self._snapshots.write(meta, writer)
            except Exception as error:  # noqa: BLE001 - the writer is the application's: whatever it raises is a failed snapshot, no more
                reason = f"{type(error).__name__}: {error}"
            asyncio.get_running_loop().call_soon(self._ended, meta, reason)
        self.pause_ms = (time.perf_counter() - began) * 1e3
        self.max_pause_ms = max(self.max_pause_ms, self.pause_ms)

    def stop(self) -> None:
        """End a child that is still writing. Idempotent."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
            self._reap()

    def _begin_child(self, meta: SnapshotMeta, writer: SnapshotWriter) -> None:
        reader, report = os.pipe()
        # Frozen objects are not visited by the parent's collector while the child lives, whose visits would copy their pages.
        self._frozen = gc.get_freeze_count() == 0
        if self._frozen:
            gc.freeze()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            _child(self._snapshots, meta, writer, report)
        os.close(report)
        self._child, self._report = child, reader
        self._pidfd = os.pidfd_open(child)
        asyncio.get_running_loop().add_reader(self._pidfd, self._child_ended, meta)

    def _child_ended(self, meta: SnapshotMeta) -> None:
        raw = os.read(self._report, _MAX_REASON)
        status = self._reap()
        reason = None
        if status != 0:
            reason = raw.decode("utf-8", "replace") or f"the child ended with {status}"
        self._ended(meta, reason)

    def _reap(self) -> int:
        child, self._child = self._child, None
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        os.close(self._report)
        if self._frozen:
            gc.unfreeze()
        if child is None:
            return 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _child(snapshots: Snapshots, meta: SnapshotMeta, writer: SnapshotWriter, report: int) -> None:
    """All that the child ever does."""
    status = 1
    try:
        gc.disable()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
        os.closerange(0, report)
        os.closerange(report + 1, 1 << 20)
        os.nice(NICE)
        snapshots.write(meta, writer)
        status = 0
    except BaseException as error:  # noqa: BLE001 - nothing may leave the child but its exit status
        with contextlib.suppress(OSError):
            os.write(report, f"{type(error).__name__}: {error}".encode()[:_MAX_REASON])
    finally:
        os._exit(status)
