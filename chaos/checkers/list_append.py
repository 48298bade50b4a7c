"""Transactions on lists: what each read shows the order of all appends before it, so that Adya's anomalies become visible.

After Adya (Weak Consistency, 1999) and Kingsbury and Alvaro's Elle (2020). A transaction is one operation: `args` is a list of
["append", key, value] and ["r", key, null]; the result repeats it with what the reads saw. Values are unique for each key.

Direct anomalies: aborted reads (G1a), intermediate reads (G1b), values out of nowhere or twice, reads that are no prefixes of each other, a
transaction that does not see its own appends. Cycles of write-write (G0), also write-read (G1c), with one read-write dependency
(G-single), with more (G2); and each of them with real-time order ("-realtime"), which strict serializability forbids too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chaos.checkers.graph import components, shortest_cycle
from chaos.checkers.verdict import Finding, Judgement, Verdict, judge
from chaos.history import Op, Outcome

WW: Final = "ww"
WR: Final = "wr"
RW: Final = "rw"
RT: Final = "rt"

_FAMILIES: Final[tuple[tuple[str, frozenset[str], frozenset[str] | None], ...]] = (
    ("G0", frozenset({WW}), None),
    ("G1c", frozenset({WW, WR}), None),
    ("G-single", frozenset({WW, WR}), frozenset({RW})),
    ("G2", frozenset({WW, WR, RW}), None),
    ("G0-realtime", frozenset({WW, RT}), None),
    ("G1c-realtime", frozenset({WW, WR, RT}), None),
    ("G-single-realtime", frozenset({WW, WR, RT}), frozenset({RW})),
    ("G2-realtime", frozenset({WW, WR, RW, RT}), None),
)
_WORDS: Final = {
    WW: "whose append comes before that of",
    WR: "whose append is read by",
    RW: "which did not see the append of",
    RT: "which ended before the start of",
}
_MOST: Final = 20

Micro = tuple[str, str, Any]


@dataclass(slots=True)
class _Lists:
    """What the reads show of each key."""

    writer: dict[tuple[str, Any], Op] = field(default_factory=dict)
    """Who appended a value."""
    order: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """The longest list that was read."""
    findings: list[Finding] = field(default_factory=list)


def micros(op: Op) -> list[Micro]:
    """The steps of a transaction: with its results where it is known to have happened."""
    source = op.result if op.ok and op.result is not None else op.args
    return [(str(kind), str(key), value) for kind, key, value in source]


def check(ops: Sequence[Op], *, realtime: bool = True) -> Judgement:
    """Judge transactions (kind "txn"): strict serializability, or plain serializability without `realtime`."""
    txns = [op for op in ops if op.kind == "txn"]
    lists = _collect(txns)
    _direct(txns, lists)
    happened = _happened(txns, lists)
    edges = _edges(happened, lists, realtime=realtime)
    findings = [*lists.findings, *_cycles(happened, edges)]
    return judge("list-append", findings[:_MOST], transactions=len(txns), happened=len(happened), edges=sum(map(len, edges.values())))


def _collect(txns: Iterable[Op]) -> _Lists:
    lists = _Lists()
    for op in txns:
        for kind, key, value in micros(op):
            if kind != "append":
                continue
            other = lists.writer.get((key, value))
            if other is not None:
                raise ValueError(f"{value!r} is appended to {key} by operations {other.id} and {op.id}: values must be unique")
            lists.writer[key, value] = op
    reads = sorted(((key, tuple(value), op) for op in txns if op.ok for key, value in _outer_reads(op)), key=lambda r: -len(r[1]))
    for key, seen, op in reads:
        longest = lists.order.setdefault(key, seen)
        if longest[: len(seen)] != seen:
            text = f"{key}: {list(seen)} and {list(longest)} were read: neither is how the other began"
            first = next((o.id for k, s, o in reads if k == key and s == longest), op.id)
            lists.findings.append(Finding("incompatible order", text, tuple(sorted({first, op.id}))))
    return lists


def _outer_reads(op: Op) -> list[tuple[str, list[Any]]]:
    """What a transaction read of others: its own appends are taken off the ends."""
    own: dict[str, list[Any]] = {}
    found = []
    for kind, key, value in micros(op):
        mine = own.setdefault(key, [])
        if kind == "append":
            mine.append(value)
        else:
            seen = list(value or [])
            cut = len(seen) - len(mine)
            found.append((key, seen[:cut] if mine and seen[cut:] == mine else seen))
    return found


def _direct(txns: Sequence[Op], lists: _Lists) -> None:
    """Anomalies that one read shows."""
    finals: dict[int, dict[str, Any]] = {}
    for op in txns:
        finals[op.id] = {key: value for kind, key, value in micros(op) if kind == "append"}
    for op in txns:
        if not op.ok:
            continue
        own: dict[str, list[Any]] = {}
        for kind, key, value in micros(op):
            mine = own.setdefault(key, [])
            if kind == "append":
                mine.append(value)
                continue
            seen = list(value or [])
            if len(set(map(repr, seen))) != len(seen):
                lists.findings.append(Finding("duplicate", f"{op.text()}: a value is there twice", (op.id,)))
            if mine and seen[len(seen) - len(mine) :] != mine:
                lists.findings.append(Finding("internal", f"{op.text()}: does not end with what it appended itself", (op.id,)))
            _sources(op, key, seen, lists, finals)


def _sources(op: Op, key: str, seen: list[Any], lists: _Lists, finals: dict[int, dict[str, Any]]) -> None:
    for place, value in enumerate(seen):
        writer = lists.writer.get((key, value))
        if writer is None:
            lists.findings.append(Finding("garbage", f"{op.text()}: nobody appended {value!r}", (op.id,)))
        elif writer.outcome is Outcome.FAIL:
            lists.findings.append(Finding("G1a", f"{op.text()} reads {value!r} of the aborted {writer.text()}", (writer.id, op.id)))
        elif place == len(seen) - 1 and writer is not op and finals[writer.id][key] != value:
            lists.findings.append(
                Finding("G1b", f"{op.text()} reads {value!r}, which {writer.text()} went on to change", (writer.id, op.id))
            )


def _happened(txns: Sequence[Op], lists: _Lists) -> dict[int, Op]:
    """Those that were acknowledged, and those of unknown outcome that somebody saw."""
    happened = {op.id: op for op in txns if op.ok}
    for key, seen in lists.order.items():
        for value in seen:
            writer = lists.writer.get((key, value))
            if writer is not None and writer.unknown:
                happened[writer.id] = writer
    return happened


def _edges(happened: dict[int, Op], lists: _Lists, *, realtime: bool) -> dict[int, dict[int, frozenset[str]]]:
    edges: dict[int, dict[int, frozenset[str]]] = {}

    def add(source: int, target: int, kind: str) -> None:
        if source != target:
            row = edges.setdefault(source, {})
            row[target] = row.get(target, frozenset()) | {kind}

    writers = {place: op.id for place, op in lists.writer.items() if op.id in happened}
    unseen: dict[str, list[int]] = {}
    for (key, value), number in sorted(writers.items(), key=lambda item: (item[1], repr(item[0]))):
        if value not in lists.order.get(key, ()):
            unseen.setdefault(key, []).append(number)
    for key, seen in lists.order.items():
        chain = [w for value in seen if (w := writers.get((key, value))) is not None]
        for earlier, later in itertools.pairwise(chain):
            add(earlier, later, WW)
        # What nobody has seen came after all that was seen.
        for number in unseen.get(key, ()):
            if chain:
                add(chain[-1], number, WW)
    for op in happened.values():
        if not op.ok:
            continue
        for key, value in _outer_reads(op):
            whole = lists.order.get(key, ())
            if value and (writer := writers.get((key, value[-1]))) is not None:
                add(writer, op.id, WR)
            if list(whole[: len(value)]) != value:
                continue
            following = next((w for v in whole[len(value) :] if (w := writers.get((key, v))) is not None and w != op.id), None)
            if following is not None:
                add(op.id, following, RW)
            elif all(writers.get((key, v)) == op.id for v in whole[len(value) :]):
                for other in unseen.get(key, ()):
                    add(op.id, other, RW)
    if realtime:
        _real_time(happened, add)
    return edges


def _real_time(happened: dict[int, Op], add: Any) -> None:
    """Edges from each transaction that ended to those that began later, as few as imply the rest."""
    events = sorted(
        [(op.invoked, 1, op.id) for op in happened.values()] + [(op.completed, 0, op.id) for op in happened.values() if op.ok],
    )
    frontier: list[int] = []
    for _, begins, number in events:
        if begins:
            for earlier in frontier:
                add(earlier, number, RT)
        else:
            op = happened[number]
            frontier = [f for f in frontier if happened[f].completed >= op.invoked]
            frontier.append(number)


def _cycles(happened: dict[int, Op], edges: dict[int, dict[int, frozenset[str]]]) -> list[Finding]:
    """For each knot of transactions, the plainest anomaly in it."""
    findings = []
    for component in components(sorted(happened), lambda node: sorted(edges.get(node, {}))):
        for name, kinds, first in _FAMILIES:
            cycle = shortest_cycle(edges, component, kinds, first)
            if cycle is not None:
                findings.append(_finding(name, cycle, happened, edges, kinds | (first or frozenset())))
                break
    return findings


def _finding(
    name: str, cycle: list[int], happened: dict[int, Op], edges: dict[int, dict[int, frozenset[str]]], kinds: frozenset[str]
) -> Finding:
    steps = []
    for node, following in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
        kind = min(edges[node][following] & kinds, key=(WW, WR, RW, RT).index)
        steps.append(f"{happened[node].text()}, {_WORDS[kind]}")
    return Finding(name, f"a cycle: {'; '.join(steps)}; the first again", tuple(sorted(cycle)))


def verdict(ops: Sequence[Op]) -> Verdict:
    """The verdict alone."""
    return check(ops).verdict
