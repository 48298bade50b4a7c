"""What every service needs: put a command into the log, wait until a read is safe, or hand a call to the leader.

Any node takes any unary call: a follower forwards what must be logged to the leader, one hop, and passes the answer on as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2

from lockd.codec.commands import decode_batch
from lockd.machine.results import Refused, Result
from lockd.machine.types import RequestId
from lockd.raft.port import Engine, NotLeaderError, RaftError
from lockd.replica import Batch, Replica
from lockd.rpc.errors import STATUS_KEY, InvalidRequestError, RefusedError, from_invalid, from_raft, from_refusal, status
from lockd.rpc.replies import MESSAGES
from lockd.rpc.validation import validate
from lockd.v1 import common_pb2, lock_pb2, session_pb2

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
ResponseT = TypeVar("ResponseT", bound=Message)

FORWARDED_KEY = "lockd-forwarded"
_DEFAULT_TIMEOUT = 10.0
_DEADLINE_MARGIN = 0.02
_NEEDS_SESSION = frozenset({"keep_alive", "close_session", "acquire", "convert", "cancel_acquire", "release"})


class _UnarySink:
    """Waits for the one result of a unary call."""

    def __init__(self) -> None:
        self.result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def deliver(self, replies: Sequence[tuple[RequestId, Result]]) -> None:
        """The result is known."""
        if not self.result.done():
            self.result.set_result(replies[0][1])

    def unknown(self, request_ids: Sequence[RequestId], error: RaftError) -> None:
        """The result cannot be known here."""
        del request_ids
        if not self.result.done():
            self.result.set_exception(error)


class _NoSink:
    """For commands whose result nobody waits for."""

    def deliver(self, replies: Sequence[tuple[RequestId, Result]]) -> None:
        """Dropped."""

    def unknown(self, request_ids: Sequence[RequestId], error: RaftError) -> None:
        """Dropped."""


class Gateway:
    """The services' way to the replica, the log and the leader."""

    def __init__(self, replica: Replica, engine: Engine, channel_credentials: grpc.ChannelCredentials | None = None) -> None:
        self.replica = replica
        self.engine = engine
        self._credentials = channel_credentials
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def close(self) -> None:
        """Close the channels to other nodes."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close(grace=None)

    async def execute(self, kind: str, request: Any, response_type: type[ResponseT], context: Context) -> ResponseT:
        """Run a command through the log, here or at the leader. Raises RefusedError with the status to answer."""
        try:
            validate(kind, request)
            _check_context(kind, request)
        except InvalidRequestError as error:
            raise RefusedError(from_invalid(error)) from error
        if not self.replica.leading:
            return await self.forward(_METHODS[kind], request, response_type, context)
        result = await self._submit(kind, request)
        if isinstance(result, Refused):
            raise RefusedError(from_refusal(result))
        message = MESSAGES[kind](result)
        if not isinstance(message, response_type):
            raise TypeError(f"{kind} answered {type(message).__name__}")
        return message

    async def _submit(self, kind: str, request: Any) -> Result:
        identity = request.context if "context" in request.DESCRIPTOR.fields_by_name else common_pb2.RequestContext()
        sink = _UnarySink()
        try:
            self.replica.submit(_batch(identity, kind, request, sink))
            return await sink.result
        except RaftError as error:
            raise RefusedError(from_raft(error)) from error
        except asyncio.CancelledError:
            self.replica.forget(sink)
            if kind in ("acquire", "convert") and identity.request_id:
                self._undo(identity)
            raise

    def _undo(self, identity: common_pb2.RequestContext) -> None:
        """The caller of a waiting acquire went away: leave no ghost waiter and no ghost holder."""
        cancel = lock_pb2.CancelAcquireRequest(target_request_id=identity.request_id)
        try:
            self.replica.submit(_batch(common_pb2.RequestContext(session_id=identity.session_id), "cancel_acquire", cancel, _NoSink()))
        except RaftError:
            return  # no longer the leader: the session's expiry ends the wait

    async def barrier(self, consistency: int, context: Context) -> None:
        """Wait until a read of this node's state is as fresh as asked for. Raises RefusedError if it cannot be in time."""
        if consistency == common_pb2.CONSISTENCY_EVENTUAL:
            return
        try:
            await self.engine.read_barrier(_remaining(context))
        except RaftError as error:
            raise RefusedError(from_raft(error)) from error

    async def forward(self, method: str, request: Message, response_type: type[ResponseT], context: Context) -> ResponseT:
        """Hand a unary call to the leader, one hop, and pass its answer on. Raises RefusedError."""
        leader = self.replica.leader
        metadata: Any = context.invocation_metadata() or ()
        forwarded = any(key == FORWARDED_KEY for key, _ in metadata)
        if leader is None or forwarded or leader.id == self.engine.status().id:
            raise RefusedError(from_raft(NotLeaderError(None if leader is None or not forwarded else leader)))
        call = self.channel(leader.client_address).unary_unary(
            method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_type.FromString,
        )
        try:
            answer: ResponseT = await call(request, timeout=_remaining(context), metadata=((FORWARDED_KEY, "1"),))
        except grpc.aio.AioRpcError as error:
            raise RefusedError(_passed_on(error, leader.client_address)) from error
        return answer

    def channel(self, address: str) -> grpc.aio.Channel:
        """The channel to another node's client port; one an address, kept open."""
        channel = self._channels.get(address)
        if channel is None:
            options = [("grpc.max_receive_message_length", 8 << 20), ("grpc.max_reconnect_backoff_ms", 500)]
            if self._credentials is None:
                channel = grpc.aio.insecure_channel(address, options=options)
            else:
                channel = grpc.aio.secure_channel(address, self._credentials, options=options)
            self._channels[address] = channel
        return channel


