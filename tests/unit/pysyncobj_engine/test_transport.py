"""Connections between replicas: who is let in, what ends a connection, and what is never delivered."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import pickle
import time
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lockd.raft.core.types import ReplicaId
from lockd.raft.pysyncobj_engine import Settings, Tls
from lockd.raft.pysyncobj_engine import transport as module
from lockd.raft.pysyncobj_engine.transport import Hello, Link, Peers, Welcome
from lockd.raft.pysyncobj_engine.wire import Body, Envelope, Next, SnapshotPart, encode
from tests.e2e.engine_port.harness import free_ports, until
from tests.unit.pysyncobj_engine.support import A, B, settings


@dataclass
class End:
    """One side, and what it was told."""

    settings: Settings
    messages: list[tuple[ReplicaId, int, Body]] = field(default_factory=list)
    links: list[tuple[ReplicaId, Link]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Build the connections."""
        self.peers = Peers(
            self.settings,
            lambda sender, term, body: self.messages.append((sender, term, body)),
            lambda peer, link: self.links.append((peer, link)),
        )


@pytest.fixture
async def pair() -> AsyncIterator[tuple[End, End]]:
    """Two replicas that are connected both ways."""
    ports = free_ports(2)
    a, b = End(settings(A, 2, ports=ports)), End(settings(B, 2, ports=ports))
    await a.peers.start()
    await b.peers.start()
    await until(lambda: (a.peers.is_up(B) and b.peers.is_up(A)) or None, "both directions")
    yield a, b
    await a.peers.stop()
    await b.peers.stop()


async def dial(end: End) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A bare connection to a replica."""
    host, _, port = end.settings.listen.rpartition(":")
    return await asyncio.open_connection(host, int(port))


def frame(raw: bytes) -> bytes:
    """With its length in front."""
    return len(raw).to_bytes(4, "big") + raw


def hello(**changes: object) -> bytes:
    """A hello of A to B, with some fields changed."""
    fields = {"cluster_id": "cluster", "sender": "a", "to": "b", "epoch": 1 << 61} | changes
    return frame(msgspec.msgpack.encode(["lockd-pysyncobj/1", *fields.values()]))


async def closed(reader: asyncio.StreamReader) -> bool:
    """Whether the other side closes the connection without a word."""
    async with asyncio.timeout(10):
        try:
            return await reader.read() == b""
        except ConnectionError:
            return True


async def test_messages_arrive_in_order_with_sender_and_term(pair: tuple[End, End]) -> None:
    """What is sent arrives once, in order, with the sender's name and the term it was sent in."""
    a, b = pair
    for n in range(100):
        assert a.peers.send(B, 7, Next(n, reset=False, success=True))
    await until(lambda: len(b.messages) >= 100 or None, "100 messages")
    assert b.messages == [(A, 7, Next(n, reset=False, success=True)) for n in range(100)]
    assert a.messages == []


async def test_large_messages_arrive_whole(pair: tuple[End, End]) -> None:
    """Many megabytes in one message and in many arrive as they were sent; meanwhile the peer counts as busy, then as free again."""
    a, b = pair
    pieces = [os.urandom(12 << 20), *(os.urandom(100_000) for _ in range(50))]
    for piece in pieces:
        a.peers.send(B, 1, SnapshotPart(1, 1, (piece, True, True)))
    assert a.links[-1] == (B, Link.DOWN)
    await until(lambda: len(b.messages) >= len(pieces) or None, "all pieces")
    assert [body.part[0] for _, _, body in b.messages if isinstance(body, SnapshotPart) and body.part] == pieces
    await until(lambda: a.peers.is_up(B) or None, "the queue to be short")
    assert [link for peer, link in a.links if peer == B] == [Link.NEW, Link.DOWN, Link.RESUMED]


async def test_a_lost_connection_is_made_anew(pair: tuple[End, End]) -> None:
    """When a peer goes away its links go down; when it is back they are new, and messages arrive again."""
    a, b = pair
    await b.peers.stop()
    await until(lambda: a.links[-1] == (B, Link.DOWN) or None, "the link to go down")
    assert not a.peers.send(B, 1, Next(1, reset=False, success=True))
    again = End(b.settings)
    await again.peers.start()
    await until(lambda: a.peers.is_up(B) or None, "a new link")
    assert a.links[-1] == (B, Link.NEW)
    a.peers.send(B, 2, Next(2, reset=False, success=True))
    await until(lambda: again.messages or None, "a message")
    assert again.messages == [(A, 2, Next(2, reset=False, success=True))]
    await again.peers.stop()


