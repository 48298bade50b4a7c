"""What every bench shares: rows of results, percentiles, CPU time of processes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: what was asked, of which system, and the answer with its unit."""

    question: str
    system: str
    metric: str
    value: float
    unit: str


@dataclass(slots=True)
class Report:
    """Collects rows; prints them as JSON lines or as a table."""

    as_json: bool
    rows: list[Row] = field(default_factory=list)

    def add(self, question: str, system: str, metric: str, value: float, unit: str) -> None:
        """One more figure; as JSON it is printed at once."""
        row = Row(question, system, metric, round(value, 4), unit)
        self.rows.append(row)
        if self.as_json:
            print(json.dumps(asdict(row)), flush=True)
        else:
            print(f"  {system}: {metric} = {row.value:g} {unit}", file=sys.stderr, flush=True)

    def close(self, title: str) -> None:
        """Print the table, unless JSON was asked for."""
        if self.as_json:
            return
        table = Table("question", "system", "metric", "value", "unit", title=title)
        for row in self.rows:
            table.add_row(row.question, row.system, row.metric, f"{row.value:,.4g}", row.unit)
        Console().print(table)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that these processes have used, all threads."""
    total = 0
    for pid in pids:
        stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(stat[11]) + int(stat[12])
    return total / _TICKS
