"""Random log entries for the whole machine: mostly sensible ones, so that much happens, and some of any values that the types allow."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from ledger import codec
from lockd.machine import commands as c
from lockd.machine import events, results
from lockd.machine.types import FencingToken, LockMode, RequestId, Resource, Revision, SessionId

PATHS = ("a", "b", "a/x", "a/y", "a/x/1", "b/z", "é/ü")
WEIRD_TEXT = ("", "/", "a//b", ".", "a/..", "a\x00b", "\ud800", "a/" * 20, "x" * 600, "é" * 300, "\x7f", "a/\u2028", "\U0001f600")
WEIRD_INTS = (-(2**70), -(2**63), -2, -1, 0, 1, 2, 7, 8, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**200)


class Entries:
    """Draws entries from one Random. `weird` is the share of fields that get any value at all."""

    def __init__(self, seed: int, weird: float = 0.02) -> None:
        self.rng = Random(seed)
        self.weird = weird
        self.sessions: list[int] = [0]
        self.tokens: list[tuple[str, int]] = [("a", 1)]
        self.next_request: dict[int, int] = {}
        self.next_transfer = 1
        self.log_time = 10**9

    def learn(self, applied: results.Applied) -> None:
        """Know which sessions and tokens there are, so that later entries can name them."""
        for result in [*applied.results, *(item.result for item in applied.completions)]:
            if isinstance(result, results.SessionOpened):
                self.sessions.append(result.session)
                self.sessions = self.sessions[-6:]
            found = [result, *(result.results if isinstance(result, results.Transacted) else ())]
            for item in found:
                if isinstance(item, results.Granted):
                    self.tokens += [(hold.resource, hold.token) for hold in item.holds]
        for event in applied.events:
            # Most, but not all, of what is said in the name of a dead session comes soon after its end.
            if (
                isinstance(event, events.SessionExpired | events.SessionClosed)
                and self.rng.random() < 0.8
                and event.session in self.sessions
            ):
                self.sessions.remove(event.session)
        self.tokens = self.tokens[-24:]

    def entry(self) -> c.LogEntry:
        """The next entry."""
        rng = self.rng
        self.log_time += rng.choice((0, 1, 10**6, 10**7)) if rng.random() < 0.96 else rng.choice((10**9, 4 * 10**9))
        count = rng.choice((0, 1, 1, 2, 5))
        log_time = rng.choice(WEIRD_INTS[:-1]) if self.weird > 0.1 and rng.random() < 0.01 else self.log_time
        return c.LogEntry(log_time, tuple([self.request() for _ in range(count)]), int(rng.random() < 0.01))

    def request(self) -> c.Request:
        """One request, often a retry of the id before."""
        rng = self.rng
        session = 0 if rng.random() < (0.1 if len(self.sessions) > 4 else 0.3) else rng.choice(self.sessions)
        request_id = self.next_request.get(session, 1)
        if rng.random() < 0.9:
            self.next_request[session] = request_id + 1
        acknowledged = max(0, request_id - rng.randrange(12))
        return c.Request(
            SessionId(self._int(session)), RequestId(self._int(request_id)), RequestId(self._int(acknowledged)), self.command(session)
        )

    def command(self, session: int) -> c.Command:
        """One command."""
        rng = self.rng
        makers: list[tuple[int, Callable[[], c.Command]]] = [
            (12 if session == 0 else 1, lambda: c.OpenSession(self._int(rng.choice((10**9, 3 * 10**9, 10**10))), self._text("owner"))),
            (6, c.KeepAlive),
            (1 if rng.random() < 0.3 else 0, c.CloseSession),
            (14, lambda: c.Acquire(self._claims(), self._wait(), self._int(rng.choice((0, 0, 10**9))))),
            (4, self._convert),
            (4, lambda: c.CancelAcquire(RequestId(self._int(max(0, self.next_request.get(session, 1) - rng.randrange(4)))))),
            (10, lambda: c.Release(self._guards(1))),
            (1, lambda: c.ForceRelease(self._path(), self._text("operator"), self._text("why"))),
            (14, self._transact),
            (2, lambda: c.CompactRows(Revision(self._int(rng.randrange(200))))),
            (2, lambda: c.CreateAccounts(self._accounts(), self._guards(0))),
            (4, lambda: c.CreateTransfers(self._transfers(), (), self._guards(0))),
            (1, lambda: c.Unknown(self._text("kind"), b"digest")),
        ]
        if session == 0 and rng.random() < 0.6:
            makers = makers[:1]
        return rng.choices([make for _, make in makers], [weight for weight, _ in makers])[0]()

    # --- parts -----------------------------------------------------------------------------------------------------------------

    def _int(self, usual: int) -> int:
        return self.rng.choice(WEIRD_INTS) if self.rng.random() < self.weird else usual

    def _text(self, usual: str) -> str:
        return self.rng.choice(WEIRD_TEXT) if self.rng.random() < self.weird else usual

    def _path(self) -> Resource:
        return Resource(self._text(self.rng.choice(PATHS)))

    def _mode(self) -> LockMode:
        mode: Any = self._int(self.rng.choice((1, 2, 3, 3, 4, 5, 6, 6)))
        return LockMode(mode) if mode in tuple(LockMode) and self.rng.random() < 0.5 else mode

    def _wait(self) -> int:
        return self._int(self.rng.choice((0, -1, 10**6, 10**9)))

    def _claims(self) -> tuple[c.Claim, ...]:
        rng = self.rng
        if rng.random() < self.weird / 4:
            return rng.choice(((), (c.Claim(Resource("a"), LockMode.SHARED),) * 3, (c.Claim(Resource("a"), LockMode.SHARED),) * 2_000))
        return tuple([self._claim() for _ in range(rng.choice((1, 1, 1, 2, 3)))])

    def _claim(self) -> c.Claim:
        if self.rng.random() < 0.15:
            return c.Claim(self._path() if self.rng.random() < 0.1 else Resource("pool"), LockMode.SHARED, self._int(1), self._int(3))
        return c.Claim(self._path(), self._mode())

    def _guards(self, least: int) -> tuple[c.Guard, ...]:
        count = max(least, self.rng.choice((0, 0, 0, 1, 2)))
        return tuple([self._guard() for _ in range(count)])

    def _guard(self) -> c.Guard:
        resource, token = self.rng.choice(self.tokens)
        return c.Guard(Resource(self._text(resource)), FencingToken(self._int(token)))

    def _convert(self) -> c.Convert:
        guard = self._guard()
        return c.Convert(guard.resource, guard.token, self._mode(), self._wait())

    def _transact(self) -> c.Transact:
        rng = self.rng
        compares = tuple([self._compare() for _ in range(rng.choice((0, 0, 1, 2)))])
        return c.Transact(self._guards(0), compares, self._operations(), self._operations())

    def _compare(self) -> c.Compare:
        rng = self.rng
        field: Any = self._int(rng.randrange(1, 7))
        operator: Any = self._int(rng.randrange(1, 5))
        return c.Compare(self._path(), field, operator, self._int(rng.choice((0, 1, 2, 50))), rng.choice((b"", b"1", b"2")))

    def _operations(self) -> tuple[c.Operation, ...]:
        return tuple([self._operation() for _ in range(self.rng.choice((0, 1, 1, 2, 3)))])

    def _operation(self) -> c.Operation:
        rng = self.rng
        makers: list[tuple[int, Callable[[], c.Operation]]] = [
            (10, lambda: c.PutRow(self._path(), rng.choice((b"", b"1", b"2")), self._text("text/plain"), rng.random() < 0.3)),
            (4, lambda: c.DeleteRow(self._path())),
            (1, lambda: c.DeleteRange(self._text("a"), self._text(rng.choice(("b", "a/y"))))),
            (4, lambda: c.GetRow(self._path())),
            (2, lambda: c.PostTransfers(self._transfers(), rng.choice(((), (b"m",))))),
            (3, lambda: c.TakeLocks(self._claims(), self._int(0))),
            (3, lambda: c.ReleaseLocks(self._guards(1))),
            (1, lambda: c.Publish(self._path(), b"payload", self._text("text/plain"))),
        ]
        return rng.choices([make for _, make in makers], [weight for weight, _ in makers])[0]()

    def _accounts(self) -> bytes:
        if self.rng.random() < self.weird:
            return bytes(self.rng.randrange(300))
        return b"".join([codec.pack_account(id=self.rng.randrange(1, 6), ledger=1, code=1) for _ in range(2)])

    def _transfers(self) -> bytes:
        rng = self.rng
        if rng.random() < self.weird:
            return bytes(rng.randrange(300))
        made = []
        for _ in range(rng.choice((0, 1, 1, 2))):
            self.next_transfer += rng.choice((0, 1, 1, 1))
            pending = rng.random() < 0.3
            made.append(
                codec.pack_transfer(
                    id=self.next_transfer,
                    debit_account_id=rng.randrange(1, 7),
                    credit_account_id=rng.randrange(1, 7),
                    amount=rng.randrange(1, 100),
                    ledger=1,
                    code=1,
                    flags=2 * pending,
                    timeout=rng.choice((0, 1, 2)) if pending else 0,
                )
            )
        return b"".join(made)
