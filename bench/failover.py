"""How long are writes away when the leader fails? Three processes, one writer through the Python client.

`python bench/failover.py [--faults kill,pause] [--times 20] [--json]`

A writer takes and releases a lock without pause; the gap is the longest time between two acknowledged writes around the fault. `kill` is
kill -9 of the leader (it is started again afterwards), `pause` is SIGSTOP for 3 s.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lockd_client
from bench.common import Report, percentile
from lockd_client.testing import LocalCluster

PAUSE = 3.0
SETTLE = 1.0


class Writer:
    """Writes one after another, and remembers when each was acknowledged."""

    def __init__(self, client: lockd_client.Client) -> None:
        self.client = client
        self.acknowledged: list[float] = [time.monotonic()]
        self.stopping = False

    async def run(self) -> None:
        """Until told to stop."""
        while not self.stopping:
            async with self.client.lock("bench/failover", wait=30.0):
                pass
            self.acknowledged.append(time.monotonic())

    def gap(self, since: float) -> float:
        """The longest time between two acknowledgements, the second of which came after `since`."""
        times = [t for t in self.acknowledged if t >= since - SETTLE]
        return max(b - a for a, b in itertools.pairwise(times))


async def fail(cluster: LocalCluster, writer: Writer, fault: str) -> float:
    """One fault, and the gap that it made, in seconds."""
    leader = await asyncio.to_thread(cluster.wait_healthy)
    await asyncio.sleep(SETTLE)
    began = time.monotonic()
    if fault == "kill":
        leader.kill()
    else:
        leader.pause()
    while writer.acknowledged[-1] < began + 0.05:
        await asyncio.sleep(0.01)
        if time.monotonic() > began + 30:
            raise RuntimeError(f"no write within 30 s of {fault}")
    if fault == "kill":
        leader.start()
    else:
        await asyncio.sleep(max(0.0, began + PAUSE - time.monotonic()))
        leader.resume()
    await asyncio.sleep(SETTLE)
    return writer.gap(began)


async def measure(faults: list[str], times: int) -> dict[str, list[float]]:
    """All gaps, by fault."""
    found: dict[str, list[float]] = {fault: [] for fault in faults}
    with tempfile.TemporaryDirectory() as scratch, LocalCluster(3, Path(scratch)) as cluster:
        async with lockd_client.connect(cluster.endpoints, owner="bench", timeout=30.0) as client:
            writer = Writer(client)
            task = asyncio.create_task(writer.run())
            for number in range(times):
                for fault in faults:
                    found[fault].append(await fail(cluster, writer, fault))
                    print(f"{number + 1}/{times} {fault}: {found[fault][-1] * 1e3:.0f} ms", file=sys.stderr)
            writer.stopping = True
            await task
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", default="kill,pause")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = Report(options.json)
    for fault, gaps in asyncio.run(measure(options.faults.split(","), options.times)).items():
        question = f"write gap after {fault} of the leader"
        for metric, value in (("p50", percentile(gaps, 0.5)), ("max", max(gaps))):
            report.add(question, "lockd", metric, value * 1e3, "ms")
    report.close(f"write gap, {options.times} times each")


if __name__ == "__main__":
    main()
