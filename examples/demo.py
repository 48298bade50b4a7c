"""The demo: a bank on a three-node cluster, one node killed on the way (`make demo`).

Three nodes run as three processes with their data in .demo/. The accounts and transfers of examples/data/transfers.csv go in
through the public client: the transfers are dealt to several clients that work at the same time. Half-way the leader is killed
(-9), and started again. At the end everything is checked against the file, read once more and without lockd's own reader: on
each node, every acknowledged transfer must be there once, as the file says, and nothing else. The exit code is 0 only then.
"""

from __future__ import annotations

import asyncio
import csv
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import lockd_client
from ledger.v1 import ledger_pb2, ledger_pb2_grpc
from lockd_client import CreateTransferStatus, Transfer
from lockd_client.csv_import import Batch, Line, batches, read_csv
from lockd_client.testing import LocalCluster, NodeProcess

CSV = Path(__file__).parent / "data" / "transfers.csv"
DIRECTORY = Path(".demo")
CLIENTS = 8
TRANSFERS_PER_BATCH = 25
LOOKUP = 2_000
TIMEOUT = 60.0


@dataclass
class Bank:
    """What the clients did, and what they were told."""

    bad: list[Line] = field(default_factory=list)
    accounts: list[int] = field(default_factory=list)
    posted: dict[int, int] = field(default_factory=dict)
    """Timestamp of each acknowledged transfer, by id."""
    refused: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    sent: int = 0
    seconds: float = 0.0


class CheckError(Exception):
    """What came out is not what went in."""


def read_file() -> tuple[Bank, list[Batch], list[Batch]]:
    """The file's accounts and transfers in batches, and its bad lines."""
    bank = Bank()
    accounts: list[Batch] = []
    transfers: list[Batch] = []
    lines: list[Line] = []
    for line in read_csv(CSV):
        (lines if line.value is not None else bank.bad).append(line)
    declared = [line for line in lines if not isinstance(line.value, Transfer)]
    moving = [line for line in lines if isinstance(line.value, Transfer)]
    for into, source, size in ((accounts, declared, 1_000), (transfers, moving, TRANSFERS_PER_BATCH)):
        into += [batch for batch in batches(source, size) if isinstance(batch, Batch)]
    return bank, accounts, transfers


async def open_accounts(endpoints: str, bank: Bank, work: Iterable[Batch]) -> None:
    """Create the accounts, each of which must be new."""
    async with lockd_client.connect(endpoints, owner="demo", timeout=TIMEOUT) as client:
        for batch in work:
            results = await client.ledger.create_accounts(batch.accounts)
            for account, result in zip(batch.accounts, results, strict=True):
                if not result.ok:
                    raise CheckError(f"account {account.id} was refused: {result.status.name}")
                bank.accounts.append(account.id)


async def run_teller(number: int, endpoints: str, bank: Bank, work: asyncio.Queue[Batch], progress: asyncio.Event, half: int) -> None:
    """One client: posts batches until none is left."""
    async with lockd_client.connect(endpoints, owner=f"teller-{number}", timeout=TIMEOUT) as client:
        while not work.empty():
            batch = work.get_nowait()
            results = await client.ledger.create_transfers(batch.transfers)
            for transfer, result in zip(batch.transfers, results, strict=True):
                bank.sent += 1
                if result.status is CreateTransferStatus.CREATED:
                    if transfer.id in bank.posted:
                        raise CheckError(f"transfer {transfer.id} was created twice")
                    bank.posted[transfer.id] = result.timestamp
                elif result.status is CreateTransferStatus.EXISTS:
                    bank.retries += 1
                else:
                    bank.refused[result.status.name.lower()] += 1
            if bank.sent >= half:
                progress.set()


