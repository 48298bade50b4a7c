"""The unanswered requests of a session: numbering, batching, resending, deadlines (semantics, section 2).

Not safe for threads: the session guards it with its mutex.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from lockd.v1 import session_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lockd_client.errors import LockdError

BATCH_COUNT = 4_096
"""Commands in one StreamRequest."""
BATCH_BYTES = 2 << 20
"""Estimated bytes in one StreamRequest; a single larger command travels alone."""
KEPT_REQUESTS = 32_768
"""Requests whose outcome nobody waits for any more are forgotten when this many newer ones have been numbered."""

NEVER = 1 << 63
"""A deadline that does not come."""


class Waiter(Protocol):
    """Somebody who waits for a reply: an asyncio.Future, or its threaded counterpart."""

    def done(self) -> bool:
        """Whether it has an outcome already, or nobody waits any more."""
        ...

    def set_result(self, result: session_pb2.StreamReply, /) -> None:
        """Deliver the reply."""
        ...

    def set_exception(self, exception: LockdError, /) -> None:
        """Deliver a failure."""
        ...


W = TypeVar("W", bound=Waiter)


class Pending(Generic[W]):
    """One request from its submission to its answer. What most requests never need stays a default of the class."""

    request_id: int = 0
    sent_at: int = 0
    """When it was last handed to a stream and may have reached the service; 0: it has certainly not."""
    write: bool = True
    """Whether an unanswered request may have changed something."""
    attempts: int = 0
    ambiguous: bool = False
    """An earlier sending may have been applied although no reply came."""
    background: bool = False
    """Goes on although nobody waits: a release, a cancellation, the acquire that is being cancelled."""
    ephemeral: bool = False
    """A keepalive: never sent twice, because a repeated one would answer from memory and prolong nothing."""
    lock_wait: bool = False
    """An acquire or conversion: it ends with the session's validity."""
    dropped: bool = False
    cancelling: bool = False
    """A CancelAcquire for it is under way. It counts as unanswered until that is answered: the service undoes a grant from what it
    remembers of this request, and would forget it once it is acknowledged."""
    target: Pending[W] | None = None
    """The acquire that this request cancels."""
    reply: session_pb2.StreamReply | None = None
    failure: LockdError | None = None
    """The last refusal."""
    decode: Callable[[session_pb2.StreamReply], Any] | None = None
    """Makes the caller's result from the reply; for `resolve`."""

    def __init__(self, command: session_pb2.StreamCommand, waiter: W | None, deadline: int, size: int) -> None:
        self.command = command
        self.waiter = waiter
        self.deadline = deadline
        """Monotonic nanoseconds; NEVER if it has none."""
        self.size = size


class LockWait(Pending[W]):
    """An acquire or conversion."""

    lock_wait = True


class Background(Pending[W]):
    """What goes on although nobody waits any more, and changes nothing that would be unknown."""

    write = False
    background = True


class Window(Generic[W]):
    """Unanswered requests in the order of their ids, and those among them that are to be sent."""

    def __init__(self, first_id: int) -> None:
        self.next_id = first_id
        self.unanswered: dict[int, Pending[W]] = {}
        self.bytes = 0
        """Estimated size of all unanswered requests."""
        self._outbox: deque[Pending[W]] = deque()

    def __iter__(self) -> Iterator[Pending[W]]:
        return iter(list(self.unanswered.values()))

    def get(self, request_id: int) -> Pending[W] | None:
        """The unanswered request of this number."""
        return self.unanswered.get(request_id)

    @property
    def lowest(self) -> int:
        """The lowest unanswered id: all below it have been answered and will not be asked for again."""
        for request_id in self.unanswered:
            return request_id
        return self.next_id

    def add(self, pending: Pending[W]) -> bool:
        """Number a new request and queue it; whether nothing was queued before."""
        request_id = self.next_id
        pending.request_id = pending.command.request_id = request_id
        self.next_id = request_id + 1
        self.unanswered[request_id] = pending
        self.bytes += pending.size
        outbox = self._outbox
        outbox.append(pending)
        return len(outbox) == 1

    def number(self, pending: Pending[W]) -> None:
        """Number a new request without queueing it; it leaves with `take_only`."""
        pending.request_id = pending.command.request_id = self.next_id
        self.next_id += 1
        self.unanswered[pending.request_id] = pending
        self.bytes += pending.size

    def answered(self, request_id: int) -> Pending[W] | None:
        """The request is over; None if it is not known (an answer that came twice)."""
        pending = self.unanswered.pop(request_id, None)
        if pending is not None:
            self.bytes -= pending.size
        return pending

    def drop(self, pending: Pending[W]) -> None:
        """Forget a request, whether queued or sent."""
        pending.dropped = True
        self.answered(pending.request_id)

    def queue_again(self, pending: Pending[W]) -> None:
        """Send a request once more on the connection as it is."""
        if not pending.dropped and pending.request_id in self.unanswered:
            self._outbox.append(pending)

    def take(self, session_id: int, now: int) -> session_pb2.StreamRequest | None:
        """All that waits, up to the caps, as one message; None if nothing waits."""
        outbox = self._outbox
        if not outbox:
            return None
        request = session_pb2.StreamRequest(session_id=session_id)
        append = request.commands.append
        count = size = 0
        while outbox and count < BATCH_COUNT:
            pending = outbox[0]
            if pending.dropped:
                outbox.popleft()
                continue
            size += pending.size
            if count and size > BATCH_BYTES:
                break
            outbox.popleft()
            pending.sent_at = now
            append(pending.command)
            count += 1
        if not count:
            return None
        request.acknowledged = self.lowest
        return request

    def take_only(self, pending: Pending[W], session_id: int, now: int) -> session_pb2.StreamRequest:
        """One request as a message of its own, before all that is queued."""
        pending.sent_at = now
        return session_pb2.StreamRequest(session_id=session_id, acknowledged=self.lowest, commands=[pending.command])

    def rewind(self) -> None:
        """A new stream begins: everything that still matters is sent again, in order, with the same ids.

        Keepalives and requests that nobody waits for are forgotten, except those that must finish in the background and those
        whose outcome may still be asked for, which stay without being sent.
        """
        self._outbox.clear()
        for pending in list(self.unanswered.values()):
            if pending.sent_at:
                pending.ambiguous = True
            if pending.ephemeral:
                self.drop(pending)
            elif pending.background or pending.waiter is not None:
                self._outbox.append(pending)
            elif pending.decode is None:
                self.drop(pending)

    def forget_old(self) -> None:
        """Give up requests that nobody waits for and that hold the acknowledged mark too far back."""
        for pending in list(self.unanswered.values()):
            if self.next_id - pending.request_id <= KEPT_REQUESTS:
                return
            if pending.waiter is None and not pending.background:
                self.drop(pending)

    def overdue(self, now: int) -> tuple[list[Pending[W]], int]:
        """The awaited requests whose deadline has passed, and the earliest deadline among the others (NEVER if none)."""
        late: list[Pending[W]] = []
        earliest = NEVER
        for pending in self.unanswered.values():
            if pending.waiter is None:
                continue
            if pending.deadline <= now:
                late.append(pending)
            elif pending.deadline < earliest:
                earliest = pending.deadline
        return late, earliest
