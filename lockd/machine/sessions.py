"""Sessions: liveness by log time, and the answers that make retries harmless (semantics, section 2)."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from lockd.machine import events, refusals
from lockd.machine.commands import Command, CreateAccounts, CreateTransfers, Transact
from lockd.machine.digest import fingerprint
from lockd.machine.moment import MAX_U64, Moment
from lockd.machine.plain import COMMANDS
from lockd.machine.results import KeptAlive, Refused, Result, SessionOpened
from lockd.machine.types import Limits, Nanos, Resource, SessionId

if TYPE_CHECKING:
    from lockd.machine.holds import Holding
    from lockd.machine.waiting import Waiter

Asked = Command | int | None
"""What a request id was used for: the command itself, its fingerprint, or None if it was cancelled before it came."""


_BULKY = frozenset({CreateTransfers, CreateAccounts, Transact})


class Session:
    """One client's life, its holds, its waits and its unacknowledged answers.

    `answers` maps a request id to what was asked and its result (None: still waiting). Holds and waits stand in the order in which they
    began. `ephemeral` has the keys of the rows that go with the session.
    """

    __slots__ = ("acknowledged", "answers", "ephemeral", "expires_at", "holds", "id", "opened_at", "owner", "ttl", "waits")

    def __init__(self, session: SessionId, owner: str, ttl: Nanos, opened_at: Nanos) -> None:
        self.id = session
        self.owner = owner
        self.ttl = ttl
        self.opened_at = opened_at
        self.expires_at: Nanos = opened_at + ttl
        self.acknowledged = 0
        self.answers: dict[int, tuple[Asked, Result | None]] = {}
        self.holds: dict[Resource, Holding] = {}
        self.waits: dict[int, Waiter] = {}
        self.ephemeral: dict[Resource, None] = {}

    def acknowledge(self, floor: int) -> None:
        """Forget the answers to all request ids below `floor`."""
        floor = min(floor, MAX_U64)
        known, answers = self.acknowledged, self.answers
        if floor <= known:
            return
        self.acknowledged = floor
        if not answers:
            return
        if floor - known <= len(answers):
            for request_id in range(known, floor):
                answers.pop(request_id, None)
        else:
            self.answers = {request_id: answer for request_id, answer in answers.items() if request_id >= floor}

    def recall(self, request_id: int, command: Command) -> tuple[Result | None] | None:
        """The answer given before to this very request, in a tuple; None if it is new."""
        if request_id < self.acknowledged:
            return (refusals.REQUEST_ACKNOWLEDGED,)
        known = self.answers.get(request_id)
        if known is None:
            return None
        asked, result = known
        if asked is not None and not _same(asked, command):
            return (refusals.REQUEST_ID_REUSED,)
        return (result,)

    def remember(self, request_id: int, command: Command, result: Result | None) -> None:
        """Keep an answer until it is acknowledged."""
        # What may be large is not kept for the sake of telling a retry from a mistake.
        self.answers[request_id] = (fingerprint(command) if type(command) in _BULKY else command, result)

    def resolve(self, request_id: int, result: Result) -> None:
        """A waiting request has its answer."""
        known = self.answers.get(request_id)
        if known is not None:
            self.answers[request_id] = (known[0], result)


def _same(asked: Command | int, command: Command) -> bool:
    # Always by fingerprint: a replica that was restored from a snapshot has nothing else, and all must answer alike.
    return (asked if isinstance(asked, int) else fingerprint(asked)) == fingerprint(command)


def kind_of(asked: Asked) -> type | None:
    """The kind of command that a request id was used for."""
    if asked is None:
        return None
    return COMMANDS[asked & 15] if isinstance(asked, int) else type(asked)


class Sessions:
    """All sessions, and when they end."""

    __slots__ = ("_due", "_limits", "_moment", "live")

    def __init__(self, limits: Limits, moment: Moment) -> None:
        self._limits = limits
        self._moment = moment
        self.live: dict[SessionId, Session] = {}
        # (time, id), at most one a session and never later than the truth: a keepalive need not touch it.
        self._due: list[tuple[Nanos, SessionId]] = []

    def find(self, session: SessionId) -> Session | Refused:
        """The live session. One that is due is over, even if its end has not been carried out yet."""
        found = self.live.get(session)
        if found is not None and found.expires_at > self._moment.log_time:
            return found
        if session == 0:
            return refusals.SESSION_REQUIRED
        if found is None and not 0 < session <= self._moment.last_session:
            return refusals.SESSION_UNKNOWN
        return refusals.SESSION_EXPIRED

    def open(self, ttl: Nanos, owner: str) -> SessionOpened | Refused:
        """Start a session."""
        limits, moment = self._limits, self._moment
        if not limits.session_ttl_min <= ttl <= limits.session_ttl_max:
            return refusals.invalid(
                "INVALID_TTL", f"the ttl must lie between {limits.session_ttl_min} and {limits.session_ttl_max} nanoseconds"
            )
        if not is_text(owner, limits.owner_bytes):
            return refusals.invalid("INVALID_OWNER", f"the owner label is Unicode text of at most {limits.owner_bytes} bytes")
        if len(self.live) >= limits.sessions:
            return refusals.exhausted("TOO_MANY_SESSIONS", f"the cluster already has {limits.sessions} sessions")
        session = Session(moment.next_session(), owner, ttl, moment.log_time)
        self.add(session)
        moment.events.append(events.SessionOpened(moment.index, len(moment.events), session.id, owner, ttl))
        return SessionOpened(session.id, ttl, session.expires_at)

    def add(self, session: Session) -> None:
        """Enter a new or restored session."""
        self.live[session.id] = session
        heapq.heappush(self._due, (session.expires_at, session.id))

    def keep_alive(self, session: Session) -> KeptAlive:
        """Extend a live session."""
        session.expires_at = max(session.expires_at, self._moment.log_time + session.ttl)
        return KeptAlive(session.ttl, session.expires_at)

    def extend_all(self, before: Nanos) -> None:
        """A reign begins: give every session that was alive at `before` its full ttl from now."""
        now = self._moment.log_time
        for session in self.live.values():
            if session.expires_at > before:
                session.expires_at = max(session.expires_at, now + session.ttl)

    def next_due(self) -> tuple[Nanos, SessionId] | None:
        """When the next session ends, and which."""
        due, live = self._due, self.live
        while due:
            at, session_id = due[0]
            session = live.get(session_id)
            if session is None:
                heapq.heappop(due)
            elif session.expires_at > at:
                heapq.heapreplace(due, (session.expires_at, session_id))
            else:
                return due[0]
        return None


def is_text(value: str, most: int) -> bool:
    """Whether the string has a UTF-8 form of at most so many bytes; a lone surrogate has none."""
    if len(value) > most:
        return False
    if value.isascii():
        return True
    return not any("\ud800" <= character <= "\udfff" for character in value) and len(value.encode()) <= most
