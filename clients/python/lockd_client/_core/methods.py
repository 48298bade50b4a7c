"""The unary and streaming methods of the service: their paths and messages, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from ledger.v1 import ledger_pb2
from lockd.v1 import cluster_pb2, lock_pb2, row_pb2, session_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

Req = TypeVar("Req", bound="Message")
Resp = TypeVar("Resp", bound="Message")


@dataclass(frozen=True, slots=True)
class Method(Generic[Req, Resp]):
    """One method of a service.

    Attributes:
        repeatable: Whether it may be sent again when it is not known whether the first was applied.
    """

    path: str
    request: type[Req]
    response: type[Resp]
    repeatable: bool = True


OPEN_SESSION = Method("/lockd.v1.SessionService/OpenSession", session_pb2.OpenSessionRequest, session_pb2.OpenSessionResponse)
LIST_SESSIONS = Method("/lockd.v1.SessionService/ListSessions", session_pb2.ListSessionsRequest, session_pb2.ListSessionsResponse)
CLOSE_SESSION = Method("/lockd.v1.SessionService/CloseSession", session_pb2.CloseSessionRequest, session_pb2.CloseSessionResponse)
STREAM = Method("/lockd.v1.SessionService/Stream", session_pb2.StreamRequest, session_pb2.StreamResponse)

RELEASE = Method("/lockd.v1.LockService/Release", lock_pb2.ReleaseRequest, lock_pb2.ReleaseResponse)
FORCE_RELEASE = Method("/lockd.v1.LockService/ForceRelease", lock_pb2.ForceReleaseRequest, lock_pb2.ForceReleaseResponse)
LIST_LOCKS = Method("/lockd.v1.LockService/ListLocks", lock_pb2.ListLocksRequest, lock_pb2.ListLocksResponse)
GET_WAIT_GRAPH = Method("/lockd.v1.LockService/GetWaitGraph", lock_pb2.GetWaitGraphRequest, lock_pb2.GetWaitGraphResponse)

GET_ROW = Method("/lockd.v1.RowService/GetRow", row_pb2.GetRowRequest, row_pb2.GetRowResponse)
LIST_ROWS = Method("/lockd.v1.RowService/ListRows", row_pb2.ListRowsRequest, row_pb2.ListRowsResponse)
COMPACT_ROWS = Method("/lockd.v1.RowService/CompactRows", row_pb2.CompactRowsRequest, row_pb2.CompactRowsResponse)

GET_STATUS = Method("/lockd.v1.ClusterService/GetStatus", cluster_pb2.GetStatusRequest, cluster_pb2.GetStatusResponse)
LIST_MEMBERS = Method("/lockd.v1.ClusterService/ListMembers", cluster_pb2.ListMembersRequest, cluster_pb2.ListMembersResponse)
ADD_MEMBER = Method("/lockd.v1.ClusterService/AddMember", cluster_pb2.AddMemberRequest, cluster_pb2.ListMembersResponse, repeatable=False)
PROMOTE_MEMBER = Method(
    "/lockd.v1.ClusterService/PromoteMember", cluster_pb2.PromoteMemberRequest, cluster_pb2.ListMembersResponse, repeatable=False
)
REMOVE_MEMBER = Method(
    "/lockd.v1.ClusterService/RemoveMember", cluster_pb2.RemoveMemberRequest, cluster_pb2.ListMembersResponse, repeatable=False
)
TRANSFER_LEADER = Method(
    "/lockd.v1.ClusterService/TransferLeader", cluster_pb2.TransferLeaderRequest, cluster_pb2.TransferLeaderResponse, repeatable=False
)
GET_STATE_HASH = Method("/lockd.v1.ClusterService/GetStateHash", cluster_pb2.GetStateHashRequest, cluster_pb2.GetStateHashResponse)
SAVE_SNAPSHOT = Method("/lockd.v1.ClusterService/SaveSnapshot", cluster_pb2.SaveSnapshotRequest, cluster_pb2.SaveSnapshotResponse)

LOOKUP_ACCOUNTS = Method("/ledger.v1.LedgerService/LookupAccounts", ledger_pb2.LookupAccountsRequest, ledger_pb2.LookupAccountsResponse)
LOOKUP_TRANSFERS = Method("/ledger.v1.LedgerService/LookupTransfers", ledger_pb2.LookupTransfersRequest, ledger_pb2.LookupTransfersResponse)
GET_ACCOUNT_TRANSFERS = Method("/ledger.v1.LedgerService/GetAccountTransfers", ledger_pb2.AccountFilter, ledger_pb2.LookupTransfersResponse)
GET_ACCOUNT_BALANCES = Method(
    "/ledger.v1.LedgerService/GetAccountBalances", ledger_pb2.AccountFilter, ledger_pb2.GetAccountBalancesResponse
)
QUERY_ACCOUNTS = Method("/ledger.v1.LedgerService/QueryAccounts", ledger_pb2.QueryFilter, ledger_pb2.LookupAccountsResponse)
QUERY_TRANSFERS = Method("/ledger.v1.LedgerService/QueryTransfers", ledger_pb2.QueryFilter, ledger_pb2.LookupTransfersResponse)
