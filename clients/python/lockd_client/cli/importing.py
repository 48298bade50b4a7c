"""`lockctl import`: accounts and transfers from a CSV file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lockd_client.cli.frame import EXIT_REFUSED, Run, command, err, table
from lockd_client.csv_import import Batch, Kind, Line, Problem, batches, read_csv
from lockd_client.errors import LockdError, UnknownOutcome

if TYPE_CHECKING:
    from rich.table import Table

    from lockd_client.sync import Client

SHOWN = 100
"""Bad and refused lines that are listed one by one; the rest is counted (--json has all)."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "import")(import_csv)


@dataclass(slots=True)
class Report:
    """What became of the lines."""

    file: str
    dry_run: bool
    accounts: Counter[str] = field(default_factory=Counter)
    transfers: Counter[str] = field(default_factory=Counter)
    invalid: list[tuple[int, Problem]] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every line was good and went through."""
        return not self.invalid and not self.refused

    def as_table(self) -> Table:
        """One row for each outcome."""
        rows: list[list[object]] = []
        for name, counts in (("accounts", self.accounts), ("transfers", self.transfers)):
            rows += [[name, outcome.replace("_", " "), count] for outcome, count in sorted(counts.items(), key=_by_importance)]
        rows.append(["lines", "invalid, skipped", len(self.invalid)])
        return table("WHAT", "OUTCOME", "COUNT", rows=rows)

    def as_json(self) -> dict[str, object]:
        """Everything, line by line where something is wrong."""
        return {
            "file": self.file,
            "dry_run": self.dry_run,
            "accounts": dict(self.accounts),
            "transfers": dict(self.transfers),
            "invalid": [{"line": number, "field": p.field, "reason": p.reason} for number, p in self.invalid],
            "refused": [{"line": number, "status": status} for number, status in self.refused],
        }


def _by_importance(item: tuple[str, int]) -> tuple[bool, int]:
    outcome, count = item
    return outcome not in ("created", "posted", "valid"), -count


def import_csv(
    run: Run,
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True, help="CSV in UTF-8, with a header.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every line, send nothing.")] = False,
    kind: Annotated[Kind, typer.Option("--kind", help="Which records; auto: both, as the column `record` says.")] = Kind.AUTO,
    other_accounts: Annotated[
        bool, typer.Option("--other-accounts", help="Transfers may name accounts that the file does not declare.")
    ] = False,
) -> None:
    """Import accounts and transfers from a CSV file.

    Columns: record,id,debit_account_id,credit_account_id,amount,ledger,code,flags. Good lines go in batches; every bad one is named by
    line, field and reason, and skipped. Importing the same file again changes nothing: ids are posted once.
    """
    report = Report(str(file), dry_run)
    with file.open("rb") as lines:
        total = sum(1 for _ in lines)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err(), transient=True, disable=run.json) as progress:
        task = progress.add_task("checking" if dry_run else "importing", total=total)
        client = None if dry_run else run.connect()
        try:
            for item in batches(read_csv(file, kind=kind, other_accounts=other_accounts)):
                if isinstance(item, Line):
                    if item.problem is not None:
                        report.invalid.append((item.number, item.problem))
                else:
                    _send(client, item, report)
                    progress.update(task, completed=item.lines[-1].number)
            progress.update(task, completed=total)
        except LockdError:
            progress.stop()
            _explain(run, report)
            raise
        finally:
            if client is not None:
                client.close()
    _explain(run, report)
    run.show(report.as_json(), report.as_table())
    if not report.clean:
        raise typer.Exit(EXIT_REFUSED)


def _send(client: Client | None, batch: Batch, report: Report) -> None:
    """Send one batch, or only count it."""
    accounts, transfers = batch.accounts, batch.transfers
    if client is None:
        report.accounts["valid"] += len(accounts)
        report.transfers["valid"] += len(transfers)
        return
    first, last = batch.lines[0].number, batch.lines[-1].number
    try:
        if accounts:
            statuses = [result.status.name.lower() for result in client.ledger.create_accounts(accounts)]
            _count(batch, statuses, report.accounts, "created", report)
        if transfers:
            statuses = [result.status.name.lower() for result in client.ledger.create_transfers(transfers)]
            _count(batch, statuses, report.transfers, "posted", report)
    except UnknownOutcome as error:
        error.advice = f"Lines {first} to {last} may have been applied. Import the file again: what is there already is not applied twice."
        raise


def _count(batch: Batch, statuses: list[str], counts: Counter[str], made: str, report: Report) -> None:
    """Count the outcomes of a batch, chain by chain."""
    begin = 0
    for end, line in enumerate(batch.lines, start=1):
        if line.value is not None and line.value.flags & 1:
            continue
        chain = statuses[begin:end]
        # A chain that is sent again fails at its first record, which exists; as a chain is made as a whole, so do the others.
        again = "exists" in chain and set(chain) <= {"exists", "linked_event_failed"}
        for member, status in zip(batch.lines[begin:end], chain, strict=True):
            if status == "created":
                counts[made] += 1
            elif again:
                counts["already there"] += 1
            else:
                counts[f"refused: {status}"] += 1
                report.refused.append((member.number, status))
        begin = end


def _explain(run: Run, report: Report) -> None:
    """Name bad and refused lines on stderr."""
    if run.json:
        return
    for number, problem in report.invalid[:SHOWN]:
        where = f"line {number}: {problem.field}" if problem.field else f"line {number}"
        typer.echo(f"{where}: {problem.reason}", err=True)
    for number, status in report.refused[:SHOWN]:
        typer.echo(f"line {number}: refused: {status}", err=True)
    left = max(0, len(report.invalid) - SHOWN) + max(0, len(report.refused) - SHOWN)
    if left:
        typer.echo(f"... and {left} more (--json lists all)", err=True)
