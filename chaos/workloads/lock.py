"""Locks: taken, used against a store outside and for guarded rows, given back, lost."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any, ClassVar

import lockd_client
from chaos.checkers import fencing, linearizable, totals
from chaos.checkers.fencing import FencedStore, Hold
from chaos.checkers.verdict import Judgement
from chaos.history import History, Op, Outcome
from chaos.models.lock import Lock, RwLock
from chaos.workloads.base import TIMEOUT, Context, Process, Workload
from lockd_client import Grant, Guard, LockMode

KEYS = 3
_LATE = 0.25
"""How often a writer comes too late."""


def _held(error: lockd_client.LockdError) -> tuple[Outcome, Any] | None:
    """A try that found it taken is an answer. A wait that the client itself gave up may be granted before its cancellation arrives."""
    if isinstance(error, lockd_client.LockHeld):
        return Outcome.OK, "held"
    if isinstance(error, (lockd_client.WaitTimeout, lockd_client.Deadlock, lockd_client.InvalidArgument, lockd_client.ResourceExhausted)):
        return Outcome.FAIL, error.reason
    return Outcome.UNKNOWN, None


def _fenced(error: lockd_client.LockdError) -> tuple[Outcome, Any] | None:
    if isinstance(error, lockd_client.FencedError):
        return Outcome.OK, False
    return (Outcome.FAIL, error.reason) if isinstance(error, lockd_client.LockLost) else None


def _released(error: lockd_client.LockdError) -> tuple[Outcome, Any] | None:
    """Only the service knows that a lock had gone; the client alone only fears it."""
    if isinstance(error.__cause__, (lockd_client.NotHeld, lockd_client.FencedError)):
        return Outcome.OK, False
    return Outcome.UNKNOWN, None


def _token(grant: Grant) -> int:
    return grant.token


class LockWorkload(Workload):
    """Exclusive locks with fencing."""

    name = "lock"
    about = "locks: mutual exclusion, growing tokens, a store outside and guarded rows that fence; linearizable, each lock by itself"
    shared: ClassVar[float] = 0.0
    """How often a lock is only shared."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._store = FencedStore()

    async def client(self, process: Process) -> None:
        """Takes one lock after the other."""
        while (client := await process.client()) is not None and not self.context.over():
            key = f"{self.name}/{process.chance.randrange(KEYS)}"
            mode = LockMode.SHARED if process.chance.random() < self.shared else LockMode.EXCLUSIVE
            wait = process.chance.choice((0.0, 0.3, 1.0))
            word = "shared" if mode is LockMode.SHARED else "exclusive"
            name, begun = process.name, time.monotonic_ns()
            outcome, grant = await process.call(
                "acquire",
                key,
                word,
                partial(client.acquire, key, mode=mode, wait=wait, timeout=TIMEOUT),
                show=_token,
                expected=_held,
                limit=TIMEOUT + wait,
            )
            if outcome is Outcome.UNKNOWN:
                # It may be granted, cancelled, or die with its session, which nobody hears of.
                self._may_expire(name, key, word, begun, None)
                process.drop_client()
            elif grant is not None:
                await self._use(process, key, word, grant)
            await process.think()

    def _may_expire(self, name: str, key: str, word: str, at: int, hold: list[int] | None) -> None:
        """From `at` on the process's hold may end by itself."""
        recorder = self.context.recorder
        recorder.complete(recorder.invoke(name, "~expire", key, word if hold is None else [word, *hold], at=at), Outcome.UNKNOWN)

    async def _use(self, process: Process, key: str, word: str, grant: Grant) -> None:
        """Work under the lock, and give it back. Whatever is not certain ends this process and its session."""
        name, token, since = process.name, grant.token, time.monotonic_ns()
        until = _certain(grant, since)
        fine = True
        for _ in range(process.chance.randrange(1, 4)):
            until = _certain(grant, until)
            if word == "exclusive":
                certain = grant.held
                await process.call("store", key, [token, certain], lambda: self._write(key, token), look=True)
                until = _certain(grant, until)
                fine = await self._guarded(process, key, grant)
            await asyncio.sleep(process.chance.uniform(0, 0.03))
            if not fine or not grant.held:
                break
        until = _certain(grant, until)
        if fine and grant.held:
            now = time.monotonic_ns()
            outcome, _ = await process.call(
                "release", key, [token, word, since, now], lambda: grant.release(timeout=TIMEOUT), show=lambda _: True, expected=_released
            )
            fine = outcome is Outcome.OK
            until = max(now, until) if fine else now
            if fine and word == "exclusive" and process.chance.random() < _LATE:
                await self._late(process, key, Guard(grant.resource, token))
        if not fine or grant.lost is not None:
            # We end the session now: nobody has promised more than that.
            until = min(until, time.monotonic_ns())
            self._may_expire(name, key, word, until, [token, since, until])
            process.reborn()
            process.drop_client()

    async def _late(self, process: Process, key: str, guard: Guard) -> None:
        """As a client that was paused: a write with a token that is no longer good."""
        await process.think(0.1)
        client = await process.client()
        if client is not None:
            put = partial(client.rows.put, f"guarded/{key}", b"too late", guards=[guard])
            await process.call("guarded", key, [guard.token], put, show=lambda _: True, expected=_fenced)

    async def _write(self, key: str, token: int) -> bool:
        return self._store.write(key, token, f"by {token}")

    async def _guarded(self, process: Process, key: str, grant: Grant) -> bool:
        """A write that carries the token; whether all is well."""
        try:
            guard = grant.guard()
        except lockd_client.LockdError:
            return False
        client = await process.client()
        if client is None:
            return False
        value = b"%d" % grant.token
        outcome, done = await process.call(
            "guarded",
            key,
            [grant.token],
            lambda: client.rows.put(f"guarded/{key}", value, guards=[guard]),
            show=lambda _: True,
            expected=_fenced,
        )
        return outcome is Outcome.OK and done is not None

    @staticmethod
    def judge(history: History) -> list[Judgement]:
        """Linearizable, tokens, holds, the store."""
        return [
            linearizable.check(history.ops, Lock()),
            fencing.check_tokens(history.ops),
            fencing.check_holds(holds(history.ops)),
            fencing.check_store(history.ops),
            totals.enough(history.ops, ("acquire", "guarded", "release"), 5),
        ]


