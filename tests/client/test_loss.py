# ruff: noqa: PT012 - the block is what is tested
"""Losing a session or a lock: bodies are cancelled, errors are LockLost, new calls open a new session (semantics, 2 and 8)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import grpc
import pytest

from lockd_client import Account, FencedError, Grant, LockLost, SessionLost, UnknownOutcome, connect
from tests.client.fake_world import status
from tests.client.waiting import until

if TYPE_CHECKING:
    from tests.client.fake_server import FakeCluster

TTL = 0.4


async def test_loss_of_the_session_cancels_the_body(cluster: FakeCluster) -> None:
    """The service forgets the session: the body is cancelled where it waits, and the block raises LockLost."""
    async with connect(cluster.endpoints, ttl=TTL) as client:
        ended = False
        with pytest.raises(LockLost) as caught:
            async with client.lock("a") as grant:
                cluster.lose_session(client.session_id)
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    ended = True
                    raise
        assert ended
        assert caught.value.reason == "SESSION_EXPIRED"
        assert isinstance(grant.lost, SessionLost)
        assert grant.remaining() == 0
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_validity_ends_without_any_answer(cluster: FakeCluster) -> None:
    """No keepalive is acknowledged: the lock is lost for the program before the ttl has passed since the last sending."""
    async with connect(cluster.endpoints, ttl=TTL) as client:
        with pytest.raises(LockLost):
            async with client.lock("a") as grant:
                cluster.mute = True
                left = grant.remaining()
                started = time.monotonic()
                assert 0 < left < TTL
                await asyncio.sleep(60)
        assert time.monotonic() - started >= left - 0.01
        cluster.mute = False


async def test_keepalives_keep_it(cluster: FakeCluster) -> None:
    """While they are acknowledged a lock outlives its ttl many times over."""
    async with connect(cluster.endpoints, ttl=0.3) as client, client.lock("a") as grant:
        for _ in range(12):
            await asyncio.sleep(0.1)
            assert grant.held


async def test_a_slow_answer_counts_from_its_sending(cluster: FakeCluster) -> None:
    """An acknowledgement that was long under way prolongs the lease from when its keepalive was sent, not from its arrival."""
    async with connect(cluster.endpoints, ttl=3) as client:
        grant = await client.acquire("a")
        cluster.gate.clear()
        await until(lambda: client._session is not None and client._session.state.keepalive is not None)
        await asyncio.sleep(0.5)
        cluster.gate.set()
        await until(lambda: client._session is not None and client._session.state.keepalive is None)
        assert grant.remaining() < 3 * 0.99 - 0.45


async def test_a_new_call_opens_a_new_session(cluster: FakeCluster) -> None:
    """After a loss the client goes on with a new session; grants of the old one stay lost."""
    async with connect(cluster.endpoints, ttl=TTL) as client:
        old = await client.acquire("a")
        cluster.lose_session(old.session_id)
        new = await client.acquire("a")
        assert new.session_id != old.session_id
        await until(lambda: old.lost is not None)
        for call in (old.guard, old.guards, old.check):
            with pytest.raises(SessionLost):
                call()
        with pytest.raises(SessionLost):
            await old.release()
        assert new.held
        assert cluster.opened == 2


async def test_a_write_refused_with_its_session_is_taken_over(cluster: FakeCluster) -> None:
    """A write that met a dead session was not applied: a new session sends it, and the caller notices nothing."""
    async with connect(cluster.endpoints) as client:
        await client.acquire("a")
        cluster.lose_session(client.session_id)
        results = await client.ledger.create_accounts([Account(1, 1, 1)])
        assert all(r.ok for r in results)
        assert cluster.applied.count("create_accounts") == 1


async def test_a_write_of_a_dead_session_may_be_unknown(cluster: FakeCluster) -> None:
    """A write that was under way when its stream broke and then met a dead session may have been applied: UnknownOutcome."""
    async with connect(cluster.endpoints) as client:
        await client.acquire("a")
        session = client.session_id
        cluster.mute = True
        writing = asyncio.create_task(client.ledger.create_accounts([Account(1, 1, 1)]))
        await until(lambda: "create_accounts" in cluster.applied)
        cluster.cut_streams()
        cluster.lose_session(session)
        cluster.mute = False
        with pytest.raises(UnknownOutcome):
            await writing
        assert cluster.applied.count("create_accounts") == 1


async def test_a_write_outlives_the_validity_of_its_session(cluster: FakeCluster) -> None:
    """Validity is about locks: a write under way still learns its outcome from a service that comes back in time."""
    async with connect(cluster.endpoints, ttl=TTL) as client:
        grant = await client.acquire("a")
        cluster.mute = True
        writing = asyncio.create_task(client.ledger.create_accounts([Account(1, 1, 1)]))
        await until(lambda: grant.lost is not None)
        cluster.mute = False
        assert all(r.ok for r in await writing)
        assert cluster.applied.count("create_accounts") == 1
        # The session that is of no use here any more is ended there, so that its locks are free before its ttl.
        await until(lambda: "a" not in cluster.holders)


async def test_a_waiting_acquire_is_told_of_the_end_of_validity(cluster: FakeCluster) -> None:
    """A wait without a limit ends with SessionLost when the session's validity is over."""
    async with connect(cluster.endpoints, ttl=TTL) as client, connect(cluster.endpoints) as other:
        await other.acquire("a")
        waiting = asyncio.create_task(client.acquire("a"))
        await until(lambda: cluster.queue)
        cluster.mute = True
        with pytest.raises(SessionLost):
            await waiting
        cluster.mute = False


