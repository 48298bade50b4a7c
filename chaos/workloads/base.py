# ruff: noqa: S311 - chance is seeded here, and protects nothing
"""What a workload is, and the calls that all of them make: bounded in time, with an outcome of three."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeVar

import grpc.aio
from google.rpc import error_details_pb2, status_pb2

import lockd_client
from chaos.checkers.verdict import Judgement
from chaos.cluster import Cluster
from chaos.history import History, Outcome, Recorder
from lockd_client import errors

T = TypeVar("T")

TIMEOUT: Final = 2.0
"""Seconds that a call may take."""
GRACE: Final = 3.0
"""Seconds beyond that until we call it overdue and give it up."""


@dataclass(slots=True)
class Context:
    """What a workload runs with."""

    cluster: Cluster
    recorder: Recorder
    seed: str
    ttl: float = 2.0
    """Seconds that sessions live without a keepalive."""
    clients: int = 6
    moving_clocks: bool = False
    """Whether wall clocks are moved in this run: then log time may run ahead."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    overdue: int = 0
    """Calls that did not even end at their own deadline."""
    closing: set[asyncio.Task[None]] = field(default_factory=set)

    def over(self) -> bool:
        """Whether clients should end."""
        return self.stop.is_set()

    def chance(self, who: str) -> random.Random:
        """Randomness of one client's own."""
        return random.Random(f"{self.seed}/{who}")

    def close_later(self, client: lockd_client.Client) -> None:
        """Close a client without waiting for it."""
        task = asyncio.create_task(_close(client))
        self.closing.add(task)
        task.add_done_callback(self.closing.discard)


async def _close(client: lockd_client.Client) -> None:
    with contextlib.suppress(lockd_client.LockdError, TimeoutError):
        await asyncio.wait_for(client.close(), 5.0)


def applied(error: BaseException) -> Outcome:
    """What an error of the SDK says of a write: it documents which errors mean that nothing was applied."""
    if isinstance(error, (errors.UnknownOutcome, errors.Internal, TimeoutError)) or type(error) is errors.LockdError:
        return Outcome.UNKNOWN
    return Outcome.FAIL


def reason(error: grpc.aio.AioRpcError) -> str:
    """The stable reason in a status of the service; the code's name if there is none."""
    metadata: Any = error.trailing_metadata() or ()
    for key, value in metadata:
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                    return str(error_details_pb2.ErrorInfo.FromString(detail.value).reason)
    return error.code().name


_CERTAIN: Final = frozenset(
    {"NOT_LEADER", "NO_LEADER", "LOCK_HELD", "WAIT_TIMEOUT", "DEADLOCK", "NOT_HOLDER", "FENCED", "SESSION_EXPIRED", "SESSION_UNKNOWN"}
    | {"OVERLOADED", "STORAGE_FAILED", "CANCELLED", "INVALID_ARGUMENT", "STALE_REPLICA"}
)


def certain(why: str) -> bool:
    """Whether a reason means that nothing was applied."""
    return why in _CERTAIN


