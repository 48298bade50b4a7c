"""The ledger: a bank whose money neither comes nor goes, and pending transfers that end once."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, Final

import grpc.aio

from chaos.checkers import linearizable, totals
from chaos.checkers.totals import Books
from chaos.checkers.verdict import Finding, Judgement, judge
from chaos.history import History, Op, Outcome
from chaos.models.bank import Bank
from chaos.models.two_phase import TwoPhase
from chaos.workloads.base import TIMEOUT, Context, Process, Workload
from ledger.v1 import ledger_pb2, ledger_pb2_grpc
from lockd.v1 import common_pb2
from lockd_client import Account, AccountFlags, Client, CreateTransferResult, Transfer, TransferFlags

ACCOUNTS: Final = 6
OPENING: Final = 100
LEDGER: Final = 700
SOURCE: Final = 1_000
"""The account that the opening balances come from."""
FIRST_TRANSFER: Final = 1 << 20
_BATCH: Final = 4_000
_ACCEPTED: Final = ("created", "exceeds_credits")


def status_word(results: Sequence[CreateTransferResult]) -> str:
    """The one status, as the contract writes it."""
    return results[0].status.name.lower()


async def create(client: Client, transfer: Transfer) -> str:
    """Create one transfer; its status. Raises LockdError."""
    return status_word(await client.ledger.create_transfers([transfer], timeout=TIMEOUT))


async def found(client: Client, ids: Sequence[int]) -> dict[str, int]:
    """How often each of these transfers is there: the ledger gives each id once."""
    there: dict[str, int] = {}
    for at in range(0, len(ids), _BATCH):
        for transfer in await client.ledger.lookup_transfers(ids[at : at + _BATCH], timeout=10.0):
            there[str(transfer.id)] = there.get(str(transfer.id), 0) + 1
    return there


async def books(client: Client, ids: Sequence[int]) -> dict[str, list[int]]:
    """The four balances of each account."""
    accounts = await client.ledger.lookup_accounts(ids, timeout=10.0)
    return {str(a.id): [a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted] for a in accounts}


class BankWorkload(Workload):
    """Transfers among accounts that must not be overdrawn; balances are read from every node."""

    name = "bank"
    about = (
        "ledger transfers among accounts that must not be overdrawn: totals in every read of every node, each transfer once; linearizable"
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._ids = itertools.count(FIRST_TRANSFER)

    async def setup(self) -> None:
        """Accounts and their opening balances."""
        flags = AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS
        accounts = [Account(id=i, ledger=LEDGER, code=1, flags=flags) for i in range(1, ACCOUNTS + 1)]
        accounts.append(Account(id=SOURCE, ledger=LEDGER, code=1))
        funds = [
            Transfer(id=i, debit_account_id=SOURCE, credit_account_id=i, amount=OPENING, ledger=LEDGER, code=1)
            for i in range(1, ACCOUNTS + 1)
        ]

        async def make(client: Client) -> None:
            await client.ledger.create_accounts(accounts)
            await client.ledger.create_transfers(funds)

        await self.insist(make)

    def clients(self) -> list[Awaitable[None]]:
        """Those of the SDK, and one plain gRPC reader a node."""
        readers = [self._reader(Process(self.context, f"reader-{n}"), n) for n in self.context.cluster.names]
        return [*super().clients(), *readers]

    async def client(self, process: Process) -> None:
        """Transfers and reads."""
        while (client := await process.client()) is not None and not self.context.over():
            if process.chance.random() < 0.2:
                ids = range(1, ACCOUNTS + 1)
                await process.call(
                    "read", "bank", None, partial(client.ledger.lookup_accounts, ids, timeout=TIMEOUT), show=_balances, look=True
                )
            else:
                number = next(self._ids)
                source, target = process.chance.sample(range(1, ACCOUNTS + 1), 2)
                amount = process.chance.randrange(1, 60)
                transfer = Transfer(id=number, debit_account_id=source, credit_account_id=target, amount=amount, ledger=LEDGER, code=1)
                args = [str(source), str(target), amount]
                await process.call("transfer", str(number), args, partial(create, client, transfer), show=_moved)
            await process.think()

    async def _reader(self, process: Process, node: str) -> None:
        """All balances as one node sees them: now, or as old as they may be."""
        async with grpc.aio.insecure_channel(
            self.context.cluster.endpoints[node], options=[("grpc.max_reconnect_backoff_ms", 300)]
        ) as channel:
            stub: Any = ledger_pb2_grpc.LedgerServiceStub(channel)
            while not self.context.over():
                strong = process.chance.random() < 0.5
                ids = [ledger_pb2.Uint128(low=i) for i in range(1, ACCOUNTS + 1)]
                how = common_pb2.CONSISTENCY_LINEARIZABLE if strong else common_pb2.CONSISTENCY_EVENTUAL
                request = ledger_pb2.LookupAccountsRequest(ids=ids, consistency=how)
                kind = "read" if strong else "glance"
                await process.call(kind, "bank", None, partial(_lookup, stub, request), show=_stub_balances, look=True, node=node)
                await process.think(0.05)

    async def final(self) -> None:
        """Which transfers are there, and what the balances are."""
        process = Process(self.context, "final")
        ids = list(range(FIRST_TRANSFER, next(self._ids)))
        everyone = [*range(1, ACCOUNTS + 1), SOURCE]
        await process.call("final_transfers", "bank", None, partial(self.insist, partial(found, ids=ids)), look=True, limit=60.0)
        await process.call("final_books", "bank", None, partial(self.insist, partial(books, ids=everyone)), look=True, limit=30.0)

    @staticmethod
    def judge(history: History) -> list[Judgement]:
        """Totals, once each, books, linearizable."""
        ops = history.ops
        opening = {str(i): OPENING for i in range(1, ACCOUNTS + 1)}
        reads = [op for op in ops if op.kind in ("read", "glance") and op.ok]
        seen = [Op(o.id, o.process, "read", o.key, o.args, o.result, o.outcome, o.invoked, o.completed) for o in reads]
        judgements = [
            # An old read may be from before the opening balances.
            totals.check_totals([o for o in seen if o.result], ACCOUNTS * OPENING),
            totals.enough(ops, ("transfer", "read", "glance"), 5),
            strange(ops, ("transfer",)),
            linearizable.check([o for o in ops if o.kind in ("transfer", "read")], Bank(opening), by_key=False),
        ]
        last = {op.kind: op.result for op in ops if op.kind.startswith("final") and op.ok}
        if len(last) == 2:
            judgements.append(totals.check_applied(ops, last["final_transfers"]))
            judgements.append(totals.check_books({n: Books(*b) for n, b in last["final_books"].items()}))
            moved = [(o.args[0], o.args[1], o.args[2]) for o in ops if o.kind == "transfer" and o.key in last["final_transfers"]]
            final = {n: b[3] - b[1] for n, b in last["final_books"].items() if n in opening}
            judgements.append(totals.check_balances(opening, moved, final))
        return judgements


def _balances(accounts: Sequence[Account]) -> dict[str, int]:
    return {str(a.id): a.credits_posted - a.debits_posted for a in accounts}


def _stub_balances(answer: ledger_pb2.LookupAccountsResponse) -> dict[str, int]:
    return {str(a.id.low): a.credits_posted.low - a.debits_posted.low for a in answer.accounts}


async def _lookup(stub: Any, request: ledger_pb2.LookupAccountsRequest) -> ledger_pb2.LookupAccountsResponse:
    answer: ledger_pb2.LookupAccountsResponse = await stub.LookupAccounts(request, timeout=TIMEOUT)
    return answer


def _moved(status: str) -> bool | str:
    return {"created": True, "exceeds_credits": False}.get(status, status)


def strange(ops: Sequence[Op], kinds: tuple[str, ...]) -> Judgement:
    """Answers that the contract does not give here, and failures that are nobody's fault."""
    findings = [
        Finding("strange answer", f"{o.text()}", (o.id,)) for o in ops if o.kind in kinds and o.ok and not isinstance(o.result, bool)
    ]
    return judge("answers", findings[:20])


