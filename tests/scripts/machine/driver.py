"""Runs a transcript against the machine.

A transcript is blocks separated by blank lines: commands, `----`, and the whole output. Lines that start with `#` tell the story and stay
where they are. All commands of a block are one log entry, a millisecond after the one before unless it begins with `after 5s`. Tokens
are written `index.position`, times since the start in seconds.

    open ann [ttl=10s]                      a session, known by its owner label
    ann alive | ann close
    ann acquire a/b:X c:S pool:2/3 [wait=5s|forever] [delay=5s]
    ann convert a/b:X [wait=...]            under the session's present token
    ann release a/b[@4.0] ...               likewise, or under this one
    ann cancel 3 | ann again 3 | ann ack 3  by request id
    ann tx [guard a[@4.0]] [if k.version=2] [put k=v] [ephemeral k=v] [delete k] [get k] [take a:X] [give a] [say topic=text] [else ...]
    force a by=root why=text
    compact 5
    tick | reign                            entries without requests; as the only command of a block
    show locks | rows [@5] | sessions | graph
    restore                                 continue from a snapshot of the present state
"""

from __future__ import annotations

from collections.abc import Iterator

from lockd.machine import commands as c
from lockd.machine import events, views
from lockd.machine import results as r
from lockd.machine.state import Machine
from lockd.machine.types import FOREVER, FencingToken, LockMode, Nanos, RequestId, Resource, Revision, SessionId
from tests.scripts.machine.transactions import transaction

MODES = {
    "IS": LockMode.INTENT_SHARED,
    "IX": LockMode.INTENT_EXCLUSIVE,
    "S": LockMode.SHARED,
    "SIX": LockMode.SHARED_INTENT_EXCLUSIVE,
    "U": LockMode.UPDATE,
    "X": LockMode.EXCLUSIVE,
}
NAMES = {int(mode): name for name, mode in MODES.items()}
SECOND = 10**9
START = 1_000 * SECOND


def run(text: str) -> str:
    """The transcript with the output that the machine gives now."""
    transcript = Transcript()
    return "\n\n".join(transcript.block(block) for block in text.strip("\n").split("\n\n")) + "\n"


def duration(text: str) -> Nanos:
    """`5s`, `20ms`, `forever` or nanoseconds."""
    if text == "forever":
        return FOREVER
    for unit, factor in (("ms", 10**6), ("s", SECOND)):
        if text.endswith(unit):
            return int(text.removesuffix(unit)) * factor
    return int(text)


