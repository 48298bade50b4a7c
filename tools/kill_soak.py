"""kill -9 again and again, under load, and then count: is everything that was acknowledged there, once, on every node?

    python tools/kill_soak.py --kills 200 --nodes 3,5 --report docs/reports/kill-soak.md

Real `lockd serve` processes with real files, small snapshots so that these are hit too, and clients of the SDK that post transfers with ids
that never repeat. A strike kills one node, two, most or all of them at once, at a random moment, sometimes while they are still starting;
they are started again a little later. `--kills` strikes are dealt to the sizes in equal parts. Every so often, and at the end, the load
pauses and every node is asked for all of its transfers and balances. Exit code 1, and the directory kept, if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import grpc

import lockd_client
from ledger.v1 import ledger_pb2, ledger_pb2_grpc
from lockd_client import Account, CreateTransferStatus, Transfer
from lockd_client.testing import LocalCluster, NodeProcess

ACCOUNTS = 20
BATCH = 10
CLIENTS = 4
PAUSE = 0.02
PAGE = 2_000
PATIENCE = 90.0
"""Seconds without an acknowledged write, with all nodes running, after which the cluster counts as stuck."""
CONFIG = 'snapshot_log_bytes = 200000\nkeep_log_bytes = 50000\nlog_level = "warning"\n'


class SoakError(Exception):
    """A promise was broken."""


@dataclass(slots=True)
class Books:
    """What the clients sent and were told."""

    sent: dict[int, Transfer] = field(default_factory=dict)
    acknowledged: dict[int, int] = field(default_factory=dict)
    """Timestamp by id."""
    unknown: int = 0
    errors: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class View:
    """What one node says it has: transfers in order, and (debits, credits) of each account."""

    node: str
    transfers: Sequence[tuple[int, int]]
    """(id, timestamp)"""
    balances: Mapping[int, tuple[int, int]]
    state: bytes


def judge(books: Books, views: Sequence[View]) -> list[str]:
    """Everything that is wrong, in words; nothing, if all is well."""
    wrong: list[str] = []
    for view in views:
        counts = Counter(number for number, _ in view.transfers)
        there = dict(view.transfers)
        twice = [number for number, count in counts.items() if count > 1]
        lost = [number for number in books.acknowledged if number not in there]
        other = [number for number, stamp in books.acknowledged.items() if there.get(number, stamp) != stamp]
        strange = [number for number in there if number not in books.sent]
        for what, found in (
            ("acknowledged transfers are missing", lost),
            ("transfers are there twice", twice),
            ("transfers have another timestamp than was acknowledged", other),
            ("transfers were never sent", strange),
        ):
            if found:
                wrong.append(f"{view.node}: {len(found)} {what}: {sorted(found)[:5]}")
        debits: defaultdict[int, int] = defaultdict(int)
        credit: defaultdict[int, int] = defaultdict(int)
        for number in there:
            if number in books.sent:
                transfer = books.sent[number]
                debits[transfer.debit_account_id] += transfer.amount
                credit[transfer.credit_account_id] += transfer.amount
        for account in sorted(view.balances.keys() | debits.keys() | credit.keys()):
            said, due = view.balances.get(account), (debits[account], credit[account])
            if said != due:
                wrong.append(f"{view.node}: account {account} has {said}, its transfers make {due}: something was applied twice or in part")
    if len({view.state for view in views}) > 1:
        wrong.append("the states differ: " + ", ".join(f"{view.node} {view.state.hex()[:12]}" for view in views))
    if len({tuple(view.transfers) for view in views}) > 1:
        wrong.append("the nodes have different transfers, or in different orders")
    return wrong


# --- load ------------------------------------------------------------------------------------------------------------------------------


class Load:
    """Clients that post transfers until told to stop."""

    def __init__(self, endpoints: str, seed: int) -> None:
        self.books = Books()
        self.running = asyncio.Event()
        self.stopping = False
        self.wrong: list[str] = []
        """Answers that must not be."""
        self._busy = 0
        self._endpoints = endpoints
        self._ids: Iterator[int] = itertools.count(1)
        self._rng = random.Random(seed)  # noqa: S311 - a schedule, no secret
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open the accounts, and begin."""
        async with lockd_client.connect(self._endpoints, owner="soak", timeout=PATIENCE) as client:
            results = await client.ledger.create_accounts([Account(id=n, ledger=1, code=1) for n in range(1, ACCOUNTS + 1)])
            if not all(result.ok for result in results):
                raise SoakError("the accounts could not be created")
        self.running.set()
        self._tasks = [asyncio.create_task(self._run()) for _ in range(CLIENTS)]

    async def pause(self) -> None:
        """Wait until nothing is under way."""
        self.running.clear()
        async with asyncio.timeout(2 * PATIENCE):
            while self._busy:  # noqa: ASYNC110 - a matter of milliseconds, and nothing else is to be done
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End the clients."""
        self.stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        while not self.stopping:
            try:
                async with lockd_client.connect(self._endpoints, owner="soak", timeout=PATIENCE) as client:
                    while True:
                        await self.running.wait()
                        await self._post(client)
                        await asyncio.sleep(PAUSE)
            except lockd_client.LockdError as error:
                self.books.errors[type(error).__name__] += 1
                await asyncio.sleep(0.2)

    async def _post(self, client: lockd_client.Client) -> None:
        books = self.books
        batch = []
        for _ in range(BATCH):
            debit, credit = self._rng.sample(range(1, ACCOUNTS + 1), 2)
            batch.append(Transfer(next(self._ids), debit, credit, self._rng.randrange(1, 1000), 1, 1))
        books.sent.update((transfer.id, transfer) for transfer in batch)
        self._busy += 1
        try:
            results = await client.ledger.create_transfers(batch)
        except lockd_client.LockdError:
            books.unknown += len(batch)
            raise
        finally:
            self._busy -= 1
        for transfer, result in zip(batch, results, strict=True):
            if result.status is not CreateTransferStatus.CREATED:
                # The id is new and was sent once by us: a retry inside the SDK must get the first answer.
                self.wrong.append(f"transfer {transfer.id}, sent once, was answered {result.status.name}")
                continue
            books.acknowledged[transfer.id] = result.timestamp


# --- checking --------------------------------------------------------------------------------------------------------------------------


def _number(value: ledger_pb2.Uint128) -> int:
    return int(value.high << 64 | value.low)


def look(node: NodeProcess, state: bytes) -> View:
    """All that this node has."""
    with grpc.insecure_channel(node.address) as channel:
        ledger = ledger_pb2_grpc.LedgerServiceStub(channel)
        ids = [ledger_pb2.Uint128(low=n) for n in range(1, ACCOUNTS + 1)]
        accounts = ledger.LookupAccounts(ledger_pb2.LookupAccountsRequest(ids=ids), timeout=PATIENCE).accounts
        balances = {_number(a.id): (_number(a.debits_posted), _number(a.credits_posted)) for a in accounts}
        found: list[tuple[int, int]] = []
        after = 0
        while True:
            page = ledger.QueryTransfers(ledger_pb2.QueryFilter(timestamp_min=after, limit=PAGE), timeout=PATIENCE).transfers
            found += [(_number(t.id), t.timestamp) for t in page]
            if len(page) < PAGE:
                return View(node.name, found, balances, state)
            after = page[-1].timestamp + 1


async def look_everywhere(cluster: LocalCluster) -> list[View]:
    """Wait until all nodes have applied the same; what each of them has then."""
    await asyncio.to_thread(cluster.wait_healthy, PATIENCE)
    async with lockd_client.connect(cluster.endpoints, owner="soak", timeout=PATIENCE) as client, asyncio.timeout(2 * PATIENCE):
        while True:
            found = [await client.cluster.state_hash(node.address) for node in cluster.nodes]
            if len({state.applied_index for state in found}) == 1:
                return [await asyncio.to_thread(look, node, state.hash) for node, state in zip(cluster.nodes, found, strict=True)]
            await asyncio.sleep(0.1)


async def check(cluster: LocalCluster, load: Load) -> None:
    """Pause the load, look at every node, and judge. Raises SoakError."""
    await load.pause()
    wrong = [*load.wrong, *judge(load.books, await look_everywhere(cluster))]
    if wrong:
        raise SoakError("\n".join(wrong))
    load.running.set()


# --- strikes ---------------------------------------------------------------------------------------------------------------------------


def choose(rng: random.Random, leader: str | None, names: Sequence[str]) -> tuple[str, list[str]]:
    """What a strike is called, and whom it hits."""
    kind = rng.choices(("one", "the leader", "two", "most", "all"), (25, 30, 15, 15, 15))[0]
    count = {"one": 1, "two": 2, "most": len(names) - 1, "all": len(names)}.get(kind, 1)
    if kind == "the leader" and leader is not None:
        return kind, [leader]
    return "one" if kind == "the leader" else kind, rng.sample(list(names), count)


async def wait_for_write(load: Load, cluster: LocalCluster) -> float:
    """Seconds until something new is acknowledged. Raises SoakError when that takes too long."""
    before, began = len(load.books.acknowledged), time.monotonic()
    while len(load.books.acknowledged) == before:
        if time.monotonic() - began > PATIENCE:
            said = "\n".join(f"--- {node.name} (pid {node.pid})\n{node.log(6)}" for node in cluster.nodes)
            raise SoakError(f"nothing was acknowledged for {PATIENCE:g} s with all nodes running\n{said}")
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def strike(cluster: LocalCluster, rng: random.Random, tally: Counter[str]) -> None:
    """Kill some, and start them again."""
    leader: str | None = None
    with contextlib.suppress(Exception):
        leader = (await asyncio.to_thread(cluster.wait_leader, 0.5)).name
    kind, hit = choose(rng, leader, [node.name for node in cluster.nodes])
    for name in hit:
        node = cluster.node(name)
        if node.pid is not None:
            tally["processes killed"] += 1
            await asyncio.to_thread(node.kill)
    tally[kind] += 1
    tally["strikes"] += 1
    await asyncio.sleep(rng.choice((0.0, 0.1, 0.5, 1.5)) * rng.random())
    for name in rng.sample(hit, len(hit)):
        cluster.node(name).start()


def prepare(size: int, directory: Path) -> LocalCluster:
    """A cluster that is not running yet."""
    directory.mkdir(parents=True)
    config = directory / "soak.toml"
    config.write_text(CONFIG)
    return LocalCluster(size, directory, options=["--config", str(config)], name=f"soak{size}")


async def soak(size: int, strikes: int, seed: int, directory: Path, every: int) -> tuple[Counter[str], Books, list[float]]:
    """One size. Raises SoakError."""
    rng = random.Random(seed * 100 + size)  # noqa: S311 - a schedule, no secret
    cluster = prepare(size, directory)
    tally: Counter[str] = Counter()
    waits: list[float] = []
    await asyncio.to_thread(cluster.start, PATIENCE)
    load = Load(cluster.endpoints, seed)
    try:
        await load.start()
        for number in range(1, strikes + 1):
            if rng.random() < 0.2:
                tally["while starting"] += 1
                await asyncio.sleep(rng.random())
            else:
                waits.append(await wait_for_write(load, cluster))
                await asyncio.sleep(rng.random())
            await strike(cluster, rng, tally)
            if number % every == 0 or number == strikes:
                await wait_for_write(load, cluster)
                await check(cluster, load)
                tally["full checks"] += 1
                print(
                    f"{size} nodes, {number} strikes: {len(load.books.acknowledged):,} acknowledged, all there", file=sys.stderr, flush=True
                )
    finally:
        await load.stop()
        await asyncio.to_thread(cluster.stop)
    return tally, load.books, waits


def report(results: Mapping[int, tuple[Counter[str], Books, list[float]]], command: str, busy: str) -> str:
    """The page."""
    lines = ["# kill -9 under load", "", f"Written by `{command}`, which writes it only if every check passed.", ""]
    lines += [
        "Real processes, fsync on, snapshots every 200 kB of log. Every acknowledged transfer was looked for on every node: each was there",
        "once, with the acknowledged timestamp; balances were the sums of the transfers; state hashes were equal.",
        "",
        f"Machine: {os.cpu_count()} cores, Python {platform.python_version()}, {busy}",
        "",
        "| | " + " | ".join(f"{size} nodes" for size in results) + " |",
        "|---|" + "---:|" * len(results),
    ]

    def row(title: str, values: Iterable[str]) -> None:
        lines.append(f"| {title} | " + " | ".join(values) + " |")

    for title in ("strikes", "processes killed", "one", "the leader", "two", "most", "all", "while starting", "full checks"):
        row(
            f"of these: {title}" if title in ("one", "the leader", "two", "most", "all") else title,
            [f"{r[0][title]}" for r in results.values()],
        )
    row("transfers acknowledged", [f"{len(r[1].acknowledged):,}" for r in results.values()])
    row("transfers with an unknown outcome (told so)", [f"{r[1].unknown:,}" for r in results.values()])
    row("longest wait for the next write after a strike, s", [f"{max(r[2], default=0.0):.1f}" for r in results.values()])
    return "\n".join(lines) + "\n"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="strikes, over all sizes")
    parser.add_argument("--nodes", default="3,5")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check-every", type=int, default=20)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    sizes = [int(size) for size in options.nodes.split(",")]
    scratch = Path(tempfile.mkdtemp(prefix="kill-soak-"))
    # Whoever ends this before its time shall find that in the output, and no nodes that are left running.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _: sys.exit(f"ENDED by signal {got}, nothing is shown (files kept in {scratch})"))
    results = {}
    loads = [os.getloadavg()[0]]
    try:
        for size in sizes:
            share = options.kills // len(sizes)
            results[size] = asyncio.run(soak(size, share, options.seed, scratch / str(size), options.check_every))
            loads.append(os.getloadavg()[0])
    except SoakError as error:
        print(f"FAILED (files kept in {scratch}): {error}", file=sys.stderr)
        return 1
    shutil.rmtree(scratch)
    command = f"python tools/kill_soak.py --kills {options.kills} --nodes {options.nodes} --seed {options.seed}"
    page = report(results, command, f"load average (own nodes and everything else) {min(loads):.1f} to {max(loads):.1f}.")
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(page)
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
