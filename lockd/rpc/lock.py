"""LockService: locks, and what operators ask about them."""

from __future__ import annotations

from lockd.rpc.gateway import Context, Gateway
from lockd.rpc.handlers import page_size
from lockd.rpc.reads import Reads
from lockd.v1 import lock_pb2 as pb


class LockService:
    """Locks."""

    def __init__(self, gateway: Gateway, reads: Reads) -> None:
        self._gateway = gateway
        self._reads = reads

    async def Acquire(self, request: pb.AcquireRequest, context: Context) -> pb.AcquireResponse:  # noqa: N802
        """Take locks, all or none."""
        return await self._gateway.execute("acquire", request, pb.AcquireResponse, context)

    async def Convert(self, request: pb.ConvertRequest, context: Context) -> pb.ConvertResponse:  # noqa: N802
        """Change the mode of a hold."""
        return await self._gateway.execute("convert", request, pb.ConvertResponse, context)

    async def CancelAcquire(self, request: pb.CancelAcquireRequest, context: Context) -> pb.CancelAcquireResponse:  # noqa: N802
        """Undo an acquire."""
        return await self._gateway.execute("cancel_acquire", request, pb.CancelAcquireResponse, context)

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseResponse:  # noqa: N802
        """Give locks back."""
        return await self._gateway.execute("release", request, pb.ReleaseResponse, context)

    async def ForceRelease(self, request: pb.ForceReleaseRequest, context: Context) -> pb.ForceReleaseResponse:  # noqa: N802
        """Take a lock away from its holders."""
        return await self._gateway.execute("force_release", request, pb.ForceReleaseResponse, context)

    async def ListLocks(self, request: pb.ListLocksRequest, context: Context) -> pb.ListLocksResponse:  # noqa: N802
        """Holders and waiters."""
        await self._gateway.barrier(request.consistency, context)
        return self._reads.list_locks(request, page_size(request.page_size))

    async def GetWaitGraph(self, request: pb.GetWaitGraphRequest, context: Context) -> pb.GetWaitGraphResponse:  # noqa: N802
        """Who waits for whom."""
        await self._gateway.barrier(request.consistency, context)
        return self._reads.wait_graph()
