"""The fault proxy between real sockets: who is who, cuts that keep silent, resets, delay."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from chaos.cluster import free_ports
from chaos.proxy import CLIENT, Network, link, owner


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[Network, int]]:
    """A network with an echo server as node n1 behind it; the port in front."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(1 << 16):
                writer.write(data)
        await shut(writer)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    net = Network("1")
    (port,) = free_ports(1)
    await net.obey({"listen": [{"name": "n1", "port": port, "target": server.sockets[0].getsockname()[1]}]})
    try:
        yield net, port
    finally:
        await net.close()
        server.close()
        await server.wait_closed()


async def shut(*writers: asyncio.StreamWriter) -> None:
    """Close our ends for good."""
    for writer in writers:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_bytes_pass_and_are_counted() -> None:
    """Without rules the proxy carries bytes both ways, and counts them by direction."""
    async with echo() as (net, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.write_eof()
        assert await reader.read() == b""
        assert net.carried == {link(CLIENT, "n1"): 5, link("n1", CLIENT): 5}
        await shut(writer)


@pytest.mark.parametrize("direction", [link(CLIENT, "n1"), link("n1", CLIENT)])
async def test_a_cut_keeps_bytes_until_the_heal(direction: str) -> None:
    """While one direction is cut nothing arrives and nobody is told; after the heal it all arrives in order."""
    async with echo() as (net, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"1")
        assert await reader.readexactly(1) == b"1"
        await net.obey({"rules": {direction: {"cut": True}}})
        writer.write(b"2")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(1), 0.2)
        writer.write(b"3")
        await net.obey({"rules": {}})
        assert await asyncio.wait_for(reader.readexactly(2), 5) == b"23"
        await shut(writer)


async def test_a_new_connection_waits_behind_a_cut() -> None:
    """Connecting through a cut link does not fail: it waits."""
    async with echo() as (net, port):
        await net.obey({"rules": {link(CLIENT, "n1"): {"cut": True}}})
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(1), 0.2)
        await net.obey({"rules": {}})
        assert await asyncio.wait_for(reader.readexactly(1), 5) == b"x"
        await shut(writer)


async def test_delay_delays() -> None:
    """A delay in one direction shows in the round trip, and keeps the order."""
    async with echo() as (net, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await net.obey({"rules": {link(CLIENT, "n1"): {"delay": 0.1}}})
        begin = time.monotonic()
        writer.write(b"a")
        await asyncio.sleep(0)
        writer.write(b"b")
        assert await reader.readexactly(2) == b"ab"
        assert time.monotonic() - begin >= 0.1
        await shut(writer)


async def test_resets_and_losses_break_connections() -> None:
    """A reset breaks both ends at once, and so does a lost piece."""
    async with echo() as (net, port):
        for command in ({"reset": [link("n1", CLIENT)]}, {"rules": {link(CLIENT, "n1"): {"loss": 1.0}}}):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if "reset" in command:
                writer.write(b"1")
                assert await reader.readexactly(1) == b"1"
            await net.obey(command)
            writer.write(b"2")
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1), 5)
            await shut(writer)


async def test_a_target_that_is_down_refuses() -> None:
    """With nobody behind the proxy a connection breaks at once."""
    net = Network("1")
    port, nobody = free_ports(2)
    await net.obey({"listen": [{"name": "n1", "port": port, "target": nobody}]})
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.readexactly(1), 5)
    await shut(writer)
    await net.close()


async def test_the_source_of_a_connection_is_the_process_that_opened_it() -> None:
    """Connections of a registered process are links of that node, all others are clients'."""
    async with echo() as (net, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        far = writer.get_extra_info("sockname")[1]
        assert owner(far, port, {"init": 1, "me": os.getpid()}) == "me"
        assert owner(far, port, {"init": 1}) == CLIENT
        assert owner(far, 1, {"me": os.getpid()}) == ""
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        await net.obey({"pids": {"n2": os.getpid()}})
        other_reader, other = await asyncio.open_connection("127.0.0.1", port)
        other.write(b"x")
        assert await other_reader.readexactly(1) == b"x"
        assert (await net.obey({}))["connections"] == ["client>n1", "n2>n1"]
        await shut(writer, other)
