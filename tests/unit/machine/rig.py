"""A machine with few words around it: sessions by name, one command an entry, numbers that can be read."""

from __future__ import annotations

from typing import TypeVar

from lockd.machine import commands as c
from lockd.machine import results as r
from lockd.machine.state import Machine
from lockd.machine.types import FOREVER, LIMITS, FencingToken, Limits, LockMode, Nanos, RequestId, Resource, SessionId

SECOND = 1_000_000_000
X, S, U, IS, IX, SIX = (
    LockMode.EXCLUSIVE,
    LockMode.SHARED,
    LockMode.UPDATE,
    LockMode.INTENT_SHARED,
    LockMode.INTENT_EXCLUSIVE,
    LockMode.SHARED_INTENT_EXCLUSIVE,
)
ResultT = TypeVar("ResultT")


def claim(resource: str, mode: LockMode = X, permits: int = 0, limit: int = 0) -> c.Claim:
    """One claim."""
    return c.Claim(Resource(resource), mode, permits, limit)


def guard(resource: str, token: int) -> c.Guard:
    """One guard, or one hold to release."""
    return c.Guard(Resource(resource), FencingToken(token))


def acquire(*resources: str, mode: LockMode = X, wait: Nanos = 0, delay: Nanos = 0) -> c.Acquire:
    """An acquire of these resources, all in one mode."""
    return c.Acquire(tuple([claim(resource, mode) for resource in resources]), wait, delay)


class Rig:
    """Applies entries; every entry is a microsecond after the one before, unless told otherwise."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.machine = Machine(limits)
        self.index = 0
        self.now = 100 * SECOND
        self.names: dict[str, SessionId] = {"": SessionId(0)}
        self.requests: dict[str, int] = {}
        self.completions: list[r.Completion] = []
        self.events: list[object] = []

    def apply(self, *requests: c.Request, after: Nanos = 1_000, leader_term: int = 0) -> r.Applied:
        """One entry."""
        self.index += 1
        self.now += after
        applied = self.machine.apply(self.index, c.LogEntry(self.now, requests, leader_term))
        self.machine.check_invariants()
        self.completions, self.events = applied.completions, applied.events
        return applied

    def tick(self, after: Nanos, *, reign: bool = False) -> r.Applied:
        """Let time pass."""
        return self.apply(after=after, leader_term=int(reign))

    def open(self, name: str, ttl: Nanos = 10 * SECOND) -> SessionId:
        """A session with this name."""
        opened = self.apply(self.request("", c.OpenSession(ttl, name), 0)).results[0]
        assert isinstance(opened, r.SessionOpened)
        self.names[name] = opened.session
        return opened.session

    def request(self, who: str, command: c.Command, request_id: int | None = None, acknowledged: int = 0) -> c.Request:
        """A request of a session, with its next number unless told otherwise."""
        if request_id is None:
            request_id = self.requests[who] = self.requests.get(who, 0) + 1
        return c.Request(self.names[who], RequestId(request_id), RequestId(acknowledged), command)

    def ask(self, who: str, command: c.Command, after: Nanos = 1_000) -> r.Result | None:
        """One command in an entry of its own."""
        return self.apply(self.request(who, command, None if who else 0), after=after).results[0]

    def get(self, kind: type[ResultT], who: str, command: c.Command, after: Nanos = 1_000) -> ResultT:
        """The same, with an answer of this kind."""
        result = self.ask(who, command, after)
        assert isinstance(result, kind), result
        return result

    def token(self, who: str, *resources: str, mode: LockMode = X, delay: Nanos = 0) -> FencingToken:
        """Take locks that are free. Returns the token of the last."""
        return self.get(r.Granted, who, acquire(*resources, mode=mode, delay=delay)).holds[-1].token

    def refusal(self, who: str, command: c.Command, after: Nanos = 1_000) -> tuple[str, str]:
        """Code and reason of a command that is refused."""
        refused = self.get(r.Refused, who, command, after)
        return refused.code.name, refused.reason

    def wait(self, who: str, *resources: str, mode: LockMode = X, wait: Nanos = FOREVER) -> int:
        """Ask for locks that are not free, and wait. Returns the request id."""
        assert self.ask(who, acquire(*resources, mode=mode, wait=wait)) is None
        return self.requests[who]

    def done(self) -> dict[tuple[str, int], str]:
        """What the last entry completed: (session's name, request id) -> "granted" or the reason of the refusal."""
        named = {session: name for name, session in self.names.items()}
        return {
            (named[item.session], item.request_id): item.result.reason if isinstance(item.result, r.Refused) else "granted"
            for item in self.completions
        }
