"""Reads of this node's state, as messages. Whether the state is fresh enough to be read is the gateway's business."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from ledger import rpc as ledger_reads
from lockd.machine import views
from lockd.machine.state import Machine
from lockd.replica import Replica
from lockd.rpc.errors import InvalidRequestError, RefusedError, from_invalid, status
from lockd.rpc.gateway import Context, Gateway
from lockd.rpc.ledger import read
from lockd.rpc.replies import duration, row
from lockd.rpc.validation import path
from lockd.v1 import common_pb2, lock_pb2, row_pb2, session_pb2

_OUT_OF_RANGE = 11


class Reads:
    """Reads over one replica."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @property
    def _replica(self) -> Replica:
        return self._gateway.replica

    @property
    def _machine(self) -> Machine:
        return self._gateway.replica.machine

    # --- the reads of a stream -------------------------------------------------------------------------------------------------

    async def answer(self, commands: Sequence[session_pb2.StreamCommand], context: Context) -> list[session_pb2.StreamReply]:
        """Answer the reads of one message: those that must be fresh share one barrier. Raises RefusedError if it cannot be had."""
        requests = [(c.request_id, c.WhichOneof("command") or "", getattr(c, c.WhichOneof("command") or "")) for c in commands]
        if any(request.consistency != common_pb2.CONSISTENCY_EVENTUAL for _, _, request in requests):
            await self._gateway.barrier(common_pb2.CONSISTENCY_LINEARIZABLE, context)
        return [self._answer(*request) for request in requests]

    def _answer(self, request_id: int, kind: str, request: Any) -> session_pb2.StreamReply:
        try:
            match kind:
                case "get_row":
                    return session_pb2.StreamReply(request_id=request_id, get_row=self.get_row(request))
                case "lookup_accounts":
                    found = read(self._machine.ledger, ledger_reads.lookup_accounts, request)
                    return session_pb2.StreamReply(request_id=request_id, lookup_accounts=found)
                case _:
                    transfers = read(self._machine.ledger, ledger_reads.lookup_transfers, request)
                    return session_pb2.StreamReply(request_id=request_id, lookup_transfers=transfers)
        except InvalidRequestError as error:
            return session_pb2.StreamReply(request_id=request_id, error=from_invalid(error))
        except RefusedError as error:
            return session_pb2.StreamReply(request_id=request_id, error=error.status)

    # --- sessions and locks ----------------------------------------------------------------------------------------------------

    def sessions(self, page_token: str, limit: int) -> session_pb2.ListSessionsResponse:
        """A page of sessions, by id."""
        after = _number(page_token)
        found = views.sessions(self._machine, after, limit + 1)
        page = found[:limit]
        return session_pb2.ListSessionsResponse(
            sessions=[
                session_pb2.SessionState(
                    session_id=s.session,
                    owner=s.owner,
                    ttl=duration(s.ttl),
                    expires_in=duration(s.expires_in),
                    holds=s.holds,
                    waits=s.waits,
                )
                for s in page
            ],
            next_page_token=str(page[-1].session) if len(found) > limit else "",
        )

    def list_locks(self, request: lock_pb2.ListLocksRequest, limit: int) -> lock_pb2.ListLocksResponse:
        """A page of locks, by name."""
        if request.prefix:
            _check(path(request.prefix, "prefix"))
        found = views.locks(self._machine, request.prefix, request.page_token, limit + 1)
        page = found[:limit]
        return lock_pb2.ListLocksResponse(
            locks=[_lock(lock) for lock in page],
            next_page_token=page[-1].resource if len(found) > limit else "",
            revision=self._replica.applied_index,
        )

    def wait_graph(self) -> lock_pb2.GetWaitGraphResponse:
        """Who waits for whom."""
        return lock_pb2.GetWaitGraphResponse(
            edges=[
                lock_pb2.WaitEdge(waiter_session_id=e.waiter, holder_session_id=e.holder, resource=e.resource)
                for e in views.wait_graph(self._machine)
            ],
            revision=self._replica.applied_index,
        )

    # --- rows ------------------------------------------------------------------------------------------------------------------

    def get_row(self, request: row_pb2.GetRowRequest) -> row_pb2.GetRowResponse:
        """One row. Raises InvalidRequestError, and RefusedError for a revision that is compacted."""
        _check(path(request.key, "key"))
        self._check_revision(request.at_revision)
        found = self._machine.rows.get(request.key, request.at_revision or None)
        return row_pb2.GetRowResponse(row=row(found) if found is not None else None, revision=self._replica.applied_index)

    def list_rows(self, request: row_pb2.ListRowsRequest, limit: int) -> row_pb2.ListRowsResponse:
        """A page of rows by key, at one stable revision, which the page token carries on."""
        if request.prefix and (request.start or request.end):
            raise InvalidRequestError([("prefix", "give a prefix, or start and end, not both")])
        revision, after = _row_token(request.page_token)
        revision = revision or request.at_revision or self._replica.applied_index
        self._check_revision(revision)
        if request.prefix:
            start, end = request.prefix, _after_prefix(request.prefix)
        else:
            start, end = request.start, request.end or None
        found = list(islice(self._machine.rows.range(max(start, after), end, revision), limit + 1))
        page = found[:limit]
        more = len(found) > limit
        return row_pb2.ListRowsResponse(
            rows=[row(r) for r in page],
            next_page_token=f"{revision}:{page[-1].key}\x00" if more else "",
            revision=revision,
        )

    def _check_revision(self, revision: int) -> None:
        oldest = self._machine.rows.oldest
        if revision and revision < oldest:
            metadata = {"oldest_revision": str(oldest)}
            raise RefusedError(status(_OUT_OF_RANGE, "COMPACTED", f"revision {revision} is compacted; the oldest is {oldest}", metadata))
        if revision > self._replica.applied_index:
            raise InvalidRequestError([("at_revision", f"{revision} lies in the future; this node is at {self._replica.applied_index}")])


def _check(violations: Any) -> None:
    found = list(violations)
    if found:
        raise InvalidRequestError(found)


def _number(token: str) -> int:
    if not token:
        return 0
    if not token.isdigit():
        raise InvalidRequestError([("page_token", "not a token that this service gave out")])
    return int(token)


def _row_token(token: str) -> tuple[int, str]:
    """Revision and the least key of the next page."""
    if not token:
        return 0, ""
    revision, colon, after = token.partition(":")
    if not colon:
        raise InvalidRequestError([("page_token", "not a token that this service gave out")])
    return _number(revision), after


def _after_prefix(prefix: str) -> str | None:
    """The least string that is greater than every string with this prefix; None if there is none."""
    for at in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[at])
        if code < 0x10FFFF:
            # Surrogates are no characters: keys cannot hold them.
            return prefix[:at] + chr(0xE000 if code == 0xD7FF else code + 1)
    return None


def _lock(lock: views.LockView) -> lock_pb2.LockState:
    made = lock_pb2.LockState(resource=lock.resource)
    for h in lock.holders:
        made.holders.add(
            session_id=h.session,
            owner=h.owner,
            mode=h.mode,
            token=h.token,
            count=h.count,
            age=duration(h.age),
            permits=h.permits,
        )
    for w in lock.waiters:
        made.waiters.add(session_id=w.session, owner=w.owner, mode=w.mode, request_id=w.request_id, age=duration(w.age))
    if lock.delayed_for:
        made.delayed_for.CopyFrom(duration(lock.delayed_for))
    return made