async def run_bank(cluster: LocalCluster, bank: Bank, transfers: Sequence[Batch], console: Console) -> tuple[str, str]:
    """All tellers at once; the leader is killed half-way. Returns who led before and after."""
    work: asyncio.Queue[Batch] = asyncio.Queue()
    for batch in transfers:
        work.put_nowait(batch)
    total = sum(len(batch.lines) for batch in transfers)
    half = asyncio.Event()
    bars = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*bars, console=console) as shown:
        task = shown.add_task("transfers", total=total)
        began = time.monotonic()
        tellers = [run_teller(n, cluster.endpoints, bank, work, half, total // 2) for n in range(CLIENTS)]
        running = asyncio.gather(*tellers)
        failing = asyncio.create_task(kill_leader(cluster, half, shown))
        while not running.done():
            shown.update(task, completed=bank.sent)
            await asyncio.wait((running,), timeout=0.1)
        await running
        bank.seconds = time.monotonic() - began
        shown.update(task, completed=bank.sent)
        return await failing


async def kill_leader(cluster: LocalCluster, half: asyncio.Event, shown: Progress) -> tuple[str, str]:
    """Wait for the half, kill -9 the leader, wait for the next one, start the killed node again."""
    await half.wait()
    leader = await asyncio.to_thread(cluster.wait_leader)
    await asyncio.to_thread(leader.kill)
    shown.console.print(f"  killed the leader, {leader.name} (kill -9)")
    successor = await asyncio.to_thread(cluster.wait_leader)
    shown.console.print(f"  {successor.name} leads now; starting {leader.name} again")
    leader.start()
    return leader.name, successor.name


def recompute(posted: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Debits and credits of each account, from the file alone, for the transfers that were acknowledged."""
    wanted = set(posted)
    debits: defaultdict[int, int] = defaultdict(int)
    credit: defaultdict[int, int] = defaultdict(int)
    with CSV.open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file, quoting=csv.QUOTE_NONE):
            # A retry of a transfer stands in the file a second time: it counts once.
            if len(row) == 8 and row[0] == "transfer" and row[1].isdecimal() and int(row[1]) in wanted:
                wanted.discard(int(row[1]))
                debits[int(row[2])] += int(row[4])
                credit[int(row[3])] += int(row[4])
    if wanted:
        raise CheckError(f"acknowledged, and not in the file: {sorted(wanted)[:5]}")
    return {account: (debits[account], credit[account]) for account in debits.keys() | credit.keys()}


def number(value: ledger_pb2.Uint128) -> int:
    """A 128-bit number of the wire."""
    return value.high << 64 | value.low


def check_node(node: NodeProcess, bank: Bank, expected: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Compare what this node says with the file, over plain gRPC. Returns the sums of debits and credits."""
    debits = credit = found = 0
    with grpc.insecure_channel(node.address) as channel:
        ledger = ledger_pb2_grpc.LedgerServiceStub(channel)
        for start in range(0, len(bank.accounts), LOOKUP):
            ids = [ledger_pb2.Uint128(low=i & 2**64 - 1, high=i >> 64) for i in bank.accounts[start : start + LOOKUP]]
            for account in ledger.LookupAccounts(ledger_pb2.LookupAccountsRequest(ids=ids), timeout=TIMEOUT).accounts:
                found += 1
                balance = number(account.debits_posted), number(account.credits_posted)
                if balance != expected.get(number(account.id), (0, 0)):
                    raise CheckError(
                        f"{node.name}: account {number(account.id)} has {balance}, the file says {expected.get(number(account.id))}"
                    )
                debits, credit = debits + balance[0], credit + balance[1]
        if found != len(bank.accounts):
            raise CheckError(f"{node.name}: {found} of {len(bank.accounts)} accounts")
        seen: dict[int, int] = {}
        after = 0
        while True:
            query = ledger_pb2.QueryFilter(timestamp_min=after, limit=LOOKUP)
            page = ledger.QueryTransfers(query, timeout=TIMEOUT).transfers
            for transfer in page:
                if number(transfer.id) in seen:
                    raise CheckError(f"{node.name}: transfer {number(transfer.id)} is there twice")
                seen[number(transfer.id)] = transfer.timestamp
            if len(page) < LOOKUP:
                break
            after = page[-1].timestamp + 1
    if seen != bank.posted:
        lost, extra = bank.posted.keys() - seen.keys(), seen.keys() - bank.posted.keys()
        raise CheckError(f"{node.name}: {len(lost)} acknowledged transfers are missing, {len(extra)} were never acknowledged")
    return debits, credit


async def wait_caught_up(cluster: LocalCluster) -> bytes:
    """Wait until all nodes have applied the same; the hash of their state, which must be one."""
    async with lockd_client.connect(cluster.endpoints, owner="demo", timeout=TIMEOUT) as client:
        index = (await client.cluster.status(cluster.wait_leader().address)).commit_index
        async with asyncio.timeout(TIMEOUT):
            while True:
                found = [await client.cluster.state_hash(node.address, at_least_index=index) for node in cluster.nodes]
                if len({state.applied_index for state in found}) == 1:
                    break
                await asyncio.sleep(0.1)
    hashes = {state.hash for state in found}
    if len(hashes) != 1:
        raise CheckError(f"the nodes' states differ at index {found[0].applied_index}")
    return found[0].hash


def show(console: Console, bank: Bank, sums: tuple[int, int], leaders: tuple[str, str], state: bytes) -> None:
    """The short table at the end."""
    table = Table(title="A bank on three nodes", show_header=False)
    table.add_row("accounts", f"{len(bank.accounts):,}")
    table.add_row("transfers posted", f"{len(bank.posted):,}, each once, on all three nodes")
    table.add_row("retries in the file", f"{bank.retries:,} (answered `exists`, not posted again)")
    for reason, count in bank.refused.most_common():
        table.add_row(f"refused: {reason}", f"{count:,}")
    table.add_row("bad lines", f"{len(bank.bad):,}, for example:")
    for line in bank.bad[:3]:
        if line.problem is not None:
            table.add_row("", f"line {line.number}: {line.problem.field}: {line.problem.reason}")
    table.add_row("sum of debits = sum of credits", f"{sums[0]:,} = {sums[1]:,} minor units")
    table.add_row("transfers per second", f"{bank.sent / bank.seconds:,.0f}, with a leader killed on the way")
    table.add_row("leader before, after", " -> ".join(leaders))
    table.add_row("state hash of all nodes", state.hex()[:16])
    table.add_row("data", str(DIRECTORY.resolve()))
    console.print(table)
    bin_directory = Path(sys.executable).parent
    console.print(f"Try next:  {bin_directory}/lockd dev          one node on this machine")
    console.print(f"           {bin_directory}/lockctl --help     locks, transfers, imports from the command line")
    console.print("           examples/fenced_writer.py      a paused client is refused")


async def run(console: Console) -> None:
    """All of it. Raises CheckError."""
    bank, accounts, transfers = read_file()
    lines = len(bank.accounts) + sum(len(b.lines) for b in (*accounts, *transfers)) + len(bank.bad)
    console.print(f"read {CSV.name}: {lines:,} lines, {len(bank.bad)} of them bad")
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    cluster = LocalCluster(3, DIRECTORY, name="demo")
    with console.status("starting three nodes ..."):
        cluster.start()
    try:
        console.print(f"three nodes serve at {cluster.endpoints}; {cluster.wait_leader().name} leads")
        await open_accounts(cluster.endpoints, bank, accounts)
        leaders = await run_bank(cluster, bank, transfers, console)
        with console.status("checking every node against the file ..."):
            state = await wait_caught_up(cluster)
            expected = recompute(bank.posted)
            sums = {check_node(node, bank, expected) for node in cluster.nodes}
        ((debits, credit),) = sums
        if debits != credit:
            raise CheckError(f"debits {debits} are not credits {credit}")
        show(console, bank, (debits, credit), leaders, state)
    finally:
        cluster.stop()


def main() -> int:
    """Run the demo; 0 if everything that was acknowledged is there once, on all three nodes."""
    console = Console()
    try:
        asyncio.run(run(console))
    except (CheckError, lockd_client.LockdError) as error:
        console.print(f"[red]failed:[/red] {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
