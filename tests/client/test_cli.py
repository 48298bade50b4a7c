"""`lockctl` against the fake cluster: output, JSON, and exit codes 0, 1, 2 and 64."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from lockd_client.cli import app
from tests.client.fake_world import status
from tests.client.waiting import until_sync

if TYPE_CHECKING:
    from tests.client.fake_server import FakeCluster

CODE = grpc.StatusCode
DEMO = Path(__file__).resolve().parent.parent.parent / "examples" / "data" / "transfers.csv"
HEADER = "record,id,debit_account_id,credit_account_id,amount,ledger,code,flags\n"


def lockctl(cluster: FakeCluster | None, *arguments: str) -> Result:
    """Run a command line in this process."""
    endpoints = cluster.endpoints if cluster is not None else "127.0.0.1:1"
    return CliRunner().invoke(app, list(arguments), env={"LOCKCTL_ENDPOINTS": endpoints})


def as_json(result: Result) -> Any:
    """The one line of JSON."""
    return json.loads(result.stdout)


def test_status_shows_every_node(three: FakeCluster) -> None:
    """A row for each node, with the dead one named; exit code 0."""
    three.stop(2)
    result = lockctl(three, "status", "--timeout", "2")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split()[:3] == ["ADDRESS", "ID", "ROLE"]
    assert "leader" in lines[1]
    assert "no answer" in lines[3]
    nodes = as_json(lockctl(three, "status", "--json"))["nodes"]
    assert nodes[three.addresses[0]]["role"] == "leader"
    assert nodes[three.addresses[2]]["error"]["reason"]


@pytest.mark.parametrize("command", [["status"], ["locks"], ["lock", "a"], ["account", "show", "1"], ["member", "list"]])
def test_an_unreachable_cluster_is_exit_code_2(command: list[str]) -> None:
    """One sentence on stderr, or an error object with --json."""
    result = lockctl(None, *command, "--timeout", "0.2")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("lockctl: No node of 127.0.0.1:1 ")
    result = lockctl(None, *command, "--timeout", "0.2", "--json")
    assert result.exit_code == 2
    assert as_json(result)["error"]["code"] == "UNAVAILABLE"


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["frob"],
        ["status", "--frob"],
        ["status", "--endpoints", "nowhere"],
        ["unlock", "a"],
        ["unlock", "a", "--force"],
        ["unlock", "a", "--force", "--reason", "x", "--token", "1"],
        ["lock", "a", "--mode", "weird"],
        ["lock", "run", "a"],
        ["account", "create", "1"],
        ["account", "create", "1", "--ledger", "1", "--code", "1", "--flags", "shiny"],
        ["import", "/does/not/exist.csv"],
        ["transfer", "--amount", "lots"],
    ],
)
def test_a_command_line_that_cannot_be_used_is_exit_code_64(cluster: FakeCluster, command: list[str]) -> None:
    """Usage goes to stderr, and nothing is sent."""
    result = lockctl(cluster, *command)
    assert result.exit_code == 64
    assert "Usage:" in result.stderr
    assert cluster.opened == 0


@pytest.mark.parametrize("command", [["--help"], ["lock", "--help"], ["lock", "run", "--help"], ["import", "--help"], ["version"]])
def test_help_needs_no_cluster(command: list[str]) -> None:
    """Help and version are exit code 0 without any node."""
    result = lockctl(None, *command)
    assert result.exit_code == 0
    assert result.stdout.strip()


def test_every_command_takes_the_shared_options() -> None:
    """--endpoints, --timeout and --json are in the help of every command."""
    commands = ["status", "locks", "lock hold", "lock run", "unlock", "account create", "account show", "transfer", "import"]
    commands += ["member list", "member add", "member promote", "member remove", "leader transfer", "snapshot save"]
    for command in commands:
        text = lockctl(None, *command.split(), "--help").stdout
        assert all(option in text for option in ("--endpoints", "--timeout", "--json")), command


def test_accounts_and_transfers(cluster: FakeCluster) -> None:
    """Create, show, transfer; a refusal by the ledger is exit code 1 with its status."""
    for account in ("1", "2"):
        result = lockctl(cluster, "account", "create", account, "--ledger", "1", "--code", "9")
        assert (result.exit_code, result.stdout) == (0, f"account {account}: created\n")
    assert "exists" in lockctl(cluster, "account", "create", "1", "--ledger", "1", "--code", "9").stdout
    common = ["transfer", "--debit", "1", "--credit", "2", "--ledger", "1", "--code", "9"]
    assert lockctl(cluster, *common, "--amount", "30", "--id", "77").stdout == "transfer 77: posted\n"
    assert "77: exists" in lockctl(cluster, *common, "--amount", "30", "--id", "77").stdout
    refused = lockctl(cluster, *common, "--amount", "31", "--id", "77", "--json")
    assert refused.exit_code == 1
    assert as_json(refused)["status"] == "exists_with_different_amount"
    fresh = as_json(lockctl(cluster, *common, "--amount", "1", "--json"))
    assert int(fresh["id"]) > 1 << 100
    shown = lockctl(cluster, "account", "show", "1", "3", "--json")
    assert shown.exit_code == 1
    assert [(a["id"], a["debits_posted"]) for a in as_json(shown)["accounts"]] == [("1", "31")]
    assert "not there: 3" in lockctl(cluster, "account", "show", "1", "3").stderr


def test_a_number_out_of_range_is_refused_by_name(cluster: FakeCluster) -> None:
    """What does not fit its field is named, and not sent."""
    result = lockctl(cluster, "transfer", "--debit", "1", "--credit", "2", "--ledger", "1", "--code", "70000", "--amount", "1")
    assert result.exit_code == 1
    assert "transfers[0].code" in result.stderr
    assert not cluster.applied


def test_members_leader_and_snapshot(three: FakeCluster, tmp_path: Path) -> None:
    """Operators' commands reach the leader; a snapshot is whole or not there."""
    assert [m["id"] for m in as_json(lockctl(three, "member", "list", "--json"))["members"]] == ["n0", "n1", "n2"]
    added = lockctl(three, "member", "add", "n9", "--peer", "h:1", "--client", "h:2")
    assert "learner" in added.stdout
    assert lockctl(three, "member", "promote", "n1").exit_code == 0
    assert "n2" not in lockctl(three, "member", "remove", "n2").stdout
    assert lockctl(three, "leader", "transfer", "n1").stdout == "n1 leads\n"
    target = tmp_path / "s"
    assert lockctl(three, "snapshot", "save", str(target)).exit_code == 0
    assert target.read_bytes() == bytes(10) + b"\x01" * 10 + b"\x02" * 10
    assert list(tmp_path.iterdir()) == [target]


