"""ClusterService: the cluster as operators see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from lockd.codec.backups import backup_chunks
from lockd.machine import views
from lockd.raft.port import Engine, Member, Membership, NotLeaderError, RaftError, ReplicaId
from lockd.replica import Replica
from lockd.rpc.errors import InvalidRequestError, RefusedError, abort, from_raft
from lockd.rpc.gateway import Context, Gateway
from lockd.rpc.handlers import serve
from lockd.rpc.replies import duration
from lockd.v1 import cluster_pb2 as pb

ResponseT = TypeVar("ResponseT", bound=Message)
_POLL = 0.01


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the node says of itself in its status."""

    cluster_id: str
    version: str
    data_directory: str


def _member(m: Member) -> pb.Member:
    return pb.Member(id=m.id, peer_address=m.peer_address, client_address=m.client_address, voter=m.voter)


def _members(membership: Membership) -> pb.ListMembersResponse:
    return pb.ListMembersResponse(members=[_member(m) for m in membership.members])


class ClusterService:
    """The cluster."""

    def __init__(self, gateway: Gateway, facts: NodeFacts) -> None:
        self._gateway = gateway
        self._facts = facts

    @property
    def _engine(self) -> Engine:
        return self._gateway.engine

    @property
    def _replica(self) -> Replica:
        return self._gateway.replica

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:  # noqa: N802
        """This node's view, at once and without a quorum."""
        del request, context
        status = self._engine.status()
        leader = self._engine.leader()
        counts = views.counts(self._replica.machine)
        made = pb.GetStatusResponse(
            id=status.id,
            cluster_id=self._facts.cluster_id,
            role=status.role.value,
            term=status.term,
            leader_id=status.leader or "",
            leader_address=leader.client_address if leader is not None else "",
            commit_index=status.commit,
            applied_index=status.applied,
            first_index=status.first_index,
            last_index=status.last_index,
            snapshot_index=status.snapshot_index,
            log_bytes=status.log_bytes,
            members=[_member(m) for m in status.membership.members],
            fsync_p50=duration(int(status.fsync_p50_ms * 1e6)),
            fsync_p99=duration(int(status.fsync_p99_ms * 1e6)),
            failed=status.failed or "",
            version=self._facts.version,
            engine=status.engine,
            sessions=counts.sessions,
            locks=counts.locks,
            rows=counts.rows,
            accounts=counts.accounts,
            transfers=counts.transfers,
            data_directory=self._facts.data_directory,
        )
        for peer in status.peers:
            made.peers.add(
                id=peer.id,
                match_index=peer.match,
                next_index=peer.next,
                state=peer.state,
                last_contact=duration(int(peer.last_contact_ms * 1e6)) if peer.last_contact_ms is not None else None,
            )
        return made

    async def ListMembers(self, request: pb.ListMembersRequest, context: Context) -> pb.ListMembersResponse:  # noqa: N802
        """The membership in force here."""
        del request, context
        return _members(self._engine.status().membership)

    async def _at_leader(
        self,
        method: str,
        request: Message,
        response_type: type[ResponseT],
        context: Context,
        here: Callable[[], Awaitable[ResponseT]],
    ) -> ResponseT:
        """Do it here if this node leads, else hand it to the leader."""
        if not self._replica.leading:
            return await self._gateway.forward(f"/lockd.v1.ClusterService/{method}", request, response_type, context)
        try:
            return await here()
        except RaftError as error:
            raise RefusedError(from_raft(error)) from error

    async def AddMember(self, request: pb.AddMemberRequest, context: Context) -> pb.ListMembersResponse:  # noqa: N802
        """Add a learner or a voter."""
        member = request.member
        missing = [(f"member.{n}", "must be given") for n in ("id", "peer_address", "client_address") if not getattr(member, n)]
        if missing:
            raise InvalidRequestError(missing)
        added = Member(ReplicaId(member.id), member.peer_address, member.client_address, member.voter)
        return await self._at_leader("AddMember", request, pb.ListMembersResponse, context, lambda: self._change(added))

    async def PromoteMember(self, request: pb.PromoteMemberRequest, context: Context) -> pb.ListMembersResponse:  # noqa: N802
        """Make a learner a voter."""

        async def promote() -> pb.ListMembersResponse:
            member = self._find(request.id)
            return await self._change(Member(member.id, member.peer_address, member.client_address, voter=True))

        return await self._at_leader("PromoteMember", request, pb.ListMembersResponse, context, promote)

    async def RemoveMember(self, request: pb.RemoveMemberRequest, context: Context) -> pb.ListMembersResponse:  # noqa: N802
        """Remove a member."""

        async def remove() -> pb.ListMembersResponse:
            return _members(await self._engine.change_member(None, remove=self._find(request.id).id))

        return await self._at_leader("RemoveMember", request, pb.ListMembersResponse, context, remove)

    async def _change(self, member: Member) -> pb.ListMembersResponse:
        return _members(await self._engine.change_member(member))

    def _find(self, member_id: str) -> Member:
        members = self._engine.status().membership.members
        for member in members:
            if member.id == member_id:
                return member
        raise InvalidRequestError([("id", f"{member_id!r} is not a member; members are {', '.join(m.id for m in members)}")])

    async def TransferLeader(self, request: pb.TransferLeaderRequest, context: Context) -> pb.TransferLeaderResponse:  # noqa: N802
        """Hand leadership to another voter."""

        async def transfer() -> pb.TransferLeaderResponse:
            to = self._find(request.to).id if request.to else self._furthest()
            await self._engine.transfer_leadership(to)
            return pb.TransferLeaderResponse(leader_id=to)

        return await self._at_leader("TransferLeader", request, pb.TransferLeaderResponse, context, transfer)

    def _furthest(self) -> ReplicaId:
        status = self._engine.status()
        voters = {m.id for m in status.membership.members if m.voter and m.id != status.id}
        peers = sorted((p for p in status.peers if p.id in voters), key=lambda p: (-p.match, p.id))
        if not peers:
            raise InvalidRequestError([("to", "there is no other voter")])
        return peers[0].id

    async def GetStateHash(self, request: pb.GetStateHashRequest, context: Context) -> pb.GetStateHashResponse:  # noqa: N802
        """Hash of this replica's state."""
        while self._replica.applied_index < request.at_least_index:
            remaining: float | None = context.time_remaining()
            if remaining is not None and remaining < 2 * _POLL:
                raise RefusedError(from_raft(NotLeaderError(self._replica.leader)))
            await asyncio.sleep(_POLL)
        return pb.GetStateHashResponse(hash=self._replica.machine.state_hash(), applied_index=self._replica.applied_index)

    def handlers(self) -> grpc.GenericRpcHandler[Any, Any]:
        """The service, for a server."""
        save = grpc.unary_stream_rpc_method_handler(
            self._save_snapshot, pb.SaveSnapshotRequest.FromString, pb.SaveSnapshotResponse.SerializeToString
        )
        return serve(pb.DESCRIPTOR.services_by_name["ClusterService"], self, SaveSnapshot=save)

    async def _save_snapshot(self, request: pb.SaveSnapshotRequest, context: Any) -> AsyncIterator[pb.SaveSnapshotResponse]:
        """Stream this node's state, after a read barrier: everything acknowledged before the call is in it."""
        del request
        try:
            await self._gateway.barrier(0, context)
        except RefusedError as refused:
            await abort(context, refused.status)
        try:
            await self._engine.snapshot()
            with self._engine.saved_state() as (index, state):
                chunks = backup_chunks(index, state)
                # The disk is read beside the loop; a chunk is on its way while the next one is read.
                while chunk := await asyncio.to_thread(next, chunks, b""):
                    yield pb.SaveSnapshotResponse(chunk=chunk, index=index)
        except RaftError as error:
            await abort(context, from_raft(error))
