"""Whose directory this is: a small text file that names the engine, the cluster and the replica.

It is written last when a directory is set up, and looked for first when one is opened. A directory without it may only hold what an
unfinished set-up of this engine leaves; anything else, such as the files of the other engine, is refused.
"""

from __future__ import annotations

import contextlib

import msgspec

from lockd.raft.core.types import ReplicaId
from lockd.raft.disk import Disk
from lockd.raft.journal_format import JournalDamagedError, JournalForeignError
from lockd.raft.pysyncobj_engine.logfile import LOG_NAME, LOG_UNFINISHED

__all__ = ["IDENTITY_NAME", "is_new", "write_identity"]

IDENTITY_NAME = "IDENTITY"
_UNFINISHED = "IDENTITY.tmp"
_FORMAT = 1
_ENGINE = "pysyncobj"


class _Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    engine: str
    format: int
    cluster_id: str
    replica_id: str


def is_new(disk: Disk, cluster_id: str, replica_id: ReplicaId) -> bool:
    """Whether the directory has yet to be set up; False if it is this replica's.

    Raises JournalForeignError for any other directory, JournalDamagedError for an identity that cannot be read, and OSError.
    """
    names = disk.list()
    if IDENTITY_NAME not in names:
        strangers = [name for name in names if name not in (LOG_NAME, LOG_UNFINISHED, _UNFINISHED)]
        if strangers:
            raise JournalForeignError(strangers[0], "the directory is not empty and was not made by the PySyncObj engine")
        return True
    file = disk.open(IDENTITY_NAME)
    try:
        raw = file.read_at(0, file.size())
    finally:
        file.close()
    try:
        found = msgspec.json.decode(raw, type=_Identity)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise JournalDamagedError(IDENTITY_NAME, 0, f"it cannot be read: {error}") from error
    if (found.engine, found.format) != (_ENGINE, _FORMAT):
        raise JournalForeignError(IDENTITY_NAME, f"it is of engine {found.engine!r}, format {found.format}")
    if found.cluster_id != cluster_id:
        raise JournalForeignError(IDENTITY_NAME, f"it belongs to cluster {found.cluster_id!r}, not to {cluster_id!r}")
    if found.replica_id != replica_id:
        raise JournalForeignError(IDENTITY_NAME, f"it belongs to replica {found.replica_id!r}, not to {replica_id!r}")
    return False


def write_identity(disk: Disk, cluster_id: str, replica_id: ReplicaId) -> None:
    """Name the directory's owner, durably. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        disk.remove(_UNFINISHED)
    file = disk.create(_UNFINISHED)
    try:
        file.write_at(0, msgspec.json.encode(_Identity(_ENGINE, _FORMAT, cluster_id, replica_id)) + b"\n")
        file.sync()
    finally:
        file.close()
    disk.rename(_UNFINISHED, IDENTITY_NAME)
    disk.sync()