async def test_a_forced_release_is_found_at_the_end(cluster: FakeCluster) -> None:
    """An operator took the lock away: the block's release finds out, and the block raises LockLost."""
    async with connect(cluster.endpoints) as client:
        with pytest.raises(LockLost, match="taken away"):
            async with client.lock("a"):
                cluster.force_release("a")


async def test_a_fenced_write_loses_the_grant(cluster: FakeCluster) -> None:
    """A guarded write is refused: it raises FencedError, and the bodies under that grant are cancelled."""
    async with connect(cluster.endpoints) as client:
        grant = await client.acquire("a")
        lost: list[Grant] = []

        async def work() -> None:
            async with grant:
                await asyncio.sleep(60)

        working = asyncio.create_task(work())
        await asyncio.sleep(0)
        guard = grant.guard()
        cluster.force_release("a")
        with pytest.raises(FencedError):
            await client.ledger.create_accounts([Account(1, 1, 1)], guards=[guard])
        with pytest.raises(LockLost):
            await working
        assert grant.lost is not None
        assert not lost


async def test_on_lost_is_called_once(cluster: FakeCluster) -> None:
    """The callback hears of the loss, once, and not of a release."""
    lost: list[str] = []
    async with connect(cluster.endpoints, ttl=TTL) as client:
        await (await client.acquire("r", on_lost=lambda g: lost.append(g.resource))).release()
        await client.acquire("a", on_lost=lambda g: lost.append(g.resource))
        cluster.lose_session(client.session_id)
        await until(lambda: lost)
    assert lost == ["a"]


async def test_a_callback_that_fails_harms_nobody(cluster: FakeCluster) -> None:
    """An on_lost that raises is reported to the loop, and the client works on."""
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))

    def fail(_: Grant) -> None:
        raise ValueError("mine")

    async with connect(cluster.endpoints, ttl=TTL) as client:
        await client.acquire("a", on_lost=fail)
        cluster.lose_session(client.session_id)
        await until(lambda: reported)
        assert (await client.acquire("a")).held
    assert isinstance(reported[0], ValueError)


async def test_a_failure_of_the_client_itself_is_told(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake inside the client ends its session with an error for whoever waits, instead of leaving them waiting."""
    async with connect(cluster.endpoints) as client:
        await client.acquire("a")

        def broken(*_: object) -> None:
            raise RuntimeError("a mistake")

        monkeypatch.setattr("lockd_client._async._pump.Pump.take", broken)
        with pytest.raises(UnknownOutcome):
            await client.ledger.create_accounts([Account(1, 1, 1)])
        monkeypatch.undo()
        assert (await client.acquire("b")).held


async def test_an_outer_cancellation_stays_one(cluster: FakeCluster) -> None:
    """Cancelled from outside and lost at the same time: the cancellation wins, as it must for whoever cancelled."""
    async with connect(cluster.endpoints, ttl=TTL) as client:
        inside = asyncio.Event()

        async def work() -> None:
            async with client.lock("a"):
                inside.set()
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel()
                    raise

        working = asyncio.create_task(work())
        await inside.wait()
        cluster.lose_session(client.session_id)
        with pytest.raises(asyncio.CancelledError):
            await working


async def test_timeouts_and_task_groups_inside_the_body(cluster: FakeCluster) -> None:
    """A loss passes through timeouts and task groups of the body, and their children are cancelled."""
    async with connect(cluster.endpoints, ttl=TTL) as client:
        cancelled: list[int] = []

        async def child(n: int) -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(n)
                raise

        with pytest.raises(LockLost):
            async with client.lock("a"), asyncio.timeout(30), asyncio.TaskGroup() as group:
                group.create_task(child(1))
                group.create_task(child(2))
                await asyncio.sleep(0)
                cluster.lose_session(client.session_id)
        assert sorted(cancelled) == [1, 2]


async def test_a_timeout_around_the_block_still_works(cluster: FakeCluster) -> None:
    """A timeout of the program's own inside or around the block is a TimeoutError, and the lock is given back."""
    async with connect(cluster.endpoints) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), client.lock("a"):
                await asyncio.sleep(60)
        await until(lambda: "a" not in cluster.holders)


