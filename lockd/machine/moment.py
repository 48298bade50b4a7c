"""The present entry: what every part of the machine needs to know and to say while one log entry is applied."""

from __future__ import annotations

from lockd.machine.results import Completion
from lockd.machine.types import FencingToken, Nanos, Revision, SessionId

POSITION_BITS = 20
"""Fencing tokens and session ids are `index << 20` at least: a position inside the entry, with room to run over into the next."""

MAX_U64 = (1 << 64) - 1
MAX_TIME: Nanos = (1 << 63) - 1
"""Log time is clamped to this; it is the ledger's highest timestamp too."""


class Moment:
    """Index, time and output of the entry being applied, and the counters that live for ever."""

    __slots__ = ("completions", "events", "index", "last_order", "last_session", "last_ticket", "last_token", "log_time")

    def __init__(self) -> None:
        self.index = Revision(0)
        self.log_time: Nanos = 0
        self.last_token = 0
        self.last_session = 0
        self.last_order = 0
        self.last_ticket = 0
        self.events: list[object] = []
        self.completions: list[Completion] = []

    def next_token(self) -> FencingToken:
        """A token greater than all before it (semantics, section 3)."""
        token, least = self.last_token + 1, self.index << POSITION_BITS
        if token < least:
            token = least
        self.last_token = token
        # Not FencingToken(token): NewType's call costs more than all the rest here.
        return token  # type: ignore[return-value]

    def next_session(self) -> SessionId:
        """A session id greater than all before it."""
        session = max(self.last_session + 1, self.index << POSITION_BITS)
        self.last_session = session
        return SessionId(session)

    def next_order(self) -> int:
        """The place of a new hold among all holds."""
        self.last_order += 1
        return self.last_order

    def next_ticket(self) -> int:
        """The place of a new waiter among all waiters."""
        self.last_ticket += 1
        return self.last_ticket
