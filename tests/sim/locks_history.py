"""What must hold for locks over one run: on every replica alike, in the order of the log, and as the clients are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from lockd.machine import events as e
from lockd.machine.commands import LogEntry
from lockd.machine.results import Granted, KeptAlive, Refused, Released, Result, SessionOpened
from lockd.machine.state import Machine
from lockd.machine.types import LockMode
from tests.sim.world import SimulationError

_Mark: TypeAlias = tuple[int, int, int, int, int]


def mark(machine: Machine) -> _Mark:
    """A few numbers that tell states of the machine apart, at little cost."""
    moment = machine.moment
    return moment.log_time, moment.last_token, moment.last_session, moment.last_order, moment.last_ticket


class LockHistory:
    """The facts in log order, as the first replica that applied each entry saw them, and the answers given."""

    def __init__(self) -> None:
        self.marks: dict[int, _Mark] = {}
        self.facts: dict[int, list[object]] = {}
        self.granted: dict[int, tuple[str, int]] = {}
        """Token -> (resource, session)."""
        self.holders: dict[str, dict[int, tuple[LockMode, int]]] = {}
        """Resource -> session -> (mode, token)."""
        self.last_token = 0
        self.promised: dict[int, int] = {}
        """Session -> the latest log time until which a client was told that it lives."""
        self.floor = 0
        """The highest revision that a client was told."""
        self.answers: dict[tuple[int, int], Result] = {}
        self.answered = 0

    # --- replicas ---------------------------------------------------------------------------------------------------------------------

    def applied(self, who: str, index: int, machine: Machine) -> None:
        """A replica has applied the entry at `index`."""
        seen = mark(machine)
        known = self.marks.setdefault(index, seen)
        if known != seen:
            raise SimulationError("state machine safety", f"{who} is at {seen} after entry {index}, others at {known}")

    def restored(self, who: str, machine: Machine) -> None:
        """A replica's state was replaced by a snapshot."""
        known = self.marks.get(machine.index)
        if machine.index and known != mark(machine):
            raise SimulationError("state machine safety", f"{who} restored {mark(machine)} at {machine.index}, others were at {known}")

    def happened(self, who: str, index: int, entry: LogEntry, facts: Sequence[object]) -> None:
        """A replica tells the facts of one entry."""
        known = self.facts.get(index)
        if known is not None:
            if known != list(facts):
                raise SimulationError("state machine safety", f"{who} tells other facts of entry {index} than others did")
            return
        self.facts[index] = list(facts)
        for fact in facts:
            self._fact(who, entry, fact)

    def _fact(self, who: str, entry: LogEntry, fact: object) -> None:
        if isinstance(fact, e.LockGranted):
            if fact.token <= self.last_token:
                raise SimulationError("tokens rise", f"{who}: token {fact.token} of {fact.resource} after {self.last_token}")
            self.last_token = fact.token
            self.granted[fact.token] = (fact.resource, fact.session)
            holders = self.holders.setdefault(fact.resource, {})
            for session, (mode, token) in holders.items():
                if session != fact.session and not (mode is LockMode.SHARED and fact.mode is LockMode.SHARED):
                    raise SimulationError("mutual exclusion", f"{fact} is granted while {session} holds it, {mode.name}, token {token}")
            holders[fact.session] = (fact.mode, fact.token)
        elif isinstance(fact, (e.LockReleased, e.LockLost, e.LockForced)):
            self.holders.get(fact.resource, {}).pop(fact.session, None)
        elif isinstance(fact, e.SessionExpired):
            promised = self.promised.get(fact.session, 0)
            if entry.log_time < promised:
                raise SimulationError(
                    "sessions live as promised", f"session {fact.session} ends at {entry.log_time}, {promised} was promised"
                )

    # --- clients ----------------------------------------------------------------------------------------------------------------------

    def answer(self, session: int, request: int, result: Result, floor: int) -> None:
        """A client was told this; `floor` is what `self.floor` was when it first asked."""
        self.answered += 1
        if isinstance(result, SessionOpened):
            self.promised[result.session] = result.expires_at
        elif isinstance(result, KeptAlive):
            self.promised[session] = max(self.promised.get(session, 0), result.expires_at)
        if request and not isinstance(result, Refused):
            known = self.answers.setdefault((session, request), result)
            if known != result:
                raise SimulationError("applied once", f"request {request} of session {session} was answered {known}, and then {result}")
        if isinstance(result, (Granted, Released)):
            if result.revision <= floor:
                raise SimulationError("linearizable", f"{result}, but revision {floor} was answered before it was asked for")
            self.floor = max(self.floor, result.revision)
        if isinstance(result, Granted):
            for hold in result.holds:
                if self.granted.get(hold.token) != (hold.resource, session):
                    raise SimulationError(
                        "answers are true", f"session {session} was told {hold}; the log knows {self.granted.get(hold.token)}"
                    )
