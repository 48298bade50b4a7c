"""Numbering, batching, resending and deadlines of a session's requests."""

from __future__ import annotations

from lockd.v1 import session_pb2
from lockd_client._core.window import BATCH_BYTES, BATCH_COUNT, KEPT_REQUESTS, NEVER, Pending, Window
from lockd_client.errors import LockdError


class Slot:
    """A waiter that keeps what it is given."""

    def __init__(self) -> None:
        self.result: object = None

    def done(self) -> bool:
        """Whether something came."""
        return self.result is not None

    def set_result(self, result: session_pb2.StreamReply, /) -> None:
        """A reply."""
        self.result = result

    def set_exception(self, exception: LockdError, /) -> None:
        """A failure."""
        self.result = exception


def request(deadline: int = NEVER, size: int = 10) -> Pending[Slot]:
    """A request somebody waits for."""
    return Pending(session_pb2.StreamCommand(), Slot(), deadline, size)


def ids(batch: session_pb2.StreamRequest | None) -> list[int]:
    """Request ids of a batch."""
    assert batch is not None
    return [c.request_id for c in batch.commands]


def test_ids_increase_and_what_waits_goes_together() -> None:
    """Everything that waits leaves in one message, numbered in the order of its arrival."""
    window: Window[Slot] = Window(1)
    for _ in range(3):
        window.add(request())
    assert ids(window.take(7, 100)) == [1, 2, 3]
    assert window.take(7, 100) is None


def test_acknowledged_is_the_lowest_unanswered() -> None:
    """An answer out of order does not move the mark past a request that is still open."""
    window: Window[Slot] = Window(1)
    for _ in range(3):
        window.add(request())
    window.take(7, 100)
    window.answered(2)
    window.add(request())
    batch = window.take(7, 100)
    assert batch is not None
    assert batch.acknowledged == 1
    window.answered(1)
    window.add(request())
    batch = window.take(7, 100)
    assert batch is not None
    assert batch.acknowledged == 3
    for n in (3, 4, 5):
        window.answered(n)
    assert window.lowest == 6


def test_a_batch_is_capped_by_count() -> None:
    """A message carries at most 4,096 commands; the rest follows in the next."""
    window: Window[Slot] = Window(1)
    for _ in range(BATCH_COUNT + 5):
        window.add(request(size=1))
    assert len(ids(window.take(7, 1))) == BATCH_COUNT
    assert len(ids(window.take(7, 1))) == 5


def test_a_batch_is_capped_by_bytes_but_never_empty() -> None:
    """Large commands travel in several messages, and one that is larger than the cap travels alone."""
    window: Window[Slot] = Window(1)
    for size in (BATCH_BYTES * 2, BATCH_BYTES // 2, BATCH_BYTES // 2, 1):
        window.add(request(size=size))
    assert ids(window.take(7, 1)) == [1]
    assert ids(window.take(7, 1)) == [2, 3]
    assert ids(window.take(7, 1)) == [4]


def test_a_new_stream_resends_in_order_with_the_same_ids() -> None:
    """After a loss every unanswered request goes again, sent or not, in the order of the ids, and what was sent counts as ambiguous."""
    window: Window[Slot] = Window(5)
    first, second, third = request(), request(), request()
    window.add(first)
    window.add(second)
    window.take(7, 100)
    window.add(third)
    window.answered(5)
    window.rewind()
    assert ids(window.take(7, 200)) == [6, 7]
    assert second.ambiguous
    assert not third.ambiguous


def test_a_keepalive_is_never_sent_twice() -> None:
    """A repeated keepalive would be answered from memory and prolong nothing: a new stream drops it."""
    window: Window[Slot] = Window(1)
    keepalive = request()
    keepalive.ephemeral = True
    window.add(keepalive)
    window.add(request())
    window.take(7, 100)
    window.rewind()
    assert ids(window.take(7, 200)) == [2]
    assert window.lowest == 2


def test_what_nobody_waits_for_is_not_resent() -> None:
    """A request whose caller left is forgotten at the next stream, unless it works in the background or can be asked for."""
    window: Window[Slot] = Window(1)
    left, background, resolvable = request(), request(), request()
    for pending in (left, background, resolvable):
        window.add(pending)
        pending.waiter = None
    background.background = True
    resolvable.decode = lambda reply: reply
    window.take(7, 100)
    window.rewind()
    assert ids(window.take(7, 200)) == [2]
    assert window.get(1) is None
    assert window.get(3) is resolvable


def test_a_dropped_request_never_leaves() -> None:
    """What is given up while it is queued is not sent."""
    window: Window[Slot] = Window(1)
    first, second = request(), request()
    window.add(first)
    window.add(second)
    window.drop(first)
    assert ids(window.take(7, 100)) == [2]
    window.add(first := request())
    window.drop(first)
    assert window.take(7, 100) is None


def test_overdue_names_the_late_and_the_next() -> None:
    """Requests whose deadline has come are late; the earliest other deadline is when to look again."""
    window: Window[Slot] = Window(1)
    late, soon, never = request(deadline=50), request(deadline=80), request()
    for pending in (late, soon, never):
        window.add(pending)
    assert window.overdue(50) == ([late], 80)
    late.waiter = None
    assert window.overdue(60) == ([], 80)


def test_old_requests_are_forgotten_at_last() -> None:
    """A request that could still be asked for does not hold the acknowledged mark back for ever."""
    window: Window[Slot] = Window(1)
    old = request()
    old.decode = lambda reply: reply
    window.add(old)
    old.waiter = None
    window.next_id += KEPT_REQUESTS - 1
    window.forget_old()
    assert window.get(1) is old
    window.next_id += 1
    window.forget_old()
    assert window.get(1) is None
