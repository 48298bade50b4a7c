"""Commands about accounts and single transfers."""

from __future__ import annotations

import secrets
import time
from typing import Annotated

import typer

from lockd_client.cli.frame import EXIT_REFUSED, Run, command, parse_flags, table
from lockd_client.errors import UnknownOutcome
from lockd_client.ledger_model import Account, AccountFlags, CreateTransferStatus, Transfer, TransferFlags

LedgerOption = Annotated[int, typer.Option("--ledger", help="1 to 2^32-1.")]
CodeOption = Annotated[int, typer.Option("--code", help="1 to 65,535; yours to define.")]


def register(app: typer.Typer, account: typer.Typer) -> None:
    """Add the commands to their groups."""
    command(account, "create")(account_create)
    command(account, "show")(account_show)
    command(app, "transfer")(transfer)


def new_id() -> int:
    """A fresh 128-bit id that grows with time: milliseconds, then 80 random bits."""
    return time.time_ns() // 1_000_000 << 80 | secrets.randbits(80)


def account_create(
    run: Run,
    id: Annotated[int, typer.Argument(metavar="ID", help="1 to 2^128-2.")],  # noqa: A002 - the option's name
    ledger: LedgerOption,
    code: CodeOption,
    flags: Annotated[str, typer.Option("--flags", help="Names joined by |, such as debits_must_not_exceed_credits|history.")] = "",
    user_data_128: Annotated[int, typer.Option(help="0 to 2^128-1.")] = 0,
    user_data_64: Annotated[int, typer.Option(help="0 to 2^64-1.")] = 0,
    user_data_32: Annotated[int, typer.Option(help="0 to 2^32-1.")] = 0,
) -> None:
    """Create an account. Doing so again with the same values is no error."""
    account = Account(
        id=id,
        ledger=ledger,
        code=code,
        flags=parse_flags(flags, AccountFlags.__members__),
        user_data_128=user_data_128,
        user_data_64=user_data_64,
        user_data_32=user_data_32,
    )
    with run.connect() as client:
        (result,) = client.ledger.create_accounts([account])
    name = result.status.name.lower()
    run.show({"id": str(id), **_result(name, result.timestamp)}, f"account {id}: {name}")
    if not result.ok:
        raise typer.Exit(EXIT_REFUSED)


def _result(status: str, timestamp: int) -> dict[str, object]:
    return {"status": status, "timestamp": timestamp}


def account_show(run: Run, ids: Annotated[list[int], typer.Argument(metavar="ID...", help="One or many.")]) -> None:
    """Show accounts with their balances, in minor units."""
    with run.connect() as client:
        found = client.ledger.lookup_accounts(ids)
    rows = [
        [a.id, a.ledger, a.code, a.debits_posted, a.credits_posted, a.debits_pending, a.credits_pending, _names(a.flags)] for a in found
    ]
    columns = ("ID", "LEDGER", "CODE", "DEBITS", "CREDITS", "PENDING DEBITS", "PENDING CREDITS", "FLAGS")
    run.show({"accounts": found}, table(*columns, rows=rows) if found else None)
    there = {a.id for a in found}
    missing = [str(i) for i in ids if i not in there]
    if missing:
        if not run.json:
            typer.echo(f"lockctl: not there: {', '.join(missing)}", err=True)
        raise typer.Exit(EXIT_REFUSED)


def _names(flags: int) -> str:
    return "|".join(flag.name.lower() for flag in AccountFlags if flag and flags & flag and flag.name) or "-"


def transfer(
    run: Run,
    amount: Annotated[int, typer.Option("--amount", help="Minor units, 0 to 2^128-1.")],
    debit: Annotated[int, typer.Option("--debit", help="The account that is debited; 0 only in a post or void.")] = 0,
    credit: Annotated[int, typer.Option("--credit", help="The account that is credited; 0 only in a post or void.")] = 0,
    ledger: Annotated[int, typer.Option("--ledger", help="The ledger of both.")] = 0,
    code: Annotated[int, typer.Option("--code", help="1 to 65,535; yours to define.")] = 0,
    id: Annotated[int | None, typer.Option("--id", help="1 to 2^128-2; default: a new one, which is printed.")] = None,  # noqa: A002
    flags: Annotated[str, typer.Option("--flags", help="Names joined by |, such as pending.")] = "",
    pending_id: Annotated[int, typer.Option("--pending-id", help="What a post or void is about.")] = 0,
    expires_in: Annotated[int, typer.Option("--expires-in", help="Seconds until a pending transfer expires; 0: never.")] = 0,
) -> None:
    """Post one transfer. The same id again is never a second transfer."""
    number = new_id() if id is None else id
    made = Transfer(
        id=number,
        debit_account_id=debit,
        credit_account_id=credit,
        amount=amount,
        ledger=ledger,
        code=code,
        flags=parse_flags(flags, TransferFlags.__members__),
        pending_id=pending_id,
        timeout=expires_in,
    )
    try:
        with run.connect() as client:
            (result,) = client.ledger.create_transfers([made])
    except UnknownOutcome as error:
        error.advice = f"Run the same command again with --id {number}: it is applied at most once."
        raise
    name = result.status.name.lower()
    text = f"transfer {number}: {'posted' if result.status is CreateTransferStatus.CREATED else name}"
    run.show({"id": str(number), **_result(name, result.timestamp)}, text)
    if not result.ok:
        raise typer.Exit(EXIT_REFUSED)
