"""Snapshots in the place of the package's serializer: durable before they count, verified before they replace anything."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import BinaryIO

import pytest
from pysyncobj.node import Node

from lockd.raft.core.types import Membership
from lockd.raft.disk import MemoryDisk, OsDisk
from lockd.raft.port import SnapshotWriter
from lockd.raft.pysyncobj_engine import snapshots as module
from lockd.raft.pysyncobj_engine.logfile import Row
from lockd.raft.pysyncobj_engine.snapshots import FAILED, NOT_SERIALIZING, SERIALIZING, SNAPSHOT_NAME, SUCCESS, Snapshots, SnapshotStore
from tests.unit.pysyncobj_engine.support import Bytes

PREVIOUS: Row = (b"\0p", 41, 3)
LAST: Row = (b"\1", 42, 3)
PEER = Node("b")


class Host:
    """What the engine would be."""

    def __init__(self, writer: SnapshotWriter) -> None:
        self.writer = writer
        self.store: SnapshotStore
        self.wants = True
        self.restored: list[tuple[int, bytes]] = []
        self.ended: list[str | None] = []
        self.failed: list[BaseException] = []

    def freeze(self) -> SnapshotWriter:
        """The writer."""
        return self.writer

    def wanted(self, last: Row) -> bool:
        """As the test says."""
        return self.wants

    def restore(self, index: int) -> None:
        """Remember the state."""
        with self.store.state() as (found, source):
            assert found == index
            self.restored.append((index, source.read()))

    def snapshot_ended(self, error: str | None) -> None:
        """Remember it."""
        self.ended.append(error)

    def fail(self, error: BaseException) -> None:
        """Remember it."""
        self.failed.append(error)


class Broken:
    """A writer that raises half-way."""

    def write(self, sink: BinaryIO) -> None:
        """Some bytes, then an error."""
        sink.write(bytes(1000))
        raise RuntimeError("half-way")


class Slow:
    """A writer that waits for a file to appear."""

    def __init__(self, gate: Path) -> None:
        self._gate = gate

    def write(self, sink: BinaryIO) -> None:
        """Wait, then write."""
        self._gate.with_suffix(".begun").touch()
        deadline = time.monotonic() + 60
        while not self._gate.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        sink.write(b"slow")


def built(disk: MemoryDisk | OsDisk, writer: SnapshotWriter, *, fork: bool = False) -> tuple[Snapshots, Host]:
    """Snapshots over a disk."""
    host = Host(writer)
    host.store = SnapshotStore(disk, "cluster", Membership(()))
    return Snapshots(host.store, host, fork=fork, index=0), host


def outcome(snapshots: Snapshots) -> int:
    """The first state that is not SERIALIZING."""
    deadline = time.monotonic() + 20
    while (state := snapshots.checkSerializing()[0]) == SERIALIZING:
        assert time.monotonic() < deadline, "the child did not end"
        time.sleep(0.001)
    return state


def transfer(source: Snapshots, target: Snapshots, *, damage: bool = False) -> bool:
    """Send a whole snapshot, piece by piece; True when the target took it."""
    while True:
        found = source.getTransmissionData(PEER)
        assert found is not None
        piece, first, last = found
        if damage and piece:
            piece = piece[:-1] + bytes([piece[-1] ^ 1])
        taken = target.setTransmissionData((piece, first, last))
        if last:
            return taken


def test_a_snapshot_is_durable_before_success_is_told() -> None:
    """SUCCESS, at which the package cuts its log, is told once, when the file is in place."""
    disk = MemoryDisk()
    snapshots, host = built(disk, Bytes(b"state"))
    assert snapshots.checkSerializing() == (NOT_SERIALIZING, None)
    snapshots.serialize((None, LAST, PREVIOUS, None), 41)
    assert SNAPSHOT_NAME not in disk.list()
    assert snapshots.checkSerializing() == (SUCCESS, 41)
    assert host.store.read() == (PREVIOUS, LAST)
    assert snapshots.index == 42
    assert host.ended == [None]
    assert snapshots.checkSerializing() == (NOT_SERIALIZING, None)


def test_a_forked_child_writes_the_state_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent goes on while the child writes; the snapshot has the state of the fork."""
    monkeypatch.setattr(module, "FORK_IS_SAFE", True)
    disk = OsDisk(tmp_path / "data")
    gate = tmp_path / "gate"
    snapshots, host = built(disk, Slow(gate), fork=True)
    snapshots.serialize((None, LAST, PREVIOUS, None), 41)
    assert snapshots.busy
    assert snapshots.checkSerializing()[0] == SERIALIZING
    gate.touch()
    assert outcome(snapshots) == SUCCESS
    host.restore(42)
    assert host.restored == [(42, b"slow")]
    disk.close()


