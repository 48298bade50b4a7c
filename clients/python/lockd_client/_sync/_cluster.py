# Generated from _async/_cluster.py by tools/unasync.py: edit that.
"""What operators see and do: nodes, members, locks, sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockd.v1 import cluster_pb2, lock_pb2, session_pb2
from lockd_client._core import methods
from lockd_client._core.failures import Disposition
from lockd_client._core.requests import consistency_value, lock_state, member, node_status, session_state
from lockd_client._core.rpc import RpcFailed
from lockd_client.errors import LockdError
from lockd_client.model import Consistency, ForcedRelease, LockState, Member, NodeStatus, SessionState, StateHash, WaitEdge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lockd_client._sync._client import Client

PAGE = 1_000
"""Entries asked for at once."""


class Cluster:
    """Status and membership. `timeout`, everywhere: seconds; None: the client's. `address`: of one node, host:port."""

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        self._client = client

    def status(self, address: str = "", *, timeout: float | None = None) -> NodeStatus:
        """A node's own view: of the node at `address`, else of any that answers.

        Raises:
            Unavailable: It did not answer in time.
        """
        request = cluster_pb2.GetStatusRequest()
        return node_status(self._client.transport.call(methods.GET_STATUS, request, self._seconds(timeout), address))

    def status_all(self, *, timeout: float | None = None) -> dict[str, NodeStatus | LockdError]:
        """The view of every known node by its address, or why it did not answer."""
        found: dict[str, NodeStatus | LockdError] = {}
        for address in self._client.endpoints:
            try:
                found[address] = self.status(address, timeout=timeout)
            except LockdError as error:
                found[address] = error
        return found

    def members(self, *, timeout: float | None = None) -> list[Member]:
        """The membership in force.

        Raises:
            Unavailable: No node answered in time.
        """
        request = cluster_pb2.ListMembersRequest()
        response = self._client.transport.call(methods.LIST_MEMBERS, request, self._seconds(timeout))
        self._client.transport.learn(m.client_address for m in response.members)
        return [member(m) for m in response.members]

    def add(
        self, member_id: str, peer_address: str, client_address: str, *, voter: bool = False, timeout: float | None = None
    ) -> list[Member]:
        """Add a member: a learner, unless it has caught up already and `voter` is set. Returns the new membership.

        Raises:
            FailedPrecondition: It is a member already, or another change is under way.
            UnknownOutcome: The change may have been made; look at `members`.
        """
        wanted = cluster_pb2.Member(id=member_id, peer_address=peer_address, client_address=client_address, voter=voter)
        request = cluster_pb2.AddMemberRequest(member=wanted)
        response = self._client.transport.call(methods.ADD_MEMBER, request, self._seconds(timeout))
        return [member(m) for m in response.members]

    def promote(self, member_id: str, *, timeout: float | None = None) -> list[Member]:
        """Make a learner a voter once it has caught up; errors as in `add`."""
        request = cluster_pb2.PromoteMemberRequest(id=member_id)
        response = self._client.transport.call(methods.PROMOTE_MEMBER, request, self._seconds(timeout))
        return [member(m) for m in response.members]

    def remove(self, member_id: str, *, timeout: float | None = None) -> list[Member]:
        """Remove a member; errors as in `add`."""
        request = cluster_pb2.RemoveMemberRequest(id=member_id)
        response = self._client.transport.call(methods.REMOVE_MEMBER, request, self._seconds(timeout))
        return [member(m) for m in response.members]

    def transfer(self, to: str = "", *, timeout: float | None = None) -> str:
        """Hand leadership to the voter `to`, else to the one that is furthest ahead; returns the new leader's id.

        Raises:
            FailedPrecondition: It is not a voter that can lead.
            UnknownOutcome: Leadership may have moved; look at `status`.
        """
        request = cluster_pb2.TransferLeaderRequest(to=to)
        response = self._client.transport.call(methods.TRANSFER_LEADER, request, self._seconds(timeout))
        return response.leader_id

    def state_hash(self, address: str = "", *, at_least_index: int = 0, timeout: float | None = None) -> StateHash:
        """Hash of a node's whole replicated state, once it has applied `at_least_index` (0: now).

        Raises:
            Unavailable: It did not answer in time.
        """
        request = cluster_pb2.GetStateHashRequest(at_least_index=at_least_index)
        response = self._client.transport.call(methods.GET_STATE_HASH, request, self._seconds(timeout), address)
        return StateHash(response.hash, response.applied_index)

    def save_snapshot(self, address: str = "", *, timeout: float | None = None) -> Iterator[bytes]:
        """A consistent snapshot of the state, in chunks. An error in the middle means that what came before is not usable.

        Raises:
            LockdError: It failed.
        """
        transport = self._client.transport
        target = address or transport.choose()
        nanos = int(self._seconds(timeout) * 1e9)
        try:
            for chunk in transport.channel(target).responses(methods.SAVE_SNAPSHOT, cluster_pb2.SaveSnapshotRequest(), nanos):
                yield chunk.chunk
        except RpcFailed as error:
            if error.failure.disposition is not Disposition.FAIL:
                transport.failed(target, error.failure)
            raise error.failure.to_error() from None

    def _seconds(self, timeout: float | None) -> float:
        return self._client.timeout if timeout is None else timeout


