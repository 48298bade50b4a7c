# ruff: noqa: N802 - gRPC's names
"""A small, scriptable stand-in for a lockd cluster: real gRPC on loopback, one shared state, no log.

It keeps the promises that the client leans on (answers remembered by request id, one leader, locks in FIFO order) and breaks
them on demand: drops replies, redirects, delays, refuses, forgets sessions. Threads, so that it serves both clients.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import grpc
from google.rpc import status_pb2

from ledger.v1 import ledger_pb2, ledger_pb2_grpc
from lockd.v1 import cluster_pb2, cluster_pb2_grpc, lock_pb2, lock_pb2_grpc, row_pb2, row_pb2_grpc, session_pb2, session_pb2_grpc
from tests.client.fake_world import FakeSession, World, status

if TYPE_CHECKING:
    from collections.abc import Iterator


class FakeCluster(World):
    """Nodes that share one state. Use as a context manager."""

    def __init__(self, nodes: int = 1) -> None:
        super().__init__()
        self._nodes = [_Node(self, i) for i in range(nodes)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        for node in self._nodes:
            node.stop()

    @property
    def addresses(self) -> list[str]:
        """host:port of every node."""
        return [node.address for node in self._nodes]

    @property
    def endpoints(self) -> str:
        """What `connect` takes."""
        return ",".join(self.addresses)

    def stop(self, index: int) -> None:
        """A node goes away: connections are refused."""
        self._nodes[index].stop()

    def start(self, index: int) -> None:
        """A node that went away comes back, on the same port."""
        self._nodes[index] = _Node(self, index, self._nodes[index].port)

    def not_leader(self) -> status_pb2.Status:
        """What a node that does not lead answers."""
        if not self.has_leader:
            return status(grpc.StatusCode.UNAVAILABLE, "NO_LEADER", "there is no leader")
        address = self._nodes[self.leader].address
        return status(grpc.StatusCode.UNAVAILABLE, "NOT_LEADER", "another node leads", leader_address=address, leader_id=f"n{self.leader}")


class _Node:
    """One gRPC server of the cluster."""

    def __init__(self, cluster: FakeCluster, index: int, port: int = 0) -> None:
        self.cluster = cluster
        self.index = index
        self._server = grpc.server(ThreadPoolExecutor(32, thread_name_prefix=f"fake-{index}"), options=[("grpc.so_reuseport", 0)])
        services = _Services(self)
        session_pb2_grpc.add_SessionServiceServicer_to_server(services, self._server)
        lock_pb2_grpc.add_LockServiceServicer_to_server(services, self._server)
        row_pb2_grpc.add_RowServiceServicer_to_server(services, self._server)
        cluster_pb2_grpc.add_ClusterServiceServicer_to_server(services, self._server)
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(services, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    @property
    def leads(self) -> bool:
        return self.cluster.has_leader and self.cluster.leader == self.index

    def stop(self) -> None:
        self.cluster.cut_streams()
        self._server.stop(None).wait()


class _Services(
    session_pb2_grpc.SessionServiceServicer,
    lock_pb2_grpc.LockServiceServicer,
    row_pb2_grpc.RowServiceServicer,
    cluster_pb2_grpc.ClusterServiceServicer,
    ledger_pb2_grpc.LedgerServiceServicer,
):
    """All services of one node, as far as the tests ask for them."""

    def __init__(self, node: _Node) -> None:
        self.node = node
        self.cluster = node.cluster

    def _abort(self, context: Any, why: status_pb2.Status) -> None:
        code = next(c for c in grpc.StatusCode if c.value[0] == why.code)
        context.set_trailing_metadata((("grpc-status-details-bin", why.SerializeToString()),))
        context.abort(code, why.message)

    def _lead(self, context: Any, method: str) -> None:
        """Abort unless this node leads and the script says nothing else."""
        cluster = self.cluster
        with cluster.lock:
            cluster.calls.append(method)
            for i, (refused, why) in enumerate(cluster.refusals):
                if refused == method:
                    del cluster.refusals[i]
                    self._abort(context, why)
        if not self.node.leads:
            self._abort(context, cluster.not_leader())

    def OpenSession(self, request: Any, context: Any) -> session_pb2.OpenSessionResponse:
        self._lead(context, "OpenSession")
        with self.cluster.lock:
            self.cluster.opened += 1
            ttl = request.ttl.ToNanoseconds() / 1e9
            session = FakeSession(1_000 + self.cluster.opened, request.owner, ttl)
            self.cluster.sessions[session.id] = session
            return session_pb2.OpenSessionResponse(session_id=session.id, ttl=request.ttl)

    def CloseSession(self, request: Any, context: Any) -> session_pb2.CloseSessionResponse:
        self._lead(context, "CloseSession")
        self.cluster.lose_session(request.context.session_id)
        return session_pb2.CloseSessionResponse()

    def ListSessions(self, request: Any, context: Any) -> session_pb2.ListSessionsResponse:
        with self.cluster.lock:
            return session_pb2.ListSessionsResponse(
                sessions=[session_pb2.SessionState(session_id=s.id, owner=s.owner) for s in self.cluster.sessions.values()]
            )

    def Stream(self, request_iterator: Any, context: Any) -> Iterator[session_pb2.StreamResponse]:
        self._lead(context, "Stream")
        out: queue.SimpleQueue[session_pb2.StreamResponse | None] = queue.SimpleQueue()
        context.add_callback(lambda: out.put(None))

        def read() -> None:
            try:
                for request in request_iterator:
                    self.cluster.gate.wait()
                    self.cluster.receive(request, out)
            except grpc.RpcError:
                pass
            out.put(None)

        threading.Thread(target=read, daemon=True).start()
        while (response := out.get()) is not None:
            yield response
        self._abort(context, self.cluster.not_leader() if not self.node.leads else status(grpc.StatusCode.UNAVAILABLE, "", "cut"))

    def Release(self, request: Any, context: Any) -> lock_pb2.ReleaseResponse:
        self._lead(context, "Release")
        with self.cluster.lock:
            session = self.cluster.sessions.get(request.context.session_id)
            if session is None:
                self._abort(context, status(grpc.StatusCode.NOT_FOUND, "SESSION_UNKNOWN"))
                raise AssertionError
            reply = session_pb2.StreamReply()
            self.cluster._do_release(session, request, reply, 0)
            return reply.release

    def ForceRelease(self, request: Any, context: Any) -> lock_pb2.ForceReleaseResponse:
        self._lead(context, "ForceRelease")
        if request.resource not in self.cluster.holders:
            self._abort(context, status(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "nobody holds it"))
        return lock_pb2.ForceReleaseResponse(released=self.cluster.force_release(request.resource), revision=self.cluster.tick())

    def ListLocks(self, request: Any, context: Any) -> lock_pb2.ListLocksResponse:
        with self.cluster.lock:
            response = lock_pb2.ListLocksResponse()
            for resource in sorted(self.cluster.holders):
                if resource.startswith(request.prefix):
                    state = response.locks.add(resource=resource)
                    for session_id, token, mode in self.cluster.holders[resource]:
                        state.holders.add(session_id=session_id, token=token, mode=lock_pb2.LockMode.ValueType(mode), count=1)
                    for wait in self.cluster.queue:
                        if any(c.resource == resource for c in wait.claims):
                            state.waiters.add(session_id=wait.session, request_id=wait.request_id, mode=lock_pb2.LOCK_MODE_EXCLUSIVE)
            return response

    def GetWaitGraph(self, request: Any, context: Any) -> lock_pb2.GetWaitGraphResponse:
        with self.cluster.lock:
            return lock_pb2.GetWaitGraphResponse(
                edges=[
                    lock_pb2.WaitEdge(waiter_session_id=w.session, holder_session_id=h[0], resource=c.resource)
                    for w in self.cluster.queue
                    for c in w.claims
                    for h in self.cluster.holders.get(c.resource, [])
                ]
            )

    def ListRows(self, request: Any, context: Any) -> row_pb2.ListRowsResponse:
        with self.cluster.lock:
            keys = [k for k in sorted(self.cluster.rows) if k.startswith(request.prefix) and k > request.page_token]
            page, more = keys[: request.page_size], keys[request.page_size :]
            return row_pb2.ListRowsResponse(
                rows=[self.cluster.rows[k] for k in page], next_page_token=page[-1] if more else "", revision=self.cluster.clock
            )

    def GetRow(self, request: Any, context: Any) -> row_pb2.GetRowResponse:
        self._lead(context, "GetRow")
        reply = session_pb2.StreamReply()
        with self.cluster.lock:
            self.cluster._do_get_row(None, request, reply, 0)
        return reply.get_row

    def LookupAccounts(self, request: Any, context: Any) -> ledger_pb2.LookupAccountsResponse:
        self._lead(context, "LookupAccounts")
        reply = session_pb2.StreamReply()
        with self.cluster.lock:
            self.cluster._do_lookup_accounts(None, request, reply, 0)
        return reply.lookup_accounts

    def ListMembers(self, request: Any, context: Any) -> cluster_pb2.ListMembersResponse:
        return cluster_pb2.ListMembersResponse(members=self._members())

    def _members(self) -> list[cluster_pb2.Member]:
        return [
            cluster_pb2.Member(id=f"n{i}", client_address=a, voter=True)
            for i, a in enumerate([*self.cluster.addresses, *self.cluster.more_members])
        ]

    def AddMember(self, request: Any, context: Any) -> cluster_pb2.ListMembersResponse:
        self._lead(context, "AddMember")
        return cluster_pb2.ListMembersResponse(members=[*self._members(), request.member])

    def PromoteMember(self, request: Any, context: Any) -> cluster_pb2.ListMembersResponse:
        self._lead(context, "PromoteMember")
        return cluster_pb2.ListMembersResponse(members=self._members())

    def RemoveMember(self, request: Any, context: Any) -> cluster_pb2.ListMembersResponse:
        self._lead(context, "RemoveMember")
        return cluster_pb2.ListMembersResponse(members=[m for m in self._members() if m.id != request.id])

    def TransferLeader(self, request: Any, context: Any) -> cluster_pb2.TransferLeaderResponse:
        self._lead(context, "TransferLeader")
        return cluster_pb2.TransferLeaderResponse(leader_id=request.to or "n0")

    def GetStatus(self, request: Any, context: Any) -> cluster_pb2.GetStatusResponse:
        cluster = self.cluster
        return cluster_pb2.GetStatusResponse(
            id=f"n{self.node.index}",
            role="leader" if self.node.leads else "follower",
            term=3,
            leader_id=f"n{cluster.leader}" if cluster.has_leader else "",
            commit_index=cluster.clock,
            applied_index=cluster.clock,
            members=self._members(),
            engine="core",
            sessions=len(cluster.sessions),
        )

    def GetStateHash(self, request: Any, context: Any) -> cluster_pb2.GetStateHashResponse:
        return cluster_pb2.GetStateHashResponse(hash=b"\x01" * 32, applied_index=self.cluster.clock)

    def SaveSnapshot(self, request: Any, context: Any) -> Iterator[cluster_pb2.SaveSnapshotResponse]:
        for i in range(3):
            yield cluster_pb2.SaveSnapshotResponse(chunk=bytes([i]) * 10, index=self.cluster.clock)

    KeepAlive = Acquire = Convert = CancelAcquire = Transact = CompactRows = CreateAccounts = CreateTransfers = None  # type: ignore[assignment]
    LookupTransfers = GetAccountTransfers = GetAccountBalances = QueryAccounts = QueryTransfers = None  # type: ignore[assignment]
