"""One replica as a process of its own: takes JSON lines, answers with JSON lines. Run with `python -m tests.e2e.pysyncobj.node_process`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from lockd.raft.port import Member, RaftError, ReplicaId, Role
from lockd.raft.pysyncobj_engine import PySyncObjEngine, Settings
from tests.e2e.engine_port.harness import JournalMachine

PATIENCE = 60.0
"""Seconds that a snapshot waits for its gate."""
WINDOW = 50
"""Proposals under way at once while loading."""


class GatedWriter:
    """Writes the rows, but not before a file appears: a snapshot that takes long."""

    def __init__(self, rows: list[tuple[int, int, bytes]], gate: Path) -> None:
        self._rows = rows
        self._gate = gate

    def write(self, sink: BinaryIO) -> None:
        """Say that it began, wait, write. It may be an orphan by then, which must not stay for ever."""
        self._gate.with_suffix(".begun").touch()
        deadline = time.monotonic() + PATIENCE
        while not self._gate.exists():
            if time.monotonic() > deadline:
                raise TimeoutError("the gate was not opened")
            time.sleep(0.002)
        sink.write(msgspec.msgpack.encode(self._rows))


class Process:
    """The replica, its load, and its commands."""

    def __init__(self, options: dict[str, Any]) -> None:
        members = tuple(Member(ReplicaId(name), f"127.0.0.1:{port}", "127.0.0.1:1") for name, port in options["members"].items())
        me = next(member for member in members if member.id == options["id"])
        self.directory = Path(options["directory"])
        self.machine = JournalMachine()
        self.gate: Path | None = Path(options["gate"]) if options.get("gate") else None
        if self.gate is not None:
            gate = self.gate
            self.machine.snapshot_writer = lambda: GatedWriter(list(self.machine.rows), gate)  # type: ignore[method-assign]
        settings = Settings(me.id, "processes", self.directory / me.id, me.peer_address, members, election_min=0.3, election_max=0.6)
        self.engine = PySyncObjEngine(settings, self.machine, warn=lambda _: None)
        self.tasks: set[asyncio.Task[None]] = set()

    async def load(self, first: int) -> None:
        """Propose numbered entries for as long as this replica leads, and note each one in a file as soon as it is acknowledged."""
        waiting: dict[int, int] = {}
        number = first
        with (self.directory / "acknowledged").open("ab", buffering=0) as noted:
            while True:
                for ticket in [ticket for ticket in waiting if ticket in self.machine.tickets]:
                    noted.write(b"%d\n" % waiting.pop(ticket))
                with contextlib.suppress(RaftError):
                    while len(waiting) < WINDOW:
                        waiting[self.engine.propose(b"%d" % number)] = number
                        number += 1
                await asyncio.sleep(0.001)

    def spawn(self, work: Any) -> None:
        """Run in the background."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)

    async def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        match command["do"]:
            case "status":
                status = self.engine.status()
                return {"leads": status.role is Role.LEADER, "applied": status.applied, "snapshot": status.snapshot_index}
            case "load":
                self.spawn(self.load(command["first"]))
            case "snapshot":
                self.spawn(self._snapshot())
            case "barrier":
                await self.engine.read_barrier(20.0)
                return {"data": [int(data) for data in self.machine.data]}
        return {}

    async def _snapshot(self) -> None:
        await self.engine.snapshot()


async def main() -> None:
    """Serve until the end of input."""
    process = Process(json.loads(sys.argv[1]))
    await process.engine.start()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps({"ready": True}), flush=True)
    while line := await reader.readline():
        print(json.dumps(await process.answer(json.loads(line))), flush=True)
    await process.engine.stop()


if __name__ == "__main__":
    asyncio.run(main())
