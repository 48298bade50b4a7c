# ruff: noqa: PT012 - the block is what is tested
"""The blocking client: the same behaviour from the same source; what a thread does where a task would be cancelled (semantics, 8)."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from lockd_client import (
    Account,
    ClientClosed,
    DeadlineExceeded,
    FencedError,
    LockHeld,
    LockLost,
    Transfer,
    Unavailable,
    UnknownOutcome,
    WaitTimeout,
    connect_sync,
)
from lockd_client.sync import Client, Grant, connect
from tests.client.waiting import until_sync

if TYPE_CHECKING:
    from tests.client.fake_server import FakeCluster

ACCOUNTS = [Account(1, 1, 1), Account(2, 1, 1)]


def test_locks_ledger_rows_and_cluster(three: FakeCluster) -> None:
    """The same calls as in the asyncio client, without await."""
    three.elect(1)
    with connect(three.addresses[0]) as client:
        with client.lock("accounts/1") as grant:
            assert grant.remaining() > 0
            assert all(r.ok for r in client.ledger.create_accounts(ACCOUNTS, guards=[grant.guard()]))
        assert [r.ok for r in client.ledger.create_transfers([Transfer(1, 1, 2, 5, 1, 1)])] == [True]
        assert client.rows.put("k", b"v") == 1
        assert client.transact().if_exists("k").read("k").commit().succeeded
        assert client.cluster.status(three.addresses[1]).role == "leader"
        assert len(list(client.cluster.save_snapshot())) == 3
        assert client.try_lock("accounts/1") is not None
    assert three.sessions == {}
    assert connect_sync is connect


def test_refusals_and_waits(cluster: FakeCluster) -> None:
    """Try, timed wait, and a wait that is granted by another thread's release."""
    with connect(cluster.endpoints) as client, connect(cluster.endpoints) as other, ThreadPoolExecutor(1) as pool:
        grant = client.acquire("a")
        with pytest.raises(LockHeld):
            other.acquire("a", wait=0)
        with pytest.raises(WaitTimeout):
            other.acquire("a", wait=0.05)
        waiting = pool.submit(other.acquire, "a")
        until_sync(lambda: cluster.queue)
        grant.release()
        assert waiting.result().token > grant.token


def test_deadlines_and_resolve(cluster: FakeCluster) -> None:
    """A write without an answer is unknown and can be resolved; an acquire leaves nothing; a dead cluster is Unavailable."""
    with connect(cluster.endpoints) as client:
        client.ledger.create_accounts(ACCOUNTS)
        cluster.mute = True
        with pytest.raises(UnknownOutcome) as caught:
            client.ledger.create_transfers([Transfer(1, 1, 2, 10, 1, 1)], timeout=0.2)
        with pytest.raises(DeadlineExceeded):
            client.acquire("a", wait=0, timeout=0.1)
        cluster.mute = False
        (result,) = client.resolve(caught.value)
        assert result.ok
        until_sync(lambda: "a" not in cluster.holders)
    assert cluster.applied.count("create_transfers") == 1
    with pytest.raises(Unavailable):
        connect("127.0.0.1:1", timeout=0.2)


def test_a_lost_reply_applies_nothing_twice(three: FakeCluster) -> None:
    """The stream breaks after the write: the same request is sent again to the new leader, and applied once."""
    with connect(three.endpoints) as client, ThreadPoolExecutor(1) as pool:
        client.ledger.create_accounts(ACCOUNTS)
        three.mute = True
        posting = pool.submit(client.ledger.create_transfers, [Transfer(1, 1, 2, 10, 1, 1)])
        until_sync(lambda: "create_transfers" in three.applied)
        three.mute = False
        three.elect(2)
        assert posting.result()[0].ok
    assert three.applied.count("create_transfers") == 1


