"""What happened in a run: operations with their times and outcomes, faults and leaders, in one file of JSON lines.

Times are monotonic nanoseconds of one machine. The first line is the header; the order of the others does not matter.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TextIO

FORMAT: Final = 1
"""Version of the file; another one is refused."""


class HistoryError(ValueError):
    """A history that cannot be judged; the message names the line and the rule."""


class Outcome(StrEnum):
    """How an operation ended, as far as its caller knows."""

    OK = "ok"
    """It was applied, and `result` is its result."""
    FAIL = "fail"
    """It was certainly not applied; `result` may say why."""
    UNKNOWN = "unknown"
    """It may have been applied, or may still be, at any time after its invocation."""


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of one logical process.

    Attributes:
        id: Unique in the history, in the order of invocation.
        process: Who called; a process has one operation at a time, and goes on after an unknown one only under a new name.
        kind: What was called, a word of the workload's.
        key: What it is about: checkers judge each key apart where the model allows it.
        args: What was handed in, as plain JSON values (lists, no tuples).
        result: What came back; None unless ok (or a reason, where it failed).
        invoked: Before the call.
        completed: After the answer; for an unknown outcome, when its caller gave up.
        node: Which node was asked, where that is known.
    """

    id: int
    process: str
    kind: str
    key: str
    args: Any
    result: Any
    outcome: Outcome
    invoked: int
    completed: int
    node: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was applied for certain."""
        return self.outcome is Outcome.OK

    @property
    def unknown(self) -> bool:
        """Whether it may have been applied, or not."""
        return self.outcome is Outcome.UNKNOWN

    def text(self) -> str:
        """One line for people."""
        answer = "?" if self.unknown else f"{self.result!r}" if self.ok else f"failed ({self.result})"
        return f"#{self.id} {self.process}: {self.kind}({self.key}, {self.args!r}) -> {answer}"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that began or ended: `phase` is begin, end or note; `detail` says what was hit."""

    at: int
    name: str
    phase: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Leader:
    """A node was first seen to lead this term."""

    at: int
    node: str
    term: int


@dataclass(frozen=True, slots=True)
class Header:
    """How the run was made: enough to make it again."""

    workload: str
    nemesis: tuple[str, ...] = ()
    nodes: int = 3
    seconds: float = 0.0
    seed: int = 0
    mode: str = "processes"
    started: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def command(self) -> str:
        """The command that runs it again."""
        faults = ",".join(self.nemesis) or "none"
        options = "".join(f" --{name} {value}" for name, value in self.options.items() if not isinstance(value, (list, dict)))
        return (
            f"python -m chaos run --workload {self.workload} --nemesis {faults} --nodes {self.nodes} --time {self.seconds:g} "
            f"--seed {self.seed} --mode {self.mode}{options}"
        )


@dataclass(frozen=True, slots=True)
class History:
    """A whole run, operations in the order of their invocation."""

    header: Header
    ops: tuple[Op, ...]
    faults: tuple[Fault, ...] = ()
    leaders: tuple[Leader, ...] = ()

    def of(self, *kinds: str) -> list[Op]:
        """The operations of these kinds."""
        return [op for op in self.ops if op.kind in kinds]

    def keys(self) -> list[str]:
        """All keys, sorted."""
        return sorted({op.key for op in self.ops})

    def find(self, ids: Iterable[int]) -> list[Op]:
        """The operations of these ids, in the order of invocation."""
        wanted = set(ids)
        return [op for op in self.ops if op.id in wanted]


