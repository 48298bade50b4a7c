"""Transactions in the words of a transcript; see tests.scripts.machine.driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockd.machine import commands as c
from lockd.machine.types import Resource

if TYPE_CHECKING:
    from tests.scripts.machine.driver import Transcript

FIELDS = {
    "value": c.CompareField.VALUE,
    "create": c.CompareField.CREATE_REVISION,
    "mod": c.CompareField.MOD_REVISION,
    "version": c.CompareField.VERSION,
    "exists": c.CompareField.EXISTS,
    "token": c.CompareField.HELD_TOKEN,
}
OPERATORS = {
    "!=": c.CompareOperator.NOT_EQUAL,
    "=": c.CompareOperator.EQUAL,
    "<": c.CompareOperator.LESS,
    ">": c.CompareOperator.GREATER,
}


def transaction(transcript: Transcript, who: str, words: list[str]) -> c.Transact:
    """Pairs of a word and its argument; `else` begins the failure branch."""
    guards: list[c.Guard] = []
    compares: list[c.Compare] = []
    branches: list[list[c.Operation]] = [[], []]
    branch = 0
    rest = iter(words)
    for word in rest:
        if word == "else":
            branch = 1
            continue
        argument = next(rest)
        if word == "guard":
            guards.append(transcript.guard(who, argument))
        elif word == "if":
            compares.append(_compare(argument))
        else:
            branches[branch].append(_operation(transcript, who, word, argument))
    return c.Transact(tuple(guards), tuple(compares), tuple(branches[0]), tuple(branches[1]))


def _compare(text: str) -> c.Compare:
    sign = next(sign for sign in OPERATORS if sign in text)
    left, right = text.split(sign)
    key, _, field = left.rpartition(".")
    if field == "value":
        return c.Compare(Resource(key), FIELDS[field], OPERATORS[sign], value=right.encode())
    return c.Compare(Resource(key), FIELDS[field], OPERATORS[sign], int(right))


def _operation(transcript: Transcript, who: str, word: str, argument: str) -> c.Operation:
    key, _, content = argument.partition("=")
    match word:
        case "put" | "ephemeral":
            return c.PutRow(Resource(key), content.encode(), "", word == "ephemeral")
        case "delete":
            return c.DeleteRow(Resource(key))
        case "get":
            return c.GetRow(Resource(key))
        case "take":
            return c.TakeLocks((transcript.claim(argument),))
        case "give":
            return c.ReleaseLocks((transcript.guard(who, argument),))
        case "say":
            return c.Publish(Resource(key), content.encode())
        case _:
            raise ValueError(f"no operation: {word}")
