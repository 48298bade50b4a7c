"""The asyncio client against a scripted cluster: batching, redirects, resending, deadlines, unknown outcomes (semantics, 2, 3, 8, 10)."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc
import pytest

from lockd.v1 import session_pb2
from lockd_client import (
    Account,
    Claim,
    ClientClosed,
    DeadlineExceeded,
    FencedError,
    InvalidArgument,
    LockHeld,
    LockLost,
    LockMode,
    NotHeld,
    PermissionDenied,
    Transfer,
    Unavailable,
    UnknownOutcome,
    WaitTimeout,
    connect,
)
from tests.client.fake_world import status
from tests.client.waiting import until

if TYPE_CHECKING:
    from tests.client.fake_server import FakeCluster

ACCOUNTS = [Account(1, 1, 1), Account(2, 1, 1)]
CODE = grpc.StatusCode


def commands(cluster: FakeCluster, kind: str) -> list[session_pb2.StreamCommand]:
    """All commands of a kind that reached the cluster, repetitions included."""
    return [c for batch in cluster.batches for c in batch.commands if c.WhichOneof("command") == kind]


async def test_a_lock_is_taken_and_given_back(cluster: FakeCluster) -> None:
    """`async with client.lock()` holds the lock with a token inside, and not after it."""
    async with connect(cluster.endpoints, ttl=10) as client, client.lock("accounts/alice") as grant:
        assert [(s, t) for s, t, _ in cluster.holders["accounts/alice"]] == [(client.session_id, grant.token)]
        assert grant.resource == "accounts/alice"
        assert grant.mode is LockMode.EXCLUSIVE
        assert 0 < grant.remaining() < 10
        assert grant.held
    assert cluster.holders == {}
    assert grant.remaining() == 0


async def test_tokens_increase(cluster: FakeCluster) -> None:
    """Each grant's token is larger than every earlier one (semantics, 3)."""
    async with await connect(cluster.endpoints) as client:
        tokens = []
        for _ in range(3):
            async with client.lock("a") as grant:
                tokens.append(grant.token)
    assert tokens == sorted(set(tokens))


async def test_many_locks_are_all_or_nothing(cluster: FakeCluster) -> None:
    """`lock_many` takes every resource in one request, or none."""
    async with connect(cluster.endpoints) as client, connect(cluster.endpoints) as other:
        claims: list[str | Claim] = ["a", Claim("b", LockMode.SHARED)]
        async with client.lock_many(claims) as grant:
            assert [(h.resource, h.mode) for h in grant.holds] == [("a", LockMode.EXCLUSIVE), ("b", LockMode.SHARED)]
            assert [g.token for g in grant.guards()] == [h.token for h in grant.holds]
            assert len(commands(cluster, "acquire")) == 1
            with pytest.raises(LockHeld):
                await other.acquire(["c", "a"], wait=0)
            assert set(cluster.holders) == {"a", "b"}


async def test_try_lock_gives_none_when_held(cluster: FakeCluster) -> None:
    """A try never waits; its grant is a context manager."""
    async with connect(cluster.endpoints) as client, connect(cluster.endpoints) as other:
        grant = await client.try_lock("a")
        assert grant is not None
        async with grant:
            assert await other.try_lock("a") is None
        assert await other.try_lock("a") is not None


async def test_a_timed_wait_ends(cluster: FakeCluster) -> None:
    """A lock that is not granted within the wait is a WaitTimeout, and nobody waits on."""
    async with connect(cluster.endpoints) as client, connect(cluster.endpoints) as other, client.lock("a"):
        with pytest.raises(WaitTimeout):
            await other.acquire("a", wait=0.05)
        assert not cluster.queue


async def test_a_waiter_gets_the_lock_when_it_is_free(cluster: FakeCluster) -> None:
    """A wait without a limit ends with the release of the holder."""
    async with connect(cluster.endpoints) as client, connect(cluster.endpoints) as other:
        grant = await client.acquire("a")
        waiting = asyncio.create_task(other.acquire("a"))
        await until(lambda: cluster.queue)
        await grant.release()
        assert (await waiting).token > grant.token


