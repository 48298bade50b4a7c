"""The ledger's reads, from request messages to response messages. Transport, freshness and identity are the host's business."""

from __future__ import annotations

from collections.abc import Sequence

from ledger import wire
from ledger.machine import values
from ledger.machine.model import BATCH_MAX, EVENT_SIZE, AccountFilterFlags, QueryFilterFlags
from ledger.machine.queries import account_filter_problem, query_filter_problem
from ledger.machine.state import Ledger
from ledger.v1 import ledger_pb2 as pb


def lookup_accounts(ledger: Ledger, request: pb.LookupAccountsRequest) -> pb.LookupAccountsResponse:
    """The accounts that are there, in the order of the ids. Raises WireError for too many ids."""
    _check_ids(request.ids)
    return pb.LookupAccountsResponse(accounts=wire.unpack_accounts(ledger.lookup_accounts(wire.pack_ids(request.ids))))


def lookup_transfers(ledger: Ledger, request: pb.LookupTransfersRequest) -> pb.LookupTransfersResponse:
    """The transfers that are there, in the order of the ids. Raises WireError for too many ids."""
    _check_ids(request.ids)
    return _transfers(ledger, ledger.lookup_transfers(wire.pack_ids(request.ids)))


def get_account_transfers(ledger: Ledger, request: pb.AccountFilter) -> pb.LookupTransfersResponse:
    """Transfers of one account, in order of time. Raises WireError for a filter that cannot be used."""
    return _transfers(ledger, ledger.get_account_transfers(_account_filter(request)))


def get_account_balances(ledger: Ledger, request: pb.AccountFilter) -> pb.GetAccountBalancesResponse:
    """Balances after each transfer of an account with the history flag. Raises WireError for a filter that cannot be used."""
    return pb.GetAccountBalancesResponse(balances=wire.unpack_balances(ledger.get_account_balances(_account_filter(request))))


def query_accounts(ledger: Ledger, request: pb.QueryFilter) -> pb.LookupAccountsResponse:
    """Accounts whose fields match. Raises WireError for a filter that cannot be used."""
    return pb.LookupAccountsResponse(accounts=wire.unpack_accounts(ledger.query_accounts(_query_filter(request))))


def query_transfers(ledger: Ledger, request: pb.QueryFilter) -> pb.LookupTransfersResponse:
    """Transfers whose fields match. Raises WireError for a filter that cannot be used."""
    return _transfers(ledger, ledger.query_transfers(_query_filter(request)))


def _transfers(ledger: Ledger, packed: bytes) -> pb.LookupTransfersResponse:
    ids = [packed[at : at + 16] for at in range(0, len(packed), EVENT_SIZE)]
    metadata = [ledger.transfers.metadata(i) or b"" for i in ids]
    return pb.LookupTransfersResponse(transfers=wire.unpack_transfers(packed, metadata))


def _check_ids(ids: Sequence[pb.Uint128]) -> None:
    if len(ids) > BATCH_MAX:
        raise wire.WireError([("ids", f"{len(ids)} ids, at most {BATCH_MAX} are allowed")])


def _number(value: pb.Uint128) -> int:
    return value.high << 64 | value.low


def _account_filter(m: pb.AccountFilter) -> values.AccountFilter:
    flags = AccountFilterFlags(0)
    for wanted, flag in (
        (m.debits, AccountFilterFlags.DEBITS),
        (m.credits, AccountFilterFlags.CREDITS),
        (m.reversed, AccountFilterFlags.REVERSED),
    ):
        flags |= flag if wanted else 0
    made = values.AccountFilter(
        account_id=_number(m.account_id),
        user_data_128=_number(m.user_data_128),
        user_data_64=m.user_data_64,
        user_data_32=m.user_data_32,
        code=m.code,
        timestamp_min=m.timestamp_min,
        timestamp_max=m.timestamp_max,
        limit=m.limit,
        flags=int(flags),
    )
    problem = account_filter_problem(made)
    if problem is not None:
        raise wire.WireError([("filter", problem)])
    return made


def _query_filter(m: pb.QueryFilter) -> values.QueryFilter:
    made = values.QueryFilter(
        user_data_128=_number(m.user_data_128),
        user_data_64=m.user_data_64,
        user_data_32=m.user_data_32,
        ledger=m.ledger,
        code=m.code,
        timestamp_min=m.timestamp_min,
        timestamp_max=m.timestamp_max,
        limit=m.limit,
        flags=int(QueryFilterFlags.REVERSED) if m.reversed else 0,
    )
    problem = query_filter_problem(made)
    if problem is not None:
        raise wire.WireError([("filter", problem)])
    return made
