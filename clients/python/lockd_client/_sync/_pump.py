# Generated from _async/_pump.py by tools/unasync.py: edit that.
"""The pump of a session: opens it, connects its stream to the leader, hands replies to their waiters, and connects again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import grpc

from lockd.v1 import session_pb2
from lockd_client._core.failures import Disposition, Failure, from_status
from lockd_client._core.methods import CLOSE_SESSION, OPEN_SESSION
from lockd_client._core.rpc import RpcFailed
from lockd_client._core.validity import Lease
from lockd_client._sync._backend import Stream, Waiter, sleep
from lockd_client._sync._core import Core, notify
from lockd_client._sync._transport import ATTEMPT_LIMIT
from lockd_client.errors import SessionLost

if TYPE_CHECKING:
    from lockd_client._core.window import Pending

GOODBYE_LIMIT = 1_000_000_000
"""Nanoseconds for the one attempt to close a session that is of no use any more."""
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

    def __init__(self, core: Core) -> None:
        self._core = core
        self._generation = 0
        """Counts streams: whoever feeds an earlier one stops."""

    def run(self) -> None:
        """The whole life of the session."""
        core = self._core
        transport = core.transport
        while not core.finished():
            if core.id == 0 and self._idle():
                core.outgoing.wait()
                continue
            address = transport.choose()
            try:
                if core.id == 0:
                    self._open(address)
                else:
                    self._serve(address)
            except RpcFailed as error:
                core.connected = False
                failure = error.failure
                if failure.disposition is Disposition.SESSION_GONE:
                    core.gone(failure)
                elif failure.disposition is Disposition.FAIL and failure.code in _FATAL:
                    core.stop(failure.to_error())
                else:
                    transport.failed(address, failure)
                    if not core.finished():
                        sleep(max(transport.pause(), failure.retry_after or 0))
        if not core.closed:
            self._say_goodbye()
            core.stop(core.end)

    def _idle(self) -> bool:
        """Whether there is no reason yet to open the session."""
        core = self._core
        with core.mutex:
            if core.unanswered:
                return False
            # Requests that were given up before anything could be sent lie in the outbox still; the next one must find it empty.
            core.window.rewind()
            core.outgoing.clear()
            return not core.closed and core.end is None

    def _open(self, address: str) -> None:
        """Open the session at the service.

        Raises:
            RpcFailed: It did not open.
        """
        core = self._core
        request = session_pb2.OpenSessionRequest(owner=core.owner)
        request.ttl.FromNanoseconds(core.ttl)
        sent = time.monotonic_ns()
        response = core.transport.channel(address).unary(OPEN_SESSION, request, ATTEMPT_LIMIT)
        with core.mutex:
            core.lease = Lease(response.ttl.ToNanoseconds() or core.ttl, sent)
            core.next_keepalive = sent + core.lease.interval
            core.id = response.session_id
        core.tick.set()

    def _say_goodbye(self) -> None:
        """A session that is over here may live on at the service for a while: one attempt to end it there, so that its locks go now."""
        core = self._core
        request = session_pb2.CloseSessionRequest()
        request.context.session_id = core.id
        try:
            if core.id:
                core.transport.channel(core.transport.choose()).unary(CLOSE_SESSION, request, GOODBYE_LIMIT)
        except RpcFailed:
            return

    def _serve(self, address: str) -> None:
        """Carry requests and replies until the stream is over.

        Raises:
            RpcFailed: Always: the stream is over.
        """
        core = self._core
        with core.mutex:
            self._generation += 1
            generation = self._generation
            core.window.rewind()
            core.delayed.clear()
            core.keepalive = None
            core.heard = time.monotonic_ns()
            # The first keepalive shows whether this node serves the session. Nothing else is sent before its answer: what never went
            # to a leader has certainly not been applied. A session that is over is not kept alive; it only looks for outcomes.
            core.proven = core.end is not None
            if not core.proven:
                core.window.number(core.new_keepalive(core.heard))

        def batches() -> session_pb2.StreamRequest | None:
            return self._next_batch(generation)

        core.outgoing.set()
        stream = Stream(core.transport.channel(address), batches)
        core.stream = stream
        core.tick.set()
        try:
            while not core.closed:
                response = stream.read()
                failure = self.take(response)
                if failure is not None:
                    raise RpcFailed(failure)
                if not core.connected:
                    core.connected = core.proven = True
                    core.transport.succeeded(address)
                    core.outgoing.set()
                if core.end is not None and core.finished():
                    break
        finally:
            with core.mutex:
                self._generation += 1
                core.stream = None
            core.outgoing.set()
            stream.close()
        raise RpcFailed(Failure(grpc.StatusCode.UNAVAILABLE, "the session is over"))

    def _next_batch(self, generation: int) -> session_pb2.StreamRequest | None:
        """All that waits, as soon as something does; None when this stream is over."""
        core = self._core
        while True:
            with core.mutex:
                if generation != self._generation or core.closed:
                    return None
                now = time.monotonic_ns()
                if core.proven:
                    batch = core.window.take(core.id, now)
                    if batch is not None:
                        return batch
                elif core.keepalive is not None and not core.keepalive.sent_at:
                    return core.window.take_only(core.keepalive, core.id, now)
                core.outgoing.clear()
            core.outgoing.wait()

    def take(self, response: session_pb2.StreamResponse) -> Failure | None:
        """Hand replies to their waiters; a failure that needs another connection is returned."""
        core = self._core
        lost: Failure | None = None
        reconnect: Failure | None = None
        unanswered = core.unanswered
        with core.mutex:
            now = core.heard = time.monotonic_ns()
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
                pending.reply = reply
                waiter = pending.waiter
                if waiter is None:
                    self._unwatched(pending)
                elif not waiter.done():
                    waiter.set_result(reply)
            if not core.room.is_set():
                core.room.set()
            grants = core.lose(SessionLost(lost.message or "The session has expired.", reason=lost.reason)) if lost is not None else []
        notify(grants)
        return reconnect

    def _refused(self, pending: Pending[Waiter], failure: Failure, now: int) -> Disposition:
        """A refusal of one request: tell its caller, or see to it that it is sent again; with the mutex."""
        core = self._core
        disposition = failure.disposition
        if pending.ephemeral:
            # Another one goes out soon. The same one must not: if it was applied after all, its repetition prolongs nothing.
            core.window.drop(pending)
            if core.keepalive is pending:
                core.keepalive = None
                core.next_keepalive = now + KEEPALIVE_RETRY
                core.tick.set()
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
                core.delayed.append((now + pause, pending))
                core.tick.set()
            return disposition
        core.window.answered(pending.request_id)
        core.refuse(pending, failure)
        return disposition

    def _unwatched(self, pending: Pending[Waiter]) -> None:
        """A reply that nobody waits for: a keepalive's, a cancellation's, or one that came too late; with the mutex."""
        core = self._core
        if pending.ephemeral:
            if core.keepalive is pending:
                core.keepalive = None
            if core.lease is not None:
                core.lease.renew(pending.sent_at)
        elif pending.target is not None:
            core.window.drop(pending.target)
        elif pending.decode is not None:
            core.keep_late(pending)