def test_a_refusal_is_exit_code_1(cluster: FakeCluster) -> None:
    """What the service refuses is told with its reason."""
    cluster.refusals.append(("AddMember", status(CODE.PERMISSION_DENIED, "PERMISSION_DENIED", "not an admin")))
    result = lockctl(cluster, "member", "add", "n9", "--peer", "h:1", "--client", "h:2", "--json")
    assert result.exit_code == 1
    assert as_json(result)["error"]["reason"] == "PERMISSION_DENIED"


def test_an_unknown_outcome_is_exit_code_2(cluster: FakeCluster) -> None:
    """A transfer without an answer: exit code 2, and the id with which to ask again."""
    lockctl(cluster, "account", "create", "1", "--ledger", "1", "--code", "9")

    def silent(kind: str) -> None:
        cluster.mute = cluster.mute or kind == "create_transfers"

    cluster.on_command = silent
    result = lockctl(
        cluster,
        "transfer",
        "--debit",
        "1",
        "--credit",
        "2",
        "--ledger",
        "1",
        "--code",
        "9",
        "--amount",
        "1",
        "--id",
        "5",
        "--timeout",
        "0.5",
    )
    assert result.exit_code == 2
    assert "--id 5" in result.stderr


def hold(cluster: FakeCluster, *arguments: str) -> subprocess.Popen[str]:
    """`lockctl lock ... --json` in a process of its own."""
    command = [sys.executable, "-m", "lockd_client.cli", "lock", *arguments, "--json", "-e", cluster.endpoints]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_lock_holds_until_a_signal(cluster: FakeCluster, number: signal.Signals) -> None:
    """`lockctl lock NAME` prints token and session, holds, and gives back at Ctrl-C or SIGTERM with exit code 0."""
    with hold(cluster, "a/b") as process:
        assert process.stdout is not None
        grant = json.loads(process.stdout.readline())
        assert [(s, t) for s, t, _ in cluster.holders["a/b"]] == [(grant["session_id"], grant["token"])]
        listed = as_json(lockctl(cluster, "locks", "a", "--json"))
        assert listed["locks"][0]["holders"][0]["token"] == grant["token"]
        assert lockctl(cluster, "lock", "a/b", "--wait", "0").exit_code == 1
        assert lockctl(cluster, "lock", "a/b", "--wait", "0.05").exit_code == 1
        process.send_signal(number)
        assert process.wait(20) == 0
    assert cluster.holders == {}