def test_a_child_holds_nothing_of_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory can be locked again while a child of the former owner still writes, and its work no longer counts."""
    monkeypatch.setattr(module, "FORK_IS_SAFE", True)
    disk = OsDisk(tmp_path / "data")
    snapshots, _ = built(disk, Slow(tmp_path / "never"), fork=True)
    snapshots.serialize((None, LAST, PREVIOUS, None), 41)
    deadline = time.monotonic() + 20
    while not (tmp_path / "never.begun").exists():
        assert time.monotonic() < deadline, "the child did not begin"
        time.sleep(0.001)
    disk.close()
    second = OsDisk(tmp_path / "data")
    assert SNAPSHOT_NAME not in second.list()
    second.close()
    snapshots.close()
    assert not snapshots.busy


@pytest.mark.parametrize("fork", [False, True])
def test_a_writer_that_raises_spoils_only_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork: bool) -> None:
    """FAILED is told, the old snapshot stays, and the next attempt waits a while unless it is asked for."""
    monkeypatch.setattr(module, "FORK_IS_SAFE", True)
    disk = OsDisk(tmp_path)
    snapshots, host = built(disk, Bytes(b"old"), fork=fork)
    snapshots.serialize((None, LAST, PREVIOUS, None), 41)
    assert outcome(snapshots) == SUCCESS
    host.writer = Broken()
    snapshots.serialize((None, (b"\1", 50, 3), (b"\1", 49, 3), None), 49)
    assert outcome(snapshots) == FAILED
    assert host.ended[0] is None
    assert host.ended[1]
    assert host.store.read() == (PREVIOUS, LAST)
    host.writer = Bytes(b"new")
    snapshots.serialize((None, (b"\1", 50, 3), (b"\1", 49, 3), None), 49)
    assert outcome(snapshots) == NOT_SERIALIZING
    snapshots.retry()
    snapshots.serialize((None, (b"\1", 50, 3), (b"\1", 49, 3), None), 49)
    assert outcome(snapshots) == SUCCESS
    assert snapshots.index == 50
    assert not host.failed
    disk.close()


def test_a_snapshot_travels_whole() -> None:
    """What one replica sends in pieces becomes the other's current snapshot, and its state."""
    state = os.urandom(3 * module.PIECE + 17)
    source, _ = built(MemoryDisk(), Bytes(state))
    source.serialize((None, LAST, PREVIOUS, None), 41)
    source.checkSerializing()
    target, host = built(MemoryDisk(), Bytes(b""))
    assert transfer(source, target)
    assert target.deserialize() == (None, LAST, PREVIOUS, ())
    assert host.restored == [(42, state)]
    assert target.index == 42


def test_a_damaged_transfer_changes_nothing() -> None:
    """A snapshot that does not match its checksums on arrival is dropped; the next one is taken."""
    source, _ = built(MemoryDisk(), Bytes(b"state"))
    source.serialize((None, LAST, PREVIOUS, None), 41)
    source.checkSerializing()
    disk = MemoryDisk()
    target, host = built(disk, Bytes(b""))
    assert not transfer(source, target, damage=True)
    assert disk.list() == []
    assert transfer(source, target)
    assert not host.failed


def test_an_older_snapshot_is_not_taken() -> None:
    """What brings nothing new is dropped."""
    source, _ = built(MemoryDisk(), Bytes(b"state"))
    source.serialize((None, LAST, PREVIOUS, None), 41)
    source.checkSerializing()
    target, host = built(MemoryDisk(), Bytes(b""))
    host.wants = False
    assert not transfer(source, target)
    assert target.index == 0


def test_a_new_connection_begins_from_the_start() -> None:
    """After `forget` the peer gets the first piece again; without it the transfer goes on where it was."""
    source, _ = built(MemoryDisk(), Bytes(os.urandom(3 * module.PIECE)))
    source.serialize((None, LAST, PREVIOUS, None), 41)
    source.checkSerializing()
    first = source.getTransmissionData(PEER)
    source.cancelTransmisstion(PEER)
    second = source.getTransmissionData(PEER)
    assert first is not None
    assert second is not None
    assert (first[1], second[1]) == (True, False)
    source.forget("b")
    assert source.getTransmissionData(PEER) == first


def test_pieces_without_a_beginning_are_ignored() -> None:
    """The rest of a transfer whose first piece is missing changes nothing."""
    target, _ = built(MemoryDisk(), Bytes(b""))
    assert not target.setTransmissionData(None)
    assert not target.setTransmissionData((b"middle", False, False))
    assert not target.setTransmissionData((b"", False, True))


def test_a_state_that_cannot_be_restored_stops_the_replica() -> None:
    """The package would log the error and go on with half a state; here the engine is told."""
    target, host = built(MemoryDisk(), Bytes(b""))
    with pytest.raises(FileNotFoundError):
        target.deserialize()
    assert len(host.failed) == 1
