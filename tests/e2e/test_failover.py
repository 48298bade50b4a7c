"""What holds while leaders die: mutual exclusion, growing tokens, one outcome for one request."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

import lockd_client
from ledger.v1 import ledger_pb2, ledger_pb2_grpc
from lockd.v1 import common_pb2, lock_pb2, lock_pb2_grpc, session_pb2, session_pb2_grpc
from lockd_client.testing import LocalCluster

pytestmark = pytest.mark.e2e
CLIENTS = 50
Response = TypeVar("Response")


@dataclass
class Witness:
    """Sees every grant and release of all clients, in one process and one order."""

    holder: dict[str, int] = field(default_factory=dict)
    tokens: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    violations: list[str] = field(default_factory=list)
    grants: list[int] = field(default_factory=list)

    def took(self, resource: str, client: int, token: int) -> None:
        """A client's body begins."""
        if resource in self.holder:
            self.violations.append(f"{resource}: {client} and {self.holder[resource]} at once")
        if self.tokens[resource] and token <= self.tokens[resource][-1]:
            self.violations.append(f"{resource}: token {token} after {self.tokens[resource][-1]}")
        self.holder[resource] = client
        self.tokens[resource].append(token)
        self.grants.append(token)

    def gave(self, resource: str) -> None:
        """A client's body ends."""
        del self.holder[resource]


async def contend(cluster: LocalCluster, number: int, done: asyncio.Event, witness: Witness) -> None:
    """One client that takes and releases locks until it is told that the test is done."""
    async with lockd_client.connect(cluster.endpoints, owner=f"client-{number}", ttl=10.0, timeout=20.0) as client:
        turn = 0
        while not done.is_set():
            resource = f"jobs/{(number + turn) % 10}"
            turn += 1
            async with client.lock(resource, wait=20.0) as grant:
                witness.took(resource, number, grant.token)
                try:
                    await asyncio.sleep(0.002)
                finally:
                    witness.gave(resource)


async def kill_leaders(cluster: LocalCluster, witness: Witness, end: float) -> int:
    """Until `end`: kill -9 the leader, wait for the next grant, and start the node again; how often that was."""
    kills = 0
    while time.monotonic() < end:
        leader = await asyncio.to_thread(cluster.wait_healthy)
        await asyncio.to_thread(leader.kill)
        kills += 1
        seen = len(witness.grants)
        async with asyncio.timeout(20.0):
            # Grants that were on their way may still arrive: work goes on only with more of them than there are clients.
            while len(witness.grants) < seen + 2 * CLIENTS:
                await asyncio.sleep(0.05)
        leader.start()
    return kills


async def test_a_lock_is_never_held_by_two_sessions(cluster: LocalCluster) -> None:
    """50 clients work for 30 s while the leader is killed (-9) again and again: no lock has two holders, tokens only grow, work goes on."""
    witness = Witness()
    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(contend(cluster, number, done, witness))
        kills = await kill_leaders(cluster, witness, time.monotonic() + 30.0)
        done.set()
    assert witness.violations == []
    assert kills >= 3


def ask(cluster: LocalCluster, call: Callable[[grpc.Channel], Response]) -> Response:
    """Ask the leader, and the next one if it is gone, as the service says: UNAVAILABLE means ask again, with the same request id."""
    deadline = time.monotonic() + 30.0
    while True:
        with grpc.insecure_channel(cluster.wait_leader().address) as channel:
            try:
                return call(channel)
            except grpc.RpcError as error:
                if cast(Any, error).code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                    raise


def open_session(cluster: LocalCluster, seconds: int) -> int:
    """A session over plain gRPC."""
    request = session_pb2.OpenSessionRequest(ttl=Duration(seconds=seconds))
    return ask(cluster, lambda channel: session_pb2_grpc.SessionServiceStub(channel).OpenSession(request, timeout=5)).session_id