def test_lock_ends_when_it_is_lost(cluster: FakeCluster) -> None:
    """Exit code 1 as soon as the lock is lost."""
    with hold(cluster, "a", "--ttl", "1") as process:
        assert process.stdout is not None
        grant = json.loads(process.stdout.readline())
        cluster.lose_session(grant["session_id"])
        assert process.wait(20) == 1
        assert json.loads(process.stdout.read())["error"]["reason"] == "SESSION_EXPIRED"


def test_unlock_by_token_and_by_force(cluster: FakeCluster) -> None:
    """A grant is given back by token and session, or taken away with a reason; another's token is refused."""
    with hold(cluster, "a") as process:
        assert process.stdout is not None
        grant = json.loads(process.stdout.readline())
        session = str(grant["session_id"])
        assert "released before" in lockctl(cluster, "unlock", "a", "--token", "1", "--session", session).stdout
        assert lockctl(cluster, "unlock", "a", "--token", str(grant["token"]), "--session", "1").exit_code == 1
        assert lockctl(cluster, "unlock", "a", "--token", str(grant["token"]), "--session", session).stdout == "a: released\n"
        assert cluster.holders == {}
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    with hold(cluster, "a") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert "taken away from 1" in lockctl(cluster, "unlock", "a", "--force", "--reason", "test").stdout
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 1
    assert lockctl(cluster, "unlock", "a", "--force", "--reason", "test").exit_code == 1


def test_lock_run_passes_exit_code_and_environment(cluster: FakeCluster, tmp_path: Path) -> None:
    """The command sees token and resource, the lock is held meanwhile and given back, and its exit code is lockctl's."""
    target = tmp_path / "seen"
    held: list[object] = []
    cluster.on_command = lambda kind: held.append(dict(cluster.holders)) if kind == "release" else None
    script = f'echo "$LOCKD_TOKEN $LOCKD_RESOURCE" > {target}; exit 7'
    assert lockctl(cluster, "lock", "run", "jobs/1", "--", "sh", "-c", script).exit_code == 7
    token, resource = target.read_text().split()
    assert resource == "jobs/1"
    assert held[0]["jobs/1"][0][1] == int(token)  # type: ignore[index]
    assert cluster.holders == {}
    assert lockctl(cluster, "lock", "run", "jobs/1", "true").exit_code == 0
    assert lockctl(cluster, "lock", "run", "jobs/1", "--", "sh", "-c", "kill -9 $$").exit_code == 137
    assert lockctl(cluster, "lock", "run", "jobs/1", "--", "no-such-command-anywhere").exit_code == 127
    assert cluster.holders == {}


def test_lock_run_does_not_start_without_the_lock(cluster: FakeCluster, tmp_path: Path) -> None:
    """A lock that cannot be had: exit code 1, and the command never runs."""
    target = tmp_path / "ran"
    with hold(cluster, "a") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert lockctl(cluster, "lock", "run", "a", "--wait", "0", "--", "touch", str(target)).exit_code == 1
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    assert not target.exists()


def lose_when_started(cluster: FakeCluster, started: Path) -> threading.Thread:
    """Takes the session away as soon as the command has begun."""

    def work() -> None:
        until_sync(lambda: started.exists() and started.read_text().strip())
        cluster.lose_session(next(iter(cluster.sessions)))

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("stubborn", [False, True])
def test_lock_run_ends_the_command_when_the_lock_is_lost(cluster: FakeCluster, tmp_path: Path, stubborn: bool) -> None:
    """SIGTERM, and SIGKILL after the grace, to the command and what it started; exit code 1."""
    started = tmp_path / "started"
    trap = "trap '' TERM; " if stubborn else ""
    script = f"{trap}sleep 600 & echo $$ $! > {started}; wait; wait; sleep 600"
    thread = lose_when_started(cluster, started)
    result = lockctl(cluster, "lock", "run", "a", "--ttl", "1", "--grace", "0.3" if stubborn else "30", "--", "sh", "-c", script)
    thread.join()
    assert result.exit_code == 1
    assert "expired" in result.stderr
    until_sync(lambda: all(gone(int(pid)) for pid in started.read_text().split()))


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie that nobody has collected counts as ended)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def run_import(cluster: FakeCluster | None, text: str | bytes, tmp_path: Path, *more: str) -> Result:
    """Import a file with this content."""
    path = tmp_path / "f.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return lockctl(cluster, "import", str(path), *more)


