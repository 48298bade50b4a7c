"""The state behind the fake cluster: answers remembered by request id, locks in FIFO order, accounts, rows; no log, no disk."""

from __future__ import annotations

import queue
import struct
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from ledger.v1 import ledger_pb2
from lockd.v1 import (
    lock_pb2,
    row_pb2,
    session_pb2,
)

if TYPE_CHECKING:
    from collections.abc import Callable

A = ledger_pb2.CreateAccountStatus
T = ledger_pb2.CreateTransferStatus
CREATED = T.CREATE_TRANSFER_STATUS_CREATED
EXISTS = T.CREATE_TRANSFER_STATUS_EXISTS
DIFFERENT_AMOUNT = T.CREATE_TRANSFER_STATUS_EXISTS_WITH_DIFFERENT_AMOUNT
RECORD = struct.Struct("<13QIIIHHQ")


def status(code: grpc.StatusCode, reason: str, message: str = "", retry_after: float | None = None, **metadata: str) -> status_pb2.Status:
    """A refusal as the service words it."""
    details = [_any(error_details_pb2.ErrorInfo(reason=reason, domain="lockd", metadata=metadata))]
    if retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(retry_after * 1e9))
        details.append(_any(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=code.value[0], message=message or reason, details=details)


def _any(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


@dataclass
class FakeSession:
    """A session: its owner, its stream, what it was told."""

    id: int
    owner: str
    ttl: float
    memory: dict[int, session_pb2.StreamReply] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)
    stream: queue.SimpleQueue[session_pb2.StreamResponse | None] | None = None


@dataclass
class FakeWait:
    """An acquire in the queue."""

    session: int
    request_id: int
    claims: list[lock_pb2.Claim]


class World:
    """The state that all nodes share, and the script of what goes wrong."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.leader = 0
        self.has_leader = True
        self.sessions: dict[int, FakeSession] = {}
        self.holders: dict[str, list[tuple[int, int, int]]] = {}
        """By resource: (session, token, mode)."""
        self.queue: deque[FakeWait] = deque()
        self.accounts: dict[int, ledger_pb2.Account] = {}
        self.transfers: dict[int, tuple[int, ...]] = {}
        self.rows: dict[str, row_pb2.Row] = {}
        self.clock = 100
        self.batches: list[session_pb2.StreamRequest] = []
        self.opened = 0
        self.applied: list[str] = []
        """Kinds of the commands that changed something, in order."""
        self.calls: list[str] = []
        """Unary methods that were called."""
        self.more_members: list[str] = []
        """Addresses of members that are no nodes of this fake."""
        self.gate = threading.Event()
        self.gate.set()
        """While it is down, requests are read but not looked at."""
        self.mute = False
        """While it is up, requests are applied but no reply goes out."""
        self.refusals: list[tuple[str, status_pb2.Status]] = []
        """(kind, status): the next command of this kind is refused so, unapplied."""
        self.cut_after: list[str] = []
        """Kinds: after the next command of this kind is applied, the stream is cut instead of answered."""
        self.on_command: Callable[[str], None] | None = None

    def elect(self, leader: int | None) -> None:
        """Another node leads from now on, or none; streams of the old one end."""
        with self.lock:
            self.has_leader = leader is not None
            if leader is not None:
                self.leader = leader
            self.cut_streams()

    def cut_streams(self) -> None:
        """Every stream breaks."""
        with self.lock:
            for session in self.sessions.values():
                if session.stream is not None:
                    session.stream.put(None)
                    session.stream = None

    def lose_session(self, session_id: int) -> None:
        """The service forgets a session, and its locks are free."""
        with self.lock:
            session = self.sessions.pop(session_id, None)
            if session is not None:
                self._free(session_id)

    def force_release(self, resource: str) -> int:
        """An operator takes a lock away."""
        with self.lock:
            taken = len(self.holders.pop(resource, []))
            self._grant_waiters()
            return taken

    # The machine.

    def tick(self) -> int:
        """The next log index."""
        self.clock += 1
        return self.clock

    def receive(self, request: session_pb2.StreamRequest, out: queue.SimpleQueue[session_pb2.StreamResponse | None]) -> None:
        """One batch from a stream."""
        with self.lock:
            self.batches.append(request)
            session = self.sessions.get(request.session_id)
            response = session_pb2.StreamResponse()
            cut = False
            for command in request.commands:
                kind = command.WhichOneof("command") or ""
                if self.on_command is not None:
                    self.on_command(kind)
                if session is None:
                    gone = status(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_EXPIRED", "the session has expired")
                    response.replies.add(request_id=command.request_id, error=gone)
                    continue
                if command.request_id < request.acknowledged:
                    told = status(grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ACKNOWLEDGED")
                    response.replies.add(request_id=command.request_id, error=told)
                    continue
                session.stream = out
                # What is acknowledged is forgotten, as the service does.
                session.memory = {i: r for i, r in session.memory.items() if i >= request.acknowledged}
                reply = self._once(session, command, kind)
                if kind in self.cut_after:
                    self.cut_after.remove(kind)
                    cut = True
                elif reply is not None:
                    response.replies.append(reply)
                if kind == "close_session":
                    session = None
            if cut:
                out.put(None)
            elif response.replies and not self.mute:
                out.put(response)

    def _once(self, session: FakeSession, command: session_pb2.StreamCommand, kind: str) -> session_pb2.StreamReply | None:
        """Apply a command unless it was applied before; None while it waits."""
        request_id = command.request_id
        for i, (refused, why) in enumerate(self.refusals):
            if refused == kind:
                del self.refusals[i]
                return session_pb2.StreamReply(request_id=request_id, error=why)
        if request_id in session.memory:
            return session.memory[request_id]
        if request_id in session.waiting:
            return None
        reply = session_pb2.StreamReply(request_id=request_id)
        if kind not in ("keep_alive", "get_row", "lookup_accounts", "lookup_transfers"):
            self.applied.append(kind)
        waits = getattr(self, f"_do_{kind}")(session, getattr(command, kind), reply, request_id)
        if waits:
            session.waiting.add(request_id)
            return None
        if kind not in ("get_row", "lookup_accounts", "lookup_transfers"):
            session.memory[request_id] = reply
        return reply

    def _complete(self, session_id: int, reply: session_pb2.StreamReply) -> None:
        """A wait is over."""
        session = self.sessions.get(session_id)
        if session is None:
            return
        session.waiting.discard(reply.request_id)
        session.memory[reply.request_id] = reply
        if session.stream is not None and not self.mute:
            session.stream.put(session_pb2.StreamResponse(replies=[reply]))

    def _do_keep_alive(self, session: FakeSession, _c: Any, reply: session_pb2.StreamReply, _id: int) -> None:
        reply.keep_alive.ttl.FromNanoseconds(int(session.ttl * 1e9))

    def _do_close_session(self, session: FakeSession, _c: Any, reply: session_pb2.StreamReply, _id: int) -> None:
        reply.close_session.SetInParent()
        self.sessions.pop(session.id, None)
        self._free(session.id)

    def _free(self, session_id: int) -> None:
        for resource in list(self.holders):
            self.holders[resource] = [h for h in self.holders[resource] if h[0] != session_id]
            if not self.holders[resource]:
                del self.holders[resource]
        self.queue = deque(w for w in self.queue if w.session != session_id)
        self._grant_waiters()

    def _blocked(self, session_id: int, claim: lock_pb2.Claim) -> bool:
        held = [h for h in self.holders.get(claim.resource, []) if h[0] != session_id]
        return any(not (claim.mode == lock_pb2.LOCK_MODE_SHARED and mode == lock_pb2.LOCK_MODE_SHARED) for _, _, mode in held)

    def _try(self, session_id: int, claims: list[lock_pb2.Claim], reply: session_pb2.StreamReply) -> bool:
        if any(self._blocked(session_id, claim) for claim in claims):
            return False
        index = self.tick()
        reply.acquire.revision = index
        for i, claim in enumerate(claims):
            token = index * 1_000 + i
            self.holders.setdefault(claim.resource, []).append((session_id, token, claim.mode))
            reply.acquire.holds.add(resource=claim.resource, mode=claim.mode, token=token, count=1)
        return True

    def _grant_waiters(self) -> None:
        for wait in list(self.queue):
            reply = session_pb2.StreamReply(request_id=wait.request_id)
            if self._try(wait.session, wait.claims, reply):
                self.queue.remove(wait)
                self._complete(wait.session, reply)

    def _do_acquire(self, session: FakeSession, c: lock_pb2.AcquireRequest, reply: session_pb2.StreamReply, request_id: int) -> bool:
        claims = list(c.claims)
        if any(not claim.resource or claim.resource.startswith("/") for claim in claims):
            bad = status(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PATH", "a part of the path is empty")
            reply.error.CopyFrom(bad)
            return False
        if self._try(session.id, claims, reply):
            return False
        if not c.HasField("wait"):
            reply.error.CopyFrom(status(grpc.StatusCode.ABORTED, "LOCK_HELD", "somebody holds it"))
            return False
        wait = FakeWait(session.id, request_id, claims)
        self.queue.append(wait)
        if c.wait.HasField("timeout"):
            timer = threading.Timer(c.wait.timeout.ToNanoseconds() / 1e9, self._time_out, (wait,))
            timer.daemon = True
            timer.start()
        return True

    def _time_out(self, wait: FakeWait) -> None:
        with self.lock:
            if wait in self.queue:
                self.queue.remove(wait)
                why = status(grpc.StatusCode.DEADLINE_EXCEEDED, "WAIT_TIMEOUT", "the wait is over")
                self._complete(wait.session, session_pb2.StreamReply(request_id=wait.request_id, error=why))

    def _do_convert(self, session: FakeSession, c: lock_pb2.ConvertRequest, reply: session_pb2.StreamReply, _id: int) -> None:
        held = self.holders.get(c.resource, [])
        mine = [h for h in held if h[0] == session.id and h[1] == c.token]
        if not mine:
            reply.error.CopyFrom(status(grpc.StatusCode.FAILED_PRECONDITION, "NOT_HOLDER"))
            return
        self.holders[c.resource] = [h for h in held if h not in mine] + [(session.id, c.token, c.mode)]
        reply.convert.hold.CopyFrom(lock_pb2.Hold(resource=c.resource, mode=c.mode, token=c.token, count=1))
        self._grant_waiters()

    def _do_cancel_acquire(self, session: FakeSession, c: lock_pb2.CancelAcquireRequest, reply: session_pb2.StreamReply, _id: int) -> None:
        reply.cancel_acquire.SetInParent()
        for wait in list(self.queue):
            if wait.session == session.id and wait.request_id == c.target_request_id:
                self.queue.remove(wait)
                reply.cancel_acquire.was_waiting = True
                why = status(grpc.StatusCode.CANCELLED, "CANCELLED")
                self._complete(session.id, session_pb2.StreamReply(request_id=wait.request_id, error=why))
        granted = session.memory.get(c.target_request_id)
        if granted is not None and granted.HasField("acquire"):
            for hold in granted.acquire.holds:
                held = self.holders.get(hold.resource, [])
                kept = [h for h in held if not (h[0] == session.id and h[1] == hold.token)]
                reply.cancel_acquire.was_released = reply.cancel_acquire.was_released or len(kept) < len(held)
                self._keep(hold.resource, kept)
        self._grant_waiters()

    def _keep(self, resource: str, kept: list[tuple[int, int, int]]) -> None:
        if kept:
            self.holders[resource] = kept
        else:
            self.holders.pop(resource, None)

    def _do_release(self, session: FakeSession, c: lock_pb2.ReleaseRequest, reply: session_pb2.StreamReply, _id: int) -> None:
        for guard in c.holds:
            held = self.holders.get(guard.resource, [])
            kept = [h for h in held if not (h[0] == session.id and h[1] == guard.token)]
            reply.release.released.append(len(kept) < len(held))
            self._keep(guard.resource, kept)
        reply.release.revision = self.tick()
        self._grant_waiters()

    def _fenced(self, guards: Any) -> status_pb2.Status | None:
        for guard in guards:
            if not any(h[1] == guard.token for h in self.holders.get(guard.resource, [])):
                return status(
                    grpc.StatusCode.FAILED_PRECONDITION, "FENCED", "the token is old", resource=guard.resource, token=str(guard.token)
                )
        return None

    def _do_create_accounts(self, _s: FakeSession, c: ledger_pb2.CreateAccountsRequest, reply: session_pb2.StreamReply, _id: int) -> None:
        if (why := self._fenced(c.guards)) is not None:
            reply.error.CopyFrom(why)
            return
        out = b""
        for values in RECORD.iter_unpack(c.packed):
            number = values[0] | values[1] << 64
            known = number in self.accounts
            if not known:
                self.accounts[number] = ledger_pb2.Account(
                    id=_u128(number), ledger=values[15], code=values[16], flags=values[17], timestamp=self.tick()
                )
            out += struct.pack("<QiI", self.accounts[number].timestamp, A.CREATE_ACCOUNT_STATUS_EXISTS if known else CREATED, 0)
        reply.create_accounts.packed_results = out

    def _do_create_transfers(self, _s: FakeSession, c: ledger_pb2.CreateTransfersRequest, reply: session_pb2.StreamReply, _id: int) -> None:
        if (why := self._fenced(c.guards)) is not None:
            reply.error.CopyFrom(why)
            return
        reply.create_transfers.packed_results = b"".join(self._transfer(v) for v in RECORD.iter_unpack(c.packed))

    def _transfer(self, v: tuple[int, ...]) -> bytes:
        number, debit, credit, amount = (v[i] | v[i + 1] << 64 for i in (0, 2, 4, 6))
        at = self.tick()
        if number in self.transfers:
            return struct.pack("<QiI", at, EXISTS if self.transfers[number] == v else DIFFERENT_AMOUNT, 0)
        if debit not in self.accounts:
            return struct.pack("<QiI", at, T.CREATE_TRANSFER_STATUS_DEBIT_ACCOUNT_NOT_FOUND, 0)
        if credit not in self.accounts:
            return struct.pack("<QiI", at, T.CREATE_TRANSFER_STATUS_CREDIT_ACCOUNT_NOT_FOUND, 0)
        left, right = self.accounts[debit], self.accounts[credit]
        if left.flags & 2 and _int(left.debits_posted) + amount > _int(left.credits_posted):
            return struct.pack("<QiI", at, T.CREATE_TRANSFER_STATUS_EXCEEDS_CREDITS, 0)
        left.debits_posted.CopyFrom(_u128(_int(left.debits_posted) + amount))
        right.credits_posted.CopyFrom(_u128(_int(right.credits_posted) + amount))
        self.transfers[number] = v
        return struct.pack("<QiI", at, CREATED, 0)

    def _do_lookup_accounts(self, _s: FakeSession | None, c: Any, reply: session_pb2.StreamReply, _id: int) -> None:
        reply.lookup_accounts.accounts.extend(self.accounts[_int(i)] for i in c.ids if _int(i) in self.accounts)
        reply.lookup_accounts.SetInParent()

    def _do_lookup_transfers(self, _s: FakeSession | None, c: Any, reply: session_pb2.StreamReply, _id: int) -> None:
        reply.lookup_transfers.SetInParent()
        for i in c.ids:
            v = self.transfers.get(_int(i))
            if v is not None:
                reply.lookup_transfers.transfers.add(
                    id=i, debit_account_id=_pair(v, 2), credit_account_id=_pair(v, 4), amount=_pair(v, 6), ledger=v[15], code=v[16]
                )

    def _do_get_row(self, _s: FakeSession | None, c: row_pb2.GetRowRequest, reply: session_pb2.StreamReply, _id: int) -> None:
        reply.get_row.revision = self.clock
        if c.key in self.rows:
            reply.get_row.row.CopyFrom(self.rows[c.key])

    def _do_transact(self, session: FakeSession, c: row_pb2.TransactRequest, reply: session_pb2.StreamReply, _id: int) -> None:
        if (why := self._fenced(c.guards)) is not None:
            reply.error.CopyFrom(why)
            return
        reply.transact.succeeded = all(self._holds_true(compare) for compare in c.compares)
        reply.transact.revision = index = self.tick()
        for operation in c.success if reply.transact.succeeded else c.failure:
            result = reply.transact.results.add()
            kind = operation.WhichOneof("kind")
            if kind == "put":
                old = self.rows.get(operation.put.key)
                self.rows[operation.put.key] = row_pb2.Row(
                    key=operation.put.key,
                    value=operation.put.value,
                    content_type=operation.put.content_type,
                    create_revision=old.create_revision if old else index,
                    mod_revision=index,
                    version=old.version + 1 if old else 1,
                    session_id=session.id if operation.put.ephemeral else 0,
                )
                result.put_version = self.rows[operation.put.key].version
            elif kind == "delete":
                result.deleted = 1 if self.rows.pop(operation.delete.key, None) else 0
            elif kind == "read":
                result.read.revision = index
                if operation.read.key in self.rows:
                    result.read.row.CopyFrom(self.rows[operation.read.key])
            elif kind == "post_transfers":
                result.transfers.packed_results = b"".join(self._transfer(v) for v in RECORD.iter_unpack(operation.post_transfers.packed))
            elif kind == "publish":
                result.published = True

    def _holds_true(self, compare: row_pb2.Compare) -> bool:
        row = self.rows.get(compare.key)
        there: Any = {
            row_pb2.Compare.FIELD_VALUE: row.value if row else b"",
            row_pb2.Compare.FIELD_VERSION: row.version if row else 0,
            row_pb2.Compare.FIELD_MOD_REVISION: row.mod_revision if row else 0,
            row_pb2.Compare.FIELD_EXISTS: 1 if row else 0,
        }[compare.field]
        wanted: Any = compare.value if compare.field == row_pb2.Compare.FIELD_VALUE else compare.number
        return bool({1: there == wanted, 2: there != wanted, 3: there < wanted, 4: there > wanted}[int(compare.operator)])


def _u128(value: int) -> ledger_pb2.Uint128:
    return ledger_pb2.Uint128(low=value & (1 << 64) - 1, high=value >> 64)


def _int(message: ledger_pb2.Uint128) -> int:
    return message.low | message.high << 64


def _pair(v: tuple[int, ...], at: int) -> ledger_pb2.Uint128:
    return ledger_pb2.Uint128(low=v[at], high=v[at + 1])