def acquire(cluster: LocalCluster, session: int, request_id: int, resource: str, wait: int = 0) -> lock_pb2.AcquireResponse:
    """An exclusive acquire with its identity; `wait` in seconds, 0 is a try."""
    context = common_pb2.RequestContext(session_id=session, request_id=request_id)
    request = lock_pb2.AcquireRequest(context=context, claims=[lock_pb2.Claim(resource=resource)])
    if wait:
        request.wait.timeout.seconds = wait
    return ask(cluster, lambda channel: lock_pb2_grpc.LockServiceStub(channel).Acquire(request, timeout=wait + 5))


def test_a_retry_across_a_leader_change_returns_the_first_outcome(cluster: LocalCluster) -> None:
    """The same request, asked again of the next leader, gets the first grant and takes the lock only once."""
    session = open_session(cluster, 60)
    first = acquire(cluster, session, 1, "once/only")
    cluster.wait_leader().kill()
    assert acquire(cluster, session, 1, "once/only") == first
    context = common_pb2.RequestContext(session_id=session, request_id=2)
    guard = common_pb2.Guard(resource="once/only", token=first.holds[0].token)
    release = lock_pb2.ReleaseRequest(context=context, holds=[guard])
    assert list(ask(cluster, lambda channel: lock_pb2_grpc.LockServiceStub(channel).Release(release, timeout=5)).released) == [True]
    listing = lock_pb2.ListLocksRequest(prefix="once")
    state = ask(cluster, lambda channel: lock_pb2_grpc.LockServiceStub(channel).ListLocks(listing, timeout=5))
    assert [holder for lock in state.locks for holder in lock.holders] == []


def test_a_retry_of_a_batch_across_a_leader_change_posts_once(cluster: LocalCluster) -> None:
    """Transfers sent again with the same request id get the first results, not `exists`."""
    one, two = (ledger_pb2.Uint128(low=i) for i in (1, 2))
    accounts = ledger_pb2.CreateAccountsRequest(accounts=[ledger_pb2.Account(id=i, ledger=1, code=1) for i in (one, two)])
    transfer = ledger_pb2.Transfer(id=one, debit_account_id=one, credit_account_id=two, amount=two, ledger=1, code=1)
    context = common_pb2.RequestContext(session_id=open_session(cluster, 60), request_id=1)
    request = ledger_pb2.CreateTransfersRequest(context=context, transfers=[transfer])
    ask(cluster, lambda channel: ledger_pb2_grpc.LedgerServiceStub(channel).CreateAccounts(accounts, timeout=5))
    first = ask(cluster, lambda channel: ledger_pb2_grpc.LedgerServiceStub(channel).CreateTransfers(request, timeout=5))
    assert first.results[0].status == ledger_pb2.CREATE_TRANSFER_STATUS_CREATED
    cluster.wait_leader().kill()
    assert ask(cluster, lambda channel: ledger_pb2_grpc.LedgerServiceStub(channel).CreateTransfers(request, timeout=5)) == first
    lookup = ledger_pb2.LookupAccountsRequest(ids=[one, two])
    found = ask(cluster, lambda channel: ledger_pb2_grpc.LedgerServiceStub(channel).LookupAccounts(lookup, timeout=5))
    assert [account.debits_posted.low for account in found.accounts] == [2, 0]


def test_tokens_grow_over_a_restart_of_the_whole_cluster(cluster: LocalCluster) -> None:
    """After kill -9 of every node the next grant has a greater token than any before."""
    tokens: list[int] = []
    for number in range(3):
        # Each session outlives the one before, whose expiry frees the lock; none is kept alive.
        session = open_session(cluster, 5 * (number + 1))
        tokens.append(acquire(cluster, session, 1, "a/b", wait=20).holds[0].token)
        for node in cluster.nodes:
            node.kill()
        for node in cluster.nodes:
            node.start()
    assert tokens == sorted(set(tokens))
