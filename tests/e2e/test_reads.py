"""Linearizable reads on real processes: a leader that was stopped and goes on does not answer from the past."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import grpc
import pytest

from lockd.v1 import common_pb2, row_pb2, row_pb2_grpc
from lockd_client.testing import LocalCluster, NodeProcess

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ROUNDS = 6
KEY = "reads/key"
LINEARIZABLE = common_pb2.CONSISTENCY_LINEARIZABLE
EVENTUAL = common_pb2.CONSISTENCY_EVENTUAL


def put(node: NodeProcess, value: bytes) -> None:
    """Write through this node, again until it is acknowledged; the same write may happen twice, which changes nothing here."""
    operation = row_pb2.Operation(put=row_pb2.PutRow(key=KEY, value=value))
    deadline = time.monotonic() + 20
    with grpc.insecure_channel(node.address) as channel:
        rows: Any = row_pb2_grpc.RowServiceStub(channel)
        while True:
            try:
                rows.Transact(row_pb2.TransactRequest(success=[operation]), timeout=5)
            except grpc.RpcError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return


def new_leader(nodes: list[NodeProcess], old: str) -> NodeProcess:
    """Who leads among these, once it is another than `old`."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for node in nodes:
            status = node.status()
            if status.role == "leader" and status.leader_id != old:
                return node
        time.sleep(0.02)
    raise AssertionError("the others did not elect a leader")


def read(rows: Any, consistency: common_pb2.Consistency.ValueType) -> Any:
    """Ask for the row; the answer comes later."""
    return rows.GetRow.future(row_pb2.GetRowRequest(key=KEY, consistency=consistency), timeout=20)


def ended(call: Any) -> bytes | None:
    """The value of a read, or None if it was refused, which is always allowed."""
    try:
        return bytes(call.result(timeout=20).row.value)
    except grpc.RpcError:
        return None


def test_a_stopped_leader_that_goes_on_never_answers_stale(cluster: LocalCluster) -> None:
    """What its successor acknowledged meanwhile is in every linearizable answer: to reads that waited in its socket, and to later ones.

    The same question without linearizability is answered from the past, which shows that the old leader had not caught up yet.
    """
    behind = 0
    for number in range(ROUNDS):
        leader = cluster.wait_healthy()
        others = [node for node in cluster.nodes if node is not leader]
        with ExitStack() as stack:
            asked: list[Callable[[common_pb2.Consistency.ValueType], Any]] = []
            for _ in range(4):
                channel = stack.enter_context(grpc.insecure_channel(leader.address, options=[("grpc.use_local_subchannel_pool", 1)]))
                rows: Any = row_pb2_grpc.RowServiceStub(channel)
                grpc.channel_ready_future(channel).result(timeout=10)
                asked.append(partial(read, rows))
            put(leader, b"old %d" % number)
            leader.pause()
            try:
                successor = new_leader(others, leader.name)
                put(successor, b"new %d" % number)
                calls = [ask(LINEARIZABLE) for ask in asked[1:]]
                weak = asked[0](EVENTUAL)
                time.sleep(0.1)
            finally:
                leader.resume()
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                calls += [ask(LINEARIZABLE) for ask in asked]
                time.sleep(0.005)
            answers = [ended(call) for call in calls]
            behind += ended(weak) == b"old %d" % number
        assert set(answers) <= {b"new %d" % number, None}
        assert b"new %d" % number in answers
    assert behind > 0, "the old leader had caught up before it was asked: this run proves nothing"
