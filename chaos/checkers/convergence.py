"""Replicas that have heard everything hold the same, and it is what was written."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from collections.abc import Set as AbstractSet

from chaos.checkers.verdict import Finding, Judgement, judge

_MOST = 20


def check_equal(replicas: Mapping[str, Hashable]) -> Judgement:
    """All replicas are in the same state (or have the same hash of it)."""
    states: dict[Hashable, list[str]] = {}
    for name, state in sorted(replicas.items()):
        states.setdefault(state, []).append(name)
    groups = sorted(states.values())
    text = "replicas differ: " + " / ".join(", ".join(group) for group in groups)
    return judge("convergence", [Finding("convergence", text)] if len(groups) > 1 else [], replicas=len(replicas))


def check_set(acknowledged: AbstractSet[Hashable], unknown: AbstractSet[Hashable], found: AbstractSet[Hashable]) -> Judgement:
    """Everything acknowledged is there, and nothing that nobody wrote."""
    lost = sorted(map(repr, acknowledged - found))
    strange = sorted(map(repr, found - acknowledged - unknown))
    findings = [Finding("lost", f"{each} was acknowledged and is not there") for each in lost]
    findings += [Finding("garbage", f"{each} is there, but nobody wrote it") for each in strange]
    return judge("set", findings[:_MOST], acknowledged=len(acknowledged), found=len(found))


def check_counter(acknowledged: int, possible: int, value: int, floor: int | None = None) -> Judgement:
    """A counter's value: the acknowledged increments, and at most the possible ones; never below its floor."""
    low, high = min(acknowledged, possible), max(acknowledged, possible)
    findings = []
    if not low <= value <= high:
        findings.append(Finding("counter", f"the value is {value}; what was acknowledged makes {low} to {high}"))
    if floor is not None and value < floor:
        findings.append(Finding("floor", f"the value is {value}, below {floor}"))
    return judge("counter", findings, value=value)
