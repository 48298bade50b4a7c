"""What does a commit cost? Three processes, fsync before acknowledgement, the log alone without a machine behind it.

`python bench/commit.py [--engines core,pysyncobj] [--peers etcd] [--seconds 4] [--rounds 2] [--json]`

For each system, in turns: the median latency of one client that commits 100 bytes at a time, beside the median of a bare write and
fdatasync of the same disk at that moment; CPU and rate of small commands with 2,000 outstanding; CPU and rate of 128 kB batches with 16
outstanding. CPU is over all three nodes. The load runs inside the leader, one task for each outstanding command, and its cost is part of
the figure; how large a part is measured by the same load in the same process over an engine that does nothing ("of that the load").
etcd (a local binary on PATH) is asked over its gRPC API by one Python client: its latency is comparable, its CPU is not.

Every run also tells how busy the machine was with other work: figures of a busy machine are no figures of this program.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.common import Report, percentile
from lockd.raft.port import Committed, Engine, Member, ReplicaId, Role
from lockd_client.testing import free_ports

SMALL = 100
BATCH = 128_000


class Tally:
    """The least of all state machines: it counts, and wakes who proposed."""

    def __init__(self) -> None:
        self.count = 0
        self.waiting: dict[int, asyncio.Future[None]] = {}

    def apply(self, entries: Sequence[Committed]) -> None:
        """Count the entries; the proposers' futures are done."""
        self.count += len(entries)
        waiting = self.waiting
        for entry in entries:
            if entry.ticket is not None:
                future = waiting.pop(entry.ticket, None)
                if future is not None and not future.done():
                    future.set_result(None)

    def abandoned(self, tickets: Sequence[int]) -> None:
        """A bench that loses its leader is void."""
        for ticket in tickets:
            future = self.waiting.pop(ticket, None)
            if future is not None and not future.done():
                future.set_exception(RuntimeError("the leader changed during the run"))

    def role_changed(self, role: Role, term: int, leader: Member | None) -> None:
        """Nothing to do."""

    def snapshot_writer(self) -> Tally:
        """The state is one number."""
        return self

    def write(self, sink: BinaryIO) -> None:
        """Write the number."""
        sink.write(str(self.count).encode())

    def restore(self, source: BinaryIO, index: int) -> None:
        """Read the number."""
        del index
        self.count = int(source.read())


class NullEngine:
    """An engine that does nothing: what is proposed in one turn of the loop is applied in the next."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._gathered: list[bytes] = []
        self._next = 1

    def propose(self, data: bytes) -> int:
        """Gather it."""
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._apply)
        self._gathered.append(data)
        self._next += 1
        return self._next - 1

    def _apply(self) -> None:
        gathered, self._gathered = self._gathered, []
        first = self._next - len(gathered)
        self._tally.apply([Committed(at, 1, data, at) for at, data in enumerate(gathered, first)])


def bare_sync(data: Path, count: int) -> dict[str, Any]:
    """What a write and fdatasync cost on this disk now, with nothing else to it."""
    path = data / "bare"
    times = []
    with path.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
        for at in range(count):
            began = time.perf_counter()
            os.pwrite(file.fileno(), os.urandom(SMALL), at * SMALL)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
            time.sleep(0.001)
    path.unlink()
    return {"p50": percentile(times, 0.5) * 1e3}


def make_engine(kind: str, index: int, ports: Sequence[int], data: Path, tally: Tally) -> Engine:
    """One node's engine."""
    members = tuple(Member(ReplicaId(f"n{i}"), f"127.0.0.1:{port}", "127.0.0.1:1") for i, port in enumerate(ports))
    own = members[index]
    if kind == "core":
        from lockd.raft.engine import EngineConfig, RaftEngine

        return RaftEngine(EngineConfig(own.id, "bench", data / own.id, own.peer_address, members=members), tally)
    from lockd.raft.pysyncobj_engine import PySyncObjEngine, Settings

    return PySyncObjEngine(Settings(own.id, "bench", data / own.id, own.peer_address, members), tally, warn=lambda _: None)


