"""Rows as registers: reads, writes, compare-and-set, from every node."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable
from functools import partial
from typing import Any

import grpc.aio

from chaos.checkers import linearizable, totals
from chaos.checkers.verdict import Judgement
from chaos.history import History, Outcome
from chaos.models.register import Register
from chaos.workloads.base import TIMEOUT, Context, Process, Workload
from lockd.v1 import common_pb2, row_pb2, row_pb2_grpc
from lockd_client import Client, Row, TransactionResult

KEYS = 4


def _number(row: Row | None) -> int | None:
    return int(row.value) if row is not None else None


def _succeeded(result: TransactionResult) -> bool:
    return result.succeeded


async def _row(key: str, client: Client) -> Row | None:
    return await client.rows.get(key)


async def _get(stub: Any, request: row_pb2.GetRowRequest) -> row_pb2.GetRowResponse:
    answer: row_pb2.GetRowResponse = await stub.GetRow(request, timeout=TIMEOUT)
    return answer


class RegisterWorkload(Workload):
    """Each row is a register, judged by itself."""

    name = "register"
    about = "rows: linearizable reads through any node, writes, compare-and-set; linearizable, each row by itself"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._values = itertools.count(1)
        self._last: dict[str, int | None] = {}

    def clients(self) -> list[Awaitable[None]]:
        """Those of the SDK, and one plain gRPC reader a node."""
        readers = [self._reader(Process(self.context, f"reader-{n}"), n) for n in self.context.cluster.names]
        return [*super().clients(), *readers]

    async def client(self, process: Process) -> None:
        """Reads and writes by the SDK."""
        while (client := await process.client()) is not None and not self.context.over():
            key = f"register/{process.chance.randrange(KEYS)}"
            kind = process.chance.choice(("read", "write", "write", "cas", "cas"))
            if kind == "read":
                outcome, row = await process.call("read", key, None, partial(client.rows.get, key), show=_number, look=True)
                if outcome is Outcome.OK:
                    self._last[key] = _number(row)
            elif kind == "write":
                value = next(self._values)
                await process.call("write", key, value, partial(client.rows.put, key, b"%d" % value), show=lambda _version: None)
            else:
                await self._cas(process, client, key)
            await process.think()

    async def _cas(self, process: Process, client: Client, key: str) -> None:
        old, new = self._last.get(key), next(self._values)
        transaction = client.transact()
        if old is None:
            transaction.if_missing(key)
        else:
            transaction.if_value(key, "==", b"%d" % old)
        transaction.put(key, b"%d" % new).otherwise().read(key)
        outcome, result = await process.call("cas", key, [old, new], transaction.commit, show=_succeeded)
        if outcome is Outcome.OK and result is not None:
            self._last[key] = new if result.succeeded else _number(result.results[0].row)

    async def _reader(self, process: Process, node: str) -> None:
        """Linearizable reads of one node, whatever its role."""
        async with grpc.aio.insecure_channel(
            self.context.cluster.endpoints[node], options=[("grpc.max_reconnect_backoff_ms", 300)]
        ) as channel:
            stub = row_pb2_grpc.RowServiceStub(channel)
            while not self.context.over():
                key = f"register/{process.chance.randrange(KEYS)}"
                request = row_pb2.GetRowRequest(key=key, consistency=common_pb2.CONSISTENCY_LINEARIZABLE)
                await process.call(
                    "read",
                    key,
                    None,
                    partial(_get, stub, request),
                    show=lambda m: int(m.row.value) if m.HasField("row") else None,
                    look=True,
                    node=node,
                )
                await process.think(0.05)

    async def final(self) -> None:
        """What is there in the end."""
        process = Process(self.context, "final")
        for key in (f"register/{i}" for i in range(KEYS)):
            await process.call("read", key, None, partial(self.insist, partial(_row, key)), show=_number, look=True, limit=30.0)

    @staticmethod
    def judge(history: History) -> list[Judgement]:
        """Linearizable."""
        return [linearizable.check(history.ops, Register()), totals.enough(history.ops, ("read", "write", "cas"), 5)]
