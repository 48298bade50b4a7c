"""Peers over loopback: identity, order, bounds, reconnection."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import multiprocessing
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lockd.raft.core.types import AppendRequest, InstallSnapshot, Member, Message, ReplicaId, SnapshotMeta, TimeoutNow
from lockd.raft.disk import MemoryDisk
from lockd.raft.envelope import JoinReply, JoinRequest, Preamble, encode_message, encode_preamble
from lockd.raft.snapshots import SnapshotFile, SnapshotReceiver, Snapshots
from lockd.raft.transport import TlsConfig, Transport
from lockd.raft.transport_peer import PeerLimits
from tests.unit.raft_shell.cluster import free_ports, until
from tests.unit.raft_shell.support import entry, membership, noise
from tests.unit.raft_shell.test_envelope import MESSAGES, mutate
from tests.unit.raft_shell.test_snapshots import Pieces

A, B = ReplicaId("a"), ReplicaId("b")
CLUSTER = "cluster"


class Handler:
    """Remembers what came."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.lost: list[ReplicaId] = []
        self.members: set[str] = {"a", "b"}
        self.snapshots = Snapshots(MemoryDisk(), CLUSTER)

    def admits(self, peer: ReplicaId) -> bool:
        """Members only."""
        return peer in self.members

    def received(self, messages: Sequence[Message]) -> None:
        """Keep them."""
        self.messages.extend(messages)

    def unreachable(self, peer: ReplicaId) -> None:
        """Count."""
        self.lost.append(peer)

    def begin_snapshot(self, message: InstallSnapshot) -> SnapshotReceiver:
        """Into memory."""
        return self.snapshots.receive(message.meta)

    async def join(self, request: JoinRequest) -> JoinReply:
        """Everyone may."""
        return JoinReply(membership("a", request.member.id))


class Side:
    """One transport and its handler."""

    def __init__(self, name: ReplicaId, address: str, tls: TlsConfig | None = None) -> None:
        self.address = address
        self.handler = Handler()
        self.transport = Transport(CLUSTER, name, address, address, tls, self.handler)


@contextlib.asynccontextmanager
async def pair(tls_a: TlsConfig | None = None, tls_b: TlsConfig | None = None) -> AsyncIterator[tuple[Side, Side]]:
    """Two sides that know each other."""
    ports = free_ports(2)
    a = Side(A, f"127.0.0.1:{ports[0]}", tls_a)
    b = Side(B, f"127.0.0.1:{ports[1]}", tls_b)
    members = [Member(A, a.address, ""), Member(B, b.address, "")]
    try:
        for side in (a, b):
            await side.transport.start()
            side.transport.set_members(members)
        yield a, b
    finally:
        await a.transport.stop()
        await b.transport.stop()


def append(number: int, size: int = 0) -> AppendRequest:
    """A message that can be told from others."""
    return AppendRequest(A, B, 1, 0, 0, (entry(1, 1, noise(number, size)),) if size else (), 0, number)


async def test_messages_arrive_in_order_and_whole() -> None:
    """What one side sends over one connection, the other side gets, in order, whatever the sizes."""
    async with pair() as (a, b):
        sent: list[Message] = [append(n, [0, 10, 100_000][n % 3]) for n in range(300)] + MESSAGES
        for message in sent:
            a.transport.send([message])
        await until(lambda: len(b.handler.messages) == len(sent), "all have arrived")
        assert b.handler.messages == sent
        assert b.transport.received_frames < len(sent) / 2, "what waits goes together"


async def test_a_peer_that_comes_back_is_found_quickly() -> None:
    """While a peer is away messages are dropped and reported; within a second of its return they flow again."""
    async with pair() as (a, b):
        a.transport.send([append(1)])
        await until(lambda: b.handler.messages, "the first has arrived")
        await b.transport.stop()
        await until(lambda: a.handler.lost, "the loss is noticed")
        a.transport.send([append(2)])
        again = Side(B, b.address)
        again.transport.set_members([Member(A, a.address, "")])
        await again.transport.start()
        loop = asyncio.get_running_loop()
        began = loop.time()
        number = 3
        while not again.handler.messages:
            a.transport.send([append(number)])
            number += 1
            await asyncio.sleep(0.01)
        assert loop.time() - began < 1.0
        assert again.handler.messages[0] != append(2), "what was sent while it was away is lost"
        await again.transport.stop()


