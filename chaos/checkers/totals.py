"""Sums that must hold: a bank's money, and the ledger's books."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from chaos.checkers.verdict import Finding, Judgement, Verdict, judge
from chaos.history import Op, Outcome

_MOST = 20


def check_totals(ops: Sequence[Op], total: int, *, floor: int | None = 0) -> Judgement:
    """Every read of all accounts (kind "read", result {account: balance}) sums to `total`, and shows no balance below `floor`."""
    findings = []
    reads = [op for op in ops if op.kind == "read" and op.ok]
    for op in reads:
        seen = sum(int(v) for v in op.result.values())
        if seen != total:
            findings.append(Finding("total", f"{op.text()}: sums to {seen}, not to {total}", (op.id,)))
        low = {n: v for n, v in op.result.items() if floor is not None and int(v) < floor}
        if low:
            findings.append(Finding("floor", f"{op.text()}: below {floor}: {low}", (op.id,)))
    return judge("totals", findings[:_MOST], reads=len(reads))


@dataclass(frozen=True, slots=True)
class Books:
    """The four balances of an account."""

    debits_pending: int = 0
    debits_posted: int = 0
    credits_pending: int = 0
    credits_posted: int = 0


def check_books(books: Mapping[str, Books]) -> Judgement:
    """Debits equal credits, pending and posted apart."""
    findings = []
    for kind in ("pending", "posted"):
        debits = sum(int(getattr(b, f"debits_{kind}")) for b in books.values())
        credits_ = sum(int(getattr(b, f"credits_{kind}")) for b in books.values())
        if debits != credits_:
            findings.append(Finding("books", f"{kind}: debits of {debits}, credits of {credits_}"))
    return judge("books", findings, accounts=len(books))


def check_applied(ops: Sequence[Op], found: Mapping[str, int], *, kind: str = "transfer") -> Judgement:
    """What the ledger holds in the end is what was acknowledged.

    Every acknowledged operation of `kind` is in `found` (by its key, how often), once; every refused one is not; one of unknown
    outcome is there once or not at all; and nothing else is there.
    """
    findings = []
    known = {op.key: op for op in ops if op.kind == kind}
    for key, op in known.items():
        times = found.get(key, 0)
        expected = (1,) if op.ok and op.result else (0, 1) if op.unknown else (0,)
        if times not in expected:
            word = "lost" if times == 0 else "applied twice" if times > 1 else "applied although it was refused"
            findings.append(Finding("applied", f"{op.text()}: {word} (found {times} times)", (op.id,)))
    findings.extend(Finding("applied", f"{key} is there, but nobody asked for it") for key in sorted(set(found) - set(known)))
    return judge("applied once", findings[:_MOST], asked=len(known), found=len(found))


def check_balances(opening: Mapping[str, int], applied: Iterable[tuple[str, str, int]], final: Mapping[str, int]) -> Judgement:
    """The final balances are the opening ones and the transfers (from, to, amount) that are there."""
    expected = dict(opening)
    for source, target, amount in applied:
        expected[source] -= amount
        expected[target] += amount
    wrong = [
        Finding("balance", f"{n}: {final.get(n)}, but its transfers make {v}") for n, v in sorted(expected.items()) if final.get(n) != v
    ]
    return judge("balances", wrong, accounts=len(expected))


def enough(ops: Sequence[Op], kinds: Iterable[str], least: int = 1) -> Judgement:
    """Whether there was something to judge: unknown if fewer than `least` operations of one of these kinds succeeded."""
    counts = {kind: sum(1 for op in ops if op.kind == kind and op.outcome is Outcome.OK) for kind in kinds}
    missing = [kind for kind, count in counts.items() if count < least]
    if missing:
        return Judgement("enough", Verdict.UNKNOWN, (), f"fewer than {least} of {', '.join(missing)} succeeded: nothing to judge", counts)
    return Judgement("enough", Verdict.OK, (), "", counts)
