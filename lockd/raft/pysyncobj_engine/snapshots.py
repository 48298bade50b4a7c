"""Snapshots: what PySyncObj calls full dumps, written and read by us in its serializer's place.

The package's own serializer pickles, never syncs, lets an orphaned child replace the dump of a restarted node, and after loading a dump
drops every log entry behind it. Here the format is the one of `lockd.raft.snapshots_format`: checked chunks, written aside, synced, and
renamed by the parent once the child that wrote them has ended well. In front of the state stand the two entries (the snapshot's last one
and the one before it) that the package wants its log to begin with.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import secrets
import signal
import time
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn, Protocol, cast

import msgspec

from lockd.raft import FORK_IS_SAFE
from lockd.raft.core.types import Membership, SnapshotMeta
from lockd.raft.disk import Disk, File, OsDisk
from lockd.raft.journal_format import JournalForeignError
from lockd.raft.port import SnapshotWriter
from lockd.raft.pysyncobj_engine.logfile import Row
from lockd.raft.snapshots_format import CHUNK, SnapshotDamagedError, SnapshotSink, SnapshotSource, encode_header, read_header

__all__ = ["SNAPSHOT_NAME", "SnapshotHost", "SnapshotStore", "Snapshots"]

SNAPSHOT_NAME = "pysyncobj-snapshot"
_UNFINISHED_SUFFIX = ".tmp"
_RECEIVED = SNAPSHOT_NAME + ".received" + _UNFINISHED_SUFFIX
_LENGTH_BYTES = 4
PIECE = 256 << 10
"""Bytes of a snapshot that travel in one message."""

RETRY_SECONDS = 5.0
"""After a snapshot that failed, the next attempt waits so long."""

NOT_SERIALIZING, SERIALIZING, SUCCESS, FAILED = 0, 1, 2, 3
"""The package's SERIALIZER_STATE."""

_rows = msgspec.msgpack.Decoder(tuple[Row, Row])


class SnapshotStore:
    """The snapshot file of one replica. Methods raise OSError."""

    def __init__(self, disk: Disk, cluster_id: str, membership: Membership) -> None:
        self.disk = disk
        self._cluster_id = cluster_id
        self._membership = membership
        # A child of a process that was killed may still be about to write: it must not take the place of one of ours.
        self._unfinished = f"{SNAPSHOT_NAME}.{secrets.token_hex(6)}{_UNFINISHED_SUFFIX}"

    def read(self) -> tuple[Row, Row] | None:
        """The entry before the snapshot's last one, and the last one; verifies the whole file. None if there is no snapshot.

        Raises SnapshotDamagedError and JournalForeignError.
        """
        if SNAPSHOT_NAME not in self.disk.list():
            return None
        return self.verified()

    def verified(self) -> tuple[Row, Row]:
        """`read`, where there must be a snapshot. Raises FileNotFoundError."""
        return self._verify(SNAPSHOT_NAME)

    def _verify(self, name: str) -> tuple[Row, Row]:
        file = self.disk.open(name)
        try:
            rows, source = self._open(name, file)
            source.verify()
        finally:
            file.close()
        return rows

    def _open(self, name: str, file: File) -> tuple[tuple[Row, Row], SnapshotSource]:
        meta, offset = read_header(name, file, self._cluster_id)
        source = SnapshotSource(file, name, offset)
        try:
            rows = _rows.decode(_exactly(source, int.from_bytes(_exactly(source, _LENGTH_BYTES), "little")))
        except (msgspec.MsgspecError, EOFError) as error:
            raise SnapshotDamagedError(name, offset, f"the entries in front of the state cannot be read: {error}") from error
        previous, last = rows
        if (last[1], last[2]) != (meta.index, meta.term) or previous[1] != last[1] - 1:
            raise SnapshotDamagedError(name, offset, "the entries in front of the state are not those of its header")
        return rows, source

    @contextlib.contextmanager
    def state(self) -> Iterator[tuple[int, BinaryIO]]:
        """The snapshot's index and the state's bytes, for `StateMachine.restore`; the end is verified. Raises FileNotFoundError."""
        file = self.disk.open(SNAPSHOT_NAME)
        try:
            (_, last), source = self._open(SNAPSHOT_NAME, file)
            yield last[1], cast("BinaryIO", io.BufferedReader(source, CHUNK))
            source.verify()
        finally:
            file.close()

    def write(self, writer: SnapshotWriter, previous: Row, last: Row) -> None:
        """Write a snapshot aside and sync it. Raises also what `writer` raises."""
        self._remove(self._unfinished)
        head = encode_header(SnapshotMeta(last[1], last[2], self._membership), self._cluster_id)
        sink = SnapshotSink(self.disk.create(self._unfinished), head)
        try:
            rows = msgspec.msgpack.encode((previous, last))
            sink.write(len(rows).to_bytes(_LENGTH_BYTES, "little") + rows)
            writer.write(cast("BinaryIO", sink))
            sink.finish()
        except BaseException:
            sink.abandon()
            raise

    def publish(self) -> None:
        """What `write` wrote is the snapshot from now on."""
        self.disk.rename(self._unfinished, SNAPSHOT_NAME)
        self.disk.sync()

    def begin_received(self) -> File:
        """A file for a snapshot that a leader sends."""
        self._remove(_RECEIVED)
        return self.disk.create(_RECEIVED)

    def verify_received(self, file: File) -> tuple[Row, Row]:
        """Make the received file durable and verify it. Raises SnapshotDamagedError and JournalForeignError."""
        file.sync()
        file.close()
        return self._verify(_RECEIVED)

    def publish_received(self) -> None:
        """The received file is the snapshot from now on."""
        self.disk.rename(_RECEIVED, SNAPSHOT_NAME)
        self.disk.sync()

    def drop_received(self) -> None:
        """The received file is not wanted."""
        self._remove(_RECEIVED)

    def clean(self) -> None:
        """Remove what an earlier process left unfinished."""
        for name in self.disk.list():
            if name.startswith(SNAPSHOT_NAME + ".") and name.endswith(_UNFINISHED_SUFFIX):
                self._remove(name)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.disk.remove(name)

    def open_file(self) -> File:
        """The snapshot's file as it is, for a peer. Raises FileNotFoundError."""
        return self.disk.open(SNAPSHOT_NAME)


