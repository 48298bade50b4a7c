"""What a judge says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """Three answers, worst last; unknown: the judge gave up, or nothing was there to be judged."""

    OK = "ok"
    UNKNOWN = "unknown"
    VIOLATION = "violation"


_ORDER = (Verdict.OK, Verdict.UNKNOWN, Verdict.VIOLATION)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that must not be.

    Attributes:
        rule: What was broken, a stable word.
        text: What happened, for people.
        ops: The operations that show it, as few as were found to be enough.
        context: Operations around them.
    """

    rule: str
    text: str
    ops: tuple[int, ...] = ()
    context: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """A checker's verdict: with findings if it is a violation, with the reason if it is unknown."""

    checker: str
    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    reason: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


def judge(checker: str, findings: Iterable[Finding], **figures: Any) -> Judgement:
    """Ok if there is no finding."""
    found = tuple(findings)
    return Judgement(checker, Verdict.VIOLATION if found else Verdict.OK, found, "", figures)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of all; ok if there is none."""
    return max(verdicts, key=_ORDER.index, default=Verdict.OK)
