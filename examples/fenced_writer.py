"""A paused client is fenced: it wakes up, believes that it holds the lock, and its write is refused.

The pause is real: a child process takes the lock and is stopped (SIGSTOP) for longer than its session lives. Meanwhile another client gets
the lock and writes. When the first one goes on, it sends its write at once, without looking at the time: the store refuses it, because the
write carries the fencing token of a grant that is no longer current.

Start a node (`lockd dev --memory`), then `python examples/fenced_writer.py [ENDPOINTS]`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import lockd_client

RESOURCE = "accounts/alice"
ROW = "balances/alice"
TTL = 2.0


async def paused_writer(endpoints: str) -> None:
    """Take the lock, say so, sleep through the loss of the session, and write with the old token."""
    async with lockd_client.connect(endpoints, owner="paused", ttl=TTL) as client:
        grant = await client.acquire(RESOURCE)
        old = grant.guard()
        print(f"paused: I hold {RESOURCE} with token {grant.token}", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    # A new connection, as a program would make that does not use the SDK's own knowledge of the loss.
    async with lockd_client.connect(endpoints, owner="paused", ttl=TTL) as client:
        try:
            await client.rows.put(ROW, b"written by the paused client", guards=[old])
        except lockd_client.FencedError as error:
            print(f"paused: refused, {error.reason}: {error.message}", flush=True)
        else:
            print("paused: my write went through!", flush=True)


async def main(endpoints: str) -> None:
    """Play both parts."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, endpoints, "--paused", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        print((await child.stdout.readline()).decode().strip())
        os.kill(child.pid, signal.SIGSTOP)
        print("... the first client is stopped; a second one waits for the lock")
        async with lockd_client.connect(endpoints, owner="second") as client:
            async with client.lock(RESOURCE, wait=TTL + 10.0) as grant:
                await client.rows.put(ROW, b"written by the second client", guards=[grant.guard()])
                print(f"second: I hold it now, with token {grant.token}, and wrote")
                os.kill(child.pid, signal.SIGCONT)
                child.stdin.write(b"go on\n")
                await child.stdin.drain()
                said = (await child.stdout.readline()).decode().strip()
                print(said)
            row = await client.rows.get(ROW)
            assert row is not None
            assert row.value == b"written by the second client", row
            assert "FENCED" in said, said
            print("the row still says:", row.value.decode())
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7601"
    asyncio.run(paused_writer(chosen) if "--paused" in sys.argv else main(chosen))