class TwoPhaseWorkload(Workload):
    """Pending transfers that several clients post and void at the same time, while they expire."""

    name = "two-phase"
    about = "pending transfers with timeouts, posted and voided by several clients at once: each ends once, never early; linearizable"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._ids = itertools.count(FIRST_TRANSFER)
        self._recent: deque[tuple[int, int]] = deque(maxlen=8)

    async def setup(self) -> None:
        """Two accounts without limits."""
        accounts = [Account(id=i, ledger=LEDGER, code=1) for i in (1, 2)]

        async def make(client: Client) -> None:
            await client.ledger.create_accounts(accounts)

        await self.insist(make)

    async def client(self, process: Process) -> None:
        """Reserve, post, void."""
        while (client := await process.client()) is not None and not self.context.over():
            number = next(self._ids)
            if process.chance.random() < 0.35 or not self._recent:
                await self._pend(process, client, number)
            else:
                pending, amount = process.chance.choice(self._recent)
                post = process.chance.random() < 0.6
                part = process.chance.randrange(1, amount + 2) if post else 0
                flag = TransferFlags.POST_PENDING_TRANSFER if post else TransferFlags.VOID_PENDING_TRANSFER
                transfer = Transfer(id=number, amount=part, pending_id=pending, flags=flag)
                kind, args = ("post", part) if post else ("void", None)
                await process.call(kind, str(pending), args, partial(create, client, transfer), show=str)
            await process.think(0.05)

    async def _pend(self, process: Process, client: Client, number: int) -> None:
        amount, timeout = process.chance.randrange(1, 100), process.chance.choice((0, 1, 1, 2))
        transfer = Transfer(
            id=number,
            debit_account_id=1,
            credit_account_id=2,
            amount=amount,
            ledger=LEDGER,
            code=1,
            flags=TransferFlags.PENDING,
            timeout=timeout,
        )
        recorder = self.context.recorder
        begun = recorder.clock()
        self._recent.append((number, amount))
        outcome, _ = await process.call("pend", str(number), amount, partial(create, client, transfer), show=str)
        if timeout and outcome is not Outcome.FAIL:
            # Log time follows the monotonic clock, but takes over the wall clock of each new leader.
            due = begun if self.context.moving_clocks else begun + timeout * 1_000_000_000 - 20_000_000
            recorder.complete(recorder.invoke(f"time-{number}", "~expire", str(number), timeout, at=due), Outcome.UNKNOWN)

    async def final(self) -> None:
        """Posts and voids once more, when everything must have ended or be pending for ever, and the books."""
        await asyncio.sleep(2.5)
        process = Process(self.context, "final")
        pends = list(self._recent)
        for pending, _ in pends:
            transfer = Transfer(id=next(self._ids), pending_id=pending, flags=TransferFlags.VOID_PENDING_TRANSFER)
            await process.call("void", str(pending), None, partial(self.insist, partial(create, transfer=transfer)), show=str, limit=30.0)
        everyone = (1, 2)
        await process.call("final_books", "books", None, partial(self.insist, partial(books, ids=everyone)), look=True, limit=30.0)

    @staticmethod
    def judge(history: History) -> list[Judgement]:
        """Linearizable, each pending transfer by itself; books."""
        ops = [o for o in history.ops if o.kind in ("pend", "post", "void", "~expire")]
        judgements = [linearizable.check(ops, TwoPhase()), totals.enough(ops, ("pend", "post", "void"), 5)]
        for op in history.of("final_books"):
            if op.ok:
                judgements.append(totals.check_books({n: Books(*b) for n, b in op.result.items()}))
                judgements.append(_posted(ops, op))
        return judgements


def _posted(ops: Sequence[Op], final: Op) -> Judgement:
    """What was posted in the end: every acknowledged post, and of the unknown ones some."""
    sure = sum(o.args for o in ops if o.kind == "post" and o.ok and o.result == "created")
    more = sum(o.args for o in ops if o.kind == "post" and o.unknown)
    posted = final.result["1"][1]
    fine = sure <= posted <= sure + more
    finding = Finding("posted", f"{posted} are posted; the acknowledged posts make {sure}, unknown ones up to {more} more", (final.id,))
    return judge("posted", [] if fine else [finding], posted=posted)