class SnapshotHost(Protocol):
    """What the serializer asks of the engine."""

    def freeze(self) -> SnapshotWriter:
        """The state machine's writer."""

    def wanted(self, last: Row) -> bool:
        """Whether a received snapshot that ends with this entry should replace the state."""

    def restore(self, index: int) -> None:
        """Restore the state machine from the current snapshot."""

    def snapshot_ended(self, error: str | None) -> None:
        """A snapshot became durable, or could not be written."""

    def fail(self, error: BaseException) -> None:
        """Stop for good."""


class Snapshots:
    """In the place of the package's `Serializer`: the same methods, which its tick and its message handler call."""

    def __init__(self, store: SnapshotStore, host: SnapshotHost, *, fork: bool, index: int) -> None:
        """`index` is the current snapshot's, 0 if there is none."""
        self._store = store
        self._host = host
        self._fork = fork and FORK_IS_SAFE and isinstance(store.disk, OsDisk)
        self.index = index
        """Index of the current snapshot."""
        self._child = 0
        self._ended: int | None = None
        self._error = ""
        self._retry_at = 0.0
        self._writing = 0
        self._serialize_id = 0
        self._outgoing: dict[str, tuple[File, int]] = {}
        self._incoming: File | None = None
        self._received = 0

    @property
    def busy(self) -> bool:
        """Whether a snapshot is being written, or has been and the next tick will find it."""
        return self._child != 0 or self._ended is not None

    # --- taking --------------------------------------------------------------------------------------------------------------------

    def serialize(self, data: tuple[Any, Row, Row, Any], id: int) -> None:  # noqa: A002 - the package's name
        """Begin to write a snapshot of the present state. `data` holds the last applied entry and the one before."""
        if self.busy or time.monotonic() < self._retry_at:
            return
        last, previous = data[1], data[2]
        self._serialize_id, self._writing = id, last[1]
        writer = self._host.freeze()
        if self._fork:
            with warnings.catch_warnings():
                # Python 3.12 warns of any fork beside threads. The child runs the writer, which touches none (see its port), and leaves.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._child = os.fork()
            if self._child == 0:
                _write_in_child(self._store, writer, previous, last)
            return
        try:
            self._store.write(writer, previous, last)
        except Exception as error:  # noqa: BLE001 - the writer is the application's: what it raises ends the snapshot, not the replica
            self._ended, self._error = FAILED, f"{type(error).__name__}: {error}"
        else:
            self._ended = SUCCESS

    def checkSerializing(self) -> tuple[int, int | None]:  # noqa: N802 - the package's name
        """How far the snapshot is. SUCCESS is told once, after the snapshot is durable under its name: the log is cut then."""
        if self._child:
            found, status = os.waitpid(self._child, os.WNOHANG)
            if found == 0:
                return SERIALIZING, self._serialize_id
            self._child = 0
            self._ended = SUCCESS if status == 0 else FAILED
            self._error = f"the process that wrote it ended with status {os.waitstatus_to_exitcode(status)}"
        ended, self._ended = self._ended, None
        if ended is None:
            return NOT_SERIALIZING, None
        if ended == SUCCESS:
            try:
                self._store.publish()
            except OSError as error:
                self._host.fail(error)
                return FAILED, self._serialize_id
            self.index = self._writing
            self._end_outgoing()
            self._host.snapshot_ended(None)
        else:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._host.snapshot_ended(self._error)
        return ended, self._serialize_id

    def retry(self) -> None:
        """Let the next attempt be made now, even if the last one failed just before."""
        self._retry_at = 0.0

    # --- sending -------------------------------------------------------------------------------------------------------------------

    def getTransmissionData(self, node: Any) -> tuple[bytes, bool, bool] | None:  # noqa: N802 - the package's name
        """The next piece for a peer: (bytes, is first, is last); the last one is empty. None if there is no snapshot."""
        try:
            file, offset = self._outgoing.get(node.id) or (self._store.open_file(), 0)
        except FileNotFoundError:
            return None
        piece = file.read_at(offset, PIECE)
        if piece:
            self._outgoing[node.id] = file, offset + len(piece)
        else:
            self.forget(node.id)
        return piece, offset == 0, not piece

    def cancelTransmisstion(self, node: Any) -> None:  # noqa: N802 - the package's name
        """Nothing: the package calls this for peers that take nothing at the moment, and they go on where they were (see `forget`)."""

    def forget(self, peer: str) -> None:
        """A peer begins anew: on a new connection it must not get the rest of what was sent on another one."""
        found = self._outgoing.pop(peer, None)
        if found is not None:
            found[0].close()

    def _end_outgoing(self) -> None:
        for file, _ in self._outgoing.values():
            file.close()
        self._outgoing.clear()

    # --- receiving -----------------------------------------------------------------------------------------------------------------

    def setTransmissionData(self, data: tuple[bytes, bool, bool] | None) -> bool:  # noqa: N802 - the package's name
        """Take the next piece. True when a whole snapshot has become the current one: the package calls `deserialize` then."""
        if data is None:
            return False
        piece, first, last = data
        try:
            if first:
                self._drop_incoming()
                self._incoming, self._received = self._store.begin_received(), 0
            if self._incoming is None:
                return False
            if piece:
                self._incoming.write_at(self._received, piece)
                self._received += len(piece)
            if not last:
                return False
            file, self._incoming = self._incoming, None
            return self._adopt(file)
        except OSError as error:
            self._host.fail(error)
            raise

    def _adopt(self, file: File) -> bool:
        try:
            _, row = self._store.verify_received(file)
        except (SnapshotDamagedError, JournalForeignError):
            self._store.drop_received()
            return False
        if self.busy or not self._host.wanted(row):
            return False
        self._store.publish_received()
        self.index = row[1]
        self._end_outgoing()
        return True

    def deserialize(self) -> tuple[None, Row, Row, tuple[()]]:
        """Restore the state machine; returns what the package wants to know: no object state, the two entries, no membership."""
        try:
            previous, last = self._store.verified()
            self._host.restore(last[1])
        except Exception as error:
            # The package logs what is raised here and goes on as if nothing were wrong.
            self._host.fail(error)
            raise
        return None, last, previous, ()

    def _drop_incoming(self) -> None:
        file, self._incoming = self._incoming, None
        if file is not None:
            file.close()

    def close(self) -> None:
        """End the child, close the files. Idempotent."""
        child, self._child = self._child, 0
        if child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        self._ended = None
        self._drop_incoming()
        self._end_outgoing()


def _exactly(source: SnapshotSource, n: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < n:
        piece = source.read(min(n - len(pieces), CHUNK))
        if not piece:
            raise EOFError("it ends too early")
        pieces += piece
    return bytes(pieces)


def _write_in_child(store: SnapshotStore, writer: SnapshotWriter, previous: Row, last: Row) -> NoReturn:
    """In the forked child: give up every descriptor of the parent (its sockets, its lock), write, and leave at once."""
    status = 1
    try:
        gc.disable()  # it would free what belongs to threads that do not exist here
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.closerange(0, min(os.sysconf("SC_OPEN_MAX"), 1 << 20))
        store.write(writer, previous, last)
        status = 0
    finally:
        os._exit(status)
