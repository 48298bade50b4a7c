"""The file of a history: what is written is read again, and what cannot be judged is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chaos.history import Header, History, HistoryError, Op, Outcome, Recorder, read, write


def test_what_is_recorded_is_read_again(tmp_path: Path) -> None:
    """Operations, faults and leaders come back with their times; what never completed is unknown."""
    times = iter(range(100, 200))
    path = tmp_path / "h.jsonl"
    with Recorder(path, Header("register", ("kill",), 5, 9.0, 7), clock=lambda: next(times)) as recorder:
        first = recorder.invoke("a", "write", "k", 1 << 100)
        second = recorder.invoke("b", "read", "k", node="n1")
        recorder.fault("kill", "begin", "n2")
        recorder.complete(second, Outcome.OK, [1, None])
        recorder.leader("n3", 4)
        recorder.invoke("c", "read", "k")
        recorder.complete(first, Outcome.FAIL, "NO_LEADER")
    history = read(path)
    assert [(o.process, o.kind, o.args, o.result, o.outcome) for o in history.ops] == [
        ("a", "write", 1 << 100, "NO_LEADER", Outcome.FAIL),
        ("b", "read", None, [1, None], Outcome.OK),
        ("c", "read", None, None, Outcome.UNKNOWN),
    ]
    assert history.ops[1].node == "n1"
    assert history.ops[1].invoked < history.faults[0].at < history.ops[1].completed < history.leaders[0].at
    assert history.header.command() == (
        "python -m chaos run --workload register --nemesis kill --nodes 5 --time 9 --seed 7 --mode processes"
    )
    write(tmp_path / "again.jsonl", history)
    assert read(tmp_path / "again.jsonl") == history


GOOD = Op(1, "a", "read", "k", None, 1, Outcome.OK, 5, 6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"completed": 4}, "completes before"),
        ({"outcome": "perhaps"}, "no outcome"),
        ({"invoked": "soon"}, "invoked"),
        ({"process": None}, "process"),
        ({"colour": "red"}, "unknown fields"),
        ({"type": "song"}, "no type of line"),
    ],
)
def test_a_broken_line_is_refused_with_its_number(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    """A line that breaks a rule is named."""
    path = tmp_path / "h.jsonl"
    write(path, History(Header("w"), (GOOD,)))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], json.dumps({**json.loads(lines[1]), **change})]))
    with pytest.raises(HistoryError, match=f"line 2.*{reason}"):
        read(path)


def test_a_file_without_header_is_refused(tmp_path: Path) -> None:
    """Neither an empty file nor one that begins with an operation is a history."""
    path = tmp_path / "h.jsonl"
    for text in ("", '{"type":"op"}\n', "nonsense\n", "[]\n", '{"type":"header","format":99,"workload":"w"}\n'):
        path.write_text(text)
        with pytest.raises(HistoryError):
            read(path)


@pytest.mark.parametrize(
    ("ops", "reason"),
    [
        ([GOOD, Op(1, "b", "read", "k", None, 1, Outcome.OK, 7, 8)], "twice"),
        ([GOOD, Op(2, "a", "read", "k", None, 1, Outcome.OK, 5, 8)], "has not completed"),
        ([Op(1, "a", "write", "k", 1, None, Outcome.UNKNOWN, 1, 2), Op(2, "a", "read", "k", None, 1, Outcome.OK, 5, 8)], "goes on after"),
        ([Op(1, "a", "~expire", "k", 1, None, Outcome.OK, 1, 2)], "no known outcome"),
    ],
)
def test_impossible_processes_are_refused(tmp_path: Path, ops: list[Op], reason: str) -> None:
    """A process does one thing at a time and nothing after an unknown outcome, or the checkers would be wrong about it."""
    path = tmp_path / "h.jsonl"
    write(path, History(Header("w"), tuple(ops)))
    with pytest.raises(HistoryError, match=reason):
        read(path)