class Process:
    """A logical process: one call at a time, and a new name after an outcome that is not known."""

    def __init__(self, context: Context, name: str) -> None:
        self.context = context
        self.chance = context.chance(name)
        self._base = name
        self._life = 0
        self._client: lockd_client.Client | None = None

    @property
    def name(self) -> str:
        """The name of this life."""
        return f"{self._base}.{self._life}" if self._life else self._base

    def reborn(self) -> None:
        """Go on as somebody else."""
        self._life += 1

    async def client(self) -> lockd_client.Client | None:
        """The connected client; None once the run is over."""
        while self._client is None and not self.context.over():
            endpoints = list(self.context.cluster.endpoints.values())
            self.chance.shuffle(endpoints)
            try:
                self._client = await asyncio.wait_for(
                    lockd_client.connect(endpoints, owner=self.name, ttl=self.context.ttl, timeout=TIMEOUT)._connect(),  # noqa: SLF001
                    TIMEOUT + GRACE,
                )
            except (lockd_client.LockdError, TimeoutError):
                await asyncio.sleep(0.1)
        return self._client

    def drop_client(self) -> None:
        """Leave the client, and with it its session; the next one is a new one."""
        if self._client is not None:
            self.context.close_later(self._client)
            self._client = None

    async def call(
        self,
        kind: str,
        key: str,
        args: Any,
        call: Callable[[], Awaitable[T]],
        *,
        show: Callable[[Any], Any] = lambda value: value,
        expected: Callable[[lockd_client.LockdError], tuple[Outcome, Any] | None] = lambda _error: None,
        look: bool = False,
        limit: float = TIMEOUT,
        node: str = "",
    ) -> tuple[Outcome, T | None]:
        """Make a call and record it.

        Args:
            kind: For the history, as are `key`, `args` and `node`.
            key: See above.
            args: See above.
            call: What to do.
            show: From its value to what is recorded.
            expected: Errors that are answers.
            look: It changes nothing: if it has no answer, it failed.
            limit: Seconds that it may take by its own deadline.
            node: See above.
        """
        recorder = self.context.recorder
        op = recorder.invoke(self.name, kind, key, args, node=node)
        outcome, value, shown = Outcome.UNKNOWN, None, None
        try:
            value = await asyncio.wait_for(call(), limit + GRACE)
            outcome, shown = Outcome.OK, show(value)
        except lockd_client.LockdError as error:
            outcome, shown = expected(error) or (applied(error), error.reason)
        except grpc.aio.AioRpcError as error:
            why = reason(error)
            outcome, shown = (Outcome.FAIL if certain(why) else Outcome.UNKNOWN), why
        except TimeoutError:
            self.context.overdue += 1
            recorder.fault("overdue", "note", f"{self.name}: {kind} of {key} did not end within {limit + GRACE:g} s")
        finally:
            # Also when we are cancelled: then the outcome is not known.
            if outcome is Outcome.UNKNOWN and look:
                outcome = Outcome.FAIL
            recorder.complete(op, outcome, shown if outcome is not Outcome.UNKNOWN else None)
            if outcome is Outcome.UNKNOWN:
                self.reborn()
        return outcome, value

    async def think(self, most: float = 0.02) -> None:
        """A pause by chance."""
        await asyncio.sleep(self.chance.uniform(0, most))


class Workload:
    """Sets up, lets clients work while things break, looks at the end, and judges the history."""

    name: ClassVar[str]
    about: ClassVar[str]

    def __init__(self, context: Context) -> None:
        self.context = context

    async def setup(self) -> None:
        """Before anything breaks."""

    def clients(self) -> list[Awaitable[None]]:
        """The tasks that work until the context is over."""
        return [self.client(Process(self.context, f"c{i + 1}")) for i in range(self.context.clients)]

    async def client(self, process: Process) -> None:
        """One client."""
        raise NotImplementedError

    async def final(self) -> None:
        """After everything is healed."""

    @staticmethod
    def judge(history: History) -> list[Judgement]:
        """Pure: from the history alone."""
        raise NotImplementedError

    async def insist(self, what: Callable[[lockd_client.Client], Awaitable[T]], seconds: float = 20.0) -> T:
        """For setup and final: try until it works. Raises TimeoutError."""
        until = time.monotonic() + seconds
        while True:
            try:
                async with lockd_client.connect(list(self.context.cluster.endpoints.values()), ttl=self.context.ttl, timeout=5.0) as client:
                    return await asyncio.wait_for(what(client), 10.0)
            except (lockd_client.LockdError, TimeoutError) as error:
                if time.monotonic() > until:
                    raise TimeoutError(f"{self.name}: nothing works after {seconds:g} s: {error}") from error
                await asyncio.sleep(0.2)