def test_loss_raises_at_the_next_call_and_at_the_end(cluster: FakeCluster) -> None:
    """A thread is not interrupted: its next call inside the block raises LockLost, and on_lost was called from the background."""
    lost: list[tuple[str, str]] = []

    def note(grant: Grant) -> None:
        lost.append((grant.resource, threading.current_thread().name))

    with connect(cluster.endpoints, ttl=0.4) as client:
        reached = False
        with pytest.raises(LockLost), client.lock("a", on_lost=note) as grant:
            cluster.lose_session(client.session_id)
            until_sync(lambda: grant.lost)
            client.ledger.create_accounts(ACCOUNTS)
            reached = True
        assert not reached
        assert "create_accounts" not in cluster.applied
        assert [resource for resource, _ in lost] == ["a"]
        assert lost[0][1] != threading.current_thread().name
        with pytest.raises(LockLost), client.lock("a") as again:
            cluster.lose_session(client.session_id)
            until_sync(lambda: again.lost)
        # Outside of the block the client works on, with a new session.
        assert all(r.ok for r in client.ledger.create_accounts(ACCOUNTS))


def test_another_threads_calls_go_on(cluster: FakeCluster) -> None:
    """Only the thread inside the block of the lost lock is told at its next call."""
    with connect(cluster.endpoints, ttl=0.4) as client, ThreadPoolExecutor(1) as pool:
        lock = client.lock("a")
        with pytest.raises(LockLost), lock as grant:
            cluster.lose_session(client.session_id)
            until_sync(lambda: grant.lost)
            assert all(r.ok for r in pool.submit(client.ledger.create_accounts, ACCOUNTS).result())


def test_validity_ends_without_any_answer(cluster: FakeCluster) -> None:
    """Keepalives that are not acknowledged end the grant before its ttl is over."""
    with connect(cluster.endpoints, ttl=0.4) as client:
        grant = client.acquire("a")
        cluster.mute = True
        until_sync(lambda: grant.lost)
        assert grant.remaining() == 0
        cluster.mute = False
        with pytest.raises(LockLost):
            grant.guard()


def test_an_error_of_the_body_comes_through(cluster: FakeCluster) -> None:
    """The lock is given back and the error of the body is raised."""
    with connect(cluster.endpoints) as client:
        with pytest.raises(ZeroDivisionError), client.lock("a"):
            _ = 1 / 0
        assert "a" not in cluster.holders


def test_interrupting_a_wait_leaves_no_waiter(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while an acquire waits: it is cancelled at the service too."""
    with connect(cluster.endpoints) as client, connect(cluster.endpoints) as other:
        other.acquire("a")
        client.acquire("warm")

        def interrupted(_: object) -> None:
            until_sync(lambda: cluster.queue)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("lockd_client._sync._session.wait_for", interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.acquire("a")
        until_sync(lambda: not cluster.queue)


def test_many_threads_share_one_client(cluster: FakeCluster) -> None:
    """Calls of many threads travel on one stream; a mutual exclusion that holds is seen by a counter without a lock of its own."""
    counter = [0]

    def work(client: Client) -> None:
        for _ in range(5):
            with client.lock("counter"):
                seen = counter[0]
                time.sleep(0)
                counter[0] = seen + 1

    with connect(cluster.endpoints) as first, connect(cluster.endpoints) as second, ThreadPoolExecutor(8) as pool:
        for job in [pool.submit(work, client) for client in (first, second) for _ in range(1)]:
            job.result()
        grants = list(pool.map(lambda i: first.acquire(f"x/{i}"), range(50)))
        assert len({g.token for g in grants}) == 50
    assert counter[0] == 10


def test_close_ends_threads_and_calls(cluster: FakeCluster) -> None:
    """Closing wakes whoever waits, gives locks back, and leaves no thread of this package behind."""
    with connect(cluster.endpoints) as other, ThreadPoolExecutor(1) as pool:
        held = other.acquire("a")
        before = {t for t in threading.enumerate() if t.name.startswith("lockd-")}
        client = connect(cluster.endpoints)
        waiting = pool.submit(client.acquire, "a")
        until_sync(lambda: cluster.queue)
        client.close()
        with pytest.raises((ClientClosed, LockLost)):
            waiting.result()
        until_sync(lambda: {t for t in threading.enumerate() if t.name.startswith("lockd-")} <= before)
        assert held.held
        with pytest.raises(ClientClosed):
            client.acquire("b")


def test_a_fenced_write_is_refused(cluster: FakeCluster) -> None:
    """The token of a released lock guards nothing any more."""
    with connect(cluster.endpoints) as client:
        with client.lock("a") as grant:
            guard = grant.guard()
        with pytest.raises(FencedError):
            client.rows.put("r", b"", guards=[guard])