async def test_release_is_idempotent_and_ends_the_grant(cluster: FakeCluster) -> None:
    """Releasing twice is no error; a released grant gives no guards."""
    async with connect(cluster.endpoints) as client:
        grant = await client.acquire("a")
        await grant.release()
        await grant.release()
        assert len(commands(cluster, "release")) == 1
        with pytest.raises(NotHeld):
            grant.guard()


async def test_convert_changes_the_mode(cluster: FakeCluster) -> None:
    """A grant can be converted, and keeps its token."""
    async with connect(cluster.endpoints) as client, client.lock("a", mode=LockMode.SHARED) as grant:
        token = grant.token
        await grant.convert(LockMode.EXCLUSIVE)
        assert (grant.mode, grant.token) == (LockMode.EXCLUSIVE, token)


async def test_ledger_calls_work_and_carry_guards(cluster: FakeCluster) -> None:
    """Accounts, transfers, look-ups and packed batches go through; a guard that does not hold refuses the batch."""
    async with connect(cluster.endpoints) as client:
        assert all(r.ok for r in await client.ledger.create_accounts(ACCOUNTS))
        async with client.lock("accounts/1") as grant:
            (result,) = await client.ledger.create_transfers([Transfer(5, 1, 2, 30, 1, 1)], guards=[grant.guard()])
            assert result.ok
            guard = grant.guard()
        with pytest.raises(FencedError) as caught:
            await client.ledger.create_transfers([Transfer(6, 1, 2, 30, 1, 1)], guards=[guard])
        assert caught.value.reason == "FENCED"
        assert [a.debits_posted for a in await client.ledger.lookup_accounts([1, 99])] == [30]
        assert [t.amount for t in await client.ledger.lookup_transfers([5, 6])] == [30]
        from lockd_client._core.ledger_codec import pack_transfers

        assert len(await client.ledger.create_transfers_packed(pack_transfers([Transfer(7, 1, 2, 1, 1, 1)]))) == 16


async def test_bad_numbers_never_leave(cluster: FakeCluster) -> None:
    """A number out of range is named by index and field, before anything is sent."""
    async with connect(cluster.endpoints) as client:
        with pytest.raises(InvalidArgument, match=r"transfers\[0\]\.amount"):
            await client.ledger.create_transfers([Transfer(1, 1, 2, -1, 1, 1)])
    assert not commands(cluster, "create_transfers")


async def test_a_lookup_needs_no_session(cluster: FakeCluster) -> None:
    """A read before any write does not open a session."""
    async with connect(cluster.endpoints) as client:
        assert await client.ledger.lookup_accounts([1]) == []
        assert await client.rows.get("k") is None
        assert client.session_id == 0
    assert cluster.opened == 0


async def test_requests_that_wait_travel_together(cluster: FakeCluster) -> None:
    """What is submitted while a message is on its way leaves in the next one: far fewer messages than requests, and no timer."""
    async with connect(cluster.endpoints) as client:
        await client.acquire("warm")
        before = len(cluster.batches)
        await asyncio.gather(*(client.acquire(f"a/{i}") for i in range(300)))
        messages = cluster.batches[before:]
        assert sum(len(b.commands) for b in messages) == 300
        assert len(messages) < 30
        ids = [c.request_id for b in messages for c in b.commands]
        assert ids == sorted(set(ids))


async def test_acknowledged_follows_the_answers(cluster: FakeCluster) -> None:
    """Each message tells the lowest id that is still unanswered."""
    async with connect(cluster.endpoints) as client:
        for i in range(3):
            await client.acquire(f"a/{i}")
        last = cluster.batches[-1]
        assert last.acknowledged == last.commands[0].request_id


