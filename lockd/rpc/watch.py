"""WatchService: the events of the log as they happen, and the audit trail that is still remembered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, status_pb2

from lockd.codec.commands import nanos
from lockd.ops import logs
from lockd.replica import Replica
from lockd.rpc.errors import InvalidRequestError, RefusedError, Violation, abort, from_error, status
from lockd.rpc.gateway import Context, Gateway
from lockd.rpc.handlers import page_size, serve
from lockd.rpc.undecodable import explain
from lockd.rpc.validation import path
from lockd.v1 import watch_pb2 as pb
from lockd.watch.encode import message
from lockd.watch.facts import AuditQuery, Filter, Kind, any_of
from lockd.watch.hub import CompactedError, Hub, SlowConsumerError, TooManyWatchersError
from lockd.watch.stream import Node, OutOfTouchError, WatchStream

FILTERS_MAX = 64
_INTERVAL = 5_000_000_000
_INTERVAL_MIN, _INTERVAL_MAX = 100_000_000, 60_000_000_000
_AUDIT_LOOK = 20_000
"""Events looked at for one page of the audit trail: the loop serves others too."""
_RETRY_MS = 100
_RETRY_CROWDED_MS = 1_000


class WatchService:
    """Watches and audit over the hub of this node."""

    def __init__(self, gateway: Gateway, hub: Hub) -> None:
        self._gateway = gateway
        self._hub = hub

    @property
    def _replica(self) -> Replica:
        return self._gateway.replica

    def handlers(self) -> grpc.GenericRpcHandler[Any, Any]:
        """The service, for a server."""
        return serve(pb.DESCRIPTOR.services_by_name["WatchService"], self, Watch=grpc.unary_stream_rpc_method_handler(self._watch))

    async def _watch(self, data: bytes, context: Any) -> None:
        """Stream serialised responses, which all watchers share."""
        try:
            request = _decode(data)
            _check(request)
            filters = [Filter(frozenset(map(Kind, f.kinds)), f.prefix, f.topic) for f in request.filters]
            interval = nanos(request.progress_interval) if request.HasField("progress_interval") else _INTERVAL
            node = Node(lambda: self._replica.applied_index, lambda: self._replica.leader is not None)
            await WatchStream(self._hub, node, context.write, interval / 1e9).run(request.start_revision, any_of(filters))
        except (CompactedError, SlowConsumerError, TooManyWatchersError, OutOfTouchError) as error:
            await abort(context, _status(error))
        except InvalidRequestError as error:
            await abort(context, from_error(error))
        except Exception as error:  # noqa: BLE001 - the last line of defence: the call fails, the node lives
            if context.done():
                return  # the client went away in the middle of a write
            logs.get().exception("handler_failed", method="lockd.v1.WatchService.Watch")
            await abort(context, from_error(error))

    async def ListAudit(self, request: pb.ListAuditRequest, context: Context) -> pb.ListAuditResponse:  # noqa: N802
        """A page of the audit trail."""
        if request.prefix:
            _refuse(list(path(request.prefix, "prefix")))
        revision, position = _place(request.page_token)
        query = AuditQuery(request.prefix, request.session_id, _nanos(request, "since"), _nanos(request, "until"))
        await self._gateway.barrier(request.consistency, context)
        if request.page_token and revision < self._hub.oldest:
            raise RefusedError(_status(CompactedError(self._hub.oldest)))
        return self._page(query, revision, position, page_size(request.page_size))

    def _page(self, query: AuditQuery, revision: int, position: int, limit: int) -> pb.ListAuditResponse:
        """Events from this place on, at most `limit`, as far as one page may look."""
        made = pb.ListAuditResponse(oldest_revision=self._hub.oldest, revision=self._replica.applied_index)
        looked = 0
        for entry in self._hub.since(revision):
            if query.until and entry.log_time >= query.until:
                break
            if entry.log_time < query.since:
                continue
            start = position if entry.revision == revision else 0
            for offset in range(start, len(entry.events)):
                if looked >= _AUDIT_LOOK or len(made.events) >= limit:
                    made.next_page_token = f"{entry.revision}:{offset}"
                    return made
                looked += 1
                event = entry.events[offset]
                if query.wants(event, entry.log_time):
                    shown = message(event, entry.log_time)
                    if shown is not None:
                        made.events.append(shown)
        return made


def _decode(data: bytes) -> pb.WatchRequest:
    try:
        return pb.WatchRequest.FromString(data)
    except DecodeError as error:
        raise InvalidRequestError([explain(pb.WatchRequest.DESCRIPTOR, data)]) from error


def _check(request: pb.WatchRequest) -> None:
    """Refuse what breaks a rule, all of it at once."""
    found: list[Violation] = []
    if len(request.filters) > FILTERS_MAX:
        found.append(("filters", f"{len(request.filters)} filters, at most {FILTERS_MAX} are allowed"))
    known = {int(kind) for kind in Kind}
    for i, wanted in enumerate(request.filters[:FILTERS_MAX]):
        found += [(f"filters[{i}].kinds", f"unknown kind {kind}") for kind in wanted.kinds if kind not in known]
        if wanted.prefix:
            found += path(wanted.prefix, f"filters[{i}].prefix")
        if wanted.topic:
            found += path(wanted.topic, f"filters[{i}].topic")
    if request.HasField("progress_interval") and not _INTERVAL_MIN <= nanos(request.progress_interval) <= _INTERVAL_MAX:
        found.append(("progress_interval", f"must be {_INTERVAL_MIN / 1e9:g} s to {_INTERVAL_MAX / 1e9:g} s"))
    _refuse(found)


def _refuse(violations: Sequence[Violation]) -> None:
    if violations:
        raise InvalidRequestError(violations)


def _status(error: CompactedError | SlowConsumerError | TooManyWatchersError | OutOfTouchError) -> status_pb2.Status:
    """The end of a watch as callers see it."""
    match error:
        case CompactedError():
            return status(code_pb2.OUT_OF_RANGE, "COMPACTED", str(error), {"oldest_revision": str(error.oldest)})
        case SlowConsumerError():
            return status(code_pb2.RESOURCE_EXHAUSTED, "SLOW_CONSUMER", str(error), {"resume_revision": str(error.resume)})
        case TooManyWatchersError():
            return status(code_pb2.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHERS", str(error), None, _RETRY_CROWDED_MS)
        case OutOfTouchError():
            return status(code_pb2.UNAVAILABLE, "NO_LEADER", str(error), None, _RETRY_MS)


def _nanos(request: pb.ListAuditRequest, field: str) -> int:
    """A point in log time; 0 if it is not given."""
    if not request.HasField(field):  # type: ignore[arg-type] # one of the two names below
        return 0
    given: Timestamp = getattr(request, field)
    return given.seconds * 1_000_000_000 + given.nanos


def _place(token: str) -> tuple[int, int]:
    """Revision and place inside it at which a page begins."""
    if not token:
        return 0, 0
    revision, _, position = token.partition(":")
    if not (revision.isascii() and revision.isdecimal() and position.isascii() and position.isdecimal()):
        raise InvalidRequestError([("page_token", "not a token that this service gave out")])
    return int(revision), int(position)
