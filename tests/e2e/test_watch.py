"""Watches and the audit trail on real nodes: through killed leaders, restarts and snapshots (semantics, section 9)."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

import lockd_client
from lockd.v1 import watch_pb2 as pb
from lockd.v1 import watch_pb2_grpc
from lockd_client.errors import ClientClosed, InvalidArgument
from lockd_client.sync import connect
from lockd_client.testing import LocalCluster
from lockd_client.watching import (
    Compacted,
    Event,
    EventKind,
    LockForced,
    LockGranted,
    LockReleased,
    MessagePublished,
    RowDeleted,
    RowPut,
    TransfersCreated,
    Watch,
    WatchFilter,
    audit,
    audit_sync,
    watch,
    watch_sync,
)

pytestmark = pytest.mark.e2e


async def take(watching: Watch, count: int) -> list[Event]:
    """The next events."""
    async with asyncio.timeout(30):
        return [await anext(watching) for _ in range(count)]


def pinned(watching: Watch, node: int) -> Watch:
    """Begin at this node of the cluster."""
    watching._turn = node
    return watching


async def follow(watching: Watch, last: bytes) -> list[RowPut]:
    """Row events until the one whose value is `last`."""
    found: list[RowPut] = []
    async for event in watching:
        assert isinstance(event, RowPut)
        found.append(event)
        if event.row.value == last:
            return found
    raise AssertionError("a watch has no end")


async def test_no_gap_and_no_duplicate_while_leaders_die(cluster: LocalCluster) -> None:
    """Watchers at each node see every acknowledged write once and in order, although the leader is killed (-9) again and again."""
    async with lockd_client.connect(cluster.endpoints, timeout=30.0) as client:
        watches = [pinned(watch(client, prefix="w", kinds=["rows"]), node) for node in range(3)]
        for watching in watches:
            await watching.start()
        followers = [asyncio.create_task(follow(watching, b"last")) for watching in watches]
        written: list[bytes] = []
        for round_ in range(3):
            leader = await asyncio.to_thread(cluster.wait_healthy)
            killing = asyncio.create_task(asyncio.to_thread(leader.kill))
            for number in range(100):
                value = f"{round_}:{number}".encode()
                await client.rows.put(f"w/{number % 10}", value)
                written.append(value)
            await killing
            leader.start()
        await client.rows.put("w/0", b"last")
        async with asyncio.timeout(60):
            seen = await asyncio.gather(*followers)
        for watching in watches:
            await watching.close()
    for events in seen:
        assert [event.row.value for event in events] == [*written, b"last"]
        places = [event.place for event in events]
        assert places == sorted(set(places))
    assert seen[0] == seen[1] == seen[2]


async def test_every_node_shows_the_same_events(shared_cluster: LocalCluster) -> None:
    """The events of a stretch of the log are equal on all nodes, byte for byte."""
    async with lockd_client.connect(shared_cluster.endpoints) as client:
        for number in range(5):
            async with client.lock(f"same/{number}"):
                await client.rows.put(f"same/{number}", b"x")
        await client.rows.delete("same/0")
        await client.rows.put("same/end", b"x")
        row = await client.rows.get("same/end")
        assert row is not None
        upto = row.mod_revision
    shown: list[list[pb.WatchEvent]] = []
    for node in shared_cluster.nodes:
        with grpc.insecure_channel(node.address) as channel:
            call: Any = watch_pb2_grpc.WatchServiceStub(channel).Watch(pb.WatchRequest(start_revision=1), timeout=20)
            events: list[pb.WatchEvent] = []
            for response in call:
                events += [event for event in response.events if event.revision <= upto]
                if response.progress_revision >= upto:
                    break
            call.cancel()
            shown.append(events)
    assert shown[0] == shown[1] == shown[2]
    kinds = [event.WhichOneof("event") for event in shown[0]]
    assert [kinds.count(kind) for kind in ("row_put", "row_deleted", "lock_granted", "lock_released")] == [6, 1, 5, 5]


async def test_a_watch_shows_locks_rows_messages_and_transfers(shared_cluster: LocalCluster) -> None:
    """Each with its type and fields, in log order; what is done after the watch has begun is seen."""
    async with lockd_client.connect(shared_cluster.endpoints, owner="worker") as client:
        filters = [WatchFilter(prefix="types", topic="types"), WatchFilter(kinds=(EventKind.LEDGER,))]
        async with watch(client, filters=filters) as watching:
            async with client.lock("types/a") as grant:
                token = grant.token
            await client.transact().put("types/row", b"1").publish("types/news", b"!").commit()
            await client.rows.delete("types/row")
            accounts = [lockd_client.Account(id=i, ledger=1, code=1) for i in (1, 2)]
            await client.ledger.create_accounts(accounts)
            transfer = lockd_client.Transfer(id=7, debit_account_id=1, credit_account_id=2, amount=5, ledger=1, code=1)
            await client.ledger.create_transfers([transfer])
            events = await take(watching, 7)
    granted, released, put, message, deleted, _, posted = events
    assert isinstance(granted, LockGranted)
    assert (granted.resource, granted.token, granted.owner) == ("types/a", token, "worker")
    assert isinstance(released, LockReleased)
    assert isinstance(put, RowPut)
    assert isinstance(message, MessagePublished)
    assert (message.topic, message.payload, message.revision) == ("types/news", b"!", put.revision)
    assert isinstance(deleted, RowDeleted)
    assert deleted.previous == put.row
    assert isinstance(posted, TransfersCreated)
    assert [(t.id, t.amount) for t in posted.transfers] == [(7, 5)]
    assert [event.place for event in events] == sorted(event.place for event in events)
    assert abs(granted.log_time - time.time_ns()) < 60_000_000_000


async def test_a_watch_goes_on_behind_an_event(shared_cluster: LocalCluster) -> None:
    """`after` takes the place of an event, in the middle of a log entry too; `start_revision` begins with the whole entry."""
    async with lockd_client.connect(shared_cluster.endpoints) as client:
        async with watch(client, prefix="mid") as watching:
            await client.transact().put("mid/1", b"").put("mid/2", b"").put("mid/3", b"").commit()
            first, second, third = await take(watching, 3)
        async with watch(client, prefix="mid", after=first.place) as watching:
            assert await take(watching, 2) == [second, third]
        async with watch(client, prefix="mid", start_revision=first.revision) as watching:
            assert await take(watching, 3) == [first, second, third]


async def test_cancelling_a_read_loses_nothing(shared_cluster: LocalCluster) -> None:
    """A time limit around the iteration may strike at any moment: the next read goes on where the last one ended."""
    async with lockd_client.connect(shared_cluster.endpoints) as client, watch(client, prefix="limit") as watching:
        for number in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(watching), 0.05)
            await client.rows.put("limit/row", str(number).encode())
            (event,) = await take(watching, 1)
            assert isinstance(event, RowPut)
            assert event.row.value == str(number).encode()


async def test_bad_filters_are_refused(shared_cluster: LocalCluster) -> None:
    """By the client where it can tell, else by the node; the watch does not try for ever."""
    async with lockd_client.connect(shared_cluster.endpoints) as client:
        with pytest.raises(InvalidArgument):
            watch(client, kinds=["cows"])
        with pytest.raises(InvalidArgument):
            watch(client, start_revision=1, after=(1, 0))
        with pytest.raises(InvalidArgument) as refused:
            await watch(client, prefix="a//b").start()
        assert [violation.field for violation in refused.value.violations] == ["filters[0].prefix"]


async def test_closing_the_client_ends_its_watches(shared_cluster: LocalCluster) -> None:
    """Whoever iterates gets ClientClosed, and neither waits for ever nor is cancelled."""
    client = await lockd_client.connect(shared_cluster.endpoints)
    watching = watch(client, prefix="closing")
    await watching.start()
    reading = asyncio.create_task(take(watching, 1))
    await asyncio.sleep(0)
    await client.close()
    async with asyncio.timeout(10):
        with pytest.raises(ClientClosed):
            await reading


def test_the_blocking_watch_is_an_iterator_too(shared_cluster: LocalCluster) -> None:
    """The same events from a thread; a `for` loop over them."""
    with connect(shared_cluster.endpoints) as client, watch_sync(client, prefix="sync") as watching:
        for number in range(3):
            client.rows.put(f"sync/{number}", b"")
        seen: list[str] = []
        for event in watching:
            assert isinstance(event, RowPut)
            seen.append(event.row.key)
            if len(seen) == 3:
                break
    assert seen == ["sync/0", "sync/1", "sync/2"]


def test_closing_the_blocking_client_ends_its_watches(shared_cluster: LocalCluster) -> None:
    """A thread that waits for events gets ClientClosed."""
    client = connect(shared_cluster.endpoints)
    watching = watch_sync(client, prefix="closing")
    watching.start()
    ended: list[BaseException] = []

    def read() -> None:
        try:
            next(iter(watching))
        except ClientClosed as error:
            ended.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    client.close()
    reader.join(20)
    assert [type(error) for error in ended] == [ClientClosed]


def test_a_forced_release_is_in_the_audit_trail_of_every_node(shared_cluster: LocalCluster) -> None:
    """Who, when and why, found by resource, by session and by time, whichever node is asked."""
    with connect(shared_cluster.endpoints, owner="victim") as client:
        before = time.time_ns()
        grant = client.acquire("audited/door")
        client.locks.force_release("audited/door", reason="stuck", by="root")
        session = grant.session_id
    for node in shared_cluster.nodes:
        with connect(node.address) as asking:
            trail = audit_sync(asking, prefix="audited")
            granted, forced = trail.events
            assert isinstance(granted, LockGranted)
            assert isinstance(forced, LockForced)
            assert (forced.by, forced.reason, forced.owner, forced.token) == ("root", "stuck", "victim", grant.token)
            assert trail.oldest_revision <= granted.revision <= forced.revision <= trail.revision
            assert set(trail.events) <= set(audit_sync(asking, session_id=session).events)
            assert audit_sync(asking, prefix="audited", since=forced.log_time + 1).events == ()
            assert audit_sync(asking, prefix="audited", since=before - 10**9, until=forced.log_time).events == (granted,)


async def test_what_a_restart_forgets_is_compacted_there_and_found_elsewhere(cluster: LocalCluster) -> None:
    """A restarted node begins at its snapshot and says so; a watch goes to a node that remembers; Compacted only if none does."""
    async with lockd_client.connect(cluster.endpoints, timeout=30.0) as client:
        values = [str(number).encode() for number in range(60)]
        for value in values:
            await client.rows.put("big/row", value)
        snapshot = await snapshot_and_restart(cluster, client, 0)
        async with lockd_client.connect(cluster.nodes[0].address, timeout=30.0) as one:
            assert (await audit(one)).oldest_revision == snapshot + 1
        assert compacted(cluster.nodes[0].address, snapshot) == snapshot + 1
        async with pinned(watch(client, prefix="big", start_revision=1), 0) as watching:
            assert [event.row.value for event in await take(watching, 60) if isinstance(event, RowPut)] == values
        for node in (1, 2):
            await snapshot_and_restart(cluster, client, node)
        with pytest.raises(Compacted) as forgotten:
            await watch(client, prefix="big", start_revision=1).start()
        oldest = forgotten.value.oldest_revision
        assert oldest == snapshot + 1
        await client.rows.put("big/row", b"new")
        async with watch(client, prefix="big", start_revision=oldest) as watching:
            (event,) = await take(watching, 1)
            assert isinstance(event, RowPut)
            assert event.row.value == b"new"


def compacted(address: str, start: int) -> int:
    """Watch one node from a revision that it has forgotten; the oldest that it says it has."""
    with grpc.insecure_channel(address) as channel:
        call: Any = watch_pb2_grpc.WatchServiceStub(channel).Watch(pb.WatchRequest(start_revision=start), timeout=10)
        with pytest.raises(grpc.RpcError) as refused:
            next(call)
    error: Any = refused.value
    assert error.code() is grpc.StatusCode.OUT_OF_RANGE
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo.FromString(status.details[0].value)
    assert info.reason == "COMPACTED"
    return int(info.metadata["oldest_revision"])


async def snapshot_and_restart(cluster: LocalCluster, client: lockd_client.Client, number: int) -> int:
    """Let a node take a snapshot, kill and restart it; the snapshot's index."""
    node = cluster.nodes[number]
    async for _ in client.cluster.save_snapshot(node.address):
        pass
    node.kill()
    node.start()
    await asyncio.to_thread(cluster.wait_healthy)
    return node.status().snapshot_index