async def test_a_full_queue_drops_and_tells_once() -> None:
    """A peer that does not take its messages costs a bounded amount of memory, and the driver hears of it once, not per message."""
    async with pair() as (a, b):
        a.transport.send([append(0)])
        await until(lambda: b.handler.messages, "connected")
        big = append(1, 1 << 20)
        a.transport.send([big] * 200)
        counters = a.transport.counters()
        assert counters["peer_messages_dropped"] >= 200 - PeerLimits.max_bytes // (1 << 20) - 2
        await until(lambda: a.handler.lost, "it is told")
        assert a.handler.lost == [B]
        await until(lambda: len(b.handler.messages) + a.transport.counters()["peer_messages_dropped"] == 201, "the rest has arrived")


def frame_of(*messages: Message, sender: str = "a", to: str = "b", cluster: str = CLUSTER, epoch: int = 1) -> bytes:
    """A frame as a peer would send it."""
    pieces = [encode_preamble(Preamble(epoch, cluster, ReplicaId(sender), ReplicaId(to), "127.0.0.1:1"))]
    for message in messages:
        encode_message(message, pieces)
    return b"".join(pieces)


@contextlib.asynccontextmanager
async def stranger(address: str) -> AsyncIterator[Any]:
    """A client that can send any bytes."""
    channel: Any = grpc.aio.insecure_channel(address)
    try:
        yield channel
    finally:
        await channel.close()


