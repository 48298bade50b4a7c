"""The page, the command line and the judging of saved histories."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from chaos import report
from chaos.__main__ import main
from chaos.checkers.verdict import Verdict, worst
from chaos.history import Fault, Header, History, Leader, Op, Outcome, write
from chaos.nemesis.catalogue import CATALOGUE as NEMESES
from chaos.nemesis.catalogue import find
from chaos.run import check_history
from chaos.workloads.catalogue import CATALOGUE as WORKLOADS

MS = 1_000_000


def run_of(*, stale: bool) -> History:
    """A run of registers with a fault, two leaders, and, if asked for, a stale read."""
    ops = []
    for i in range(20):
        at = i * 100 * MS
        ops.append(Op(3 * i + 1, "c1", "write", "k", i, None, Outcome.OK, at, at + 10 * MS))
        ops.append(Op(3 * i + 2, "c2", "read", "k", None, 3 if stale and i == 15 else i, Outcome.OK, at + 20 * MS, at + 30 * MS, "n1"))
        ops.append(Op(3 * i + 3, "c3", "cas", "k", [i, i], True, Outcome.OK, at + 40 * MS, at + 50 * MS))
    ops.append(Op(100, "c4", "write", "k<&>", 999, None, Outcome.UNKNOWN, 2000 * MS, 4000 * MS))
    faults = (Fault(500 * MS, "kill-one", "begin", "n2"), Fault(900 * MS, "kill-one", "end"), Fault(2500 * MS, "heal", "note"))
    return History(Header("register", ("kill-one",), 3, 2.0, 42), tuple(ops), faults, (Leader(0, "n1", 1), Leader(600 * MS, "n3", 2)))


class Page(HTMLParser):
    """Collects what a browser would load, and checks that elements of drawings are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.drawings = 0
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One element begins."""
        self.loads += [f"{tag} {k}={v}" for k, v in attrs if k in ("src", "href", "srcset", "data") or tag in ("script", "link", "iframe")]
        self.drawings += tag == "svg"
        if tag in ("svg", "text", "div", "code", "pre"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """One element ends."""
        if tag in ("svg", "text", "div", "code", "pre"):
            assert self.open.pop() == tag


def test_the_page_is_self_contained_and_shows_the_violation() -> None:
    """One file without scripts or addresses: timeline, latencies, outcomes, verdict, the minimal part, the command."""
    history = run_of(stale=True)
    judgements = check_history(history)
    assert worst(j.verdict for j in judgements) is Verdict.VIOLATION
    text = report.page(history, judgements)
    page = Page()
    page.feed(text)
    assert page.loads == []
    assert page.open == []
    assert page.drawings == 4
    for wanted in ("violation", "read(k, None) -&gt; 3", "kill-one", "n3", history.header.command(), "c4"):
        assert wanted in text
    assert "<&>" not in text


@pytest.mark.parametrize(
    ("history", "code"),
    [
        (run_of(stale=False), 0),
        (run_of(stale=True), 1),
        (replace(run_of(stale=False), ops=()), 2),
        (replace(run_of(stale=False), header=Header("song")), 3),
        (replace(run_of(stale=False), faults=(Fault(1, "recovery", "note", "n2 did not catch up"),)), 1),
        (replace(run_of(stale=False), faults=(Fault(1, "exit", "note", "n2 ended with 73"),)), 1),
        (replace(run_of(stale=False), faults=(Fault(1, "overdue", "note", "c1 hangs"),)), 1),
    ],
)
def test_a_saved_history_is_judged_again(tmp_path: Path, history: History, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code tells ok, violation, unknown and could-not-run apart; what went wrong is said."""
    path = tmp_path / "history.jsonl"
    write(path, history)
    assert main(["check", str(path)]) == code
    said = capsys.readouterr()
    assert ("could not run" in said.err) is (code == 3)
    if code != 3:
        assert main(["report", str(path)]) == code
        assert (tmp_path / "report.html").stat().st_size > 1_000


def test_replicas_that_differ_are_a_violation() -> None:
    """Different hashes after the same index are divergence."""
    history = run_of(stale=False)
    last = [
        Op(200 + i, "final", "state_hash", f"n{i}", None, f"{h}@9", Outcome.OK, 9000 * MS + i, 9000 * MS + i) for i, h in enumerate("aab")
    ]
    verdicts = {j.checker: j.verdict for j in check_history(replace(history, ops=(*history.ops, *last)))}
    assert verdicts["recovery"] is Verdict.VIOLATION


def test_everything_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """`list` names every workload and nemesis with what it does."""
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for name, about in [*((n, k.about) for n, k in WORKLOADS.items()), *((n, k.about) for n, k in NEMESES.items())]:
        assert name in said
        assert about in said


@pytest.mark.parametrize(
    "arguments",
    [["--workload", "song"], ["--workload", "lock", "--nemesis", "flood"], ["--workload", "lock", "--mode", "containers"]],
)
def test_what_cannot_run_says_so(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A workload, nemesis or mode that is not there ends with 3 and a reason, before anything is started."""
    assert main(["run", *arguments, "--out", str(tmp_path / "out")]) == 3
    assert "could not run" in capsys.readouterr().err


def test_a_used_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Data of an earlier run is neither mixed in nor overwritten."""
    (tmp_path / "history.jsonl").write_text("old")
    assert main(["run", "--workload", "lock", "--out", str(tmp_path)]) == 3
    assert "not empty" in capsys.readouterr().err
    assert (tmp_path / "history.jsonl").read_text() == "old"


def test_nemeses_are_found_by_name() -> None:
    """Names by commas; "none" is nobody."""
    assert [k.name for k in find(["kill-one", "none", "transfer"])] == ["kill-one", "transfer"]
    with pytest.raises(ValueError, match="flood"):
        find(["flood"])
