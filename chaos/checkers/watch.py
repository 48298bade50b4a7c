"""A watch shows every event once, in order, without a gap."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from chaos.checkers.verdict import Finding, Judgement, judge

_MOST = 20


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the log: its revision, its place inside that revision, and what it says."""

    revision: int
    place: int
    what: Hashable


def check(seen: Sequence[Event], truth: Sequence[Event], *, start: int, upto: int) -> Judgement:
    """What a watcher saw from `start` on, over all its reconnections, is what happened up to revision `upto`, once and in order.

    `truth` is what is known otherwise to have happened, in any order.
    """
    findings: list[Finding] = []
    last: Event | None = None
    for event in seen:
        if last is not None and (event.revision, event.place) == (last.revision, last.place):
            findings.append(Finding("duplicate", f"{event} was seen twice in a row"))
        elif last is not None and (event.revision, event.place) < (last.revision, last.place):
            findings.append(Finding("order", f"{event} was seen after {last}"))
        if event.revision < start:
            findings.append(Finding("start", f"{event} is from before revision {start}"))
        last = event
    happened = {e for e in truth if start <= e.revision <= upto}
    had = set(seen)
    gaps = sorted(happened - had, key=lambda e: (e.revision, e.place))
    findings.extend(Finding("gap", f"{event} was not seen") for event in gaps)
    strange = sorted((e for e in had - happened if e.revision <= upto), key=lambda e: (e.revision, e.place))
    findings.extend(Finding("garbage", f"{event} did not happen") for event in strange)
    return judge("watch", findings[:_MOST], seen=len(seen), happened=len(happened))
