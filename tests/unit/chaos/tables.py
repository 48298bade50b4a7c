"""Histories as people write them: one operation a line, `process begin-end kind arguments -> result`."""

from __future__ import annotations

import json
import re
from typing import Any

from chaos.history import Op, Outcome, check

_LINE = re.compile(r"^(\S+)\s+(\d+)-(\d*)\s+(~?[a-z_]+)(?:\[(\S+)\])?\s*(.*?)(?:\s*->\s*(.*))?$")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def history(text: str, key: str = "k") -> list[Op]:
    """Parse a table.

    `-> ?` or no end: the outcome is unknown; `-> !reason`: it failed; no arrow: ok without a result. Arguments and results are JSON or
    plain words; `kind[key]` names another key.
    """
    ops: list[Op] = []
    for line in filter(None, (raw.split("#")[0].strip() for raw in text.strip().splitlines())):
        match = _LINE.match(line)
        assert match, f"cannot read {line!r}"
        process, begin, end, kind, own_key, arguments, result = match.groups()
        outcome, value = Outcome.OK, None
        if result == "?" or not end or kind.startswith("~"):
            outcome = Outcome.UNKNOWN
        elif result is not None and result.startswith("!"):
            outcome, value = Outcome.FAIL, result[1:]
        elif result is not None:
            value = _value(result)
        args = _value(arguments) if arguments else None
        ops.append(Op(len(ops) + 1, process, kind, own_key or key, args, value, outcome, int(begin), int(end or 10**6)))
    check(ops)
    return ops