class RwLockWorkload(LockWorkload):
    """Readers and writers."""

    name = "rw-lock"
    about = "locks in the modes shared and exclusive: readers together, writers alone; linearizable, each lock by itself"
    shared = 0.7

    @staticmethod
    def judge(history: History) -> list[Judgement]:
        """Linearizable, holds."""
        return [
            linearizable.check(history.ops, RwLock()),
            fencing.check_tokens(history.ops),
            fencing.check_holds(holds(history.ops)),
            fencing.check_store(history.ops),
            totals.enough(history.ops, ("acquire", "release"), 5),
        ]


def _certain(grant: Grant, known: int) -> int:
    """Until when (monotonic ns) the lock is certainly held, as far as was ever known."""
    now = time.monotonic_ns()
    remaining = int(grant.remaining() * 1e9)
    return max(known, now + remaining) if remaining > 0 else known


def holds(ops: tuple[Op, ...]) -> list[Hold]:
    """The times for which holders were certain: from each release, and from each end that nobody asked for."""
    found = []
    for op in ops:
        if op.kind == "release" and isinstance(op.args, list):
            _, word, since, until = op.args
            found.append(Hold(op.key, op.process, since, until, op.id, word == "shared"))
        elif op.kind == "~expire" and isinstance(op.args, list):
            word, _, since, until = op.args
            found.append(Hold(op.key, op.process, since, min(until, op.invoked), op.id, word == "shared"))
    return found