async def test_the_leader_is_found_from_any_node(three: FakeCluster) -> None:
    """One address is enough: members are discovered, and a follower's hint is followed."""
    three.elect(2)
    async with connect(three.addresses[0]) as client:
        assert set(client.endpoints) == set(three.addresses)
        async with client.lock("a"):
            pass


async def test_a_new_leader_is_followed_with_the_same_requests(three: FakeCluster) -> None:
    """When leadership moves while requests are unanswered they are sent again with the same ids, and are applied once."""
    async with connect(three.endpoints) as client:
        await client.ledger.create_accounts(ACCOUNTS)
        three.mute = True
        posting = asyncio.create_task(client.ledger.create_transfers([Transfer(1, 1, 2, 10, 1, 1)]))
        await until(lambda: "create_transfers" in three.applied)
        three.mute = False
        three.elect(1)
        (result,) = await posting
        assert result.ok
        assert three.applied.count("create_transfers") == 1
        sent = {c.request_id for c in commands(three, "create_transfers")}
        assert len(sent) == 1
        assert len(commands(three, "create_transfers")) >= 2


async def test_a_lost_reply_applies_nothing_twice(cluster: FakeCluster) -> None:
    """A stream that breaks after the write and before its reply: the resent request gets the first outcome."""
    async with connect(cluster.endpoints) as client:
        await client.ledger.create_accounts(ACCOUNTS)
        cluster.cut_after.append("create_transfers")
        (result,) = await client.ledger.create_transfers([Transfer(1, 1, 2, 10, 1, 1)])
        assert result.ok
        assert cluster.applied.count("create_transfers") == 1


@pytest.mark.parametrize("reason", ["UNKNOWN_OUTCOME", "OVERLOADED", "NOT_LEADER", "STALE_REPLICA", "NO_LEADER"])
async def test_retryable_refusals_are_retried_with_the_same_id(cluster: FakeCluster, reason: str) -> None:
    """What the service asks to be sent again is, inside the deadline, with the same id."""
    code = CODE.RESOURCE_EXHAUSTED if reason == "OVERLOADED" else CODE.UNAVAILABLE
    async with connect(cluster.endpoints) as client:
        for _ in range(2):
            cluster.refusals.append(("create_accounts", status(code, reason, retry_after=0.01)))
        results = await client.ledger.create_accounts(ACCOUNTS)
        assert all(r.ok for r in results)
        sent = commands(cluster, "create_accounts")
        assert len(sent) == 3
        assert len({c.request_id for c in sent}) == 1


async def test_a_refusal_reaches_the_caller(cluster: FakeCluster) -> None:
    """What cannot be retried is raised as its class, once."""
    async with connect(cluster.endpoints) as client:
        cluster.refusals.append(("create_accounts", status(CODE.PERMISSION_DENIED, "PERMISSION_DENIED", "no role")))
        with pytest.raises(PermissionDenied, match="no role"):
            await client.ledger.create_accounts(ACCOUNTS)
        with pytest.raises(InvalidArgument) as caught:
            await client.acquire("")
        assert caught.value.reason == "INVALID_PATH"


async def test_a_write_without_an_answer_is_unknown_and_can_be_resolved(cluster: FakeCluster) -> None:
    """At the deadline a write that may have been sent is UnknownOutcome; resolve asks with the same id and learns the first outcome."""
    async with connect(cluster.endpoints) as client:
        await client.ledger.create_accounts(ACCOUNTS)
        cluster.mute = True
        with pytest.raises(UnknownOutcome) as caught:
            await client.ledger.create_transfers([Transfer(1, 1, 2, 10, 1, 1)], timeout=0.2)
        assert caught.value.request_id > 0
        assert caught.value.session_id == client.session_id
        with pytest.raises(UnknownOutcome):
            await client.resolve(caught.value, timeout=0.1)
        cluster.mute = False
        (result,) = await client.resolve(caught.value)
        assert result.ok
        assert cluster.applied.count("create_transfers") == 1
        assert len({c.request_id for c in commands(cluster, "create_transfers")}) == 1


