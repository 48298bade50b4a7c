"""Locks as context managers: a grant that knows how long it is certainly valid, and bodies that end when it is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockd.v1 import session_pb2
from lockd_client._async._backend import Scope, report
from lockd_client._core.requests import MODES, holds_from, wait_message
from lockd_client.errors import DeadlineExceeded, FencedError, InvalidArgument, LockdError, LockLost, NotHeld, SessionLost, Unavailable
from lockd_client.model import Guard, Hold, LockMode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from lockd.v1 import lock_pb2
    from lockd_client._async._backend import Event
    from lockd_client._async._client import Client
    from lockd_client._async._session import Session
    from lockd_client._core.turns import Turn
    from lockd_client.model import Claim


class Grant:
    """One or more resources that this client holds. Also a context manager that releases them at the end."""

    __slots__ = ("_client", "_held", "_lost", "_on_lost", "_released", "_request_id", "_scope", "_session", "_turn")

    def __init__(
        self,
        client: Client,
        session: Session,
        request_id: int,
        held: Sequence[lock_pb2.Hold],
        turn: Turn[Event],
        on_lost: Callable[[Grant], None] | None,
    ) -> None:
        self._client = client
        self._session = session
        self._request_id = request_id
        self._on_lost = on_lost
        self._lost: LockLost | None = None
        self._released = False
        self._scope: Scope | None = None
        self._held = held
        self._turn = turn

    @property
    def holds(self) -> tuple[Hold, ...]:
        """What is held, in the order of the claims."""
        return holds_from(self._held)

    @property
    def resource(self) -> str:
        """The (first) resource."""
        return self._held[0].resource

    @property
    def token(self) -> int:
        """The fencing token of the (first) resource: strictly increasing over all grants of the cluster, for ever."""
        return self._held[0].token

    @property
    def mode(self) -> LockMode:
        """The mode of the (first) resource."""
        return self.holds[0].mode

    @property
    def session_id(self) -> int:
        """The session that holds it."""
        return self._session.id

    @property
    def lost(self) -> LockLost | None:
        """Why the grant is no longer held although nobody released it, or None."""
        return self._lost

    @property
    def held(self) -> bool:
        """Whether it is certainly held now: neither lost, nor released, nor past its validity."""
        return self.remaining() > 0

    def remaining(self) -> float:
        """Seconds for which the grant is certainly held, unless an operator takes it away; 0.0 when lost or released."""
        if self._lost is not None or self._released:
            return 0.0
        return self._session.remaining()

    def check(self) -> None:
        """Raise if the grant is no longer certainly held.

        Raises:
            SessionLost: Its session is lost.
            LockLost: It was taken away.
            NotHeld: It was released.
        """
        if self._lost is not None:
            raise self._lost
        if self._released:
            raise NotHeld(f"{self.resource} was released.")

    def guard(self) -> Guard:
        """The (first) resource and its token, for a guarded write: refused (FencedError) unless it is still the current grant.

        Raises:
            LockLost: It is already known that it is not.
            NotHeld: It was released.
        """
        self.check()
        return Guard(self.resource, self.token)

    def guards(self) -> list[Guard]:
        """A guard for every resource of the grant; errors as in `guard`."""
        self.check()
        return [Guard(hold.resource, hold.token) for hold in self._held]

    async def convert(self, mode: LockMode, *, wait: float | None = None, timeout: float | None = None) -> None:
        """Change the mode of a grant of one resource, up or down.

        Args:
            mode: The new mode.
            wait: Seconds to wait for it; 0: do not wait; None: as long as it takes.
            timeout: Seconds beyond the wait for the service to answer; None: the client's.

        Raises:
            LockHeld: It cannot be had without waiting.
            WaitTimeout: It was not granted within the wait. The old mode is still held.
            Deadlock: Waiting would have closed a cycle.
            LockLost: The grant is lost.
        """
        self.check()
        if len(self._held) != 1:
            raise InvalidArgument("Only a grant of one resource can be converted.")
        session = self._session
        deadline = self._client.deadline(timeout, wait)
        turn = session.turn(self._turn.owner, (self.resource,), mode)
        try:
            if not turn.had:
                await session.wait_for_turn(turn, wait, deadline)
            command = session_pb2.StreamCommand()
            command.convert.resource = self.resource
            command.convert.token = self.token
            command.convert.mode = MODES[mode]
            if (message := wait_message(wait)) is not None:
                command.convert.wait.CopyFrom(message)
            _, reply = await session.acquire(command, deadline, 64 + len(self.resource))
        except BaseException:
            session.give(turn)
            raise
        self._held = [reply.convert.hold]
        session.give(self._turn)
        self._turn = turn

    async def release(self, *, timeout: float | None = None) -> None:
        """Give the locks back. Doing so twice is no error.

        Whoever stops waiting for the answer does not stop the release: it goes on in the background.

        Args:
            timeout: Seconds; None: the client's.

        Raises:
            LockLost: The grant had been lost before.
            Unavailable: No node answered in time; the release goes on in the background.
            DeadlineExceeded: The leader did not answer in time; the release goes on in the background.
        """
        if self._released:
            return
        if self._lost is not None:
            raise self._lost
        self._released = True
        self._session.grants.pop(self._request_id, None)
        command = session_pb2.StreamCommand()
        size = 32
        add = command.release.holds.add
        for hold in self._held:
            guard = add()
            guard.resource = resource = hold.resource
            guard.token = hold.token
            size += len(resource) + 16
        try:
            reply = await self._session.release(command, self._turn, self._client.deadline(timeout), size)
        except (NotHeld, FencedError) as error:
            self._lost = LockLost(f"{self.resource} had been taken away before it was released.", metadata=error.metadata)
            raise self._lost from error
        if False in reply.release.released:
            self._lost = LockLost(f"{self.resource} had been taken away before it was released.")
            raise self._lost

    def session_ended(self) -> None:
        """For the session: it is over, and every grant with it."""
        end = self._session.ended_by
        why = end if isinstance(end, LockLost) else LockLost(f"{self.resource} is lost: {end.message if end else 'the session is over'}")
        self._lose(why)

    def relies_on(self, tokens: frozenset[int]) -> bool:
        """For the session: whether one of its tokens is among these."""
        return any(hold.token in tokens for hold in self._held)

    def taken_away(self) -> None:
        """For the session: the service refused the token."""
        self._session.give(self._turn)
        self._lose(LockLost(f"{self.resource} was taken away: its token {self.token} is fenced."))

    def _lose(self, why: LockLost) -> None:
        if self._lost is not None or self._released:
            return
        self._lost = why
        if self._scope is not None:
            self._scope.fire()
        if self._on_lost is not None:
            try:
                self._on_lost(self)
            except Exception as error:  # noqa: BLE001 - the program's own mistake must not end the session's work
                report(error)

    async def __aenter__(self) -> Self:
        self.enter()
        return self

    def enter(self) -> None:
        """The body begins.

        Raises:
            LockLost: The grant is lost already.
            NotHeld: It was released.
        """
        self.check()
        self._scope = Scope(self)
        if self._lost is not None:
            self._scope.close(None)
            self._scope = None
            raise self._lost

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        scope, self._scope = self._scope, None
        unhindered = scope is None or scope.close(exc_type)
        if self._lost is None and not self._released and self.remaining() <= 0:
            self._lost = SessionLost("The session's validity was over before the body ended.")
        if self._lost is None:
            try:
                await self.release()
            except (Unavailable, DeadlineExceeded, SessionLost):
                # The body ended while the lock was certainly held; the release goes on in the background, or is not needed.
                return
            except LockLost:
                if exc_type is not None:
                    return
                raise
            return
        if unhindered:
            raise LockLost(self._lost.message, reason=self._lost.reason, metadata=self._lost.metadata) from self._lost
        if exc is not None and not isinstance(exc, LockdError):
            exc.add_note(f"While this happened, the lock was lost: {self._lost.message}")


class LockRequest:
    """What `client.lock()` returns: `async with` acquires at its beginning and releases at its end."""

    __slots__ = ("_claims", "_client", "_grant", "_lock_delay", "_mode", "_on_lost", "_timeout", "_wait")

    def __init__(
        self,
        client: Client,
        claims: Sequence[str | Claim],
        mode: LockMode,
        wait: float | None,
        lock_delay: float,
        timeout: float | None,
        on_lost: Callable[[Grant], None] | None,
    ) -> None:
        self._client = client
        self._claims = claims
        self._mode = mode
        self._wait = wait
        self._lock_delay = lock_delay
        self._timeout = timeout
        self._on_lost = on_lost
        self._grant: Grant | None = None

    async def __aenter__(self) -> Grant:
        grant = await self._client.take(self._claims, self._mode, self._wait, self._lock_delay, self._timeout, self._on_lost)
        grant.enter()
        self._grant = grant
        return grant

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        if self._grant is not None:
            await self._grant.__aexit__(exc_type, exc, traceback)