_METHODS = {
    "open_session": "/lockd.v1.SessionService/OpenSession",
    "keep_alive": "/lockd.v1.SessionService/KeepAlive",
    "close_session": "/lockd.v1.SessionService/CloseSession",
    "acquire": "/lockd.v1.LockService/Acquire",
    "convert": "/lockd.v1.LockService/Convert",
    "cancel_acquire": "/lockd.v1.LockService/CancelAcquire",
    "release": "/lockd.v1.LockService/Release",
    "force_release": "/lockd.v1.LockService/ForceRelease",
    "transact": "/lockd.v1.RowService/Transact",
    "compact_rows": "/lockd.v1.RowService/CompactRows",
    "create_accounts": "/ledger.v1.LedgerService/CreateAccounts",
    "create_transfers": "/ledger.v1.LedgerService/CreateTransfers",
}


def _check_context(kind: str, request: Any) -> None:
    if kind not in _NEEDS_SESSION:
        return
    if request.context.session_id == 0:
        raise InvalidRequestError([("context.session_id", "needs a session: call OpenSession first")])
    waits = kind in ("acquire", "convert") and request.wait.WhichOneof("kind") is not None
    if waits and request.context.request_id == 0:
        raise InvalidRequestError([("context.request_id", "a request that may wait needs a number, so that it can be asked for again")])


def _batch(identity: common_pb2.RequestContext, kind: str, request: Any, sink: _UnarySink | _NoSink) -> Batch:
    fields: dict[str, Any] = {kind: request}
    command = session_pb2.StreamCommand(request_id=identity.request_id, **fields)
    if "context" in request.DESCRIPTOR.fields_by_name:
        getattr(command, kind).ClearField("context")
    batch = session_pb2.StreamRequest(session_id=identity.session_id, acknowledged=identity.acknowledged, commands=[command])
    return Batch(batch.SerializeToString(), decode_batch(batch), sink)


def _remaining(context: Context) -> float:
    """Seconds that the caller will still wait, less what the answer needs on its way."""
    remaining: float | None = context.time_remaining()
    return _DEFAULT_TIMEOUT if remaining is None else max(remaining - _DEADLINE_MARGIN, 0.001)


def _passed_on(error: grpc.aio.AioRpcError, address: str) -> Any:
    """The leader's own status if it answered, else that it could not be reached."""
    trailing: Any = error.trailing_metadata() or ()
    for key, value in trailing:
        if key == STATUS_KEY:
            return status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode())
    code: int = error.code().value[0]
    return status(code, "FORWARD_FAILED", f"the leader at {address} did not answer: {error.details()}", {"leader_address": address}, 100)
