"""Begin a new cluster from a backup: `lockd restore`, once for each of its first members, from the same file.

The new cluster has its own name and members. Its log goes on above the backup's index, so that fencing tokens and revisions go on growing.
"""

from __future__ import annotations

from pathlib import Path

from lockd.codec.backups import verify_backup
from lockd.codec.snapshots import read_rows
from lockd.machine.state import Machine
from lockd.raft.core.types import HardState, Member, Membership, ReplicaId, SnapshotMeta, Write
from lockd.raft.disk import OsDisk
from lockd.raft.recovery import Store
from lockd.replica import RowsWriter

FIRST_TERM = 1
"""The term of a restored snapshot: every election of the new cluster comes after it."""


class RestoreError(ValueError):
    """The directory cannot be made from the backup; the message says why."""


def restore(backup: Path, data: Path, cluster_id: str, replica_id: str, members: tuple[Member, ...]) -> int:
    """Make `data` the directory of a replica of a new cluster, with the backup's state. Returns the log index that it starts at.

    Raises:
        BackupError: The file is not a whole backup.
        RestoreError: The directory holds something already, or the replica is not among the members.
        OSError: The disk refused.
    """
    if replica_id not in {member.id for member in members}:
        raise RestoreError(f"{replica_id!r} is not among the members")
    if data.exists() and any(data.iterdir()):
        raise RestoreError(f"{data} is not empty: a restore begins a new replica, and overwrites nothing")
    membership = Membership(tuple(sorted(members, key=lambda member: member.id)))
    with backup.open("rb") as file:
        index = verify_backup(file)
        # The whole state is built before anything is written: a backup that cannot be used must not leave a directory behind.
        machine = Machine.restore(read_rows(file))
    if machine.index > index:
        raise RestoreError(f"the state is as of entry {machine.index}, the backup says {index}")
    machine.check_invariants()
    meta = SnapshotMeta(index, FIRST_TERM, membership)
    disk = OsDisk(data)
    try:
        store, _ = Store.open(disk, cluster_id, ReplicaId(replica_id), membership)
        store.snapshots.write(meta, RowsWriter(machine))
        store.snapshots.publish(meta)
        store.journal.write_many([Write(1, HardState(FIRST_TERM, None, index), (), meta, ())])
        store.snapshots.remove_older()
        store.close()
    finally:
        disk.close()
    return index
