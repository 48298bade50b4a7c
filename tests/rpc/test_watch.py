"""WatchService over real gRPC: where a watch begins, what passes, how it ends, and the audit trail (semantics, section 9)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from ledger.machine.model import BatchOutcome, Fate, Resolution
from lockd.machine import events as e
from lockd.machine.results import Row
from lockd.machine.types import FencingToken, LockMode, RequestId, Resource, Revision, SessionId
from lockd.rpc.watch import WatchService
from lockd.v1 import watch_pb2 as pb
from lockd.v1 import watch_pb2_grpc
from lockd.watch import stream
from lockd.watch.encode import encode
from lockd.watch.facts import KINDS, weigh
from lockd.watch.hub import Hub, HubLimits

SECOND = 1_000_000_000


class FakeNode:
    """As much of a gateway and a replica as the service asks of them."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.replica = self
        self.applied_index = 0
        self.leader: str | None = "n1"

    async def barrier(self, consistency: int, context: object) -> None:
        """Always fresh."""

    def happen(self, *facts: Any) -> None:
        """One log entry, a second later than the one before."""
        self.applied_index += 1
        if facts:
            self.hub.append(self.applied_index, self.applied_index * SECOND, facts)


@asynccontextmanager
async def serving(limits: HubLimits | None = None) -> AsyncIterator[tuple[FakeNode, watch_pb2_grpc.WatchServiceAsyncStub]]:
    """The service on a port of its own, and a client of it."""
    node = FakeNode(Hub(encode, weigh, limits))
    server = grpc.aio.server()
    gateway: Any = node
    server.add_generic_rpc_handlers((WatchService(gateway, node.hub).handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        # Without growing windows a client that does not read is noticed after 64 KiB.
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.http2.bdp_probe", 0)]) as channel:
            yield node, watch_pb2_grpc.WatchServiceStub(channel)
    finally:
        await server.stop(None)


def put(revision: int, position: int = 0, key: str = "a/b", value: bytes = b"") -> e.RowPut:
    """A row was written."""
    row = Row(Resource(key), value, "", Revision(revision), Revision(revision), 1, SessionId(0))
    return e.RowPut(Revision(revision), position, row)


def granted(revision: int, position: int = 0, resource: str = "a/b", session: int = 7) -> e.LockGranted:
    """A lock was granted."""
    mode = LockMode.EXCLUSIVE
    return e.LockGranted(Revision(revision), position, Resource(resource), SessionId(session), "me", mode, FencingToken(revision << 20))


def ended(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """Code, reason and metadata of a status."""
    trailing: Any = error.trailing_metadata()
    status = status_pb2.Status.FromString(dict(trailing)["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo.FromString(status.details[0].value)
    return error.code(), info.reason, dict(info.metadata)


async def until_cut(call: Any) -> tuple[list[pb.WatchEvent], grpc.aio.AioRpcError]:
    """What still arrives, and how it ends."""
    found: list[pb.WatchEvent] = []
    async with asyncio.timeout(10):
        while True:
            try:
                found += (await call.read()).events
            except grpc.aio.AioRpcError as error:
                return found, error


async def collect(call: Any, upto: int) -> list[pb.WatchEvent]:
    """Events until the progress reaches a revision."""
    found: list[pb.WatchEvent] = []
    async with asyncio.timeout(10):
        while True:
            response = await call.read()
            found += response.events
            if response.progress_revision >= upto:
                return found


def places(events: Sequence[pb.WatchEvent]) -> list[tuple[int, int]]:
    """Revision and position of each."""
    return [(event.revision, event.position) for event in events]


async def test_the_first_response_says_where_the_watch_begins() -> None:
    """A watch from now on answers at once with the last revision before it; what follows is seen in log order."""
    async with serving() as (node, stub):
        node.happen(put(1))
        call = stub.Watch(pb.WatchRequest())
        first: Any = await call.read()
        assert (list(first.events), first.progress_revision) == ([], 1)
        node.happen(put(2), granted(2, 1))
        node.happen()
        node.happen(put(4))
        events = await collect(call, 4)
        assert places(events) == [(2, 0), (2, 1), (4, 0)]
        assert [event.WhichOneof("event") for event in events] == ["row_put", "lock_granted", "row_put"]
        assert [event.log_time.seconds for event in events] == [2, 2, 4]


async def test_a_watch_resumes_at_a_revision() -> None:
    """With a start revision the events from it on come first, then the new ones: no gap, no duplicate."""
    async with serving() as (node, stub):
        for revision in range(1, 6):
            node.happen(put(revision))
        call = stub.Watch(pb.WatchRequest(start_revision=3))
        assert places(await collect(call, 5)) == [(3, 0), (4, 0), (5, 0)]
        node.happen(put(6))
        assert places(await collect(call, 6)) == [(6, 0)]


FILTERS = {
    "kinds": (pb.WatchFilter(kinds=[pb.EVENT_KIND_LOCKS]), [1, 2]),
    "prefix": (pb.WatchFilter(prefix="a"), [0, 1]),
    "prefix_is_a_path": (pb.WatchFilter(prefix="ab"), [2]),
    "kind_and_prefix": (pb.WatchFilter(kinds=[pb.EVENT_KIND_ROWS], prefix="a/b"), [0]),
    "topic": (pb.WatchFilter(topic="news"), [3]),
    "topic_and_prefix": (pb.WatchFilter(topic="news", prefix="ab/c"), [2, 3]),
    "sessions": (pb.WatchFilter(kinds=[pb.EVENT_KIND_SESSIONS]), [4]),
    "nothing_set": (pb.WatchFilter(), [0, 1, 2, 3, 4]),
}


@pytest.mark.parametrize("name", FILTERS)
async def test_only_what_passes_the_filter_is_sent(name: str) -> None:
    """A filter passes what meets all that is set; prefix narrows rows and locks, topic narrows messages."""
    wanted, expected = FILTERS[name]
    async with serving() as (node, stub):
        news = e.MessagePublished(Revision(1), 3, Resource("news/today"), b"!", "", SessionId(0))
        closed = e.SessionClosed(Revision(1), 4, SessionId(7), "me")
        node.happen(put(1), granted(1, 1), granted(1, 2, "ab/c"), news, closed)
        call = stub.Watch(pb.WatchRequest(filters=[wanted], start_revision=1))
        assert [event.position for event in await collect(call, 1)] == expected


async def test_several_filters_pass_what_any_of_them_passes() -> None:
    """Each event once, although two filters pass it."""
    async with serving() as (node, stub):
        node.happen(put(1), granted(1, 1), put(1, 2, "z"))
        filters = [pb.WatchFilter(prefix="a"), pb.WatchFilter(kinds=[pb.EVENT_KIND_LOCKS])]
        call = stub.Watch(pb.WatchRequest(filters=filters, start_revision=1))
        assert places(await collect(call, 1)) == [(1, 0), (1, 1)]


async def test_progress_comes_although_nothing_passes() -> None:
    """The resume point moves on with the log, so that a quiet watch can still be resumed later."""
    async with serving() as (node, stub):
        request = pb.WatchRequest(filters=[pb.WatchFilter(prefix="quiet")], progress_interval=Duration(nanos=100_000_000))
        call = stub.Watch(request)
        await call.read()
        node.happen(put(1))
        node.happen()
        assert await collect(call, 2) == []


async def test_a_compacted_start_names_the_oldest_revision() -> None:
    """OUT_OF_RANGE, reason COMPACTED, with what can be asked for; that revision then works."""
    async with serving(HubLimits(ring_events=2, backlog_events=1)) as (node, stub):
        for revision in range(1, 6):
            node.happen(put(revision))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Watch(pb.WatchRequest(start_revision=3)).read()
        assert ended(refused.value) == (grpc.StatusCode.OUT_OF_RANGE, "COMPACTED", {"oldest_revision": "4"})
        assert places(await collect(stub.Watch(pb.WatchRequest(start_revision=4)), 5)) == [(4, 0), (5, 0)]


async def test_a_slow_consumer_is_cut_with_its_resume_point() -> None:
    """A client that does not read is cut; what it has got and what it gets by resuming make the whole, and the node keeps no watcher."""
    limits = HubLimits(ring_events=1_000, ring_bytes=1 << 30, backlog_events=20, backlog_bytes=1 << 30)
    async with serving(limits) as (node, stub):
        call = stub.Watch(pb.WatchRequest())
        await call.read()
        last = 0
        async with asyncio.timeout(20):
            while node.hub.watchers:
                last += 1
                node.happen(put(last, value=bytes(100_000)))
                await asyncio.sleep(0.001)
        assert last < 900
        got, cut = await until_cut(call)
        code, reason, metadata = ended(cut)
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER")
        resume = int(metadata["resume_revision"])
        assert resume >= node.hub.oldest
        seen = set(places(got))
        rest = await collect(stub.Watch(pb.WatchRequest(start_revision=resume)), last)
        assert places(got) + [p for p in places(rest) if p not in seen] == [(revision, 0) for revision in range(1, last + 1)]


async def test_a_client_that_goes_away_leaves_no_watcher() -> None:
    """Cancelling the call frees the place."""
    async with serving() as (node, stub):
        call = stub.Watch(pb.WatchRequest())
        await call.read()
        assert node.hub.watchers == 1
        call.cancel()
        async with asyncio.timeout(5):
            while node.hub.watchers:
                await asyncio.sleep(0.01)


async def test_more_watchers_than_allowed_are_refused() -> None:
    """RESOURCE_EXHAUSTED, reason TOO_MANY_WATCHERS."""
    async with serving(HubLimits(watchers=1)) as (_, stub):
        call = stub.Watch(pb.WatchRequest())
        await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Watch(pb.WatchRequest()).read()
        assert ended(refused.value)[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHERS")


async def test_a_snapshot_ends_watches_that_have_a_gap() -> None:
    """A follower that was given a snapshot cannot show what it replaced: COMPACTED with the first revision after it."""
    async with serving() as (node, stub):
        call = stub.Watch(pb.WatchRequest())
        await call.read()
        node.applied_index = 9
        node.hub.restart(9)
        with pytest.raises(grpc.aio.AioRpcError) as cut:
            await call.read()
        assert ended(cut.value) == (grpc.StatusCode.OUT_OF_RANGE, "COMPACTED", {"oldest_revision": "10"})


async def test_a_node_without_a_leader_sends_its_watchers_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node cut off from its cluster ends its watches with UNAVAILABLE, rather than show nothing for ever."""
    monkeypatch.setattr(stream, "LEADERLESS_SECONDS", 0.2)
    async with serving() as (node, stub):
        call = stub.Watch(pb.WatchRequest(progress_interval=Duration(nanos=100_000_000)))
        await call.read()
        node.leader = None
        _, cut = await until_cut(call)
        assert ended(cut)[:2] == (grpc.StatusCode.UNAVAILABLE, "NO_LEADER")


@pytest.mark.parametrize(
    "request_",
    [
        pb.WatchRequest(filters=[pb.WatchFilter(prefix="a//b")]),
        pb.WatchRequest(filters=[pb.WatchFilter(topic="..")]),
        pb.WatchRequest(filters=[pb.WatchFilter(kinds=[99])]),  # type: ignore[list-item]
        pb.WatchRequest(filters=[pb.WatchFilter()] * 65),
        pb.WatchRequest(progress_interval=Duration(nanos=1)),
    ],
    ids=["prefix", "topic", "kind", "filters", "interval"],
)
async def test_bad_requests_are_refused_with_the_field(request_: pb.WatchRequest) -> None:
    """INVALID_ARGUMENT before anything is watched."""
    async with serving() as (node, stub):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Watch(request_).read()
        assert ended(refused.value)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
        assert node.hub.watchers == 0


def everything() -> list[Any]:
    """One event of each type that the machine has."""
    me, one = SessionId(7), Revision(1)
    lock, token = Resource("a/b"), FencingToken(5)
    row = Row(lock, b"v", "text/plain", one, one, 1, me)
    pending = BatchOutcome(resolutions=(Resolution(bytes(128), Fate.EXPIRED, 3 * SECOND),))
    made = BatchOutcome(created=bytes(256), metadata=(b"x", b""), resolutions=(Resolution(bytes(128), Fate.POSTED, SECOND),))
    return [
        e.RowPut(one, 0, row),
        e.RowDeleted(one, 1, lock, row),
        e.RowsCompacted(one, 2, one),
        e.LockGranted(one, 3, lock, me, "me", LockMode.SHARED, token, 2),
        e.LockReleased(one, 4, lock, me, "me", token),
        e.LockLost(one, 5, lock, me, "me", token, 9 * SECOND),
        e.LockForced(one, 6, lock, me, "me", token, "root", "stuck"),
        e.LockDelayEnded(one, 7, lock),
        e.DeadlockResolved(one, 8, me, "me", RequestId(3), ((me, lock), (SessionId(8), Resource("c")))),
        e.WaitTimedOut(one, 9, me, "me", RequestId(3), (lock,)),
        e.SessionOpened(one, 10, me, "me", 10 * SECOND),
        e.SessionExpired(one, 11, me, "me"),
        e.SessionClosed(one, 12, me, "me"),
        e.UnknownRefused(one, 13, me, "command_99", b"\x01"),
        e.AccountsCreated(one, 14, BatchOutcome(created=bytes(128))),
        e.TransfersCreated(one, 15, made),
        e.TransfersExpired(one, 16, pending),
        e.MessagePublished(one, 17, Resource("news"), b"!", "text/plain", me),
    ]


async def test_every_event_of_the_machine_has_a_message() -> None:
    """None is dropped on the way to the wire, and each says what it is."""
    async with serving() as (node, stub):
        facts = everything()
        assert {type(fact) for fact in facts} == set(KINDS) == set(e.Event.__args__)
        node.happen(*facts)
        events = await collect(stub.Watch(pb.WatchRequest(start_revision=1)), 1)
        assert [event.position for event in events] == list(range(len(facts)))
        fields = [field.name for field in pb.WatchEvent.DESCRIPTOR.oneofs_by_name["event"].fields]
        assert [event.WhichOneof("event") for event in events] == fields
        assert events[5].lock_lost.available_at.seconds == 9
        assert [step.session_id for step in events[8].deadlock_resolved.cycle] == [7, 8]
        assert list(events[15].transfers_created.metadata) == [b"x", b""]


async def test_a_batch_that_created_nothing_is_no_event() -> None:
    """Refused transfers and accounts show nothing to watchers."""
    async with serving() as (node, stub):
        node.happen(e.TransfersCreated(Revision(1), 0, BatchOutcome()), e.AccountsCreated(Revision(1), 1, BatchOutcome()), put(1, 2))
        assert places(await collect(stub.Watch(pb.WatchRequest(start_revision=1)), 1)) == [(1, 2)]


async def audit(stub: watch_pb2_grpc.WatchServiceAsyncStub, **wanted: Any) -> list[tuple[int, int]]:
    """All pages of a query."""
    found: list[tuple[int, int]] = []
    token = ""
    while True:
        page = await stub.ListAudit(pb.ListAuditRequest(page_token=token, **wanted))
        found += places(page.events)
        token = page.next_page_token
        if not token:
            return found


async def test_the_audit_trail_is_found_by_resource_session_and_time() -> None:
    """Each narrows; a deadlock belongs to every session of its cycle; rows and messages are no part of it."""
    async with serving() as (node, stub):
        node.happen(granted(1, 0, "a/b", 7), put(1, 1))
        node.happen(granted(2, 0, "c", 8))
        cycle = ((SessionId(7), Resource("c")), (SessionId(8), Resource("a/b")))
        node.happen(e.DeadlockResolved(Revision(3), 0, SessionId(8), "you", RequestId(1), cycle))
        node.happen(e.LockForced(Revision(4), 0, Resource("c"), SessionId(8), "you", FencingToken(1), "root", "why"))
        assert await audit(stub) == [(1, 0), (2, 0), (3, 0), (4, 0)]
        assert await audit(stub, prefix="a") == [(1, 0), (3, 0)]
        assert await audit(stub, session_id=7) == [(1, 0), (3, 0)]
        assert await audit(stub, since=Timestamp(seconds=2), until=Timestamp(seconds=4)) == [(2, 0), (3, 0)]
        assert await audit(stub, page_size=1) == [(1, 0), (2, 0), (3, 0), (4, 0)]
        assert await audit(stub, prefix="a", session_id=8, since=Timestamp(seconds=2)) == [(3, 0)]


async def test_the_audit_trail_says_how_far_back_it_goes() -> None:
    """The oldest revision comes with each page; a page that begins below it meanwhile is COMPACTED, not silently short."""
    async with serving(HubLimits(ring_events=4, backlog_events=1)) as (node, stub):
        for revision in range(1, 7):
            node.happen(granted(revision))
        page = await stub.ListAudit(pb.ListAuditRequest(page_size=1))
        assert (places(page.events), page.oldest_revision, page.revision) == ([(3, 0)], 3, 6)
        for revision in range(7, 11):
            node.happen(granted(revision))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ListAudit(pb.ListAuditRequest(page_token=page.next_page_token))
        assert ended(refused.value) == (grpc.StatusCode.OUT_OF_RANGE, "COMPACTED", {"oldest_revision": "7"})


@pytest.mark.parametrize("token", ["x", "1", "1:", "1:-1", "²:1"])
async def test_a_page_token_of_ones_own_making_is_refused(token: str) -> None:
    """INVALID_ARGUMENT, whatever it is."""
    async with serving() as (_, stub):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ListAudit(pb.ListAuditRequest(page_token=token))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
