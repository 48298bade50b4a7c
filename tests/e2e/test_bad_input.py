"""Bad input over the wire and at the command line: a clear error, nothing half-done, the node unharmed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from ledger.v1 import ledger_pb2
from lockd.v1 import common_pb2, lock_pb2, session_pb2, session_pb2_grpc
from lockd_client.testing import LocalCluster, NodeProcess, free_ports

pytestmark = pytest.mark.e2e

LOCKCTL = [sys.executable, "-m", "lockd_client.cli"]


@pytest.fixture
def node(shared_cluster: LocalCluster) -> Iterator[NodeProcess]:
    """The leader; afterwards its state must be what it was: bad input leaves no trace."""
    leader = shared_cluster.wait_healthy()
    before = leader.status()
    yield leader
    after = leader.status()
    assert (after.accounts, after.transfers, after.rows, after.locks) == (before.accounts, before.transfers, before.rows, before.locks)
    assert after.role == "leader"


def call(node: NodeProcess, method: str, data: bytes) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """Send raw bytes to a method, and return the status with its details."""
    with grpc.insecure_channel(node.address) as channel:
        stub = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
        with pytest.raises(grpc.RpcError) as refused:
            stub(data, timeout=10)
    error: Any = refused.value
    (details,) = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    return error.code(), status_pb2.Status.FromString(details)


def violations(details: status_pb2.Status) -> dict[str, str]:
    """The field violations of a status."""
    bad, info = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo()
    for detail in details.details:
        if not detail.Unpack(bad):
            assert detail.Unpack(info)
    assert (info.domain, info.reason) == ("lockd", "INVALID_ARGUMENT")
    return {v.field: v.description for v in bad.field_violations}


ACQUIRE = "/lockd.v1.LockService/Acquire"
TRANSFER = "/ledger.v1.LedgerService/CreateTransfers"
CONTEXT = common_pb2.RequestContext(session_id=1, request_id=1)


def acquire(**claim: object) -> bytes:
    """An acquire of one claim."""
    return lock_pb2.AcquireRequest(context=CONTEXT, claims=[lock_pb2.Claim(**claim)]).SerializeToString()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "data", "field"),
    [
        (ACQUIRE, acquire(resource="a", mode=99), "claims[0].mode"),
        (ACQUIRE, acquire(resource="x" * 600), "claims[0].resource"),
        (ACQUIRE, acquire(resource="/".join(["p"] * 10_000)), "claims[0].resource"),
        (ACQUIRE, acquire(resource="a/../b"), "claims[0].resource"),
        (ACQUIRE, acquire(resource="good/XX").replace(b"XX", b"\xff\xfe"), "claims[0].resource"),
        (ACQUIRE, lock_pb2.AcquireRequest(claims=[lock_pb2.Claim(resource="a")]).SerializeToString(), "context.session_id"),
        (ACQUIRE, b"\xff\xff\xff\xff", "message"),
        (TRANSFER, ledger_pb2.CreateTransfersRequest(packed=bytes(100)).SerializeToString(), "packed"),
        (TRANSFER, ledger_pb2.CreateTransfersRequest(packed=bytes(128 * 8191)).SerializeToString(), "packed"),
        (
            TRANSFER,
            ledger_pb2.CreateTransfersRequest(transfers=[ledger_pb2.Transfer(code=1 << 20)]).SerializeToString(),
            "transfers[0].code",
        ),
    ],
)
def test_a_bad_call_names_the_field(node: NodeProcess, method: str, data: bytes, field: str) -> None:
    """INVALID_ARGUMENT with the violated field in the details."""
    code, details = call(node, method, data)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert field in violations(details)


def test_an_unknown_session_is_refused_with_its_reason(node: NodeProcess) -> None:
    """A session that never was is a precondition, not a crash."""
    code, details = call(node, ACQUIRE, acquire(resource="a"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    info = error_details_pb2.ErrorInfo()
    assert details.details[0].Unpack(info)
    assert info.reason == "SESSION_UNKNOWN"


def test_garbage_on_the_stream_ends_that_stream_only(node: NodeProcess) -> None:
    """A stream that sends what is no message is closed with the reason; another stream goes on."""
    with grpc.insecure_channel(node.address) as channel:
        raw = channel.stream_stream("/lockd.v1.SessionService/Stream", request_serializer=bytes, response_deserializer=bytes)
        with pytest.raises(grpc.RpcError) as refused:
            list(raw(iter([b"\x0a\xff\xff\xff\xff\x0f"]), timeout=10))
        assert cast(Any, refused.value).code() is grpc.StatusCode.INVALID_ARGUMENT
        sessions = session_pb2_grpc.SessionServiceStub(channel)
        session = sessions.OpenSession(session_pb2.OpenSessionRequest(), timeout=5).session_id
        good = session_pb2.StreamCommand(request_id=1, keep_alive=session_pb2.KeepAliveRequest())
        bad = session_pb2.StreamCommand(request_id=2, acquire=lock_pb2.AcquireRequest())
        message = session_pb2.StreamRequest(session_id=session, commands=[good, bad])
        replies = [r for response in sessions.Stream(iter([message]), timeout=10) for r in response.replies]
        kinds = {r.request_id: r.WhichOneof("result") for r in replies}
        assert kinds == {1: "keep_alive", 2: "error"}
        context = common_pb2.RequestContext(session_id=session)
        sessions.CloseSession(session_pb2.CloseSessionRequest(context=context), timeout=5)


def lockctl(*arguments: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would."""
    return subprocess.run([*LOCKCTL, *arguments], capture_output=True, text=True, timeout=timeout, check=False)


def test_an_unreachable_cluster_is_one_sentence() -> None:
    """Exit code 2, one line, within the deadline that was given."""
    (port,) = free_ports(1)
    began = time.monotonic()
    done = lockctl("status", "--endpoints", f"127.0.0.1:{port}", "--timeout", "1")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) <= 2
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("transfer,9,1,2,340282366920938463463374607431768211456,1,1,", "amount"),
        ("transfer,9,1,2,12.5,1,1,", "amount"),
        ("transfer,9,1,2", "column"),
        ("transfer,9,1,2,5,1,1,shiny", "flags"),
    ],
)
def test_a_bad_csv_line_is_named(node: NodeProcess, tmp_path: Path, line: str, says: str) -> None:
    """The import says which line and which field, and sends nothing in a dry run."""
    file = tmp_path / "in.csv"
    header = "record,id,debit_account_id,credit_account_id,amount,ledger,code,flags"
    file.write_text(f"{header}\naccount,1,,,,1,1,\naccount,2,,,,1,1,\n{line}\n")
    done = lockctl("import", str(file), "--dry-run", "--endpoints", node.address)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "4" in said
    assert says in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve", "--bogus"], "--bogus"),
        (["serve", "--data", "d", "--listen", "0.0.0.0:1"], "reachable from outside"),
        (["serve", "--data", "d", "--member", "n1"], "is not ID="),
        (["serve", "--config", "missing.toml"], "missing.toml"),
        (["dev", "--memory", "--data", "d"], "exclude each other"),
    ],
)
def test_a_bad_command_line_of_the_node_says_what_is_wrong(tmp_path: Path, arguments: list[str], says: str) -> None:
    """Exit code 64, the setting named, and nothing made."""
    command = [sys.executable, "-m", "lockd.cli", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 64, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
