"""Fencing: tokens only grow, holds do not overlap, and a store outside refuses whoever comes with an older token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chaos.checkers.verdict import Finding, Judgement, judge
from chaos.history import Op

_MOST = 20


class FencedStore:
    """A store outside of the cluster, as a user would build it: it remembers the highest token it has seen of each resource."""

    def __init__(self) -> None:
        self._highest: dict[str, int] = {}
        self.values: dict[str, str] = {}

    def write(self, resource: str, token: int, value: str) -> bool:
        """Whether the write was taken."""
        if token < self._highest.get(resource, 0):
            return False
        self._highest[resource] = token
        self.values[resource] = value
        return True


def check_tokens(ops: Sequence[Op]) -> Judgement:
    """Grants (kind "acquire", result a token): no token twice, and on each resource a later grant has a higher one."""
    findings: list[Finding] = []
    grants = [op for op in ops if op.kind == "acquire" and op.ok and isinstance(op.result, int)]
    owners: dict[int, Op] = {}
    for op in grants:
        other = owners.setdefault(op.result, op)
        if other is not op:
            findings.append(Finding("token twice", f"{other.text()} and {op.text()}: the same token", (other.id, op.id)))
    for resource in sorted({op.key for op in grants}):
        findings.extend(_growing([op for op in grants if op.key == resource]))
    return judge("tokens", findings[:_MOST], grants=len(grants))


def _growing(grants: list[Op]) -> list[Finding]:
    """Each grant has a higher token than all that were complete when it was asked for."""
    findings = []
    by_end = sorted(grants, key=lambda op: op.completed)
    at = 0
    best: Op | None = None
    for op in sorted(grants, key=lambda o: o.invoked):
        while at < len(by_end) and by_end[at].completed < op.invoked:
            if best is None or by_end[at].result > best.result:
                best = by_end[at]
            at += 1
        if best is not None and op.result <= best.result and op is not best:
            findings.append(Finding("token not above", f"{op.text()} comes after {best.text()}", (best.id, op.id)))
    return findings


@dataclass(frozen=True, slots=True)
class Hold:
    """A time for which a holder could be certain of its lock (monotonic nanoseconds), by the operation of its grant."""

    resource: str
    holder: str
    since: int
    until: int
    op: int = 0
    shared: bool = False


def check_holds(holds: Sequence[Hold]) -> Judgement:
    """No two holders are certain of the same resource at the same time, unless both share it."""
    findings: list[Finding] = []
    for resource in sorted({h.resource for h in holds}):
        active: list[Hold] = []
        for hold in sorted((h for h in holds if h.resource == resource), key=lambda h: (h.since, h.until)):
            active = [h for h in active if h.until > hold.since]
            for other in active:
                if other.holder != hold.holder and not (other.shared and hold.shared):
                    text = f"{resource}: {other.holder} and {hold.holder} both hold it for {min(other.until, hold.until) - hold.since} ns"
                    findings.append(Finding("mutual exclusion", text, (other.op, hold.op)))
            active.append(hold)
    return judge("mutual exclusion", findings[:_MOST], holds=len(holds))


def check_store(ops: Sequence[Op]) -> Judgement:
    """Writes (kind "store", args [token, certain], result whether it was taken) to a store outside.

    What it takes never comes with an older token than before; and it never refuses a writer that was certain of its lock, since
    then a newer token was in use too early.
    """
    findings = []
    writes = [op for op in ops if op.kind == "store" and op.ok]
    highest: dict[str, Op] = {}
    for op in sorted(writes, key=lambda o: o.completed):
        token, certain = op.args
        best = highest.get(op.key)
        if op.result:
            if best is not None and token < best.args[0]:
                findings.append(Finding("older token", f"{op.text()} was taken after {best.text()}", (best.id, op.id)))
            if best is None or token > best.args[0]:
                highest[op.key] = op
        elif certain:
            before = (best.id,) if best is not None else ()
            text = f"{op.text()} was refused although its holder was certain: a newer grant was in use already"
            findings.append(Finding("double grant", text, (*before, op.id)))
    return judge("fenced store", findings[:_MOST], writes=len(writes))
