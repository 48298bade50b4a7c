"""Snapshot files: whole or refused, and always one in force."""

from __future__ import annotations

import io
import os
from typing import BinaryIO

import pytest

from lockd.raft.core.types import SnapshotMeta
from lockd.raft.disk import MemoryDisk
from lockd.raft.journal import JournalDamagedError, JournalForeignError
from lockd.raft.snapshots import SnapshotDamagedError, SnapshotFile, Snapshots
from lockd.raft.snapshots_format import CHUNK
from tests.unit.raft_shell.support import CLUSTER, FIRST, copy_of, entry, noise, open_store, write


class Pieces:
    """Writes these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces

    def write(self, sink: BinaryIO) -> None:
        """One call for each."""
        for piece in self.pieces:
            assert sink.write(piece) == len(piece)


def read(store: Snapshots, meta: SnapshotMeta) -> bytes:
    """All the data."""
    with store.open(meta) as source:
        return source.read()


META = SnapshotMeta(5, 2, FIRST)
NAME = "snapshot-0000000000000005-0000000000000002"


@pytest.mark.parametrize("sizes", [[], [0], [1], [CHUNK - 1, 1, 5], [CHUNK], [CHUNK * 3 + 7], [10] * 1000, [7, CHUNK * 2, 3]])
def test_what_was_written_is_read(sizes: list[int]) -> None:
    """Any split into pieces gives the same bytes back, and the header tells the meta."""
    store = Snapshots(MemoryDisk(), CLUSTER)
    pieces = [noise(k, size) for k, size in enumerate(sizes)]
    store.take(META, Pieces(*pieces))
    assert read(store, META) == b"".join(pieces)
    assert store.meta(SnapshotFile(5, 2)) == META


def test_a_newer_snapshot_replaces_the_older_one() -> None:
    """Only the newest stays, and an older one that was finished late does not come back."""
    disk = MemoryDisk()
    store = Snapshots(disk, CLUSTER)
    for index in (3, 9):
        store.take(SnapshotMeta(index, 1, FIRST), Pieces(b"%d" % index))
    store.take(SnapshotMeta(6, 1, FIRST), Pieces(b"late"))
    assert store.current() == [SnapshotFile(9, 1)]
    assert len(disk.files) == 1


def test_until_it_is_published_the_older_one_counts() -> None:
    """A crash while a snapshot is being written leaves the older one in force, and its half goes at the next start."""
    disk = MemoryDisk()
    store, _ = open_store(disk)
    store.write_many([write(1, *[entry(k, 2) for k in range(1, 8)])])
    store.snapshots.take(META, Pieces(b"five"))
    store.snapshots.write(SnapshotMeta(7, 2, FIRST), Pieces(b"seven"))
    store.close()
    store, restored = open_store(disk)
    assert restored.snapshot == META
    assert read(store.snapshots, META) == b"five"
    assert not [name for name in disk.files if name.endswith(".tmp")]


def test_a_flipped_byte_anywhere_is_refused_with_its_file() -> None:
    """No damaged snapshot is read as if it were whole."""
    disk = MemoryDisk()
    Snapshots(disk, CLUSTER).take(META, Pieces(noise(1, 300)))
    for at in range(len(disk.files[NAME])):
        damaged = copy_of(disk)
        damaged.files[NAME][at] ^= 0x40
        with pytest.raises(SnapshotDamagedError, match=NAME) as caught:
            read(Snapshots(damaged, CLUSTER), META)
        assert caught.value.offset <= at


def test_a_cut_or_lengthened_file_is_refused() -> None:
    """Neither a prefix nor something behind the end is taken."""
    disk = MemoryDisk()
    Snapshots(disk, CLUSTER).take(META, Pieces(noise(1, 300)))
    size = len(disk.files[NAME])
    for length in range(size):
        cut = copy_of(disk)
        del cut.files[NAME][length:]
        with pytest.raises(SnapshotDamagedError):
            read(Snapshots(cut, CLUSTER), META)
    disk.files[NAME] += b"\0"
    with pytest.raises(SnapshotDamagedError, match="follows"):
        read(Snapshots(disk, CLUSTER), META)


def test_the_end_is_verified_even_if_the_reader_stops_before_it() -> None:
    """A restore that reads only what it wants still fails on a file whose end is damaged."""
    disk = MemoryDisk()
    Snapshots(disk, CLUSTER).take(META, Pieces(noise(1, CHUNK * 2)))
    disk.files[NAME][-1] ^= 1
    with pytest.raises(SnapshotDamagedError), Snapshots(disk, CLUSTER).open(META) as source:
        assert source.read(10) == noise(1, CHUNK * 2)[:10]


def test_another_clusters_snapshot_is_refused() -> None:
    """The cluster id is part of the file."""
    disk = MemoryDisk()
    Snapshots(disk, "other").take(META, Pieces(b"x"))
    with pytest.raises(JournalForeignError, match="other"):
        Snapshots(disk, CLUSTER).meta(SnapshotFile(5, 2))


def sent(index: int = 5) -> tuple[SnapshotMeta, list[bytes]]:
    """A snapshot as another replica streams it."""
    meta = SnapshotMeta(index, 2, FIRST)
    source = Snapshots(MemoryDisk(), CLUSTER)
    source.take(meta, Pieces(noise(index, 5000)))
    return meta, list(source.pieces(SnapshotFile(index, 2), 700))


def test_a_received_snapshot_replaces_the_log_and_survives_a_restart() -> None:
    """The write that installs it cuts the log, keeps what the same write brings after it, and renames the file."""
    disk = MemoryDisk()
    store, _ = open_store(disk)
    store.write_many([write(1, *[entry(k, 1, b"old") for k in range(1, 9)])])
    meta, pieces = sent()
    receiver = store.snapshots.receive(meta)
    for piece in pieces:
        receiver.write(piece)
    receiver.finish()
    assert read(store.snapshots, meta) == noise(5, 5000)
    store.write_many([write(2, entry(6, 2, b"new"), snapshot=meta)])
    assert read(store.snapshots, meta) == noise(5, 5000)
    store.close()
    store, restored = open_store(disk)
    assert restored.snapshot == meta
    assert restored.entries == (entry(6, 2, b"new"),)
    assert read(store.snapshots, meta) == noise(5, 5000)


def test_a_crash_between_cut_and_rename_is_finished_at_the_next_start() -> None:
    """The journal's sync is the moment at which a received snapshot counts; the rename is made up for."""
    disk = MemoryDisk()
    store, _ = open_store(disk)
    store.write_many([write(1, *[entry(k, 1, b"old") for k in range(1, 9)])])
    meta, pieces = sent()
    receiver = store.snapshots.receive(meta)
    for piece in pieces:
        receiver.write(piece)
    receiver.finish()
    before = copy_of(disk)
    store.journal.write_many([write(2, snapshot=meta)])
    _, restored = open_store(copy_of(disk))
    assert restored.snapshot == meta
    assert restored.entries == ()
    _, restored = open_store(before)
    assert restored.snapshot.index == 0, "received is not adopted"
    assert len(restored.entries) == 8
    assert not [name for name in before.files if name.startswith("received")]
    for name in [name for name in disk.files if name.startswith("received")]:
        del disk.files[name]
    with pytest.raises(JournalDamagedError, match="the file is missing"):
        open_store(disk)