class Locks:
    """Who holds and who waits."""

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(
        self, prefix: str = "", *, consistency: Consistency = Consistency.LINEARIZABLE, timeout: float | None = None
    ) -> list[LockState]:
        """All resources that equal `prefix` or lie below it and are held or waited for; empty: all.

        Raises:
            Unavailable: No node could answer in `timeout` seconds (a page).
        """
        found: list[LockState] = []
        page = ""
        while True:
            request = lock_pb2.ListLocksRequest(prefix=prefix, page_size=PAGE, page_token=page, consistency=consistency_value(consistency))
            response = self._client.transport.call(methods.LIST_LOCKS, request, self._client.timeout if timeout is None else timeout)
            found.extend(lock_state(m) for m in response.locks)
            page = response.next_page_token
            if not page:
                return found

    def wait_graph(self, *, consistency: Consistency = Consistency.LINEARIZABLE, timeout: float | None = None) -> tuple[WaitEdge, ...]:
        """Who waits for whom.

        Raises:
            Unavailable: No node could answer in time.
        """
        request = lock_pb2.GetWaitGraphRequest(consistency=consistency_value(consistency))
        response = self._client.transport.call(methods.GET_WAIT_GRAPH, request, self._client.timeout if timeout is None else timeout)
        return tuple(WaitEdge(e.waiter_session_id, e.holder_session_id, e.resource) for e in response.edges)

    def force_release(self, resource: str, *, reason: str, by: str = "", timeout: float | None = None) -> ForcedRelease:
        """Take a lock away from whoever holds it; their tokens are fenced. Needs the admin role; recorded with who, when and why.

        Args:
            resource: The path.
            reason: Kept in the audit trail, at most 512 bytes.
            by: Who asks, when the connection carries no identity; empty: the client's owner label.
            timeout: Seconds; None: the client's.

        Raises:
            PermissionDenied: The identity has not the admin role.
            NotFound: Nobody holds it.
        """
        request = lock_pb2.ForceReleaseRequest(resource=resource, reason=reason, by=by or self._client.owner)
        response = self._client.transport.call(methods.FORCE_RELEASE, request, self._client.timeout if timeout is None else timeout)
        return ForcedRelease(response.released, response.revision)

    def release(self, resource: str, *, session_id: int, token: int, timeout: float | None = None) -> bool:
        """Give back a grant of another process's session, by its token; whether this changed anything.

        Raises:
            NotHeld: The session does not hold it with this token.
            SessionLost: There is no such session.
        """
        request = lock_pb2.ReleaseRequest()
        request.context.session_id = session_id
        request.holds.add(resource=resource, token=token)
        response = self._client.transport.call(methods.RELEASE, request, self._client.timeout if timeout is None else timeout)
        return all(response.released)


class Sessions:
    """Who is connected."""

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self, *, consistency: Consistency = Consistency.LINEARIZABLE, timeout: float | None = None) -> list[SessionState]:
        """All sessions.

        Raises:
            Unavailable: No node could answer in `timeout` seconds (a page).
        """
        found: list[SessionState] = []
        page = ""
        while True:
            request = session_pb2.ListSessionsRequest(page_size=PAGE, page_token=page, consistency=consistency_value(consistency))
            response = self._client.transport.call(methods.LIST_SESSIONS, request, self._client.timeout if timeout is None else timeout)
            found.extend(session_state(m) for m in response.sessions)
            page = response.next_page_token
            if not page:
                return found
