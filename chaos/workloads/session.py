"""Sessions that are abandoned: they expire, never early, and what they held is free again. Plain gRPC, through any node."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any, Final

import grpc.aio
from google.protobuf.duration_pb2 import Duration

from chaos.checkers import fencing, linearizable, totals
from chaos.checkers.verdict import Finding, Judgement, judge
from chaos.history import History, Outcome
from chaos.models.lock import Lock
from chaos.workloads.base import TIMEOUT, Process, Workload, reason
from lockd.v1 import common_pb2, lock_pb2, lock_pb2_grpc, session_pb2, session_pb2_grpc

KEYS: Final = 3
OWNER: Final = "chaos-session"
_LEFT: Final = 20.0
"""Seconds after the heal in which every abandoned session must have ended."""


class SessionWorkload(Workload):
    """Opens sessions, locks, keeps alive for a while, and walks away."""

    name = "session"
    about = "sessions that are abandoned with a lock: they expire, never early (ttl from the last acknowledged keepalive), and are gone"

    async def client(self, process: Process) -> None:
        """One session after the other, each over a random node."""
        while not self.context.over():
            node = process.chance.choice(self.context.cluster.names)
            options = [("grpc.max_reconnect_backoff_ms", 300)]
            async with grpc.aio.insecure_channel(self.context.cluster.endpoints[node], options=options) as channel:
                await self._session(process, channel, node)
            process.reborn()
            await process.think(0.1)

    async def _session(self, process: Process, channel: grpc.aio.Channel, node: str) -> None:
        sessions: Any = session_pb2_grpc.SessionServiceStub(channel)
        locks: Any = lock_pb2_grpc.LockServiceStub(channel)
        ttl = self.context.ttl
        name, alive = process.name, time.monotonic_ns()
        request = session_pb2.OpenSessionRequest(ttl=Duration(nanos=0), owner=OWNER)
        request.ttl.FromNanoseconds(int(ttl * 1e9))
        outcome, opened = await process.call(
            "open", "", ttl, partial(_ask, sessions.OpenSession, request), show=lambda m: m.session_id, node=node
        )
        if outcome is not Outcome.OK or opened is None:
            return
        session = opened.session_id
        key = f"session/{process.chance.randrange(KEYS)}"
        acquire = lock_pb2.AcquireRequest(claims=[lock_pb2.Claim(resource=key)])
        acquire.context.session_id, acquire.context.request_id = session, 1
        wait = process.chance.choice((0.0, 0.5 * ttl))
        if wait:
            acquire.wait.timeout.FromNanoseconds(int(wait * 1e9))
        outcome, _ = await process.call("acquire", key, None, partial(_acquire, locks, acquire, wait), limit=TIMEOUT + wait, node=node)
        for _ in range(process.chance.randrange(0, 5)):
            if outcome is not Outcome.OK or self.context.over():
                break
            await asyncio.sleep(process.chance.uniform(0.1, 0.7) * ttl)
            sent = time.monotonic_ns()
            keep = session_pb2.KeepAliveRequest(context=common_pb2.RequestContext(session_id=session))
            outcome, _ = await process.call("keepalive", key, None, partial(_ask, sessions.KeepAlive, keep), show=lambda _: None, node=node)
            if outcome is Outcome.OK:
                alive = sent
        # Nobody keeps it alive any more: its hold, if it has one, may end a ttl after the last time that is certain.
        recorder = self.context.recorder
        recorder.complete(recorder.invoke(name, "~expire", key, None, at=alive + int(ttl * 1e9)), Outcome.UNKNOWN)

    async def final(self) -> None:
        """How many of the abandoned sessions are left, once all have had their time."""
        process = Process(self.context, "final")
        until = time.monotonic() + _LEFT + self.context.ttl
        outcome, left = Outcome.FAIL, None
        while (outcome is not Outcome.OK or left) and time.monotonic() < until:
            await asyncio.sleep(0.5)
            node = process.chance.choice(self.context.cluster.names)
            async with grpc.aio.insecure_channel(self.context.cluster.endpoints[node]) as channel:
                stub: Any = session_pb2_grpc.SessionServiceStub(channel)
                outcome, left = await process.call("left", "", None, partial(_left, stub), look=True, node=node)

    @staticmethod
    def judge(history: History) -> list[Judgement]:
        """Never early, gone in the end, locks as ever."""
        ops = history.ops
        counts = [o for o in history.of("left") if o.ok]
        findings = []
        if counts and counts[-1].result:
            findings.append(
                Finding("does not expire", f"{counts[-1].result} abandoned sessions are left {_LEFT:g} s after the heal", (counts[-1].id,))
            )
        return [
            linearizable.check([o for o in ops if o.kind in ("acquire", "~expire")], Lock()),
            fencing.check_tokens(ops),
            judge("expiry", findings),
            totals.enough(ops, ("open", "acquire", "keepalive", "left"), 1),
        ]


async def _ask(method: Any, request: Any) -> Any:
    return await method(request, timeout=TIMEOUT)


async def _acquire(stub: Any, request: lock_pb2.AcquireRequest, wait: float) -> int | str:
    """The token, or "held"."""
    try:
        answer = await stub.Acquire(request, timeout=TIMEOUT + wait)
    except grpc.aio.AioRpcError as error:
        if reason(error) == "LOCK_HELD":
            return "held"
        raise
    return int(answer.holds[0].token)


async def _left(stub: Any) -> int:
    answer = await stub.ListSessions(session_pb2.ListSessionsRequest(), timeout=TIMEOUT)
    return sum(1 for s in answer.sessions if s.owner == OWNER)
