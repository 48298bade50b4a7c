# Generated from _async/_client.py by tools/unasync.py: edit that.
"""The client: one object for locks, ledger, rows, cluster and sessions; one session behind it at a time."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from lockd_client._core.endpoints import parse_endpoints, pause
from lockd_client._core.requests import acquire_command, as_claims, seconds_to_nanos
from lockd_client._core.window import NEVER
from lockd_client._sync._backend import Mutex, check_scopes, current_owner, sleep
from lockd_client._sync._cluster import Cluster, Locks, Sessions
from lockd_client._sync._ledger import Ledger
from lockd_client._sync._lock import Grant, LockRequest
from lockd_client._sync._rows import Rows, Transaction
from lockd_client._sync._session import Session
from lockd_client._sync._state import NotApplied
from lockd_client._sync._transport import Transport
from lockd_client._sync._watch import Watch, watch
from lockd_client.errors import ClientClosed, Deadlock, FencedError, Internal, LockHeld, UnknownOutcome, WaitTimeout
from lockd_client.model import LockMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from lockd.v1 import session_pb2
    from lockd_client._core.turns import Turn
    from lockd_client._sync._backend import Event
    from lockd_client.model import Claim, Guard, Tls
    from lockd_client.watch_model import EventKind, Place, WatchFilter

CLOSE_LIMIT = 2.0
"""Seconds that closing may take."""
RETIRED_SESSIONS = 4
"""Sessions that are over, kept because outcomes of theirs may be asked for."""
DEADLOCK_RETRIES = 12
"""How often an acquire asks again after a deadlock that it cannot be part of: about four seconds."""
NEW_SESSIONS = 3
"""How often one call is taken over by a new session."""


class Client:
    """A connection to a lockd cluster. Made by `connect`; safe for many tasks (or threads, in the sync form) at once.

    Attributes:
        ledger: Accounts and transfers.
        rows: Strong rows.
        cluster: Status and membership.
        locks: Who holds and waits; forced release.
        sessions: Who is connected.
    """

    def __init__(self, endpoints: str | Iterable[str], owner: str, ttl: float, timeout: float, tls: Tls | None, token: str) -> None:
        self._transport = Transport(parse_endpoints(endpoints), tls, token)
        self._owner = owner
        self._ttl = seconds_to_nanos("ttl", ttl)
        self._timeout = timeout
        self._timeout_nanos = seconds_to_nanos("timeout", timeout)
        self._mutex = Mutex()
        self._session: Session | None = None
        self._retired: list[Session] = []
        self._closed = False
        self.ledger = Ledger(self)
        self.rows = Rows(self)
        self.cluster = Cluster(self)
        self.locks = Locks(self)
        self.sessions = Sessions(self)

    @property
    def transport(self) -> Transport:
        """For the parts of this package: the way to the nodes."""
        return self._transport

    @property
    def endpoints(self) -> tuple[str, ...]:
        """All known addresses: the given ones, then those that the cluster named."""
        return self._transport.addresses

    @property
    def owner(self) -> str:
        """The label under which others see this client's sessions."""
        return self._owner

    @property
    def timeout(self) -> float:
        """Seconds that a call may take where it does not say otherwise."""
        return self._timeout

    @property
    def session_id(self) -> int:
        """The session in use; 0 before the first call that needs one."""
        session = self._session
        return session.id if session is not None and session.usable else 0

    def discover(self, timeout: float | None = None) -> None:
        """Learn the members' addresses from any node; `connect` does it once.

        Raises:
            Unavailable: No node answered within `timeout` seconds.
        """
        self._transport.discover(self._timeout if timeout is None else timeout)

    def deadline(self, timeout: float | None, wait: float | None = 0) -> int:
        """For the parts of this package: when a call that may take `timeout` beyond a wait is over (monotonic nanoseconds)."""
        if wait == 0 and timeout is None:
            return time.monotonic_ns() + self._timeout_nanos
        if wait is None:
            return NEVER
        allowed = self._timeout_nanos if timeout is None else seconds_to_nanos("timeout", timeout)
        if wait:
            allowed += seconds_to_nanos("wait", wait)
        return time.monotonic_ns() + allowed

    def current_session(self) -> Session:
        """For the parts of this package: the session for a new request.

        Raises:
            ClientClosed: The client is closed.
        """
        session = self._session
        if session is not None and session.usable:
            return session
        with self._mutex:
            if self._closed:
                raise ClientClosed("The client is closed.")
            session = self._session
            if session is None or not session.usable:
                first_id = 1
                if session is not None:
                    first_id = session.next_id
                    self._retired = [*self._retired, session][-RETIRED_SESSIONS:]
                session = self._session = Session(self._transport, self._owner, self._ttl, first_id)
        return session

    def request(
        self,
        command: session_pb2.StreamCommand,
        size: int,
        timeout: float | None,
        *,
        write: bool = True,
        decode: Callable[[session_pb2.StreamReply], Any] | None = None,
        guards: Iterable[Guard] = (),
    ) -> session_pb2.StreamReply:
        """For the parts of this package: one request on the session's stream; a session found dead is replaced once or twice.

        Raises:
            LockdError: It failed.
        """
        check_scopes()
        deadline = self.deadline(timeout)
        for attempt in range(NEW_SESSIONS):
            session = self.current_session()
            try:
                return session.call(command, deadline, size, write=write, decode=decode)
            except NotApplied:
                if attempt == NEW_SESSIONS - 1:
                    raise
            except FencedError as error:
                session.fenced(frozenset(_fenced_tokens(error, guards)))
                raise
        raise Internal("no session took the request")

    def acquire(
        self,
        resources: str | Claim | Sequence[str | Claim],
        *,
        mode: LockMode = LockMode.EXCLUSIVE,
        wait: float | None = None,
        lock_delay: float = 0.0,
        timeout: float | None = None,
        on_lost: Callable[[Grant], None] | None = None,
    ) -> Grant:
        """Take one or many resources, all or none. Prefer `lock`, which also gives them back.

        Tasks (threads, in the sync form) of one client exclude each other like those of different clients; the same task may take a
        lock that it has again, and then gives it back as often.

        Cancelling it (or, in the sync form, KeyboardInterrupt) leaves neither a waiter nor a holder behind.

        Args:
            resources: A path such as "accounts/alice", a Claim, or several of either.
            mode: For plain paths.
            wait: Seconds to wait; 0: do not wait; None: as long as it takes.
            lock_delay: Seconds, at most 3,600, that the resources stay unavailable if this client is lost while it holds them.
            timeout: Seconds beyond the wait for the service to answer; None: the client's. Not used where wait is None.
            on_lost: Called once if the grant is lost: from the event loop, or from a background thread of the sync client.

        Raises:
            LockHeld: Held by somebody else, and wait is 0.
            WaitTimeout: Not granted within the wait.
            Deadlock: Waiting would have closed a cycle, and this request was the youngest in it.
            SessionLost: The session was lost while it waited.
            Unavailable: No node could be reached in time.
            InvalidArgument: A path or duration breaks a rule.
        """
        return self.take(as_claims(resources), mode, wait, lock_delay, timeout, on_lost)

    def take(
        self,
        claims: Sequence[str | Claim],
        mode: LockMode,
        wait: float | None,
        lock_delay: float,
        timeout: float | None,
        on_lost: Callable[[Grant], None] | None,
    ) -> Grant:
        """For the parts of this package: `acquire`, with claims that are made already."""
        check_scopes()
        deadline = self.deadline(timeout, wait)
        owner = current_owner()
        for attempt in range(NEW_SESSIONS):
            session = self.current_session()
            turn = session.turn(owner, claims, mode)
            try:
                if not turn.had:
                    begun = time.monotonic_ns()
                    session.wait_for_turn(turn, wait, deadline)
                    if wait is not None:
                        wait = max(0.001, wait - (time.monotonic_ns() - begun) / 1e9)
                request_id, reply = self._ask(session, turn, claims, mode, wait, lock_delay, deadline)
            except BaseException as error:
                session.give(turn)
                if isinstance(error, NotApplied) and attempt < NEW_SESSIONS - 1:
                    continue
                raise
            grant = Grant(self, session, request_id, reply.acquire.holds, turn, on_lost)
            session.register(request_id, grant)
            return grant
        raise Internal("no session took the request")

    def _ask(
        self,
        session: Session,
        turn: Turn[Event],
        claims: Sequence[str | Claim],
        mode: LockMode,
        wait: float | None,
        lock_delay: float,
        deadline: int,
    ) -> tuple[int, session_pb2.StreamReply]:
        """Ask the service for a lock, once it is this task's turn.

        The service sees circles of sessions, and a session is all tasks of a client. A task that holds nothing else is in no circle: what
        looks like one goes away as the others get on, so it asks again, a bounded number of times.
        """
        tries = 0
        while True:
            begun = time.monotonic_ns()
            command, size = acquire_command(claims, mode, wait, lock_delay)
            try:
                return session.acquire(command, deadline, size)
            except Deadlock:
                tries += 1
                if tries > DEADLOCK_RETRIES or not session.only(turn):
                    raise
            sleep(pause(tries, random.random()))  # noqa: S311 - spreads retries, guards nothing
            if wait is not None:
                wait -= (time.monotonic_ns() - begun) / 1e9
                if wait <= 0:
                    raise WaitTimeout("The lock was not granted within the wait.")

    def lock(
        self,
        resource: str | Claim,
        *,
        mode: LockMode = LockMode.EXCLUSIVE,
        wait: float | None = None,
        lock_delay: float = 0.0,
        timeout: float | None = None,
        on_lost: Callable[[Grant], None] | None = None,
    ) -> LockRequest:
        """A lock for a `with` block: taken at its beginning, given back at its end. Arguments and errors as in `acquire`.

        If the lock or its session is lost, the body is cancelled, and the block raises LockLost (asyncio). In the sync form every
        further call of the client in that block raises it, and so does the block's end.
        """
        return LockRequest(self, (resource,), mode, wait, lock_delay, timeout, on_lost)

    def lock_many(
        self,
        resources: Sequence[str | Claim],
        *,
        mode: LockMode = LockMode.EXCLUSIVE,
        wait: float | None = None,
        lock_delay: float = 0.0,
        timeout: float | None = None,
        on_lost: Callable[[Grant], None] | None = None,
    ) -> LockRequest:
        """Like `lock`, for many resources: all or none, in one step, so that they cannot deadlock among themselves."""
        return LockRequest(self, as_claims(resources), mode, wait, lock_delay, timeout, on_lost)

    def try_lock(
        self,
        resources: str | Claim | Sequence[str | Claim],
        *,
        mode: LockMode = LockMode.EXCLUSIVE,
        lock_delay: float = 0.0,
        timeout: float | None = None,
        on_lost: Callable[[Grant], None] | None = None,
    ) -> Grant | None:
        """Take it if it is free: the grant, which is a context manager too, or None. Other errors as in `acquire`."""
        try:
            return self.acquire(resources, mode=mode, wait=0, lock_delay=lock_delay, timeout=timeout, on_lost=on_lost)
        except LockHeld:
            return None

    def transact(self) -> Transaction:
        """Begin a transaction: collect guards, compares and operations, then `commit()` them in one log entry."""
        return Transaction(self)

    def resolve(self, unknown: UnknownOutcome | int, *, timeout: float | None = None) -> Any:
        """Ask again for the outcome of a write that ended in UnknownOutcome.

        The same request is sent with the same number, so that it is applied at most once.

        Args:
            unknown: The error, or its `request_id`.
            timeout: Seconds; None: the client's.

        Returns:
            What the original call would have returned.

        Raises:
            UnknownOutcome: It still cannot be known: no answer in time, or the session is over and with it the service's memory.
            LockdError: The write was refused.
        """
        request_id = unknown if isinstance(unknown, int) else unknown.request_id
        deadline = self.deadline(timeout)
        for session in filter(None, (self._session, *reversed(self._retired))):
            try:
                return session.resolve(request_id, deadline)
            except KeyError:
                continue
        raise UnknownOutcome(
            f"Request {request_id} can no longer be asked for: its session is over, or it is too old.",
            advice="Read the state to learn whether it was applied.",
        )

    def watch(
        self,
        *,
        prefix: str = "",
        kinds: Iterable[EventKind | str] = (),
        topic: str = "",
        filters: Iterable[WatchFilter] = (),
        start_revision: int = 0,
        after: Place | None = None,
        timeout: float | None = None,
    ) -> Watch:
        """Events in log order, without gap or duplicate, for ever; to be iterated over. Arguments and errors as in `watching.watch`."""
        return watch(
            self,
            prefix=prefix,
            kinds=kinds,
            topic=topic,
            filters=filters,
            start_revision=start_revision,
            after=after,
            timeout=timeout,
        )

    def close(self) -> None:
        """End the session, which gives all locks back, and all connections. Calls under way fail. Doing so twice is no error."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            sessions = [s for s in (*self._retired, self._session) if s is not None]
        for session in sessions:
            session.close(int(min(CLOSE_LIMIT, self._timeout) * 1e9))
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def _fenced_tokens(error: FencedError, guards: Iterable[Guard]) -> list[int]:
    """The tokens that a refusal names; where it names none and there is only one guard, that one's."""
    named = error.metadata.get("token", "")
    if named.isdecimal():
        return [int(named)]
    resource = error.metadata.get("resource", "")
    given = list(guards)
    if resource:
        return [g.token for g in given if g.resource == resource]
    return [given[0].token] if len(given) == 1 else []