async def test_a_loss_inside_a_timeout_is_not_a_timeout(cluster: FakeCluster) -> None:
    """The cancellation of a lost lock is not taken for the timeout around it, which goes on working."""
    async with connect(cluster.endpoints, ttl=TTL) as client:
        with pytest.raises(LockLost):
            async with asyncio.timeout(30):
                async with client.lock("a"):
                    cluster.lose_session(client.session_id)
                    await asyncio.sleep(60)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)


async def test_nested_blocks_end_with_one_loss(cluster: FakeCluster) -> None:
    """Both locks of a lost session end; the outermost block raises, and the task is left uncancelled."""
    async with connect(cluster.endpoints, ttl=TTL) as client:
        with pytest.raises(LockLost):
            async with client.lock("a"), client.lock("b"):
                cluster.lose_session(client.session_id)
                await asyncio.sleep(60)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0.01)


async def test_an_error_of_the_body_is_not_hidden(cluster: FakeCluster) -> None:
    """A body that fails while the lock is lost raises its own error, with a note about the loss."""
    async with connect(cluster.endpoints, ttl=TTL) as client:
        with pytest.raises(ValueError, match="mine") as caught:
            async with client.lock("a"):
                cluster.lose_session(client.session_id)
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    raise ValueError("mine") from None
        assert any("lost" in note for note in caught.value.__notes__)


async def test_a_body_that_swallows_the_cancellation_still_raises(cluster: FakeCluster) -> None:
    """The loss is told at the end of the block even if the body ended well."""
    async with connect(cluster.endpoints, ttl=TTL) as client:
        with pytest.raises(LockLost):
            async with client.lock("a"):
                cluster.lose_session(client.session_id)
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(60)
        await asyncio.sleep(0.01)


async def test_a_loss_in_the_last_step_of_a_body_cancels_nothing_else(cluster: FakeCluster) -> None:
    """A loss that is noticed while the body runs and does not wait any more must not cancel what comes after the block."""
    async with connect(cluster.endpoints) as client:
        with pytest.raises(LockLost):
            async with client.lock("a") as grant:
                grant.taken_away()
        await asyncio.sleep(0.01)


async def test_a_silent_stream_is_given_up(cluster: FakeCluster) -> None:
    """A leader that takes requests and answers nothing is left after an unanswered keepalive; the request is sent again elsewhere."""
    async with connect(cluster.endpoints, ttl=3) as client:
        await client.acquire("a")
        cluster.mute = True
        writing = asyncio.create_task(client.ledger.create_accounts([Account(1, 1, 1)]))
        await until(lambda: "create_accounts" in cluster.applied)
        streams = cluster.calls.count("Stream")
        await until(lambda: cluster.calls.count("Stream") > streams)
        cluster.mute = False
        assert all(r.ok for r in await writing)


async def test_a_refused_keepalive_is_not_repeated_with_the_same_id(cluster: FakeCluster) -> None:
    """A keepalive whose outcome is unknown is replaced by a new one: its repetition would be answered from memory."""
    async with connect(cluster.endpoints, ttl=0.6) as client, client.lock("a") as grant:
        why = status(grpc.StatusCode.UNAVAILABLE, "UNKNOWN_OUTCOME", retry_after=0.01)
        cluster.refusals.append(("keep_alive", why))
        await asyncio.sleep(0.9)
        assert grant.held
    ids = [c.request_id for b in cluster.batches for c in b.commands if c.WhichOneof("command") == "keep_alive"]
    assert len(ids) == len(set(ids)) >= 3
