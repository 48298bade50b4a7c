# Generated from _async/_watch.py by tools/unasync.py: edit that.
"""Watching: events of the log as they happen, over connections that come and go; and the audit trail."""

from __future__ import annotations

import random
import time
from collections import deque
from typing import TYPE_CHECKING

import grpc

from lockd.v1 import watch_pb2
from lockd_client._core.endpoints import pause
from lockd_client._core.failures import Disposition, Failure
from lockd_client._core.requests import consistency_value
from lockd_client._core.rpc import RpcFailed
from lockd_client._core.watching import LIST_AUDIT, WATCH, Progress, Search, event, kinds_of
from lockd_client._feeds._sync import Feed
from lockd_client._sync._backend import sleep
from lockd_client.errors import ClientClosed
from lockd_client.model import Consistency
from lockd_client.watch_model import AuditTrail, Event, EventKind, Place, WatchFilter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from lockd_client._sync._client import Client

INTERVAL = 2.0
"""Seconds between two signs of life of a node that has nothing to show."""
CONNECTION_LIMIT = 15_000_000_000
"""Nanoseconds that one connection serves before the watch is resumed on a new call: a node that has died in silence is left by then."""
PAGE = 1_000


class Watch:
    """Events in log order, each once. An iterator without an end; made by `watch`.

    It reconnects and resumes by itself, at any node. Use it in one task (or thread). Entering it, or `start`, makes sure that the
    watch has begun, so that what is done next will be seen.
    """

    def __init__(
        self, client: Client, filters: Iterable[WatchFilter], start_revision: int, after: Place | None, timeout: float | None
    ) -> None:
        self._client = client
        self._progress = Progress(filters, start_revision, after)
        self._search = Search()
        self._patience = timeout
        self._started = False
        self._closed = False
        self._feed: Feed[watch_pb2.WatchResponse] | None = None
        self._address = ""
        self._turn = random.randrange(1 << 16)  # noqa: S311 - spreads watchers over the nodes, guards nothing
        self._heard = 0
        self._waiting: deque[Event] = deque()

    @property
    def next_revision(self) -> int:
        """The first revision of which not all has arrived; 0: the watch has not begun. Events may still wait to be iterated over."""
        return self._progress.next_revision

    def start(self) -> None:
        """Begin, if it has not begun.

        Raises:
            Unavailable: No node answered in time.
            Compacted: No node remembers the start revision.
            InvalidArgument: A filter breaks a rule.
        """
        if not self._started:
            self._fetch()

    def _fetch(self) -> None:
        """Wait for the next response, from whichever node."""
        while True:
            try:
                response = self._read()
            except RpcFailed as error:
                self._recover(error.failure)
                continue
            self._started = True
            self._heard = time.monotonic_ns()
            self._search.answered()
            self._waiting.extend(self._progress.take(response))
            return

    def _read(self) -> watch_pb2.WatchResponse:
        if self._closed or self._client._closed:  # noqa: SLF001 - one package
            raise ClientClosed("The watch or its client is closed.")
        feed = self._feed
        if feed is None:
            transport = self._client.transport
            addresses = transport.addresses
            self._address = addresses[self._turn % len(addresses)]
            request = self._progress.request(INTERVAL)
            feed = self._feed = Feed(transport.channel(self._address), WATCH, request, CONNECTION_LIMIT)
            self._heard = time.monotonic_ns()
        return feed.read()

    def _recover(self, failure: Failure) -> None:
        """Decide what the end of a connection means: go on, pause and go on elsewhere, or give up."""
        self._drop()
        code, reason = failure.code, failure.reason
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and not reason:
            if time.monotonic_ns() - self._heard < 3 * INTERVAL * 1e9:
                return
        elif reason == "SLOW_CONSUMER":
            return
        elif reason == "COMPACTED":
            self._search.compacted(self._address, int(failure.metadata.get("oldest_revision", "0")))
            gone = self._search.given_up(self._client.transport.addresses)
            if gone is not None:
                raise gone
            self._turn += 1
            return
        elif code is not grpc.StatusCode.CANCELLED and failure.disposition is Disposition.FAIL and reason != "TOO_MANY_WATCHERS":
            raise failure.to_error()
        self._search.failed(self._address)
        gone = self._search.given_up(self._client.transport.addresses)
        if gone is not None:
            raise gone
        limit = self._patience if self._started else self._client.timeout if self._patience is None else self._patience
        wait = max(pause(self._search.failures, random.random()), failure.retry_after or 0)  # noqa: S311 - spreads retries
        if limit is not None and time.monotonic_ns() + wait - self._search.since > limit * 1e9:
            raise self._client.transport.unreachable(limit)
        self._turn += 1
        sleep(wait)

    def _drop(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def close(self) -> None:
        """End the watch. Doing so twice is no error."""
        self._closed = True
        self._waiting.clear()
        self._drop()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        while not self._waiting:
            self._fetch()
        return self._waiting.popleft()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def watch(
    client: Client,
    *,
    prefix: str = "",
    kinds: Iterable[EventKind | str] = (),
    topic: str = "",
    filters: Iterable[WatchFilter] = (),
    start_revision: int = 0,
    after: Place | None = None,
    timeout: float | None = None,
) -> Watch:
    """Events in log order, without gap or duplicate, for ever; to be iterated over.

    Args:
        client: A client that is connected.
        prefix: Only rows and locks whose path equals this or lies below it.
        kinds: Which kinds, such as "rows"; none: all.
        topic: Only messages whose topic equals this or lies below it. With a prefix too, either will do.
        filters: More filters; an event that passes any of them, or the one above, is shown.
        start_revision: The first revision that is wanted; 0: what comes from now on.
        after: Instead: the `place` of the last event that was handled, to go on behind it.
        timeout: Seconds for which no node may be reached before Unavailable is raised. None: at the beginning the client's; later it
            tries for ever.

    Raises:
        Compacted: While iterating: no node remembers what comes next.
        Unavailable: While iterating: no node could be reached in time.
        ClientClosed: While iterating: the client was closed.
        InvalidArgument: A kind, a filter or a place breaks a rule.
    """
    own = WatchFilter(kinds_of(kinds), prefix, topic)
    more = tuple(filters)
    wanted = more if more and own == WatchFilter() else (own, *more)
    return Watch(client, wanted, start_revision, after, timeout)


def audit(
    client: Client,
    *,
    prefix: str = "",
    session_id: int = 0,
    since: int = 0,
    until: int = 0,
    consistency: Consistency = Consistency.LINEARIZABLE,
    timeout: float | None = None,
) -> AuditTrail:
    """What happened to locks and sessions, in log order, as far back as the node that answers remembers.

    Args:
        client: A client that is connected.
        prefix: Only what names a resource that equals this path or lies below it.
        session_id: Only what concerns this session; 0: any.
        since: From this log time on, in nanoseconds since the epoch; 0: from the oldest.
        until: Before this log time; 0: up to now.
        consistency: How fresh.
        timeout: Seconds a page; None: the client's.

    Raises:
        Unavailable: No node could answer in time.
        OutOfRange: The node forgot what the next page would hold meanwhile (COMPACTED); ask again.
        InvalidArgument: The prefix is no path.
    """
    found: list[Event] = []
    oldest = 0
    request = watch_pb2.ListAuditRequest(prefix=prefix, session_id=session_id, page_size=PAGE, consistency=consistency_value(consistency))
    if since:
        request.since.FromNanoseconds(since)
    if until:
        request.until.FromNanoseconds(until)
    # A page token is a place in the log, which any node understands.
    while True:
        response = client.transport.call(LIST_AUDIT, request, client.timeout if timeout is None else timeout)
        found.extend(event(message) for message in response.events)
        oldest = max(oldest, response.oldest_revision)
        request.page_token = response.next_page_token
        if not response.next_page_token:
            return AuditTrail(tuple(found), oldest, response.revision)