def test_a_stream_that_is_not_whole_is_refused_and_removed() -> None:
    """Cut, damaged, or another snapshot than announced: nothing of it stays once it is abandoned."""
    meta, pieces = sent()
    whole = b"".join(pieces)
    other, _ = sent(6)
    for raw, announced in ((whole[:-3], meta), (whole[:900] + b"!" + whole[901:], meta), (whole, other), (b"", meta)):
        disk = MemoryDisk()
        receiver = Snapshots(disk, CLUSTER).receive(announced)
        receiver.write(raw)
        with pytest.raises(SnapshotDamagedError):
            receiver.finish()
        receiver.abandon()
        assert not disk.files


def test_a_received_snapshot_that_is_not_wanted_goes() -> None:
    """Discarding removes it, and does nothing if it was never there."""
    disk = MemoryDisk()
    store = Snapshots(disk, CLUSTER)
    meta, pieces = sent()
    receiver = store.receive(meta)
    receiver.write(b"".join(pieces))
    receiver.finish()
    receiver.abandon()
    assert store.received(SnapshotFile(5, 2)), "finished is finished"
    store.discard(meta)
    store.discard(meta)
    assert not disk.files


def test_a_sink_takes_any_buffer() -> None:
    """Writers may hand over bytearrays and memoryviews, and keep using them."""
    store = Snapshots(MemoryDisk(), CLUSTER)

    class Reuses:
        def write(self, sink: BinaryIO) -> None:
            buffer = bytearray(os.urandom(1000))
            self.data = bytes(buffer)
            sink.write(memoryview(buffer))
            buffer[:] = bytes(1000)

    writer = Reuses()
    store.take(META, writer)
    with store.open(META) as source:
        assert isinstance(source, io.BufferedReader)
        assert source.read() == writer.data