def cpu() -> float:
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def run_node(kind: str, index: int, ports: Sequence[int], data: Path) -> None:
    """A node: reads commands from standard input, one JSON object a line, and answers each with one."""
    tally = Tally()
    engine = make_engine(kind, index, ports, data, tally)
    await engine.start()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def commit(payload: bytes, log: Engine | NullEngine = engine) -> None:
        future: asyncio.Future[None] = loop.create_future()
        tally.waiting[log.propose(payload)] = future
        await future

    async def latency(count: int) -> dict[str, Any]:
        times = []
        for _ in range(count):
            began = time.perf_counter()
            await commit(os.urandom(SMALL))
            times.append(time.perf_counter() - began)
            await asyncio.sleep(0.001)
        return {"p50": percentile(times, 0.5) * 1e3, "p99": percentile(times, 0.99) * 1e3}

    async def load(size: int, outstanding: int, seconds: float, *, null: bool = False) -> dict[str, Any]:
        log = NullEngine(tally) if null else engine
        payloads = [os.urandom(size) for _ in range(8)]
        end = time.perf_counter() + seconds
        done = 0

        async def worker(number: int) -> None:
            nonlocal done
            payload = payloads[number % 8]
            while time.perf_counter() < end:
                await commit(payload, log)
                done += 1

        began, used = time.perf_counter(), cpu()
        await asyncio.gather(*[worker(i) for i in range(outstanding)])
        return {"done": done, "seconds": time.perf_counter() - began, "cpu": cpu() - used}

    print(json.dumps({"ready": True}), flush=True)
    while line := await reader.readline():
        command = json.loads(line)
        match command.pop("do"):
            case "role":
                answer: dict[str, Any] = {"leader": engine.status().role is Role.LEADER and engine.leader() is not None}
            case "latency":
                answer = await latency(**command)
            case "load":
                answer = await load(**command)
            case "sync":
                answer = await loop.run_in_executor(None, bare_sync, data, command["count"])
            case _:
                answer = {"cpu": cpu()}
        print(json.dumps(answer), flush=True)
    await engine.stop()


def busy() -> float:
    """Seconds of CPU that this machine has spent on anything."""
    user, nice, system, _, _, irq, soft, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


