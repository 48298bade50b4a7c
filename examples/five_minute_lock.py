"""A lock in five minutes: two workers, one job, never at the same time.

Start a node (`lockd dev --memory`), then `python examples/five_minute_lock.py [ENDPOINTS]`.
"""

from __future__ import annotations

import asyncio
import sys

import lockd_client


async def worker(endpoints: str, name: str, log: list[str]) -> None:
    """Does the job three times, each time under the lock."""
    async with lockd_client.connect(endpoints, owner=name) as client:
        for turn in range(3):
            # Waits at most 10 s. The body is cancelled, and LockLost raised, if the lock or the session is lost.
            async with client.lock("jobs/nightly", wait=10.0) as grant:
                log.append(f"{name} begins")
                print(f"{name}, turn {turn + 1}: token {grant.token}, sure of the lock for {grant.remaining():.1f} s")
                await asyncio.sleep(0.05)
                log.append(f"{name} ends")


async def main(endpoints: str) -> None:
    """Run two workers, show who waits, and check that they never overlapped."""
    log: list[str] = []
    async with lockd_client.connect(endpoints, owner="example") as client:
        if (grant := await client.try_lock("jobs/nightly")) is None:
            print("somebody else holds the lock; try again when they are done")
            return
        async with grant:
            workers = asyncio.gather(worker(endpoints, "ada", log), worker(endpoints, "bob", log))
            while sum(len(lock.waiters) for lock in await client.locks.list("jobs")) < 2:
                await asyncio.sleep(0.01)
            print("both wait for us:", [waiter.owner for lock in await client.locks.list("jobs") for waiter in lock.waiters])
        await workers
    for begins, ends in zip(log[::2], log[1::2], strict=True):
        assert begins.split()[0] == ends.split()[0], log
    print("done: six turns, one after another")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7601"))
