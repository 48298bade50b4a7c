"""LedgerService: the ledger's calls over this node's gateway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from ledger import rpc as ledger_reads
from ledger import wire
from ledger.machine.state import Ledger
from ledger.v1 import ledger_pb2 as pb
from lockd.rpc.errors import InvalidRequestError
from lockd.rpc.gateway import Context, Gateway
from lockd.rpc.replies import account_results, transfer_results

ResponseT = TypeVar("ResponseT", bound=Message)


def read(ledger: Ledger, reader: Callable[[Ledger, Any], ResponseT], request: Any) -> ResponseT:
    """Run a read of the ledger. Raises InvalidRequestError."""
    try:
        return reader(ledger, request)
    except wire.WireError as error:
        raise InvalidRequestError(error.violations) from error


class LedgerService:
    """The ledger's calls."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def _read(self, reader: Callable[[Ledger, Any], ResponseT], request: Any, context: Context) -> ResponseT:
        await self._gateway.barrier(request.consistency, context)
        return read(self._gateway.replica.machine.ledger, reader, request)

    async def CreateAccounts(self, request: pb.CreateAccountsRequest, context: Context) -> pb.CreateAccountsResponse:  # noqa: N802
        """Run a batch of accounts."""
        packed = bool(request.packed)
        response = await self._gateway.execute("create_accounts", request, pb.CreateAccountsResponse, context)
        # A forwarded call was answered in the form in which it was asked.
        if packed or not response.packed_results:
            return response
        return pb.CreateAccountsResponse(results=account_results(response.packed_results))

    async def CreateTransfers(self, request: pb.CreateTransfersRequest, context: Context) -> pb.CreateTransfersResponse:  # noqa: N802
        """Run a batch of transfers."""
        packed = bool(request.packed)
        response = await self._gateway.execute("create_transfers", request, pb.CreateTransfersResponse, context)
        if packed or not response.packed_results:
            return response
        return pb.CreateTransfersResponse(results=transfer_results(response.packed_results))

    async def LookupAccounts(self, request: pb.LookupAccountsRequest, context: Context) -> pb.LookupAccountsResponse:  # noqa: N802
        """Accounts by id."""
        return await self._read(ledger_reads.lookup_accounts, request, context)

    async def LookupTransfers(self, request: pb.LookupTransfersRequest, context: Context) -> pb.LookupTransfersResponse:  # noqa: N802
        """Transfers by id."""
        return await self._read(ledger_reads.lookup_transfers, request, context)

    async def GetAccountTransfers(self, request: pb.AccountFilter, context: Context) -> pb.LookupTransfersResponse:  # noqa: N802
        """Transfers of an account."""
        return await self._read(ledger_reads.get_account_transfers, request, context)

    async def GetAccountBalances(self, request: pb.AccountFilter, context: Context) -> pb.GetAccountBalancesResponse:  # noqa: N802
        """Balances of an account over time."""
        return await self._read(ledger_reads.get_account_balances, request, context)

    async def QueryAccounts(self, request: pb.QueryFilter, context: Context) -> pb.LookupAccountsResponse:  # noqa: N802
        """Accounts by their fields."""
        return await self._read(ledger_reads.query_accounts, request, context)

    async def QueryTransfers(self, request: pb.QueryFilter, context: Context) -> pb.LookupTransfersResponse:  # noqa: N802
        """Transfers by their fields."""
        return await self._read(ledger_reads.query_transfers, request, context)
