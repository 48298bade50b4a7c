"""The stream of one session: batches of commands in, batches of replies out.

The bytes of a batch go into the log as they came. Replies that became known while the last message was being written travel together in the
next: nothing waits for a timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError

from lockd.codec.commands import READS, decode_batch
from lockd.machine.results import Result
from lockd.machine.types import RequestId
from lockd.raft.port import NotLeaderError, OverloadedError, RaftError
from lockd.replica import Batch, Replica
from lockd.rpc.errors import InvalidRequestError, RefusedError, from_error, from_invalid, from_raft
from lockd.rpc.reads import Reads
from lockd.rpc.replies import reply
from lockd.rpc.undecodable import explain
from lockd.rpc.validation import CHECKS, validate
from lockd.v1 import session_pb2

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_EOF = cast(Any, grpc.aio).EOF

COMMANDS_PER_MESSAGE_MAX = 8_192
OUTSTANDING_MAX = 65_536
"""Commands of one stream that have no reply yet; more is refused, so that a client cannot fill the node's memory."""
REPLIES_PER_MESSAGE_MAX = 4_096
UNSENT_REPLIES_MAX = 262_144
"""A client that asks and does not read is cut at this many."""


class Stream:
    """One open stream; also the sink of its own requests."""

    def __init__(self, replica: Replica, reads: Reads, context: Context) -> None:
        self._replica = replica
        self._reads = reads
        self._context = context
        self._session: int | None = None
        self._kinds: dict[int, str] = {}
        self._unsent: list[session_pb2.StreamReply] = []
        self._ready = asyncio.Event()
        self._end: Exception | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._read_all = False

    # --- lockd.replica.Sink ----------------------------------------------------------------------------------------------------

    def deliver(self, replies: Sequence[tuple[RequestId, Result]]) -> None:
        """Queue replies for the writer."""
        kinds = self._kinds
        unsent = self._unsent
        for request_id, result in replies:
            kind = kinds.pop(request_id, None)
            # A request that was sent twice on this stream gets one reply.
            if kind is not None:
                unsent.append(reply(request_id, kind, result))
        self._ready.set()

    def unknown(self, request_ids: Sequence[RequestId], error: RaftError) -> None:
        """Refuse what was overloaded; anything else ends the stream: the client asks again, with the same ids, at the leader."""
        if isinstance(error, OverloadedError):
            self._refuse(request_ids, error)
        else:
            self.end(error)

    def _refuse(self, request_ids: Sequence[int], error: Exception) -> None:
        for request_id in request_ids:
            if self._kinds.pop(request_id, None) is not None:
                self._unsent.append(session_pb2.StreamReply(request_id=request_id, error=from_error(error)))
        self._ready.set()

    def end(self, error: Exception) -> None:
        """End the stream with the status of `error`, once what is known has been sent."""
        if self._end is None:
            self._end = error
        self._ready.set()

    # --- the two directions ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until either side ends. Raises RefusedError with the status to close with."""
        if not self._replica.leading:
            raise RefusedError(from_raft(NotLeaderError(self._replica.leader)))
        reader = asyncio.create_task(self._read())
        try:
            await self._write()
        finally:
            self._replica.forget(self)
            reader.cancel()
            for task in self._tasks:
                task.cancel()
        if self._end is not None:
            raise RefusedError(from_error(self._end)) from self._end

    async def _write(self) -> None:
        ready = self._ready
        while True:
            await ready.wait()
            ready.clear()
            while self._unsent:
                if len(self._unsent) > UNSENT_REPLIES_MAX:
                    self._end = OverloadedError("replies are not being read")
                    return
                unsent = self._unsent
                if len(unsent) > REPLIES_PER_MESSAGE_MAX:
                    unsent, self._unsent = unsent[:REPLIES_PER_MESSAGE_MAX], unsent[REPLIES_PER_MESSAGE_MAX:]
                else:
                    self._unsent = []
                await self._context.write(session_pb2.StreamResponse(replies=unsent).SerializeToString())
            if self._finished():
                return

    def _finished(self) -> bool:
        """Whether nothing more can become known: the stream was ended, or the client sent its last and has every reply."""
        return self._end is not None or (self._read_all and not self._kinds)

    async def _read(self) -> None:
        read = self._context.read
        try:
            while (message := await read()) is not _EOF:
                self._take(message)
        except InvalidRequestError as error:
            self.end(error)
        except RaftError as error:
            self.end(error)
        finally:
            self._read_all = True
            self._ready.set()

    def _take(self, data: bytes) -> None:
        """Check one message, answer what is bad, queue what is to be logged, and start its reads."""
        try:
            batch = session_pb2.StreamRequest.FromString(data)
        except DecodeError as error:
            raise InvalidRequestError([explain(session_pb2.StreamRequest.DESCRIPTOR, data)]) from error
        self._check_envelope(batch)
        kinds = self._kinds
        reads: list[session_pb2.StreamCommand] = []
        bad: set[int] = set()
        changed = False
        for position, command in enumerate(batch.commands):
            kind = command.WhichOneof("command")
            request_id = command.request_id
            if kind in CHECKS:
                try:
                    changed |= validate(kind, getattr(command, kind))
                except InvalidRequestError as error:
                    bad.add(position)
                    self._unsent.append(session_pb2.StreamReply(request_id=request_id, error=from_invalid(error)))
                    continue
                kinds[request_id] = kind
            elif kind in READS:
                reads.append(command)
                kinds[request_id] = kind
            else:
                bad.add(position)
                refusal = InvalidRequestError([(f"commands[{position}]", "names no command that this version knows")])
                self._unsent.append(session_pb2.StreamReply(request_id=request_id, error=from_invalid(refusal)))
        if bad:
            self._ready.set()
        if reads:
            self._start_reads(reads)
        if bad or changed or reads:
            logged = [c for p, c in enumerate(batch.commands) if p not in bad and c.WhichOneof("command") not in READS]
            batch = session_pb2.StreamRequest(session_id=batch.session_id, acknowledged=batch.acknowledged, commands=logged)
            data = batch.SerializeToString()
        if batch.commands:
            requests = decode_batch(batch)
            try:
                self._replica.submit(Batch(data, requests, self))
            except OverloadedError as error:
                self._refuse([r.request_id for r in requests], error)

    def _check_envelope(self, batch: session_pb2.StreamRequest) -> None:
        if self._session is None:
            self._session = batch.session_id
        elif batch.session_id != self._session:
            raise InvalidRequestError([("session_id", f"{batch.session_id} on the stream of session {self._session}")])
        if len(batch.commands) > COMMANDS_PER_MESSAGE_MAX:
            raise InvalidRequestError([("commands", f"{len(batch.commands)} commands, at most {COMMANDS_PER_MESSAGE_MAX} a message")])
        if len(self._kinds) + len(batch.commands) > OUTSTANDING_MAX:
            raise OverloadedError(f"more than {OUTSTANDING_MAX} commands of this stream have no reply yet")

    def _start_reads(self, commands: Sequence[session_pb2.StreamCommand]) -> None:
        task = asyncio.create_task(self._run_reads(commands))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_reads(self, commands: Sequence[session_pb2.StreamCommand]) -> None:
        """Reads of one message share one barrier."""
        try:
            answers = await self._reads.answer(commands, self._context)
        except RefusedError as error:
            answers = [session_pb2.StreamReply(request_id=c.request_id, error=error.status) for c in commands]
        for answer in answers:
            self._kinds.pop(answer.request_id, None)
        self._unsent += answers
        self._ready.set()


async def serve_stream(replica: Replica, reads: Reads, streams: set[Stream], context: Context) -> None:
    """Serve one call of SessionService.Stream; `streams` knows the open ones, so that the end of a reign can end them."""
    stream = Stream(replica, reads, context)
    streams.add(stream)
    try:
        await stream.run()
    finally:
        streams.discard(stream)


def end_streams(streams: set[Stream], error: Exception) -> None:
    """End every open stream: this node no longer leads."""
    for stream in list(streams):
        stream.end(error)
