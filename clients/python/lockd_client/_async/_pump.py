"""The pump of a session: opens it, connects its stream to the leader, hands replies to their waiters, and connects again."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import grpc

from lockd.v1 import session_pb2
from lockd_client._async._backend import Stream, Waiter, Worker, sleep
from lockd_client._async._state import State, notify
from lockd_client._async._transport import ATTEMPT_LIMIT
from lockd_client._core.failures import Disposition, Failure, from_status
from lockd_client._core.methods import CLOSE_SESSION, OPEN_SESSION
from lockd_client._core.rpc import RpcFailed
from lockd_client._core.validity import Lease
from lockd_client.errors import Internal, LockdError, SessionLost

if TYPE_CHECKING:
    from lockd_client._core.window import Pending

GOODBYE_LIMIT = 1_000_000_000
"""Nanoseconds for the one attempt to close a session that is of no use any more."""
DISCOVERY_LIMIT = 3.0
"""Seconds for asking who the members are, after each reconnection."""
FIRST_STREAM = 1
KEEPALIVE_RETRY = 200_000_000
"""Nanoseconds after a refused keepalive until the next."""
FIRST_RESEND_PAUSE = 10_000_000
"""Nanoseconds, doubled with each attempt up to 64 times, before a refused request is sent again."""

_FATAL = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
"""Refusals of the session or its stream that another attempt would meet again."""


class Pump:
    """Works until the session is over and nobody waits for anything of it."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._generation = 0
        """Counts streams: whoever feeds an earlier one stops."""
        self._discovery: Worker | None = None

    async def run(self) -> None:
        """The whole life of the session."""
        try:
            await self._run()
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it, whatever it is
            self._state.stop(Internal(f"The client itself failed: {error!r}."))

    async def _run(self) -> None:
        state = self._state
        transport = state.transport
        while not state.finished():
            if state.id == 0 and self._idle():
                await state.outgoing.wait()
                continue
            address = transport.choose()
            try:
                if state.id == 0:
                    await self._open(address)
                else:
                    await self._serve(address)
            except RpcFailed as error:
                state.connected = False
                failure = error.failure
                if failure.disposition is Disposition.SESSION_GONE:
                    state.gone(failure)
                elif failure.disposition is Disposition.FAIL and failure.code in _FATAL:
                    state.stop(failure.to_error())
                else:
                    transport.failed(address, failure)
                    if not state.finished():
                        await sleep(max(transport.pause(), failure.retry_after or 0))
        if not state.closed:
            await self._say_goodbye()
            state.stop(state.end)

    def _idle(self) -> bool:
        """Whether there is no reason yet to open the session."""
        state = self._state
        with state.mutex:
            if state.unanswered:
                return False
            # Requests that were given up before anything could be sent lie in the outbox still; the next one must find it empty.
            state.window.rewind()
            state.outgoing.clear()
            return not state.closed and state.end is None

    async def _open(self, address: str) -> None:
        """Open the session at the service.

        Raises:
            RpcFailed: It did not open.
        """
        state = self._state
        request = session_pb2.OpenSessionRequest(owner=state.owner)
        request.ttl.FromNanoseconds(state.ttl)
        sent = time.monotonic_ns()
        response = await state.transport.channel(address).unary(OPEN_SESSION, request, ATTEMPT_LIMIT)
        with state.mutex:
            state.lease = Lease(response.ttl.ToNanoseconds() or state.ttl, sent)
            state.next_keepalive = sent + state.lease.interval
            state.id = response.session_id
        state.tick.set()

    async def _say_goodbye(self) -> None:
        """A session that is over here may live on at the service for a while: one attempt to end it there, so that its locks go now."""
        state = self._state
        request = session_pb2.CloseSessionRequest()
        request.context.session_id = state.id
        try:
            if state.id:
                await state.transport.channel(state.transport.choose()).unary(CLOSE_SESSION, request, GOODBYE_LIMIT)
        except RpcFailed:
            return

    async def _serve(self, address: str) -> None:
        """Carry requests and replies until the stream is over.

        Raises:
            RpcFailed: Always: the stream is over.
        """
        state = self._state
        with state.mutex:
            self._generation += 1
            generation = self._generation
            state.window.rewind()
            state.delayed.clear()
            state.keepalive = None
            state.heard = time.monotonic_ns()
            # The first keepalive shows whether this node serves the session. Nothing else is sent before its answer: what never went
            # to a leader has certainly not been applied. A session that is over is not kept alive; it only looks for outcomes.
            state.proven = state.end is not None
            if not state.proven:
                state.window.number(state.new_keepalive(state.heard))

        async def batches() -> session_pb2.StreamRequest | None:
            return await self._next_batch(generation)

        state.outgoing.set()
        stream = Stream(state.transport.channel(address), batches)
        state.stream = stream
        state.tick.set()
        try:
            while not state.closed:
                response = await stream.read()
                failure = self.take(response)
                if failure is not None:
                    raise RpcFailed(failure)
                if not state.connected:
                    state.connected = state.proven = True
                    state.transport.succeeded(address)
                    state.outgoing.set()
                    if generation > FIRST_STREAM:
                        # Something has changed: so may the members have.
                        self._discovery = Worker(self._discover, "lockd-discovery")
                if state.end is not None and state.finished():
                    break
        finally:
            with state.mutex:
                self._generation += 1
                state.stream = None
            state.outgoing.set()
            await stream.close()
        raise RpcFailed(Failure(grpc.StatusCode.UNAVAILABLE, "the session is over"))

    async def _discover(self) -> None:
        with contextlib.suppress(LockdError):
            await self._state.transport.discover(DISCOVERY_LIMIT)

    async def _next_batch(self, generation: int) -> session_pb2.StreamRequest | None:
        """All that waits, as soon as something does; None when this stream is over."""
        state = self._state
        while True:
            with state.mutex:
                if generation != self._generation or state.closed:
                    return None
                now = time.monotonic_ns()
                if state.proven:
                    batch = state.window.take(state.id, now)
                    if batch is not None:
                        return batch
                elif state.keepalive is not None and not state.keepalive.sent_at:
                    return state.window.take_only(state.keepalive, state.id, now)
                state.outgoing.clear()
            await state.outgoing.wait()

    def take(self, response: session_pb2.StreamResponse) -> Failure | None:
        """Hand replies to their waiters; a failure that needs another connection is returned."""
        state = self._state
        lost: Failure | None = None
        reconnect: Failure | None = None
        window, unanswered = state.window, state.unanswered
        with state.mutex:
            now = state.heard = time.monotonic_ns()
            for reply in response.replies:
                pending = unanswered.get(reply.request_id)
                if pending is None:
                    continue
                if pending.cancelling:
                    # Over, but not acknowledged before its cancellation is answered.
                    pending.reply = reply
                    continue
                if reply.HasField("error"):
                    failure = from_status(reply.error)
                    disposition = self._refused(pending, failure, now)
                    if disposition is Disposition.RECONNECT:
                        reconnect = failure
                    elif disposition is Disposition.SESSION_GONE:
                        lost = failure
                    continue
                del unanswered[reply.request_id]
                window.bytes -= pending.size
                pending.reply = reply
                waiter = pending.waiter
                if waiter is None:
                    self._unwatched(pending)
                elif not waiter.done():
                    waiter.set_result(reply)
            if not state.room.is_set():
                state.room.set()
            grants = state.lose(SessionLost(lost.message or "The session has expired.", reason=lost.reason)) if lost is not None else []
        notify(grants)
        return reconnect

    def _refused(self, pending: Pending[Waiter], failure: Failure, now: int) -> Disposition:
        """A refusal of one request: tell its caller, or see to it that it is sent again; with the mutex."""
        state = self._state
        disposition = failure.disposition
        if pending.ephemeral:
            # Another one goes out soon. The same one must not: if it was applied after all, its repetition prolongs nothing.
            state.window.drop(pending)
            if state.keepalive is pending:
                state.keepalive = None
                state.next_keepalive = now + KEEPALIVE_RETRY
                state.tick.set()
            return disposition
        if disposition in (Disposition.RECONNECT, Disposition.RESEND):
            pending.failure = failure.to_error()
            if not failure.certainly_not_applied:
                pending.ambiguous = True
            elif not pending.ambiguous:
                pending.sent_at = 0
            if disposition is Disposition.RESEND:
                pause = failure.retry_after or FIRST_RESEND_PAUSE << min(pending.attempts, 6)
                pending.attempts += 1
                state.delayed.append((now + pause, pending))
                state.tick.set()
            return disposition
        state.window.answered(pending.request_id)
        state.refuse(pending, failure)
        return disposition

    def _unwatched(self, pending: Pending[Waiter]) -> None:
        """A reply that nobody waits for: a keepalive's, a cancellation's, or one that came too late; with the mutex."""
        state = self._state
        if pending.ephemeral:
            if state.keepalive is pending:
                state.keepalive = None
            if state.lease is not None:
                state.lease.renew(pending.sent_at)
        elif pending.target is not None:
            state.window.drop(pending.target)
        elif pending.decode is not None:
            state.keep_late(pending)
