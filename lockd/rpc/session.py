"""SessionService: sessions, and the stream of their requests."""

from __future__ import annotations

from typing import Any

import grpc

from lockd.raft.port import NotLeaderError
from lockd.replica import Replica
from lockd.rpc.errors import RefusedError, abort
from lockd.rpc.gateway import Context, Gateway
from lockd.rpc.handlers import page_size, serve
from lockd.rpc.reads import Reads
from lockd.rpc.stream import Stream, end_streams, serve_stream
from lockd.v1 import session_pb2 as pb


class SessionService:
    """Sessions. The stream takes raw bytes: they go into the log as they came."""

    def __init__(self, gateway: Gateway, reads: Reads) -> None:
        self._gateway = gateway
        self._reads = reads
        self._streams: set[Stream] = set()

    @property
    def open_streams(self) -> int:
        """How many clients are connected by stream."""
        return len(self._streams)

    def end_reign(self, replica: Replica) -> None:
        """This node no longer leads: its streams end with the new leader's address, if it is known."""
        end_streams(self._streams, NotLeaderError(replica.leader))

    def handlers(self) -> grpc.GenericRpcHandler[Any, Any]:
        """The service, for a server."""
        return serve(pb.DESCRIPTOR.services_by_name["SessionService"], self, Stream=grpc.stream_stream_rpc_method_handler(self._stream))

    async def OpenSession(self, request: pb.OpenSessionRequest, context: Context) -> pb.OpenSessionResponse:  # noqa: N802
        """Start a session."""
        return await self._gateway.execute("open_session", request, pb.OpenSessionResponse, context)

    async def KeepAlive(self, request: pb.KeepAliveRequest, context: Context) -> pb.KeepAliveResponse:  # noqa: N802
        """Extend a session."""
        return await self._gateway.execute("keep_alive", request, pb.KeepAliveResponse, context)

    async def CloseSession(self, request: pb.CloseSessionRequest, context: Context) -> pb.CloseSessionResponse:  # noqa: N802
        """End a session."""
        return await self._gateway.execute("close_session", request, pb.CloseSessionResponse, context)

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:  # noqa: N802
        """The sessions, by id."""
        await self._gateway.barrier(request.consistency, context)
        return self._reads.sessions(request.page_token, page_size(request.page_size))

    async def _stream(self, _: Any, context: Context) -> None:
        """Carry one session's requests and replies, as serialised messages."""
        try:
            await serve_stream(self._gateway.replica, self._reads, self._streams, context)
        except RefusedError as refused:
            await abort(context, refused.status)