def lockctl(cluster: LocalCluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    command = [sys.executable, "-m", "lockd_client.cli", *arguments, "-e", cluster.endpoints]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_lockctl_shows_what_happens_and_what_happened(shared_cluster: LocalCluster) -> None:
    """`watch` prints a line or an object an event, `audit` the trail; what cannot be used ends with 64."""
    with connect(shared_cluster.endpoints) as client:
        with watch_sync(client, prefix="cli") as watching:
            client.rows.put("cli/row", b"1")
            start = next(iter(watching)).revision
        with client.lock("cli/lock"):
            pass
    shown = lockctl(shared_cluster, "watch", "cli", "--from", str(start), "--count", "3", "--json")
    assert shown.returncode == 0, shown.stderr
    assert [json.loads(line)["event"] for line in shown.stdout.splitlines()] == ["row_put", "lock_granted", "lock_released"]
    text = lockctl(shared_cluster, "watch", "cli", "--kind", "locks", "--from", str(start), "--count", "1")
    assert "lock granted" in text.stdout
    assert "resource=cli/lock" in text.stdout
    trail = lockctl(shared_cluster, "audit", "--resource", "cli/lock", "--since", "5m", "--json")
    assert [event["event"] for event in json.loads(trail.stdout)["events"]] == ["lock_granted", "lock_released"]
    listed = lockctl(shared_cluster, "audit", "--resource", "cli/lock")
    assert "lock granted" in listed.stdout
    assert lockctl(shared_cluster, "audit", "--since", "yesterday").returncode == 64