class Transcript:
    """The machine, and the names that the transcript knows."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.index = 0
        self.now = START
        self.sessions: dict[str, SessionId] = {"-": SessionId(0)}
        self.next_request: dict[str, int] = {}
        self.acknowledged: dict[str, int] = {}
        self.sent: dict[tuple[str, int], c.Command] = {}

    def block(self, block: str) -> str:
        """One block with its output."""
        lines = block.split("\n")
        told = lines[: lines.index("----")] if "----" in lines else lines
        commands = [line for line in told if not line.startswith("#")]
        if not commands:
            return "\n".join(told)
        output = list(self._run(commands))
        self.machine.check_invariants()
        return "\n".join([*told, "----", *output])

    def _run(self, lines: list[str]) -> Iterator[str]:
        word, _, rest = lines[0].partition(" ")
        if word == "show":
            yield from self._show(rest.split())
            return
        if word == "restore":
            before = self.machine.state_hash()
            self.machine = Machine.restore(self.machine.export())
            yield "same state" if self.machine.state_hash() == before else "another state"
            return
        elapsed = 10**6
        if word == "after":
            elapsed = duration(rest)
            lines = lines[1:]
        requests = [found for line in lines if (found := self._request(line.split())) is not None]
        self.index += 1
        self.now += elapsed
        reign = int(lines == ["reign"])
        applied = self.machine.apply(self.index, c.LogEntry(self.now, tuple([request for _, request in requests]), reign))
        yield f"[{self.index}] at {self._time(self.now)}"
        for (who, request), result in zip(requests, applied.results, strict=True):
            if isinstance(result, r.SessionOpened) and isinstance(request.command, c.OpenSession):
                self.sessions[request.command.owner] = result.session
            number = f"#{request.request_id}" if request.request_id else ""
            yield f"{who}{number}: {self.result(result)}"
        for item in applied.completions:
            yield f"{self.name(item.session)}#{item.request_id}: {self.result(item.result)}"
        for event in applied.events:
            yield f"  {self._event(event)}"

    # --- commands --------------------------------------------------------------------------------------------------------------

    def _request(self, words: list[str]) -> tuple[str, c.Request] | None:
        match words:
            case ["tick" | "reign"]:
                return None
            case ["open", name, *options]:
                ttl = duration(options[0].removeprefix("ttl=")) if options else 10 * SECOND
                return name, c.Request(SessionId(0), RequestId(0), RequestId(0), c.OpenSession(ttl, name))
            case ["force", resource, by, *why]:
                force = c.ForceRelease(Resource(resource), by.removeprefix("by="), " ".join(why).removeprefix("why="))
                return "-", c.Request(SessionId(0), RequestId(0), RequestId(0), force)
            case ["compact", revision]:
                return "-", c.Request(SessionId(0), RequestId(0), RequestId(0), c.CompactRows(Revision(int(revision))))
            case [who, "again", number]:
                return who, self._numbered(who, int(number), self.sent[who, int(number)])
            case [who, "ack", number]:
                self.acknowledged[who] = int(number)
                return who, self._numbered(who, 0, c.KeepAlive())
            case [who, "alive"]:
                return who, self._numbered(who, 0, c.KeepAlive())
            case [who, *rest]:
                following = 0 if who == "-" else self.next_request.get(who, 1)
                self.next_request[who] = following + 1
                command = self.sent[who, following] = self._command(who, rest)
                return who, self._numbered(who, following, command)
            case _:
                raise ValueError(f"no command: {words}")

    def _numbered(self, who: str, number: int, command: c.Command) -> c.Request:
        return c.Request(self.sessions[who], RequestId(number), RequestId(self.acknowledged.get(who, 0)), command)

    def _command(self, who: str, words: list[str]) -> c.Command:
        options = dict(word.split("=", 1) for word in words if word.startswith(("wait=", "delay=")))
        words = [word for word in words if not word.startswith(("wait=", "delay="))]
        wait, delay = duration(options.get("wait", "0")), duration(options.get("delay", "0"))
        match words:
            case ["close"]:
                return c.CloseSession()
            case ["acquire", *claims]:
                return c.Acquire(tuple([self.claim(word) for word in claims]), wait, delay)
            case ["convert", word]:
                claim = self.claim(word)
                return c.Convert(claim.resource, self.guard(who, claim.resource).token, claim.mode, wait)
            case ["release", *holds]:
                return c.Release(tuple([self.guard(who, word) for word in holds]))
            case ["cancel", number]:
                return c.CancelAcquire(RequestId(int(number)))
            case ["tx", *rest]:
                return transaction(self, who, rest)
            case _:
                raise ValueError(f"no command: {words}")

    def claim(self, word: str) -> c.Claim:
        """`a/b:S`, `pool:2/3`, or `a/b` alone for EXCLUSIVE."""
        resource, colon, what = word.rpartition(":")
        if not colon:
            return c.Claim(Resource(word), LockMode.EXCLUSIVE)
        if what in MODES:
            return c.Claim(Resource(resource), MODES[what])
        permits, _, limit = what.partition("/")
        return c.Claim(Resource(resource), LockMode.SHARED, int(permits), int(limit))

    def guard(self, who: str, word: str) -> c.Guard:
        """`a` under the token that the session has for it now, or `a@4.0`."""
        resource, _, written = word.partition("@")
        if written:
            index, _, position = written.partition(".")
            return c.Guard(Resource(resource), FencingToken((int(index) << 20) + int(position)))
        return c.Guard(Resource(resource), FencingToken(self.machine.sessions.live[self.sessions[who]].holds[Resource(resource)].token))

    # --- output ----------------------------------------------------------------------------------------------------------------

    def name(self, session: int) -> str:
        """The name of a session."""
        return next(name for name, number in self.sessions.items() if number == session)

    def _time(self, at: Nanos) -> str:
        return f"{(at - START) / SECOND:.3f}s"

    def _token(self, token: int) -> str:
        return f"{token >> 20}.{token & 0xFFFFF}"

    def _hold(self, hold: r.Hold) -> str:
        what = f"{hold.permits} permits" if hold.permits else NAMES[hold.mode]
        return f"{hold.resource} {what} token={self._token(hold.token)}" + (f" x{hold.count}" if hold.count > 1 else "")

    def result(self, result: r.Result | r.OperationResult | None) -> str:
        """A result in a few words."""
        match result:
            case None:
                return "waits"
            case r.Refused():
                details = "".join([f" {key}={self._readable(value)}" for key, value in result.details])
                return f"{result.code.name} {result.reason}{details}"
            case r.SessionOpened() | r.KeptAlive():
                return f"lives until {self._time(result.expires_at)}"
            case r.Granted():
                return "granted " + ", ".join([self._hold(hold) for hold in result.holds])
            case r.Released():
                return "released " + " ".join([str(changed).lower() for changed in result.released])
            case r.Cancelled():
                return f"cancelled waiting={str(result.waiting).lower()} released={str(result.released).lower()}"
            case r.Transacted():
                parts = ", ".join([self.result(part) for part in result.results])
                return f"{'success' if result.succeeded else 'failure'} branch" + (f": {parts}" if parts else "")
            case r.RowPut():
                return f"version {result.version}"
            case r.RowsDeleted():
                return f"{result.count} deleted"
            case r.RowRead():
                return "no row" if result.row is None else self._row(result.row)
            case r.Compacted():
                return f"oldest revision {result.revision}"
            case _:
                return type(result).__name__

    def _readable(self, text: str) -> str:
        """Session ids become names, and tokens what the transcript calls them."""
        words = text.split()
        for place, word in enumerate(words[1:], start=1):
            if words[place - 1] == "session":
                words[place] = self.name(int(word))
        text = " ".join(words)
        return self._token(int(text)) if text.isdigit() and int(text) >= 1 << 20 else text

    def _row(self, row: r.Row) -> str:
        mine = f" of {self.name(row.session)}" if row.session else ""
        return f"{row.key}={row.value.decode()} create={row.create_revision} mod={row.mod_revision} version={row.version}{mine}"

    def _event(self, event: object) -> str:
        kind = type(event).__name__
        match event:
            case events.LockGranted():
                what = f"{event.permits} permits" if event.permits else NAMES[event.mode]
                return f"{kind} {event.resource} {event.owner} {what} token={self._token(event.token)}"
            case events.LockLost():
                until = f" until {self._time(event.available_at)}" if event.available_at else ""
                return f"{kind} {event.resource} {event.owner} token={self._token(event.token)}{until}"
            case events.LockForced():
                return f"{kind} {event.resource} {event.owner} token={self._token(event.token)} by={event.by} why={event.reason}"
            case events.LockReleased():
                return f"{kind} {event.resource} {event.owner} token={self._token(event.token)}"
            case events.DeadlockResolved():
                cycle = " ".join([f"{self.name(session)}->{resource}" for session, resource in event.cycle])
                return f"{kind} victim={event.owner}#{event.request_id} {cycle}"
            case events.WaitTimedOut():
                return f"{kind} {event.owner}#{event.request_id} {' '.join(event.resources)}"
            case events.RowPut():
                return f"{kind} {self._row(event.row)}"
            case events.RowDeleted():
                return f"{kind} {event.key}"
            case events.MessagePublished():
                return f"{kind} {event.topic} {event.payload.decode()}"
            case events.LockDelayEnded():
                return f"{kind} {event.resource}"
            case events.SessionOpened() | events.SessionClosed() | events.SessionExpired():
                return f"{kind} {event.owner}"
            case _:
                return kind

    def _show(self, words: list[str]) -> Iterator[str]:
        match words:
            case ["locks"]:
                for lock in views.locks(self.machine, "", "", 100):
                    held = [f"{h.owner}:{f'{h.permits} permits' if h.permits else NAMES[h.mode]}" for h in lock.holders]
                    waiting = [f"{w.owner}#{w.request_id}" for w in lock.waiters]
                    delay = f" delayed for {lock.delayed_for / SECOND:.3f}s" if lock.delayed_for else ""
                    yield f"{lock.resource} held by [{' '.join(held)}] waiting [{' '.join(waiting)}]{delay}"
            case ["rows", *at]:
                revision = int(at[0].removeprefix("@")) if at else None
                yield from [self._row(row) for row in self.machine.rows.range("", None, revision)]
            case ["sessions"]:
                for session in views.sessions(self.machine, 0, 100):
                    yield f"{session.owner} expires in {session.expires_in / SECOND:.3f}s holds={session.holds} waits={session.waits}"
            case ["graph"]:
                for edge in views.wait_graph(self.machine):
                    yield f"{self.name(edge.waiter)} waits for {self.name(edge.holder)} because of {edge.resource}"
            case _:
                raise ValueError(f"nothing to show: {words}")
