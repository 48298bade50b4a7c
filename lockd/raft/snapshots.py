"""Snapshot files: written aside in checked chunks, made durable, and only then given the name that counts.

`snapshot-<index>-<term>` is a snapshot that recovery starts from; the newest one counts, older ones go once it is durable.
`received-<index>-<term>` is one that a leader sent, whole, verified and durable, but not yet adopted. Names that end in `.tmp` are
unfinished.

*Taking* one: write, sync, rename, sync of the directory; a crash before the last leaves the older one in force, whose log is still there.
*Adopting* a received one: the journal's cut comes first, and its sync is the moment of truth, for it also carries the hard state and the
entries that follow; then rename and directory sync. If the crash comes between, recovery finds the cut and finishes the rename
(`lockd.raft.recovery`). The other order would leave a snapshot in force beside a log that does not reach it.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from lockd.raft.core.types import Membership, SnapshotMeta
from lockd.raft.disk import Disk, File
from lockd.raft.port import SnapshotWriter
from lockd.raft.snapshots_format import CHUNK, SnapshotDamagedError, SnapshotSink, SnapshotSource, encode_header, read_header

__all__ = ["SnapshotDamagedError", "SnapshotFile", "SnapshotReceiver", "Snapshots"]

CURRENT, RECEIVED, UNFINISHED = "snapshot-", "received-", ".tmp"


@dataclass(frozen=True, slots=True, order=True)
class SnapshotFile:
    """A snapshot by its name."""

    index: int
    term: int


class SnapshotReceiver:
    """Takes the bytes of a snapshot file as a leader streams them, and keeps the file only if it is whole.

    The calls may come from several threads: `abandon` waits until another call has returned, and does nothing after `finish`.
    """

    def __init__(self, store: Snapshots, meta: SnapshotMeta, temporary: str, file: File) -> None:
        self._store = store
        self._meta = meta
        self._temporary = temporary
        self._file = file
        self._offset = 0
        self._ended = False
        self._lock = threading.Lock()

    def write(self, piece: bytes) -> None:
        """The next bytes. Raises OSError."""
        with self._lock:
            if not self._ended:
                self._file.write_at(self._offset, piece)
                self._offset += len(piece)

    def finish(self) -> None:
        """Verify and make durable as received. Raises SnapshotDamagedError, JournalForeignError and OSError: `abandon` it then."""
        with self._lock:
            if self._ended:
                raise OSError("the stream was abandoned")
            meta, offset = self._store.header(self._temporary, self._file)
            if meta != self._meta:
                raise SnapshotDamagedError(self._temporary, 0, "it is not the snapshot that was announced")
            SnapshotSource(self._file, self._temporary, offset).verify()
            self._file.sync()
            self._file.close()
            self._store.keep_received(self._temporary, self._meta)
            self._ended = True

    def abandon(self) -> None:
        """Remove what was written, unless it was finished; a file that cannot be removed goes at the next start."""
        with self._lock:
            if not self._ended:
                self._ended = True
                self._file.close()
                with contextlib.suppress(OSError):
                    self._store.drop(self._temporary)


class Snapshots:
    """The snapshot files of one replica. Thread-safe as far as different files are concerned."""

    def __init__(self, disk: Disk, cluster_id: str) -> None:
        self._disk = disk
        self._cluster_id = cluster_id
        self._streams = 0

    # --- what there is -------------------------------------------------------------------------------------------------------------

    def current(self) -> list[SnapshotFile]:
        """The snapshots that recovery may start from, oldest first."""
        return sorted(found for name in self._disk.list() if (found := parse_name(name, CURRENT)) is not None)

    def received(self, found: SnapshotFile) -> bool:
        """Whether this snapshot was received and not yet adopted."""
        return snapshot_name(RECEIVED, found.index, found.term) in self._disk.list()

    def meta(self, found: SnapshotFile) -> SnapshotMeta:
        """What the file says of itself. Raises SnapshotDamagedError, JournalForeignError and OSError."""
        name = snapshot_name(CURRENT, found.index, found.term)
        file = self._disk.open(name)
        try:
            meta, _ = self.header(name, file)
        finally:
            file.close()
        if SnapshotFile(meta.index, meta.term) != found:
            raise SnapshotDamagedError(name, 0, f"its header says index {meta.index}, term {meta.term}")
        return meta

    def header(self, name: str, file: File) -> tuple[SnapshotMeta, int]:
        """The header's content, and where the data begins. Raises SnapshotDamagedError and JournalForeignError."""
        return read_header(name, file, self._cluster_id)

    # --- taking --------------------------------------------------------------------------------------------------------------------

    def write(self, meta: SnapshotMeta, writer: SnapshotWriter) -> None:
        """Write a snapshot aside and make its bytes durable, under an unfinished name. Raises OSError and what `writer` raises."""
        name = snapshot_name(CURRENT, meta.index, meta.term) + UNFINISHED
        self.drop(name)
        sink = SnapshotSink(self._disk.create(name, 0), encode_header(meta, self._cluster_id))
        try:
            writer.write(cast("BinaryIO", sink))
            sink.finish()
        except BaseException:
            sink.abandon()
            raise

    def forget(self, meta: SnapshotMeta) -> None:
        """Remove what a `write` that failed may have left. Raises OSError."""
        self.drop(snapshot_name(CURRENT, meta.index, meta.term) + UNFINISHED)

    def publish(self, meta: SnapshotMeta) -> None:
        """Let what `write` wrote be the snapshot that counts, and remove the older ones. Raises OSError."""
        name = snapshot_name(CURRENT, meta.index, meta.term)
        self._disk.rename(name + UNFINISHED, name)
        self._disk.sync()
        self.remove_older()

    def take(self, meta: SnapshotMeta, writer: SnapshotWriter) -> None:
        """`write` and `publish`."""
        self.write(meta, writer)
        self.publish(meta)

    def create_first(self, membership: Membership) -> SnapshotMeta:
        """The snapshot at index 0 of a replica that starts for the first time: a membership and no data. Raises OSError."""
        meta = SnapshotMeta(0, 0, membership)
        self.take(meta, _Nothing())
        return meta

    # --- receiving and sending -----------------------------------------------------------------------------------------------------

    def receive(self, meta: SnapshotMeta) -> SnapshotReceiver:
        """Begin to take a snapshot that is being streamed here. Raises OSError."""
        self._streams += 1
        name = f"{snapshot_name(RECEIVED, meta.index, meta.term)}.{self._streams}{UNFINISHED}"
        return SnapshotReceiver(self, meta, name, self._disk.create(name, 0))

    def keep_received(self, temporary: str, meta: SnapshotMeta) -> None:
        """A received file is whole and durable: give it the name that says so. Raises OSError."""
        self._disk.rename(temporary, snapshot_name(RECEIVED, meta.index, meta.term))
        self._disk.sync()

    def adopt(self, meta: SnapshotMeta) -> None:
        """A received snapshot becomes the one that counts; the journal's cut is durable already. Raises OSError."""
        self.finish_adoption(SnapshotFile(meta.index, meta.term))

    def finish_adoption(self, found: SnapshotFile) -> None:
        """`adopt`, by name."""
        self._disk.rename(snapshot_name(RECEIVED, found.index, found.term), snapshot_name(CURRENT, found.index, found.term))
        self._disk.sync()
        self.remove_older()

    def discard(self, meta: SnapshotMeta) -> None:
        """A received snapshot was not wanted. Raises OSError."""
        self.drop(snapshot_name(RECEIVED, meta.index, meta.term))

    def pieces(self, found: SnapshotFile, size: int = 1 << 20) -> Iterator[bytes]:
        """The bytes of the file as they are, for a peer. Raises OSError, FileNotFoundError if a newer one has replaced it."""
        file = self._disk.open(snapshot_name(CURRENT, found.index, found.term))
        try:
            offset = 0
            while piece := file.read_at(offset, size):
                offset += len(piece)
                yield piece
        finally:
            file.close()

    @contextlib.contextmanager
    def open(self, meta: SnapshotMeta) -> Iterator[BinaryIO]:
        """The application's part of a current or a received snapshot. Reading raises SnapshotDamagedError; the end is verified."""
        name, file = self._open_either(meta)
        try:
            found, offset = self.header(name, file)
            if found != meta:
                raise SnapshotDamagedError(name, 0, "it is another snapshot than its name says")
            source = SnapshotSource(file, name, offset)
            yield cast("BinaryIO", io.BufferedReader(source, CHUNK))
            source.verify()
        finally:
            file.close()

    def _open_either(self, meta: SnapshotMeta) -> tuple[str, File]:
        # It may be adopted, that is renamed, by the journal's thread at any moment: so once more after the second name.
        first, second = snapshot_name(RECEIVED, meta.index, meta.term), snapshot_name(CURRENT, meta.index, meta.term)
        for name in (first, second):
            try:
                return name, self._disk.open(name)
            except FileNotFoundError:
                continue
        return first, self._disk.open(first)

    def drop(self, name: str) -> None:
        """Remove a file that may be there. Raises OSError."""
        if name in self._disk.list():
            self._disk.remove(name)

    def remove_older(self) -> None:
        """Only the newest snapshot counts. Raises OSError."""
        for found in self.current()[:-1]:
            self._disk.remove(snapshot_name(CURRENT, found.index, found.term))
        self._disk.sync()


class _Nothing:
    """The state before the first entry."""

    def write(self, sink: BinaryIO) -> None:
        """No data."""


def snapshot_name(prefix: str, index: int, term: int) -> str:
    """The name of a finished file."""
    return f"{prefix}{index:016d}-{term:016d}"


def parse_name(name: str, prefix: str) -> SnapshotFile | None:
    """What a finished file with this prefix is called for, or None for any other name."""
    numbers = name.removeprefix(prefix).split("-")
    if not name.startswith(prefix) or len(numbers) != 2 or not all(len(n) == 16 and n.isascii() and n.isdigit() for n in numbers):
        return None
    return SnapshotFile(int(numbers[0]), int(numbers[1]))


def unfinished_snapshot(name: str) -> bool:
    """Whether this is a snapshot file that was never finished."""
    if not name.endswith(UNFINISHED):
        return False
    stem = name.removesuffix(UNFINISHED)
    return parse_name(stem, CURRENT) is not None or parse_name(stem.split(".")[0], RECEIVED) is not None