async def test_a_late_answer_is_kept_for_resolve(cluster: FakeCluster) -> None:
    """An answer that comes after the deadline is what resolve returns; once."""
    async with connect(cluster.endpoints) as client:
        await client.ledger.create_accounts(ACCOUNTS)
        cluster.gate.clear()
        with pytest.raises(UnknownOutcome) as caught:
            await client.ledger.create_transfers([Transfer(1, 1, 2, 10, 1, 1)], timeout=0.1)
        cluster.gate.set()
        await client.acquire("after")
        (result,) = await client.resolve(caught.value.request_id)
        assert result.ok
        with pytest.raises(UnknownOutcome):
            await client.resolve(caught.value.request_id)


async def test_the_outcome_of_an_unresolved_write_stays_remembered(cluster: FakeCluster) -> None:
    """Until it is resolved, the acknowledged mark does not pass it."""
    async with connect(cluster.endpoints) as client:
        await client.acquire("warm")
        cluster.mute = True
        with pytest.raises(UnknownOutcome) as caught:
            await client.ledger.create_accounts(ACCOUNTS, timeout=0.1)
        cluster.mute = False
        await client.acquire("a")
        assert cluster.batches[-1].acknowledged <= caught.value.request_id
        await client.resolve(caught.value)
        await client.acquire("b")
        assert cluster.batches[-1].acknowledged > caught.value.request_id


async def test_a_read_without_an_answer_is_a_plain_deadline(cluster: FakeCluster) -> None:
    """A read changes nothing, so that nothing is unknown."""
    async with connect(cluster.endpoints) as client:
        await client.acquire("a")
        cluster.gate.clear()
        with pytest.raises(DeadlineExceeded):
            await client.ledger.lookup_accounts([1], timeout=0.1)


async def test_an_acquire_at_its_deadline_leaves_nothing(cluster: FakeCluster) -> None:
    """An acquire that is not answered in time is cancelled in the background: no ghost holder."""
    async with connect(cluster.endpoints) as client:
        await client.acquire("warm")
        cluster.mute = True
        with pytest.raises(DeadlineExceeded):
            await client.acquire("a", wait=0, timeout=0.1)
        assert "a" in cluster.holders
        await until(lambda: "a" not in cluster.holders)
        cluster.mute = False


async def test_an_unreachable_cluster_is_unavailable_in_time() -> None:
    """Nobody listens: one sentence, within the deadline."""
    started = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await connect("127.0.0.1:1,127.0.0.1:2", timeout=0.3)
    assert time.monotonic() - started < 3
    assert "127.0.0.1:1, 127.0.0.1:2" in caught.value.message
    assert "\n" not in str(caught.value)
    assert caught.value.retry_safe


async def test_a_cluster_that_goes_away_is_unavailable(cluster: FakeCluster) -> None:
    """A write that never left, because no node could be reached, is Unavailable and not unknown."""
    async with connect(cluster.endpoints, timeout=0.5) as client:
        await client.acquire("a")
        cluster.stop(0)
        await until(lambda: client._session is not None and not client._session.state.connected)
        with pytest.raises(Unavailable):
            await client.ledger.create_accounts(ACCOUNTS, timeout=0.3)


async def test_no_leader_is_unavailable_with_the_services_reason(three: FakeCluster) -> None:
    """Nodes that answer but have no leader: the reason is theirs."""
    three.elect(None)
    async with connect(three.endpoints, timeout=0.3) as client:
        with pytest.raises(Unavailable) as caught:
            await client.acquire("a", wait=0)
        assert caught.value.reason == "NO_LEADER"


async def test_a_refused_session_reaches_every_caller(cluster: FakeCluster) -> None:
    """If the session may not be opened, waiting calls fail with that reason, and later calls try anew."""
    async with connect(cluster.endpoints) as client:
        cluster.refusals.append(("OpenSession", status(CODE.PERMISSION_DENIED, "PERMISSION_DENIED", "not you")))
        with pytest.raises(PermissionDenied, match="not you"):
            await client.acquire("a")
        await client.acquire("a")