@pytest.mark.parametrize(
    "opening",
    [
        hello(cluster_id="another"),
        hello(sender="c"),
        hello(sender="b"),
        hello(to="c"),
        hello(epoch=-1),
        hello(epoch=1 << 63),
        hello(extra=1),
        frame(msgspec.msgpack.encode(["lockd-pysyncobj/2", "cluster", "a", "b", 1])),
        frame(b"\xff" * 10),
        frame(bytes(module.MAX_HELLO + 1)),
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_strangers_are_not_let_in(pair: tuple[End, End], opening: bytes) -> None:
    """Another cluster, version or receiver, unknown names and garbage are answered by closing; the members stay connected."""
    a, b = pair
    reader, writer = await dial(b)
    writer.write(opening)
    assert await closed(reader)
    writer.close()
    a.peers.send(B, 1, Next(1, reset=False, success=True))
    await until(lambda: b.messages or None, "the members to be connected still")


async def test_a_silent_connection_is_closed(pair: tuple[End, End], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says nothing is not waited for, and only so many of them at once."""
    monkeypatch.setattr(module, "HANDSHAKE_SECONDS", 0.05)
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    _, b = pair
    dialled = [await dial(b) for _ in range(4)]
    for reader, writer in dialled:
        assert await closed(reader)
        writer.close()


async def test_pickle_is_not_read(pair: tuple[End, End], tmp_path: Path) -> None:
    """What the package's own transport would execute, compressed or not, is refused unread."""
    _, b = pair
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {marker}",)

    for payload in (pickle.dumps(Bomb()), zlib.compress(pickle.dumps(pickle.dumps(Bomb())))):
        reader, writer = await dial(b)
        writer.write(frame(payload))
        assert await closed(reader)
        writer.close()
    assert not marker.exists()


async def test_a_newer_connection_silences_the_older_one(pair: tuple[End, End]) -> None:
    """Once a sender is connected anew, nothing of its older connection is delivered, and no older one is admitted any more."""
    a, b = pair
    await a.peers.stop()
    older = await dial(b)
    older[1].write(hello(epoch=(5 << 24) + 1))
    assert await older[0].readexactly(4)
    newer = await dial(b)
    newer[1].write(hello(epoch=(5 << 24) + 2))
    assert await newer[0].readexactly(4)
    older[1].write(frame(encode(Envelope("cluster", "a", (5 << 24) + 1, 1, Next(1, reset=False, success=True)))))
    late = await dial(b)
    late[1].write(hello(epoch=5 << 24))
    assert await closed(late[0])
    newer[1].write(frame(encode(Envelope("cluster", "a", (5 << 24) + 2, 1, Next(2, reset=False, success=True)))))
    await until(lambda: b.messages or None, "the newer connection's message")
    assert b.messages == [(A, 1, Next(2, reset=False, success=True))]
    for _, writer in (older, newer, late):
        writer.close()


@pytest.mark.parametrize(
    "envelope",
    [
        Envelope("another", "a", 1 << 61, 1, Next(1, reset=False, success=True)),
        Envelope("cluster", "c", 1 << 61, 1, Next(1, reset=False, success=True)),
        Envelope("cluster", "a", (1 << 61) + 1, 1, Next(1, reset=False, success=True)),
    ],
    ids=["cluster", "sender", "connection"],
)
async def test_an_envelope_must_be_of_its_connection(pair: tuple[End, End], envelope: Envelope) -> None:
    """An envelope that names another cluster, sender or connection ends the connection undelivered."""
    a, b = pair
    await a.peers.stop()
    reader, writer = await dial(b)
    writer.write(hello())
    assert msgspec.msgpack.decode((await reader.readexactly(4 + len(msgspec.msgpack.encode(Welcome(1 << 61)))))[4:])[1] == 1 << 61
    writer.write(frame(encode(envelope)))
    assert await closed(reader)
    assert b.messages == []
    writer.close()


async def test_a_false_welcome_is_not_believed() -> None:
    """Something else at a peer's address, whatever it answers, is no peer."""
    ports = free_ports(2)
    a = End(settings(A, 2, ports=ports))
    asked: list[Hello] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(4), "big")
        asked.append(msgspec.msgpack.decode(await reader.readexactly(size), type=Hello))
        writer.write(frame(msgspec.msgpack.encode(Welcome(asked[-1].epoch + 1))))
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", ports[1])
    await a.peers.start()
    await until(lambda: len(asked) >= 3 or None, "some attempts")
    assert a.links == []
    assert [later.epoch > earlier.epoch for earlier, later in pairwise(asked)] == [True] * (len(asked) - 1)
    await a.peers.stop()
    server.close()


class Authority:
    """A certificate authority for one test."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self.pem = self._sign(self._name, self._key.public_key(), authority=True).public_bytes(serialization.Encoding.PEM)

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePublicKey, *, authority: bool = False) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        common = name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(str(common))]), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, name: str) -> Tls:
        """A certificate for a replica."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return Tls(self.pem, certificate.public_bytes(serialization.Encoding.PEM), pem)


async def meet(tls_a: Tls | None, tls_b: Tls | None, seconds: float) -> bool:
    """Whether A and B get connected with these certificates."""
    ports = free_ports(2)
    a, b = End(settings(A, 2, ports=ports, tls=tls_a)), End(settings(B, 2, ports=ports, tls=tls_b))
    await a.peers.start()
    await b.peers.start()
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            if a.peers.is_up(B) and b.peers.is_up(A):
                return True
            assert not a.messages
            await asyncio.sleep(0.01)
        assert not a.peers.is_up(B)
        return False
    finally:
        await a.peers.stop()
        await b.peers.stop()


async def test_tls_with_the_right_names_connects() -> None:
    """Replicas whose certificates carry their ids are connected."""
    authority = Authority()
    assert await meet(authority.issue("a"), authority.issue("b"), 20)


@pytest.mark.parametrize("case", ["wrong name", "other authority", "no tls"])
async def test_tls_with_anything_else_does_not(case: str) -> None:
    """A certificate for another name, of another authority, or none at all connects nobody."""
    authority = Authority()
    other = {"wrong name": authority.issue("c"), "other authority": Authority().issue("b"), "no tls": None}[case]
    assert not await meet(authority.issue("a"), other, 1.0)
