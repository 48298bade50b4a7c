# Generated from _async/_transport.py by tools/unasync.py: edit that.
"""Channels to the nodes, and unary calls that find their node and are retried inside the caller's deadline."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

import grpc

from lockd.v1 import cluster_pb2
from lockd_client._core.endpoints import Endpoints
from lockd_client._core.failures import Disposition, Failure
from lockd_client._core.methods import LIST_MEMBERS, Method
from lockd_client._core.rpc import RpcFailed
from lockd_client._sync._backend import Channel, Mutex, sleep
from lockd_client.errors import LockdError, Unavailable, UnknownOutcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message

    from lockd_client.model import Tls

    Req = TypeVar("Req", bound=Message)
    Resp = TypeVar("Resp", bound=Message)

ATTEMPT_LIMIT = 3_000_000_000
"""Nanoseconds that one attempt at a repeatable call may take: a node that swallows packets must not use up the deadline."""


class Transport:
    """The nodes of one cluster as a client reaches them."""

    def __init__(self, addresses: Iterable[str], tls: Tls | None, token: str) -> None:
        self._mutex = Mutex()
        self._endpoints = Endpoints(addresses)
        self._channels: dict[str, Channel] = {}
        self._tls = tls
        self._token = token
        self.last_failure: tuple[str, Failure] | None = None
        """The address and failure seen last, for messages; None while all is well."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """All known addresses."""
        with self._mutex:
            return self._endpoints.addresses

    def learn(self, addresses: Iterable[str]) -> None:
        """Add addresses."""
        with self._mutex:
            self._endpoints.learn(addresses)

    def choose(self) -> str:
        """The address to try now."""
        with self._mutex:
            return self._endpoints.choose()

    def pause(self) -> int:
        """Nanoseconds to wait before the next attempt."""
        with self._mutex:
            return self._endpoints.pause(random.random())  # noqa: S311 - spreads retries, guards nothing

    def succeeded(self, address: str) -> None:
        """The address served as leader."""
        with self._mutex:
            self._endpoints.succeeded(address)
            self.last_failure = None

    def failed(self, address: str, failure: Failure) -> None:
        """The address did not serve; follow its hint to the leader if it gave one."""
        with self._mutex:
            self.last_failure = (address, failure)
            if failure.reason == "NOT_LEADER" and failure.leader_address:
                self._endpoints.redirected(address, failure.leader_address)
            else:
                self._endpoints.failed(address)

    def channel(self, address: str) -> Channel:
        """The connection to an address, made when first needed."""
        with self._mutex:
            channel = self._channels.get(address)
            if channel is None:
                channel = self._channels[address] = Channel(address, self._tls, self._token)
            return channel

    def unreachable(self, seconds: float | None = None) -> Unavailable:
        """The error for a call that no node could serve in time, in one sentence."""
        with self._mutex:
            failure = self.last_failure
            known = ", ".join(self._endpoints.addresses)
        within = "before the deadline" if seconds is None else f"within {seconds:g} s"
        if failure is None:
            return Unavailable(f"No node of {known} answered {within}.")
        address, last = failure
        why = "connection refused" if _never_left(last) else last.message or last.code.name
        return Unavailable(
            f"No node of {known} served the call {within}; the last answer, about {address}, was: {why}.", reason=last.reason
        )

    def call(self, method: Method[Req, Resp], request: Req, seconds: float, address: str = "") -> Resp:
        """A unary call: at the given address, or wherever it is served.

        Raises:
            Unavailable: Nobody served it in time, and it was not applied.
            UnknownOutcome: A call that is not repeatable may have been applied.
            LockdError: The service refused it.
        """
        deadline = time.monotonic_ns() + int(seconds * 1e9)
        while True:
            target = address or self.choose()
            remaining = deadline - time.monotonic_ns()
            if remaining <= 0:
                raise self.unreachable(seconds)
            limit = min(remaining, ATTEMPT_LIMIT) if method.repeatable else remaining
            try:
                response = self.channel(target).unary(method, request, limit)
            except RpcFailed as error:
                failure = error.failure
            else:
                with self._mutex:
                    self.last_failure = None
                return response
            if failure.code is grpc.StatusCode.DEADLINE_EXCEEDED and not failure.reason:
                failure = Failure(grpc.StatusCode.UNAVAILABLE, f"no answer within {limit / 1e9:.1f} s")
            error_or_none = _final(method, failure)
            if error_or_none is not None:
                raise error_or_none
            if not address:
                self.failed(target, failure)
            else:
                with self._mutex:
                    self.last_failure = (target, failure)
            wait = max(self.pause() if not address else 50_000_000, failure.retry_after or 0)
            if time.monotonic_ns() + wait >= deadline:
                raise self.unreachable(seconds)
            sleep(wait)

    def discover(self, seconds: float) -> None:
        """Learn the members' addresses from any node.

        Raises:
            Unavailable: No node answered.
        """
        response = self.call(LIST_MEMBERS, cluster_pb2.ListMembersRequest(), seconds)
        self.learn(member.client_address for member in response.members)

    def close(self) -> None:
        """End all connections."""
        with self._mutex:
            channels = list(self._channels.values())
            self._channels.clear()
        for channel in channels:
            channel.close()


def _final(method: Method[Req, Resp], failure: Failure) -> LockdError | None:
    """The error to raise now, or None where another attempt is right."""
    disposition = failure.disposition
    if disposition in (Disposition.FAIL, Disposition.SESSION_GONE):
        return failure.to_error()
    if method.repeatable or failure.certainly_not_applied or _never_left(failure):
        return None
    return UnknownOutcome(
        f"It is not known whether {method.path.rpartition('/')[2]} was applied: {failure.message or failure.code.name}.",
        advice="Read the state (lockctl status, lockctl member list) before you call again.",
        metadata=failure.metadata,
    )


def _never_left(failure: Failure) -> bool:
    """GRPC's own words for a connection that was never made; there is no other sign of it."""
    return "failed to connect" in failure.message.lower() or "connection refused" in failure.message.lower()
