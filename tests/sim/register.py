"""The application of the simulation: a register whose value is how often it was written, behind sessions.

Every write has a session and a sequence number, and its result is its position: the value of the register after it. Positions make the
total order of all writes visible from outside, so that linearizability becomes a comparison of integers (see `tests.sim.history`). A
session remembers its last result, so that a repeated request is answered, not executed again.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from typing import BinaryIO

from lockd.raft.core.types import Member, Role
from lockd.raft.port import Committed, SnapshotWriter

_COMMAND = struct.Struct("<IIQ")
MAGIC = b"register 1\n"


def encode_write(session: int, number: int, wall: int, padding: int = 0) -> bytes:
    """A request to write: `wall` is the proposer's wall clock (any nonsense will do), `padding` makes the entry longer."""
    return _COMMAND.pack(session, number, wall) + b"." * padding


def decode_write(data: bytes) -> tuple[int, int, int]:
    """Session, number and wall clock of a request."""
    session, number, wall = _COMMAND.unpack_from(data)
    return session, number, wall


class Register:
    """The replicated state machine (protocol `lockd.raft.port.StateMachine`)."""

    __slots__ = ("applied", "dedup", "log_time", "on_abandoned", "on_applied", "on_restored", "on_role", "sessions", "writes")

    def __init__(self) -> None:
        self.writes: list[tuple[int, int]] = []
        """(session, number) by position: what was executed, in order."""
        self.sessions: dict[int, tuple[int, int]] = {}
        """Session -> (last number, its result)."""
        self.log_time = 0
        """The highest wall clock seen: time is data, and never goes back."""
        self.applied = 0
        self.dedup = True
        self.on_applied: Callable[[Committed, int, bool], None] = lambda _entry, _result, _fresh: None
        self.on_abandoned: Callable[[Sequence[int]], None] = lambda _tickets: None
        self.on_role: Callable[[Role, int, Member | None], None] = lambda _role, _term, _leader: None
        self.on_restored: Callable[[int], None] = lambda _index: None

    @property
    def value(self) -> int:
        """How many writes were executed."""
        return len(self.writes)

    def apply(self, entries: Sequence[Committed]) -> None:
        """Execute each entry, or answer it from its session."""
        for entry in entries:
            session, number, wall = decode_write(entry.data)
            last, result = self.sessions.get(session, (0, 0))
            fresh = number > last or not self.dedup
            if fresh:
                self.writes.append((session, number))
                result = len(self.writes)
                self.sessions[session] = (number, result)
            elif number < last:
                result = 0
            self.log_time = max(self.log_time, wall)
            self.applied = entry.index
            self.on_applied(entry, result, fresh)

    def abandoned(self, tickets: Sequence[int]) -> None:
        """Tell whoever waits that the outcome is unknown."""
        self.on_abandoned(tickets)

    def role_changed(self, role: Role, term: int, leader: Member | None) -> None:
        """Pass it on."""
        self.on_role(role, term, leader)

    def snapshot_writer(self) -> SnapshotWriter:
        """Freeze the state."""
        return _Frozen(self.dump())

    def dump(self) -> bytes:
        """The whole state as bytes, equal for equal states."""
        sessions = [[session, *self.sessions[session]] for session in sorted(self.sessions)]
        state = {"applied": self.applied, "writes": self.writes, "sessions": sessions, "log_time": self.log_time}
        return MAGIC + json.dumps(state, separators=(",", ":")).encode()

    def restore(self, source: BinaryIO, index: int) -> None:
        """Replace the state."""
        raw = source.read()
        if not raw.startswith(MAGIC):
            raise ValueError("not a snapshot of a register")
        state = json.loads(raw[len(MAGIC) :])
        self.writes = [(session, number) for session, number in state["writes"]]
        self.sessions = {session: (number, result) for session, number, result in state["sessions"]}
        self.log_time = state["log_time"]
        self.applied = state["applied"]
        self.on_restored(index)


class _Frozen:
    """One frozen state (protocol `lockd.raft.port.SnapshotWriter`)."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def write(self, sink: BinaryIO) -> None:
        """Write it in two pieces."""
        half = len(self._raw) // 2
        sink.write(self._raw[:half])
        sink.write(self._raw[half:])
