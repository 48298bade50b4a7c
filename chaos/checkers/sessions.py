"""What one client may rely on, whatever it reads from: the session guarantees of Terry et al. (1994), over versions."""

from __future__ import annotations

from collections.abc import Sequence

from chaos.checkers.verdict import Finding, Judgement, judge
from chaos.history import Op

_MOST = 20


def check(ops: Sequence[Op]) -> Judgement:
    """Reads and writes whose result is the version (a number that grows with every write of the key) that they saw or made.

    For each process and key: a read sees the process's own writes and never goes back behind an earlier read; a write comes
    after the process's own writes and after what it has read.
    """
    findings: list[Finding] = []
    read: dict[tuple[str, str], Op] = {}
    written: dict[tuple[str, str], Op] = {}
    for op in sorted(ops, key=lambda o: (o.invoked, o.id)):
        if not op.ok or op.kind not in ("read", "write") or op.result is None:
            continue
        place = (op.process, op.key)
        seen, made = read.get(place), written.get(place)
        if op.kind == "read":
            if made is not None and op.result < made.result:
                findings.append(Finding("read your writes", f"{op.text()} does not see {made.text()}", (made.id, op.id)))
            if seen is not None and op.result < seen.result:
                findings.append(Finding("monotonic reads", f"{op.text()} goes back behind {seen.text()}", (seen.id, op.id)))
            if seen is None or op.result >= seen.result:
                read[place] = op
        else:
            if made is not None and op.result <= made.result:
                findings.append(Finding("monotonic writes", f"{op.text()} comes before {made.text()}", (made.id, op.id)))
            if seen is not None and op.result <= seen.result:
                findings.append(Finding("writes follow reads", f"{op.text()} comes before {seen.text()}", (seen.id, op.id)))
            written[place] = op
    return judge("session guarantees", findings[:_MOST], operations=len(ops))