def test_import_sends_what_is_good_and_names_what_is_bad(cluster: FakeCluster, tmp_path: Path) -> None:
    """Good lines are posted, bad ones named by line, field and reason, refused ones by line and status; exit code 1."""
    text = HEADER + "account,1,,,,1,10,\naccount,2,,,,1,10,debits_must_not_exceed_credits\naccount,x,,,,1,10,\n"
    text += "transfer,1,1,2,50,1,9,\ntransfer,2,2,1,80,1,9,\ntransfer,3,2,1,20,1,nine,\ntransfer,1,1,2,50,1,9,\n"
    result = run_import(cluster, text, tmp_path)
    assert result.exit_code == 1
    assert "line 4: id: 'x' is not a whole number" in result.stderr
    assert "line 7: code: 'nine' is not a whole number" in result.stderr
    assert "line 6: refused: exceeds_credits" in result.stderr
    found = as_json(run_import(cluster, text, tmp_path, "--json"))
    assert found["accounts"] == {"already there": 2}
    assert found["transfers"] == {"already there": 2, "refused: exceeds_credits": 1}
    assert [i["line"] for i in found["invalid"]] == [4, 7]
    assert found["refused"] == [{"line": 6, "status": "exceeds_credits"}]


def test_a_clean_import_is_exit_code_0(cluster: FakeCluster, tmp_path: Path) -> None:
    """Nothing bad, nothing refused; --kind sends one kind only."""
    text = HEADER + "account,1,,,,1,10,\naccount,2,,,,1,10,\ntransfer,1,1,2,50,1,9,\n"
    assert run_import(cluster, text, tmp_path, "--kind", "accounts").exit_code == 0
    assert (len(cluster.accounts), len(cluster.transfers)) == (2, 0)
    result = run_import(cluster, text, tmp_path)
    assert result.exit_code == 0
    assert "posted" in result.stdout


def test_a_dry_run_needs_no_cluster(tmp_path: Path) -> None:
    """Every line is checked and nothing sent: the demo's 25 bad lines are found without a node."""
    result = lockctl(None, "import", str(DEMO), "--dry-run", "--json")
    assert result.exit_code == 1
    found = as_json(result)
    assert (found["accounts"], found["transfers"], len(found["invalid"])) == ({"valid": 1_000}, {"valid": 10_000}, 25)
    assert run_import(None, HEADER + "account,1,,,,1,10,\n", tmp_path, "--dry-run").exit_code == 0


def test_a_file_that_is_not_utf8_names_its_line(cluster: FakeCluster, tmp_path: Path) -> None:
    """A clear error with the line; exit code 1."""
    result = run_import(cluster, HEADER.encode() + b"account,1,,,,1,10,\nfr\xfchling\n", tmp_path)
    assert result.exit_code == 1
    assert "line 3 is not UTF-8" in result.stderr


def test_an_import_that_is_cut_off_says_which_lines_are_unknown(cluster: FakeCluster, tmp_path: Path) -> None:
    """Exit code 2, the lines of the batch, and the advice to import again."""

    def silent(kind: str) -> None:
        cluster.mute = cluster.mute or kind == "create_transfers"

    cluster.on_command = silent
    text = HEADER + "account,1,,,,1,10,\naccount,2,,,,1,10,\ntransfer,1,1,2,50,1,9,\n"
    result = run_import(cluster, text, tmp_path, "--timeout", "0.5")
    assert result.exit_code == 2
    assert "Lines 4 to 4 may have been applied" in result.stderr


def test_a_chain_that_is_imported_again_is_already_there() -> None:
    """The ledger answers a repeated chain with `exists` and `linked_event_failed`: all of it is there, nothing was refused."""
    from collections import Counter

    from lockd_client import Transfer
    from lockd_client.cli.importing import Report, _count
    from lockd_client.csv_import import Batch, Line

    lines = tuple(Line(i, Transfer(i, 1, 2, 1, 1, 1, flags=1 if i in (2, 4) else 0)) for i in range(2, 7))
    counts: Counter[str] = Counter()
    report = Report("f", dry_run=False)
    statuses = ["exists", "linked_event_failed", "linked_event_failed", "exceeds_credits", "created"]
    _count(Batch(lines), statuses, counts, "posted", report)
    assert counts == {"already there": 2, "refused: linked_event_failed": 1, "refused: exceeds_credits": 1, "posted": 1}
    assert report.refused == [(4, "linked_event_failed"), (5, "exceeds_credits")]
