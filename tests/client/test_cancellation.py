"""Whoever stops waiting leaves nothing behind: cancellation at every await point of acquire, release and the `with` block."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from lockd_client import Account, Client, LockHeld, connect
from tests.client.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    from tests.client.fake_server import FakeCluster


class CancelAt:
    """Runs a coroutine and throws CancelledError at its n-th suspension: before it waits, or after what it waited for has come."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int, *, after: bool) -> None:
        self._coroutine = coroutine
        self._at = at
        self._after = after
        self.reached = False

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        count = 0
        error: BaseException | None = None
        while True:
            try:
                future = steps.send(None) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            error = None
            now = count == self._at and not self.reached
            if now:
                self.reached = True
                error = asyncio.CancelledError()
            if now and not self._after:
                if future is not None:
                    future._asyncio_future_blocking = False
                continue
            yield future
            count += 1


async def at_every_await(make: Callable[[], Coroutine[Any, Any, Any]], check: Callable[[], Awaitable[None]]) -> int:
    """Cancel at each await point in turn, before and after; how many there are. `check` runs after each."""
    points = 0
    for after in (False, True):
        at = 0
        while True:
            cut = CancelAt(make(), at, after=after)
            try:
                await cut
            except asyncio.CancelledError:
                assert cut.reached
            await check()
            if not cut.reached:
                break
            points += 1
            at += 1
            assert at < 100
    return points


async def usable(client: Client, cluster: FakeCluster) -> None:
    """Nobody holds or waits for "a", and it can be had."""
    await until(lambda: "a" not in cluster.holders and not cluster.queue)
    async with client.lock("a", wait=0):
        pass


async def test_a_cancelled_acquire_leaves_no_holder(cluster: FakeCluster) -> None:
    """Cancelled before, while or just after it is granted: the lock is free again soon, and the client works on."""
    async with connect(cluster.endpoints) as client:

        async def take() -> None:
            grant = await client.acquire("a")
            await grant.release()

        assert await at_every_await(take, lambda: usable(client, cluster)) >= 4


async def test_a_cancelled_wait_leaves_no_waiter(cluster: FakeCluster) -> None:
    """Cancelled while somebody else holds it, or at the very moment of the grant: neither waiter nor holder stays."""
    async with connect(cluster.endpoints) as client, connect(cluster.endpoints) as other:
        held: list[Any] = []
        background: list[asyncio.Task[None]] = []

        async def contended() -> None:
            held.append(await other.acquire("a"))
            background.append(asyncio.create_task(held[-1].release()))
            async with client.lock("a"):
                pass

        async def check() -> None:
            for grant in held:
                await grant.release()
            await asyncio.gather(*background)
            held.clear()
            background.clear()
            await usable(client, cluster)

        assert await at_every_await(contended, check) >= 6


async def test_a_cancelled_block_gives_the_lock_back(cluster: FakeCluster) -> None:
    """Cancelled at its beginning, in its body, or while it releases."""
    async with connect(cluster.endpoints) as client:

        async def block() -> None:
            async with client.lock("a"):
                await asyncio.sleep(0)

        assert await at_every_await(block, lambda: usable(client, cluster)) >= 6


async def test_a_cancelled_first_call_leaves_a_working_client(cluster: FakeCluster) -> None:
    """The session is opened in the background: whoever asked first may leave without harm to the next."""

    async def first() -> None:
        async with connect(cluster.endpoints) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.acquire("a"), 1e-9)
            await usable(client, cluster)

    await first()


async def test_a_request_that_never_left_is_dropped(cluster: FakeCluster) -> None:
    """A cancelled acquire that was still queued is neither sent nor cancelled at the service."""
    async with connect(cluster.endpoints) as client:
        task = asyncio.create_task(client.acquire("a"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.acquire("b")
        kinds = [c.WhichOneof("command") for b in cluster.batches for c in b.commands]
        assert "cancel_acquire" not in kinds
        assert kinds.count("acquire") == 1


async def test_a_cancellation_survives_the_loss_of_the_stream(three: FakeCluster) -> None:
    """The stream breaks before the cancellation arrives: it is sent again, after the acquire that it is about."""
    async with connect(three.endpoints) as client, connect(three.endpoints) as other:
        grant = await other.acquire("a")
        task = asyncio.create_task(client.acquire("a"))
        await until(lambda: three.queue)
        three.gate.clear()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        three.elect(1)
        three.gate.set()
        await until(lambda: not three.queue)
        await grant.release()
        await usable(client, three)


async def test_a_grant_that_overtakes_its_cancellation_is_undone(cluster: FakeCluster) -> None:
    """The grant arrives after its waiter has left and before the cancellation is sent: the service must still remember it then."""
    async with connect(cluster.endpoints) as client:
        await client.acquire("warm")
        assert client._session is not None
        state = client._session.state
        cluster.gate.clear()
        task = asyncio.create_task(client.acquire("a"))
        await until(lambda: any(p.lock_wait and p.sent_at for p in state.window))
        (pending,) = [p for p in state.window if p.lock_wait]
        state.proven = False  # nothing is sent for a while
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        cluster.gate.set()
        await until(lambda: pending.reply is not None)
        assert "a" in cluster.holders
        assert state.window.lowest <= pending.request_id
        state.proven = True
        state.outgoing.set()
        await usable(client, cluster)
        await until(lambda: state.window.get(pending.request_id) is None)


async def test_a_cancelled_write_does_not_hold_the_window(cluster: FakeCluster) -> None:
    """A write whose caller left is answered or forgotten: the acknowledged mark passes it."""
    async with connect(cluster.endpoints) as client:
        await client.acquire("warm")
        cluster.mute = True
        task = asyncio.create_task(client.ledger.create_accounts([Account(1, 1, 1)]))
        await until(lambda: "create_accounts" in cluster.applied)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        cluster.mute = False
        cluster.cut_streams()
        await client.acquire("b")
        assert cluster.applied.count("create_accounts") == 1
        last = cluster.batches[-1]
        assert last.acknowledged == min(c.request_id for c in last.commands)


async def test_a_timeout_around_an_acquire_is_a_timeout(cluster: FakeCluster) -> None:
    """asyncio.timeout() around a waiting acquire raises TimeoutError, and nobody waits on."""
    async with connect(cluster.endpoints) as client, connect(cluster.endpoints) as other:
        grant = await other.acquire("a")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.acquire("a")
        await until(lambda: not cluster.queue)
        with pytest.raises(LockHeld):
            await client.acquire("a", wait=0)
        await grant.release()
