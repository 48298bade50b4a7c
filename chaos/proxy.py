# ruff: noqa: S311 - chance is seeded here, and protects nothing
"""A TCP proxy that plays a bad network: `python -m chaos.proxy SEED`, ruled by JSON lines on its input, gone when that ends.

In front of each node's ports; no privileges are needed. Who connects is found by the process that owns the other end of the connection
(/proc), so that all nodes share one membership and each direction between two of them is still a link of its own. A cut link does what a
cut cable does: bytes, connection attempts and ends of connections wait, nobody is told, and what waited arrives after the heal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

CLIENT: Final = "client"
"""Who is none of the nodes."""
_CHUNK: Final = 1 << 16
_QUEUE: Final = 64


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to bytes on a link.

    Attributes:
        cut: Nothing passes.
        delay: Seconds that everything takes longer.
        jitter: Up to so many seconds more, by chance; the order is kept.
        rate: Bytes a second; 0: as many as there are.
        loss: Probability, for each piece, that the connection is reset instead.
    """

    cut: bool = False
    delay: float = 0.0
    jitter: float = 0.0
    rate: float = 0.0
    loss: float = 0.0


_CLEAR: Final = Rule()


def link(source: str, target: str) -> str:
    """The name of a link in one direction."""
    return f"{source}>{target}"


_LOOPBACK: Final = socket.inet_aton("127.0.0.1") + bytes(12)
_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_NO_COOKIE: Final = 0xFFFFFFFF


def _inode(far: int, near: int) -> int:
    """The inode of the socket at port `far` of a loopback connection to port `near`; 0 if it is gone. Raises OSError.

    One question to the kernel (sock_diag(7)); /proc/net/tcp would walk all connections of the machine.
    """
    ends = struct.pack(">HH", far, near) + _LOOPBACK + _LOOPBACK + struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE)
    question = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + ends
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as line:
        line.settimeout(1.0)
        line.send(struct.pack("=IHHII", 16 + len(question), _BY_FAMILY, 1, 1, 0) + question)
        answer = line.recv(1 << 16)
    if struct.unpack_from("=H", answer, 4)[0] != _BY_FAMILY:
        return 0
    return int(struct.unpack_from("=I", answer, 16 + 4 + 48 + 16)[0])


def owner(far: int, near: int, pids: Mapping[str, int]) -> str:
    """Which node's process opened the connection from port `far` to port `near` of loopback.

    CLIENT if none of them did; empty if nobody holds the other end any more.
    """
    inode = _inode(far, near)
    if inode == 0:
        return ""
    wanted = f"socket:[{inode}]"
    for name, pid in pids.items():
        with contextlib.suppress(OSError):
            # Many names, each as short as can be: no objects for them.
            for entry in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{entry}") == wanted:  # noqa: PTH115
                        return name
    return CLIENT


class _Connection:
    """One proxied connection: two pumps."""

    def __init__(self, net: Network, source: str, target: str, inner: asyncio.StreamWriter) -> None:
        self.source = source
        self.target = target
        self._net = net
        self._writers = [inner]

    async def run(self, reader: asyncio.StreamReader, port: int) -> None:
        """Connect and carry until both directions have ended."""
        net = self._net
        await net.open_link(link(self.source, self.target))
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            self.reset()
            return
        self._writers.append(far_writer)
        inner = self._writers[0]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer, link(self.source, self.target)))
                group.create_task(self._pump(far_reader, inner, link(self.target, self.source)))
        except* OSError:
            self.reset()
        finally:
            for writer in self._writers:
                writer.close()

    def reset(self) -> None:
        """Both ends see the connection break."""
        for writer in self._writers:
            raw = writer.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:
                # Closing then sends RST, not FIN.
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUE)
        read = asyncio.create_task(self._read(reader, queue, name))
        try:
            await self._write(writer, queue, name)
        finally:
            read.cancel()

    async def _read(self, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]], name: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await reader.read(_CHUNK)
            except OSError:
                data = b""
            rule = self._net.rule(name)
            await queue.put((loop.time() + rule.delay + rule.jitter * self._net.chance.random(), data))
            if not data:
                return

    async def _write(self, writer: asyncio.StreamWriter, queue: asyncio.Queue[tuple[float, bytes]], name: str) -> None:
        net = self._net
        loop = asyncio.get_running_loop()
        while True:
            due, data = await queue.get()
            if (late := due - loop.time()) > 0:
                await asyncio.sleep(late)
            await net.open_link(name)
            rule = net.rule(name)
            if rule.loss and net.chance.random() < rule.loss:
                self.reset()
                return
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            if rule.rate:
                await asyncio.sleep(len(data) / rule.rate)
            writer.write(data)
            net.carried[name] = net.carried.get(name, 0) + len(data)
            await writer.drain()


class Network:
    """All ports, links and rules."""

    def __init__(self, seed: str) -> None:
        self.chance = random.Random(seed)
        self.carried: dict[str, int] = {}
        self._rules: dict[str, Rule] = {}
        self._changed = asyncio.Event()
        self._pids: dict[str, int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._servers: list[asyncio.Server] = []
        self._connections: set[_Connection] = set()

    def rule(self, name: str) -> Rule:
        """The rule of a link."""
        return self._rules.get(name, _CLEAR)

    async def open_link(self, name: str) -> None:
        """Wait until the link is not cut."""
        while self.rule(name).cut:
            await self._changed.wait()

    async def listen(self, name: str, port: int, target: int) -> None:
        """Stand in front of a node's port. Raises OSError."""

        async def carry(source: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = _Connection(self, source, name, writer)
            self._connections.add(connection)
            try:
                await connection.run(reader, target)
            finally:
                self._connections.discard(connection)

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = writer.get_extra_info("peername")
            source = owner(peer[1], port, self._pids) if peer else ""
            if not source:
                # Given up before we came to it: not worth anybody's time, least of all when there is little.
                writer.transport.abort()
                return
            # A task of our own, which may also be cancelled.
            task = asyncio.create_task(carry(source, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._servers.append(await asyncio.start_server(accept, "127.0.0.1", port))

    async def close(self) -> None:
        """Listen no more, and break what is left."""
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry one command out; its answer. Raises OSError, KeyError, TypeError for one that cannot be."""
        for each in command.get("listen", ()):
            await self.listen(each["name"], each["port"], each["target"])
        self._pids.update(command.get("pids", {}))
        if "rules" in command:
            self._rules = {name: Rule(**rule) for name, rule in command["rules"].items()}
            self._changed.set()
            self._changed = asyncio.Event()
        resets = set(command.get("reset", ()))
        hit = [c for c in self._connections if {link(c.source, c.target), link(c.target, c.source), "*"} & resets]
        for connection in hit:
            connection.reset()
        return {"reset": len(hit), "carried": self.carried, "connections": sorted(link(c.source, c.target) for c in self._connections)}


async def _serve(seed: str) -> None:
    net = Network(seed)
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        try:
            answer = await net.obey(json.loads(line))
        except (OSError, KeyError, TypeError, ValueError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    # Connections that wait behind a cut are not worth waiting for.
    os._exit(0)


def main() -> None:
    """Entry point of the process."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(sys.argv[1] if len(sys.argv) > 1 else "0"))


if __name__ == "__main__":
    main()
