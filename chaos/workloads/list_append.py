"""Transactions over lists in rows: optimistic reads, and one commit that compares versions."""

from __future__ import annotations

import itertools
import json
from functools import partial
from typing import Any, Final

from chaos.checkers import list_append, totals
from chaos.checkers.verdict import Judgement
from chaos.history import History, Outcome
from chaos.workloads.base import TIMEOUT, Context, Process, Workload
from lockd_client import Aborted, Client, Row, TransactionResult

KEYS: Final = 3
_EPOCH: Final = 150
"""Appends after which new lists are begun, so that lists stay short."""

Steps = list[list[Any]]


class ConflictError(Aborted):
    """A compare of the commit did not hold: nothing was applied."""

    default_reason = "CONFLICT"


class ListAppendWorkload(Workload):
    """Strictly serializable transactions."""

    name = "list-append"
    about = "transactions that read and append to lists in rows: no cycle of Adya's, strictly serializable"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._values = itertools.count(1)
        self._appended = 0

    async def client(self, process: Process) -> None:
        """One transaction after the other."""
        while (client := await process.client()) is not None and not self.context.over():
            epoch = self._appended // _EPOCH
            steps: Steps = []
            writes = process.chance.random() < 0.7
            for _ in range(process.chance.randrange(1, 5)):
                key = f"list/{epoch}/{process.chance.randrange(KEYS)}"
                if writes and process.chance.random() < 0.5:
                    steps.append(["append", key, next(self._values)])
                    self._appended += 1
                else:
                    steps.append(["r", key, None])
            call = partial(_update, client, steps) if any(s[0] == "append" for s in steps) else partial(_read, client, steps)
            await process.call("txn", "", steps, call, expected=_conflict)
            await process.think()

    async def final(self) -> None:
        """All lists in the end."""
        process = Process(self.context, "final")
        steps: Steps = [["r", f"list/{e}/{k}", None] for e in range(self._appended // _EPOCH + 1) for k in range(KEYS)]
        await process.call("txn", "", steps, partial(self.insist, partial(_read, steps=steps)), look=True, limit=30.0)

    @staticmethod
    def judge(history: History) -> list[Judgement]:
        """No anomaly."""
        return [list_append.check(history.ops), totals.enough(history.ops, ("txn",), 20)]


def _conflict(error: Exception) -> tuple[Outcome, Any] | None:
    return (Outcome.FAIL, "CONFLICT") if isinstance(error, ConflictError) else None


def _list(row: Row | None) -> list[int]:
    return list(json.loads(row.value)) if row is not None else []


async def _read(client: Client, steps: Steps) -> Steps:
    """All reads in one entry of the log."""
    transaction = client.transact()
    for _, key, _ in steps:
        transaction.read(key)
    result = await transaction.commit(timeout=TIMEOUT)
    return [["r", key, _list(each.row)] for (_, key, _), each in zip(steps, result.results, strict=True)]


async def _update(client: Client, steps: Steps) -> Steps:
    """Read rows, then write them in one entry of the log, if none has changed. Raises ConflictError if one has."""
    rows: dict[str, tuple[int, list[int]]] = {}
    for _, key, _ in steps:
        if key not in rows:
            row = await client.rows.get(key, timeout=TIMEOUT / 4)
            rows[key] = (row.version if row is not None else 0, _list(row))
    transaction = client.transact()
    for key, (version, _) in rows.items():
        transaction.if_version(key, "==", version)
    lists = {key: list(values) for key, (_, values) in rows.items()}
    done: Steps = []
    for kind, key, value in steps:
        if kind == "append":
            lists[key].append(value)
            done.append(["append", key, value])
        else:
            done.append(["r", key, list(lists[key])])
    for key in sorted({key for kind, key, _ in steps if kind == "append"}):
        transaction.put(key, json.dumps(lists[key]).encode())
    result: TransactionResult = await transaction.commit(timeout=TIMEOUT)
    if not result.succeeded:
        raise ConflictError("a row has changed since it was read")
    return done