class Recorder:
    """Writes a history while it happens: an operation when it completes, and those that never did, as unknown, at the end.

    Not safe for threads: everything is recorded from one event loop.
    """

    def __init__(self, path: Path, header: Header, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.path = path
        self.clock = clock
        self._file: TextIO | None = path.open("w", encoding="utf-8")
        self._open: dict[int, tuple[str, str, str, Any, int, str]] = {}
        self._next = 0
        self._write("header", {"format": FORMAT, **asdict(header)})

    def invoke(self, process: str, kind: str, key: str, args: Any = None, *, node: str = "", at: int | None = None) -> int:
        """An operation begins; its id."""
        self._next += 1
        self._open[self._next] = (process, kind, key, args, self.clock() if at is None else at, node)
        return self._next

    def complete(self, op: int, outcome: Outcome, result: Any = None) -> None:
        """An operation ends."""
        process, kind, key, args, invoked, node = self._open.pop(op)
        now = max(self.clock(), invoked)
        done = Op(op, process, kind, key, args, result, outcome, invoked, now, node)
        self._write("op", asdict(done))

    def fault(self, name: str, phase: str, detail: str = "") -> None:
        """A fault begins or ends."""
        self._write("fault", asdict(Fault(self.clock(), name, phase, detail)))

    def leader(self, node: str, term: int) -> None:
        """A node leads a new term."""
        self._write("leader", asdict(Leader(self.clock(), node, term)))

    def close(self) -> None:
        """What is still open ends as unknown. Idempotent."""
        if self._file is None:
            return
        for op in list(self._open):
            self.complete(op, Outcome.UNKNOWN)
        self._file.close()
        self._file = None

    def _write(self, kind: str, value: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps({"type": kind, **value}, separators=(",", ":")) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


_OP_FIELDS: Final[dict[str, type | tuple[type, ...]]] = {
    "id": int,
    "process": str,
    "kind": str,
    "key": str,
    "outcome": str,
    "invoked": int,
    "completed": int,
    "node": str,
}


def _op(value: dict[str, Any]) -> Op:
    for name, kind in _OP_FIELDS.items():
        if not isinstance(value.get(name), kind) or isinstance(value[name], bool):
            raise HistoryError(f"{name} is missing or of another type")
    if set(value) - set(Op.__slots__):
        raise HistoryError(f"unknown fields {sorted(set(value) - set(Op.__slots__))}")
    try:
        outcome = Outcome(value["outcome"])
    except ValueError:
        raise HistoryError(f"{value['outcome']!r} is no outcome") from None
    if value["completed"] < value["invoked"]:
        raise HistoryError("it completes before it is invoked")
    return Op(**{"args": None, "result": None, **value, "outcome": outcome})


def _header(value: dict[str, Any]) -> Header:
    if value.pop("format", None) != FORMAT:
        raise HistoryError(f"not of format {FORMAT}")
    return Header(**{**value, "nemesis": tuple(value.get("nemesis", ()))})


def check(ops: Sequence[Op]) -> None:
    """Raise HistoryError unless ids are unique and each process does one thing at a time, and nothing after an unknown outcome.

    Operations whose kind begins with "~" are the workload's own notes (what may happen beside the calls, such as an expiry): they
    overlap with anything.
    """
    seen: set[int] = set()
    last: dict[str, Op] = {}
    for op in sorted(ops, key=lambda o: (o.invoked, o.id)):
        if op.id in seen:
            raise HistoryError(f"operation {op.id} is there twice")
        seen.add(op.id)
        if op.kind.startswith("~"):
            if not op.unknown:
                raise HistoryError(f"operation {op.id}: what happens beside the calls has no known outcome")
            continue
        before = last.get(op.process)
        if before is not None and before.unknown:
            raise HistoryError(f"operation {op.id}: {op.process} goes on after its operation {before.id} of unknown outcome")
        if before is not None and before.completed > op.invoked:
            raise HistoryError(f"operation {op.id}: {op.process} has not completed its operation {before.id}")
        last[op.process] = op


class _Lines:
    """Takes lines of a file, one after the other."""

    def __init__(self) -> None:
        self.header: Header | None = None
        self.ops: list[Op] = []
        self.faults: list[Fault] = []
        self.leaders: list[Leader] = []

    def take(self, line: str) -> None:
        """One line. Raises HistoryError, TypeError, JSONDecodeError."""
        value = json.loads(line)
        if not isinstance(value, dict):
            raise HistoryError("not an object")
        kind = value.pop("type", None)
        if self.header is None:
            if kind != "header":
                raise HistoryError("the first line is not a header")
            self.header = _header(value)
        elif kind == "op":
            self.ops.append(_op(value))
        elif kind == "fault":
            self.faults.append(Fault(**value))
        elif kind == "leader":
            self.leaders.append(Leader(**value))
        else:
            raise HistoryError(f"{kind!r} is no type of line")


def read(path: Path) -> History:
    """Read and validate a file. Raises HistoryError with the line's number, and OSError."""
    lines = _Lines()
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                lines.take(line)
            except (HistoryError, TypeError, json.JSONDecodeError) as error:
                raise HistoryError(f"{path.name}, line {number}: {error}") from None
    if lines.header is None:
        raise HistoryError(f"{path.name} is empty")
    check(lines.ops)
    lines.ops.sort(key=lambda o: (o.invoked, o.id))
    return History(lines.header, tuple(lines.ops), tuple(lines.faults), tuple(lines.leaders))


def write(path: Path, history: History) -> None:
    """Write a history as `read` takes it."""
    groups: list[tuple[str, Sequence[Any]]] = [("op", history.ops), ("fault", history.faults), ("leader", history.leaders)]
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"type": "header", "format": FORMAT, **asdict(history.header)}) + "\n")
        for kind, values in groups:
            for value in values:
                file.write(json.dumps({"type": kind, **asdict(value)}) + "\n")