async def refused(channel: Any, *frames: bytes, method: str = "Stream") -> grpc.StatusCode:
    """How a stream of these frames ends."""
    call = channel.stream_unary(f"/lockd.raft.v1.Peer/{method}")()
    with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
        for frame in frames:
            await call.write(frame)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    code: grpc.StatusCode = caught.value.code()
    return code


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"", grpc.StatusCode.INVALID_ARGUMENT),
        (b"GET / HTTP/1.1", grpc.StatusCode.INVALID_ARGUMENT),
        (frame_of(cluster="other"), grpc.StatusCode.FAILED_PRECONDITION),
        (frame_of(to="c"), grpc.StatusCode.FAILED_PRECONDITION),
        (frame_of(sender="z"), grpc.StatusCode.PERMISSION_DENIED),
        (frame_of() + b"\xff", grpc.StatusCode.INVALID_ARGUMENT),
        (frame_of() + b"\x08\xff\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_what_is_not_from_a_peer_is_refused(frame: bytes, code: grpc.StatusCode) -> None:
    """Garbage, another cluster's frames, frames for someone else, and frames of non-members end the connection and reach nobody."""
    async with pair() as (_, b), stranger(b.address) as channel:
        assert await refused(channel, frame) is code
        assert b.handler.messages == []
        assert b.transport.malformed == (code is grpc.StatusCode.INVALID_ARGUMENT)


async def test_a_frame_of_another_sender_ends_a_connection() -> None:
    """The identity that was checked at the start of a connection holds for all of it."""
    async with pair() as (_, b), stranger(b.address) as channel:
        code = await refused(channel, frame_of(append(1)), frame_of(append(2), sender="b", to="a"))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert b.handler.messages == [append(1)]


async def test_a_newer_connection_supersedes_an_older_one() -> None:
    """Late messages of an older connection are dropped; a connection with an older epoch is refused while a newer one is open."""
    async with pair() as (a, b), stranger(b.address) as channel:
        await a.transport.stop()
        older = channel.stream_unary("/lockd.raft.v1.Peer/Stream")()
        await older.write(frame_of(append(1), epoch=5))
        await until(lambda: b.handler.messages == [append(1)], "the first has arrived")
        newer = channel.stream_unary("/lockd.raft.v1.Peer/Stream")()
        await newer.write(frame_of(append(2), epoch=6))
        await until(lambda: len(b.handler.messages) == 2, "the second has arrived")
        await older.write(frame_of(append(3), epoch=5))
        with pytest.raises(grpc.aio.AioRpcError):
            await older
        assert await refused(channel, frame_of(append(4), epoch=4)) is grpc.StatusCode.ABORTED
        await newer.write(frame_of(append(5), epoch=6))
        await until(lambda: len(b.handler.messages) == 3, "the newer one goes on")
        assert b.handler.messages == [append(1), append(2), append(5)]


async def test_a_restarted_peer_gets_past_its_own_former_connection() -> None:
    """A process that begins at epoch 1 again, while the connection of the one before it is still open, is served all the same."""
    async with pair() as (a, b), stranger(b.address) as channel:
        await a.transport.stop()
        former = channel.stream_unary("/lockd.raft.v1.Peer/Stream")()
        await former.write(frame_of(append(1), epoch=1000))
        await until(lambda: b.handler.messages, "the former one is open")
        again = Side(A, a.address)
        again.transport.set_members([Member(B, b.address, "")])
        while append(2) not in b.handler.messages:
            again.transport.send([append(2)])
            await asyncio.sleep(0.01)
        await again.transport.stop()


async def test_a_removed_member_is_not_heard_any_more() -> None:
    """After a change of membership the connections of who is gone are of no use."""
    async with pair() as (_, b), stranger(b.address) as channel:
        call = channel.stream_unary("/lockd.raft.v1.Peer/Stream")()
        await call.write(frame_of(append(1), epoch=9))
        await until(lambda: b.handler.messages, "heard")
        b.handler.members = {"b"}
        b.transport.set_members([Member(B, b.address, "")])
        await call.write(frame_of(append(2), epoch=9))
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        assert b.handler.messages == [append(1)]


async def test_random_frames_change_nothing() -> None:
    """Mutated frames over real connections end them or are messages of the peer: the server goes on serving the next one."""
    rng = random.Random(3)
    valid = [frame_of(message) for message in MESSAGES]
    async with pair() as (_, b), stranger(b.address) as channel:
        for _ in range(300):
            call = channel.stream_unary("/lockd.raft.v1.Peer/" + rng.choice(["Stream", "Snapshot"]))()
            try:
                for _ in range(rng.randrange(1, 4)):
                    await call.write(mutate(rng, rng.choice(valid)))
                await call.done_writing()
                await asyncio.wait_for(call, 5)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass
        assert b.transport.malformed > 100
        before = len(b.handler.messages)
        call = channel.stream_unary("/lockd.raft.v1.Peer/Stream")()
        await call.write(frame_of(append(1), epoch=1 << 60))
        await until(lambda: len(b.handler.messages) > before, "it still serves")
        assert not b.handler.snapshots.current()


async def test_a_snapshot_is_streamed_verified_and_announced() -> None:
    """The receiver hears of a snapshot only once it has the file, durable and whole; a damaged stream is refused."""
    meta = SnapshotMeta(5, 2, membership("a", "b"))
    source = Snapshots(MemoryDisk(), CLUSTER)
    source.take(meta, Pieces(noise(1, 5 << 20)))
    message = InstallSnapshot(A, B, 3, meta)
    async with pair() as (a, b):
        assert await a.transport.send_snapshot(message, source.pieces(SnapshotFile(5, 2)))
        assert b.handler.messages == [message]
        with b.handler.snapshots.open(meta) as data:
            assert data.read() == noise(1, 5 << 20)
        pieces = list(source.pieces(SnapshotFile(5, 2)))
        pieces[2] = bytes(len(pieces[2]))
        assert not await a.transport.send_snapshot(message, iter(pieces))
        assert not await a.transport.send_snapshot(message, iter(pieces[:2]))
        assert not await a.transport.send_snapshot(replace(message, to=ReplicaId("z")), iter(pieces))
        assert b.handler.messages == [message]


async def test_joining_is_answered() -> None:
    """A replica that is no member may ask to become one, of this cluster only."""
    async with pair() as (a, b):
        request = JoinRequest(CLUSTER, Member(ReplicaId("n"), "127.0.0.1:9", "", voter=False), promote=False)
        reply = await a.transport.ask_to_join(b.address, None, request, 5)
        assert reply == JoinReply(membership("a", "n"))
        with pytest.raises(OSError, match="this is cluster"):
            await a.transport.ask_to_join(b.address, None, replace(request, cluster_id="other"), 5)
        with pytest.raises(OSError, match="did not let us join"):
            await a.transport.ask_to_join("127.0.0.1:1", None, request, 1)


@pytest.mark.parametrize("address", ["0.0.0.0:1", "10.0.0.1:1", "example.com:1", "[::]:1"])
def test_without_tls_only_loopback_is_served(address: str) -> None:
    """An address that others can reach needs certificates."""
    with pytest.raises(ValueError, match="without TLS"):
        Side(A, address)


def authority() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """A certificate authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    return key, signed(key, name, key, name, ca=True)


def signed(
    key: ec.EllipticCurvePrivateKey, name: x509.Name, by: ec.EllipticCurvePrivateKey, issuer: x509.Name, *, ca: bool
) -> x509.Certificate:
    """A certificate of an hour."""
    now = dt.datetime.now(dt.UTC)
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(str(common))]), critical=False)
        .sign(by, hashes.SHA256())
    )


def certified(name: str, by: tuple[ec.EllipticCurvePrivateKey, x509.Certificate]) -> TlsConfig:
    """Certificate and key of one member."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    cert = signed(key, subject, by[0], by[1].subject, ca=False)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return TlsConfig(by[1].public_bytes(pem), cert.public_bytes(pem), private)


async def test_with_tls_members_are_who_their_certificates_say() -> None:
    """Messages of a member with its own certificate arrive."""
    ca = authority()
    async with pair(certified("a", ca), certified("b", ca)) as (a, b):
        a.transport.send([append(1)])
        await until(lambda: b.handler.messages == [append(1)], "it has arrived")


@pytest.mark.parametrize("wrong", ["sender", "receiver", "authority"])
async def test_with_tls_nobody_can_pass_for_another(wrong: str) -> None:
    """A certificate of another member, or of another authority, gets nothing through, in either direction."""
    ca = authority()
    tls_a = certified("c" if wrong == "sender" else "a", authority() if wrong == "authority" else ca)
    tls_b = certified("c" if wrong == "receiver" else "b", ca)
    async with pair(tls_a, tls_b) as (a, b):
        for n in range(3):
            a.transport.send([append(n)])
            lost = len(a.handler.lost)
            await until(lambda lost=lost: len(a.handler.lost) > lost, "it was refused")  # type: ignore[misc]
        assert b.handler.messages == []


def other_process(address: str, peer: str, count: int) -> None:
    """Sends messages from a process of its own, until it is told that all have arrived."""

    async def run() -> None:
        side = Side(A, address)
        await side.transport.start()
        side.transport.set_members([Member(B, peer, "")])
        for n in range(count):
            side.transport.send([append(n, 1000)])
        await until(lambda: TimeoutNow(B, A, 1) in side.handler.messages, "the other side has all")
        await side.transport.stop()

    asyncio.run(run())


async def test_two_processes_talk() -> None:
    """The same between processes, in both directions."""
    ports = free_ports(2)
    b = Side(B, f"127.0.0.1:{ports[1]}")
    await b.transport.start()
    b.transport.set_members([Member(A, f"127.0.0.1:{ports[0]}", "")])
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=other_process, args=(f"127.0.0.1:{ports[0]}", b.address, 500))
    process.start()
    try:
        await until(lambda: len(b.handler.messages) == 500, "all have arrived")
        assert b.handler.messages == [append(n, 1000) for n in range(500)]

        def ended() -> bool:
            b.transport.send([TimeoutNow(B, A, 1)])
            return not process.is_alive()

        await until(ended, "the other process has heard and ended")
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
        await b.transport.stop()