class Trio:
    """Three node processes of one engine."""

    def __init__(self, kind: str, scratch: Path) -> None:
        ports = ",".join(map(str, free_ports(3)))
        base = [sys.executable, __file__, "--node", kind, "--ports", ports, "--data", str(scratch / kind)]
        self.nodes = [
            subprocess.Popen([*base, "--index", str(i)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for i in range(3)
        ]
        for node in self.nodes:
            self._answer(node)
        self.leader = self._find_leader()

    @staticmethod
    def _answer(node: subprocess.Popen[str]) -> dict[str, Any]:
        assert node.stdout is not None
        line = node.stdout.readline()
        if not line:
            raise RuntimeError("a node ended during the run")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, node: subprocess.Popen[str], **command: Any) -> dict[str, Any]:
        """One command, one answer."""
        assert node.stdin is not None
        node.stdin.write(json.dumps(command) + "\n")
        node.stdin.flush()
        return self._answer(node)

    def _find_leader(self) -> subprocess.Popen[str]:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for node in self.nodes:
                if self.ask(node, do="role")["leader"]:
                    return node
            time.sleep(0.05)
        raise RuntimeError("no leader")

    def cpu(self) -> float:
        """CPU seconds of all three."""
        return sum(float(self.ask(node, do="cpu")["cpu"]) for node in self.nodes)

    def stop(self) -> None:
        """End the processes."""
        for node in self.nodes:
            assert node.stdin is not None
            node.stdin.close()
        for node in self.nodes:
            try:
                node.wait(10)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()


def measure(kind: str, scratch: Path, seconds: float) -> dict[tuple[str, str, str], float]:
    """All figures of one engine, once."""
    trio = Trio(kind, scratch)
    try:
        trio.ask(trio.leader, do="load", size=SMALL, outstanding=64, seconds=1.0)
        found: dict[tuple[str, str, str], float] = {}
        one = trio.ask(trio.leader, do="latency", count=400)
        found["commit, one client", "p50", "ms"] = one["p50"]
        found["commit, one client", "p99", "ms"] = one["p99"]
        found["commit, one client", "bare write and fdatasync, p50", "ms"] = trio.ask(trio.leader, do="sync", count=400)["p50"]
        others, began = busy(), time.perf_counter()
        own = trio.cpu()
        for question, size, outstanding, unit, scale in (
            ("small commands, 2,000 outstanding", SMALL, 2_000, "us", 1e6),
            ("128 kB batches, 16 outstanding", BATCH, 16, "ms", 1e3),
        ):
            before = trio.cpu()
            load = trio.ask(trio.leader, do="load", size=size, outstanding=outstanding, seconds=seconds)
            found[question, "rate", "1/s"] = load["done"] / load["seconds"]
            found[question, "CPU each, three nodes", unit] = (trio.cpu() - before) / load["done"] * scale
            found[question, "of that the leader", unit] = load["cpu"] / load["done"] * scale
            idle = trio.ask(trio.leader, do="load", size=size, outstanding=outstanding, seconds=seconds / 3, null=True)
            found[question, "of that the load", unit] = idle["cpu"] / idle["done"] * scale
        rest = busy() - others - (trio.cpu() - own)
        found["the machine", "busy with other work", "% of its cores"] = 100 * rest / (time.perf_counter() - began) / (os.cpu_count() or 1)
        before = trio.cpu()
        time.sleep(3.0)
        found["idle", "CPU a node", "% of a core"] = (trio.cpu() - before) / 3.0 / 3 * 100
        return found
    finally:
        trio.stop()


async def etcd_latency(scratch: Path, count: int) -> dict[tuple[str, str, str], float]:
    """One client's put latency on three etcd members."""
    import grpc

    binary = shutil.which("etcd")
    if binary is None:
        raise RuntimeError("etcd is not on PATH")
    ports = free_ports(6)
    cluster = ",".join(f"e{i}=http://127.0.0.1:{ports[3 + i]}" for i in range(3))
    nodes = []
    for i in range(3):
        client, peer = f"http://127.0.0.1:{ports[i]}", f"http://127.0.0.1:{ports[3 + i]}"
        nodes.append(
            subprocess.Popen(
                [
                    *(binary, "--name", f"e{i}", "--data-dir", str(scratch / f"etcd{i}"), "--log-level", "error"),
                    *("--listen-client-urls", client, "--advertise-client-urls", client),
                    *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", cluster),
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}") as channel:
            put = channel.unary_unary("/etcdserverpb.KV/Put", request_serializer=bytes, response_deserializer=bytes)
            # PutRequest{key: 1, value: 2}, written out.
            request = b"\x0a\x01k" + b"\x12" + bytes([SMALL]) + os.urandom(SMALL)
            await put(request, timeout=20, wait_for_ready=True)
            times = []
            for _ in range(count):
                began = time.perf_counter()
                await put(request)
                times.append(time.perf_counter() - began)
                await asyncio.sleep(0.001)
        return {
            ("commit, one client", "p50", "ms"): percentile(times, 0.5) * 1e3,
            ("commit, one client", "p99", "ms"): percentile(times, 0.99) * 1e3,
        }
    finally:
        for node in nodes:
            node.kill()
            node.wait()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="core,pysyncobj")
    parser.add_argument("--peers", default="")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    for hidden in ("--node", "--ports", "--data"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--index", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.node:
        import uvloop

        uvloop.run(run_node(options.node, options.index, [int(p) for p in options.ports.split(",")], Path(options.data)))
        return
    systems = [s for s in f"{options.engines},{options.peers}".split(",") if s]
    found: dict[str, list[dict[tuple[str, str, str], float]]] = {s: [] for s in systems}
    for number in range(options.rounds):
        for system in systems:
            with tempfile.TemporaryDirectory() as scratch:
                print(f"round {number + 1}: {system} ...", file=sys.stderr)
                if system == "etcd":
                    found[system].append(asyncio.run(etcd_latency(Path(scratch), 400)))
                else:
                    found[system].append(measure(system, Path(scratch), options.seconds))
    report = Report(options.json)
    for system, rounds in found.items():
        for question, metric, unit in rounds[0]:
            values = [r[question, metric, unit] for r in rounds]
            report.add(question, "lockd" if system == "core" else system, metric, percentile(values, 0.5), unit)
    report.close("cost of a commit: three processes, fsync before acknowledgement; median of the rounds")


if __name__ == "__main__":
    main()
