"""One replica as a process of its own: lines of JSON in, lines of JSON out.

{"propose": [texts]}   ->  {"done": [indexes]}, an index or null (outcome unknown) for each, or {"leader": id or null}
{"read": true}         ->  {"items": [texts]} after a read barrier, or {"unavailable": reason}
{"status": true}       ->  {"role": .., "term": .., "applied": .., "snapshot": .., "failed": ..}
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from lockd.raft.core.types import Member, ReplicaId, Role
from lockd.raft.driver_io import DriverConfig
from lockd.raft.engine import EngineConfig, RaftEngine
from lockd.raft.port import NotLeaderError, RaftError
from tests.unit.raft_shell.cluster import Appender


async def answer(engine: RaftEngine, machine: Appender, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request."""
    if "propose" in request:
        waiting = []
        try:
            if not machine.roles or machine.roles[-1][0] is not Role.LEADER:
                raise NotLeaderError(engine.leader())
            for text in request["propose"]:
                ticket = engine.propose(text.encode())
                machine.outcomes[ticket] = outcome = asyncio.get_running_loop().create_future()
                waiting.append(outcome)
        except NotLeaderError as error:
            return {"leader": error.leader.id if error.leader else None}
        except RaftError as error:
            return {"unavailable": str(error)}
        return {"done": await asyncio.gather(*waiting)}
    if "read" in request:
        try:
            await engine.read_barrier(5)
        except RaftError as error:
            return {"unavailable": str(error)}
        return {"items": [item.decode() for item in machine.items]}
    status = engine.status()
    return {
        "role": status.role.value,
        "term": status.term,
        "applied": status.applied,
        "snapshot": status.snapshot_index,
        "failed": status.failed,
    }


async def main(name: str, directory: str, addresses: dict[str, str]) -> None:
    """Run until the input ends."""
    machine = Appender()
    config = EngineConfig(
        ReplicaId(name),
        "e2e",
        Path(directory),
        addresses[name],
        members=tuple(Member(ReplicaId(each), address, "") for each, address in addresses.items()),
        segment_bytes=1 << 20,
        driver=DriverConfig(snapshot_log_bytes=100_000, keep_log_bytes=20_000),
    )
    engine = RaftEngine(config, machine)
    await engine.start()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    sys.stdout.write("{}\n")
    sys.stdout.flush()
    while line := await reader.readline():
        reply = await answer(engine, machine, json.loads(line))
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()
    await engine.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
