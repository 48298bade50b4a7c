"""Bookkeeping of proposals and read barriers while this replica leads, and of what becomes of them when it does not."""

from __future__ import annotations

import secrets
import struct
from collections import deque
from collections.abc import Callable, Sequence

from lockd.raft.port import OverloadedError
from lockd.raft.pysyncobj_engine.settings import ENTRY_HEAD, Settings
from lockd.raft.pysyncobj_engine.wire import COMMAND_NOOP, COMMAND_REGULAR

__all__ = ["Proposals", "payload_of"]

_HEAD = struct.Struct("<BQQ")


def payload_of(command: bytes) -> bytes:
    """What was proposed, without the head that marks it."""
    return command[_HEAD.size :]


class Proposals:
    """Tickets of this process. An entry carries (process, ticket), so that no other entry at its place can be taken for it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process = secrets.randbits(64)
        self._next = 1
        self._sizes: dict[int, int] = {}
        self._bytes = 0
        self._waiting: list[bytes] = []
        self._barriers: list[Callable[[int], None]] = []
        self._barriers_under_way: deque[tuple[int, list[Callable[[int], None]]]] = deque()

    def add(self, data: bytes) -> int:
        """A new proposal, to be appended with the next tick. Raises OverloadedError, and ValueError if it is too long."""
        settings = self._settings
        if len(data) > settings.max_entry_bytes:
            raise ValueError(f"an entry of {len(data)} bytes; the limit is {settings.max_entry_bytes}")
        size = len(data) + ENTRY_HEAD
        if len(self._sizes) >= settings.max_outstanding or self._bytes + size > settings.max_outstanding_bytes:
            raise OverloadedError(f"{len(self._sizes)} proposals, {self._bytes} bytes, wait for their outcome")
        ticket = self._ticket()
        self._sizes[ticket] = size
        self._bytes += size
        self._waiting.append(_HEAD.pack(COMMAND_REGULAR, self._process, ticket) + data)
        return ticket

    def barrier(self, answer: Callable[[int], None]) -> None:
        """Commit an empty entry with the next tick; `answer` gets its index, or 0 if that can no longer be known."""
        self._barriers.append(answer)

    def _ticket(self) -> int:
        ticket = self._next
        self._next += 1
        return ticket

    def take(self) -> list[bytes]:
        """The commands to append now. One empty entry serves every barrier that waits."""
        commands, self._waiting = self._waiting, []
        if self._barriers:
            ticket = self._ticket()
            self._barriers_under_way.append((ticket, self._barriers))
            self._barriers = []
            commands.append(_HEAD.pack(COMMAND_NOOP, self._process, ticket))
        return commands

    @property
    def waiting(self) -> bool:
        """Whether there is something to append."""
        return bool(self._waiting or self._barriers)

    @property
    def outstanding(self) -> int:
        """Proposals whose outcome is not known."""
        return len(self._sizes)

    def _own(self, command: bytes) -> int:
        """The ticket in a command of this process, else 0."""
        if len(command) < _HEAD.size:
            return 0
        _, process, ticket = _HEAD.unpack_from(command)
        return int(ticket) if process == self._process else 0

    def committed(self, command: bytes) -> int | None:
        """The ticket of a committed payload, if it waits for its outcome."""
        ticket = self._own(command)
        size = self._sizes.pop(ticket, None)
        if size is None:
            return None
        self._bytes -= size
        return ticket

    def barrier_committed(self, command: bytes, index: int) -> None:
        """An empty entry was applied: answer those who wait for it."""
        ticket = self._own(command)
        while ticket and self._barriers_under_way and self._barriers_under_way[0][0] <= ticket:
            _, answers = self._barriers_under_way.popleft()
            for answer in answers:
                answer(index)

    def end(self) -> Sequence[int]:
        """The reign is over: barriers are refused; returns the tickets whose outcome can no longer be known, in order."""
        tickets = list(self._sizes)
        self._sizes.clear()
        self._bytes = 0
        self._waiting.clear()
        barriers = [answer for _, answers in self._barriers_under_way for answer in answers] + self._barriers
        self._barriers_under_way.clear()
        self._barriers = []
        for answer in barriers:
            answer(0)
        return tickets
