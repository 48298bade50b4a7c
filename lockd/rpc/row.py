"""RowService: strong rows and transactions."""

from __future__ import annotations

from lockd.rpc.gateway import Context, Gateway
from lockd.rpc.handlers import page_size
from lockd.rpc.reads import Reads
from lockd.v1 import row_pb2 as pb


class RowService:
    """Strong rows."""

    def __init__(self, gateway: Gateway, reads: Reads) -> None:
        self._gateway = gateway
        self._reads = reads

    async def Transact(self, request: pb.TransactRequest, context: Context) -> pb.TransactResponse:  # noqa: N802
        """Run a transaction."""
        return await self._gateway.execute("transact", request, pb.TransactResponse, context)

    async def GetRow(self, request: pb.GetRowRequest, context: Context) -> pb.GetRowResponse:  # noqa: N802
        """One row."""
        await self._gateway.barrier(request.consistency, context)
        return self._reads.get_row(request)

    async def ListRows(self, request: pb.ListRowsRequest, context: Context) -> pb.ListRowsResponse:  # noqa: N802
        """Rows in key order."""
        await self._gateway.barrier(request.consistency, context)
        return self._reads.list_rows(request, page_size(request.page_size))

    async def CompactRows(self, request: pb.CompactRowsRequest, context: Context) -> pb.CompactRowsResponse:  # noqa: N802
        """Forget old history."""
        return await self._gateway.execute("compact_rows", request, pb.CompactRowsResponse, context)