async def test_a_restarted_node_is_found_again(cluster: FakeCluster) -> None:
    """The stream comes back by itself, and with it the same session."""
    async with connect(cluster.endpoints) as client:
        grant = await client.acquire("a")
        cluster.stop(0)
        cluster.start(0)
        await client.acquire("b")
        assert client.session_id == grant.session_id
        assert grant.held


async def test_close_ends_the_session_and_every_call(cluster: FakeCluster) -> None:
    """Closing gives locks back and fails what waits; later calls say that the client is closed."""
    async with connect(cluster.endpoints) as other:
        await other.acquire("a")
        client = await connect(cluster.endpoints)
        await client.acquire("b")
        waiting = asyncio.create_task(client.acquire("a"))
        await until(lambda: cluster.queue)
        await client.close()
        with pytest.raises((ClientClosed, LockLost)):
            await waiting
        assert set(cluster.holders) == {"a"}
        assert not cluster.queue
        with pytest.raises(ClientClosed):
            await client.acquire("c")
        await client.close()


async def test_the_window_is_bounded_by_bytes_too(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large requests wait for room as many small ones do, and go on when there is some."""
    monkeypatch.setattr("lockd_client._async._session.WINDOW_BYTES", 1_000)
    async with connect(cluster.endpoints) as client:
        await client.acquire("warm")
        cluster.gate.clear()
        first = asyncio.create_task(client.rows.put("k", bytes(2_000)))
        await until(lambda: client._session is not None and client._session.state.window.bytes > 1_000)
        second = asyncio.create_task(client.rows.put("k", b"2"))
        with pytest.raises(DeadlineExceeded, match="never left"):
            await client.rows.put("k", b"3", timeout=0.05)
        cluster.gate.set()
        assert [await first, await second] == [1, 2]
        assert client._session is not None
        await until(lambda: client._session is not None and client._session.state.window.bytes == 0)


async def test_new_members_are_learned_after_a_reconnection(three: FakeCluster) -> None:
    """Who the members are is asked again when the stream had to be made anew."""
    async with connect(three.endpoints) as client:
        await client.acquire("a")
        three.more_members.append("127.0.0.1:9")
        three.cut_streams()
        await client.acquire("b")
        await until(lambda: "127.0.0.1:9" in client.endpoints)


async def test_the_window_holds_callers_back(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the window full a call waits for room instead of failing; at its deadline it has never left."""
    monkeypatch.setattr("lockd_client._async._session.WINDOW", 4)
    async with connect(cluster.endpoints) as client:
        await client.acquire("warm")
        cluster.gate.clear()
        calls = [asyncio.create_task(client.acquire(f"a/{i}")) for i in range(4)]
        await until(lambda: client._session is not None and len(client._session.state.unanswered) >= 4)
        with pytest.raises(DeadlineExceeded, match="never left"):
            await client.ledger.create_accounts(ACCOUNTS, timeout=0.05)
        late = asyncio.create_task(client.acquire("late"))
        await asyncio.sleep(0)
        cluster.gate.set()
        await asyncio.gather(*calls)
        assert (await late).held
    assert not commands(cluster, "create_accounts")


async def test_rows_and_transactions(cluster: FakeCluster) -> None:
    """Rows are written, read, compared, listed and deleted; a transaction takes one branch or the other."""
    async with connect(cluster.endpoints) as client:
        assert await client.rows.put("k/1", b"one", content_type="text/plain") == 1
        assert await client.rows.put("k/1", b"two") == 2
        await client.rows.put("k/2", b"x", ephemeral=True)
        row = await client.rows.get("k/1")
        assert row is not None
        assert (row.value, row.version) == (b"two", 2)
        assert [r.key for r in await client.rows.list("k/")] == ["k/1", "k/2"]
        assert [r.key for r in await client.rows.list("k/", limit=1)] == ["k/1"]
        made = client.transact().if_version("k/1", "==", 2).put("k/1", b"three").read("k/1").publish("t", b"p").otherwise().read("k/1")
        done = await made.commit()
        assert done.succeeded
        assert done.results[1].row is not None
        assert done.results[1].row.value == b"three"
        assert done.results[2].published
        done = await client.transact().if_missing("k/1").put("k/1", b"no").otherwise().read("k/1").commit()
        assert not done.succeeded
        assert len(done.results) == 1
        assert await client.rows.delete("k/1")
        assert not await client.rows.delete("k/1")
        assert await client.rows.get("k/1") is None


async def test_a_transaction_posts_transfers_under_a_guard(cluster: FakeCluster) -> None:
    """Guards, rows and transfers go in one request."""
    async with connect(cluster.endpoints) as client:
        await client.ledger.create_accounts(ACCOUNTS)
        async with client.lock("a") as grant:
            done = await client.transact().guard(grant.guard()).put("r", b"").post([Transfer(1, 1, 2, 5, 1, 1)]).commit()
            assert done.results[1].transfers[0].ok
            guard = grant.guard()
        with pytest.raises(FencedError):
            await client.rows.put("r", b"", guards=[guard])


async def test_operators_see_locks_sessions_and_nodes(three: FakeCluster) -> None:
    """Status of all nodes, members, locks, waits and sessions; a forced release."""
    async with connect(three.endpoints, owner="me") as client, connect(three.endpoints) as other:
        grant = await client.acquire("a/b")
        waiting = asyncio.create_task(other.acquire("a/b"))
        await until(lambda: three.queue)
        (state,) = await client.locks.list("a")
        assert [h.token for h in state.holders] == [grant.token]
        assert [w.session_id for w in state.waiters] == [other.session_id]
        (edge,) = await client.locks.wait_graph()
        assert (edge.waiter_session_id, edge.holder_session_id) == (other.session_id, client.session_id)
        assert {s.owner for s in await client.sessions.list()} >= {"me"}
        forced = await client.locks.force_release("a/b", reason="test")
        assert forced.released == 1
        assert (await waiting).held
        assert [getattr(s, "role", None) for s in (await client.cluster.status_all()).values()] == ["leader", "follower", "follower"]
        assert [m.id for m in await client.cluster.members()] == ["n0", "n1", "n2"]
        assert (await client.cluster.status(three.addresses[2])).id == "n2"
        assert [m.id for m in await client.cluster.remove("n2")] == ["n0", "n1"]
        assert len(await client.cluster.add("n9", "p:1", "c:1")) == 4
        assert await client.cluster.transfer("n1") == "n1"
        assert len((await client.cluster.state_hash()).hash) == 32
        assert b"".join([c async for c in client.cluster.save_snapshot()]) == bytes(10) + b"\x01" * 10 + b"\x02" * 10


async def test_a_change_of_members_that_may_have_happened_is_unknown(cluster: FakeCluster) -> None:
    """A call that must not be repeated is not: its loss is an UnknownOutcome that says where to look."""
    async with connect(cluster.endpoints) as client:
        cluster.refusals.append(("AddMember", status(CODE.UNAVAILABLE, "UNKNOWN_OUTCOME", "leadership lost")))
        with pytest.raises(UnknownOutcome) as caught:
            await client.cluster.add("n9", "p:1", "c:1")
        assert cluster.calls.count("AddMember") == 1
        assert "lockctl" in caught.value.advice


async def test_status_tells_of_nodes_that_do_not_answer(three: FakeCluster) -> None:
    """A dead node is an entry with its error, not a failure of the whole."""
    async with connect(three.endpoints) as client:
        three.stop(2)
        found = await client.cluster.status_all(timeout=0.3)
        assert isinstance(found[three.addresses[2]], Unavailable)
        assert not isinstance(found[three.addresses[0]], Exception)
