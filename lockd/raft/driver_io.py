"""What a driver asks of the world, and its bounds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Protocol, TypeAlias

from lockd.raft.core.types import InstallSnapshot, Membership, Message, Nanos, Refusal, SnapshotMeta, Write
from lockd.raft.port import SnapshotWriter

__all__ = ["ENTRY_OVERHEAD", "ChangeResult", "DriverConfig", "DriverIO", "Lost"]

ENTRY_OVERHEAD = 32
"""Bytes that one entry is counted with beyond its data, so that a flood of empty entries is bounded too."""


class Lost:
    """The leadership under which something was asked for is gone: its outcome is unknown here."""


ChangeResult: TypeAlias = Membership | Refusal | type[Lost]
"""How a membership change ended: committed, refused (nothing appended), or unknown."""


class DriverIO(Protocol):
    """What a driver needs of the world. No method calls back into the driver before it returned, except where it says so."""

    def now(self) -> Nanos:
        """Monotonic time; never goes back."""

    def send(self, messages: Sequence[Message]) -> None:
        """Hand messages to the transport, which may lose, repeat and reorder them. `InstallSnapshot` never comes this way."""

    def write(self, write: Write) -> None:
        """Carry out `write` after all earlier ones, as `Journal.write_many` does; once it is durable call `Driver.persisted(write.number)`.

        One call for the last of several writes is enough. After a failure of the disk call `Driver.fail` instead, and never write again.
        """

    def compact(self, keep_from: int) -> None:
        """Some time after all earlier writes: let the journal drop what lies below index `keep_from` (`Journal.compact`)."""

    def wake(self, at: Nanos) -> None:
        """Call `Driver.tick` at this time, instead of at the time asked for before."""

    def soon(self) -> None:
        """Call `Driver.flush` once all that is due at this moment has been handled (the end of the loop's turn)."""

    def open_snapshot(self, meta: SnapshotMeta) -> AbstractContextManager[BinaryIO]:
        """The application's part of the snapshot `meta`: the current one, or one received and not yet adopted."""

    def take_snapshot(self, meta: SnapshotMeta, writer: SnapshotWriter) -> None:
        """Write a snapshot aside and make it current; then call `Driver.snapshot_taken(meta)` or `Driver.snapshot_failed`."""

    def stream_snapshot(self, message: InstallSnapshot) -> None:
        """Stream the snapshot `message.meta` to `message.to`; at the end call `Driver.snapshot_sent(message.to, message.meta.index, ok)`.

        Over there `message` goes to `Driver.receive` once the file is durable as received.
        """

    def discard_snapshot(self, meta: SnapshotMeta) -> None:
        """After all earlier writes: a received snapshot was not wanted, its file may go."""

    def membership_changed(self, membership: Membership) -> None:
        """The membership in force changed: connect to who is new, part from who is gone."""

    def failed(self, reason: str, error: BaseException | None) -> None:
        """The driver stopped for good and does nothing any more."""


@dataclass(frozen=True, slots=True)
class DriverConfig:
    """Bounds and triggers, in bytes unless said."""

    snapshot_log_bytes: int = 64 << 20
    """A snapshot is due when so much was applied since the last one."""
    keep_log_bytes: int = 16 << 20
    """So much of the log before a snapshot is kept for slow followers."""
    max_outstanding_bytes: int = 32 << 20
    """Proposals accepted and not yet ended; more is refused with OverloadedError."""
    max_outstanding: int = 100_000
    """The same, as a count."""
    apply_entries: int = 256
    """So many committed entries at most are handed to the state machine at once."""
    apply_bytes: int = 1 << 20
    """So many bytes of them, unless a single one has more."""
    apply_time: Nanos = 10_000_000
    """Nanoseconds of one turn of the loop that go into applying, before the rest waits for the next turn; 0 is one slice a turn."""
