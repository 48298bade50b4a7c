"""What all commands share: options, the way to a client, output as text or JSON, exit codes.

Exit codes: 0 done, 1 refused by the service (or a part of the work was), 2 unreachable or unknown outcome, 64 the command line
cannot be used. `lock run` exits with its command's code instead, as long as the lock was held.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import sys
import typing
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from lockd_client.csv_import import BITS
from lockd_client.errors import DeadlineExceeded, LockdError, Unavailable, UnknownOutcome, WaitTimeout
from lockd_client.model import Tls
from lockd_client.sync import Client, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

P = ParamSpec("P")

EXIT_REFUSED = 1
EXIT_UNKNOWN = 2
EXIT_USAGE = 64
WIDTH = 4_000
"""Columns: more than any table needs."""
DEFAULT_ENDPOINTS = "127.0.0.1:7601"

UsageError: Any = typer.BadParameter.__base__
ClickException: Any = UsageError.__base__

Endpoints = Annotated[
    str, typer.Option("--endpoints", "-e", envvar="LOCKCTL_ENDPOINTS", help="HOST:PORT of one node or several, with commas between.")
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds that a call may take.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Ca = Annotated[
    Path | None,
    typer.Option("--ca", envvar="LOCKCTL_CA", exists=True, dir_okay=False, help="PEM file of the authority of the nodes' certificates."),
]
Cert = Annotated[
    Path | None, typer.Option("--cert", envvar="LOCKCTL_CERT", exists=True, dir_okay=False, help="PEM file of your certificate.")
]
Key = Annotated[Path | None, typer.Option("--key", envvar="LOCKCTL_KEY", exists=True, dir_okay=False, help="PEM file of its key.")]
Token = Annotated[str, typer.Option("--bearer", envvar="LOCKCTL_TOKEN", help="Bearer token.", show_default=False, show_envvar=True)]


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One run of a command: how to reach the cluster and how to speak."""

    endpoints: str
    timeout: float
    json: bool
    tls: Tls | None = None
    token: str = ""

    def connect(self, *, owner: str | None = None, ttl: float = 10.0) -> Client:
        """A client; errors end the command."""
        return connect(self.endpoints, owner=owner, ttl=ttl, timeout=self.timeout, tls=self.tls, token=self.token)

    def show(self, value: object, text: str | Table | None = None) -> None:
        """Print the outcome: the value as JSON, or the text."""
        if self.json:
            typer.echo(json.dumps(plain(value), ensure_ascii=False))
        elif isinstance(text, Table):
            out().print(text)
        elif text is not None:
            typer.echo(text)

    def fail(self, code: int, message: str, advice: str = "", /, **fields: object) -> NoReturn:
        """Say what went wrong and end with an exit code."""
        if self.json:
            typer.echo(json.dumps({"error": {"message": message, "advice": advice, **plain(fields)}}, ensure_ascii=False))
        else:
            typer.echo(f"lockctl: {message}" + (f"\n{advice}" if advice else ""), err=True)
        raise typer.Exit(code)

    def fail_with(self, error: LockdError) -> NoReturn:
        """End with the exit code of an error of the client."""
        self.fail(exit_code(error), error.message, error.advice, code=error.code.name, reason=error.reason, metadata=error.metadata)


def exit_code(error: LockdError) -> int:
    """2 where nobody answered or the outcome is unknown, else 1."""
    unknown = isinstance(error, Unavailable | UnknownOutcome | DeadlineExceeded) and not isinstance(error, WaitTimeout)
    return EXIT_UNKNOWN if unknown else EXIT_REFUSED


def usage(message: str) -> NoReturn:
    """The command line cannot be used."""
    raise typer.BadParameter(message)


def out() -> Console:
    """Where results go; a table is as wide as it is, and never cut."""
    return Console(file=sys.stdout, soft_wrap=True, width=WIDTH)


def err() -> Console:
    """Where progress and reports go."""
    return Console(file=sys.stderr, soft_wrap=True, highlight=False)


def table(*columns: str, rows: Iterable[Sequence[object]]) -> Table:
    """A table without ornament; numbers stand right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    lines = [[str(cell) for cell in row] for row in rows]
    for i, column in enumerate(columns):
        numeric = bool(lines) and all(line[i].replace(".", "", 1).isdecimal() or line[i] in ("", "-") for line in lines)
        made.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    for line in lines:
        made.add_row(*line)
    return made


def plain(value: Any, name: str = "") -> Any:
    """A value as JSON has it: enums by name, bytes in hexadecimal, 128-bit numbers as text (JavaScript would round them)."""
    if isinstance(value, LockdError):
        return {"error": {"message": value.message, "reason": value.reason}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name), field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): plain(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, name) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and (BITS.get(name) == 128 or name in _BALANCES):
        return str(value)
    return value


_BALANCES = frozenset({"debits_pending", "debits_posted", "credits_pending", "credits_posted"})


class Group(TyperGroup):
    """Usage errors end with 64, as the exit codes promise."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run the command line."""
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except ClickException as error:
            if not standalone_mode:
                raise
            error.show(file=sys.stderr)
            sys.exit(EXIT_USAGE)
        except typer.Abort:
            if not standalone_mode:
                raise
            sys.exit(130)
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code


class DefaultGroup(Group):
    """A group that takes what is none of its commands as an argument of its first one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command in front where none is named."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


def command(app: typer.Typer, name: str, **settings: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command. Its first parameter is the Run; the options that make one are added to its own."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(function)
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = [p.replace(annotation=hints[p.name]) for p in list(own.parameters.values())[1:]]
        keyword = inspect.Parameter.KEYWORD_ONLY
        shared = [
            inspect.Parameter("endpoints", keyword, default=DEFAULT_ENDPOINTS, annotation=Endpoints),
            inspect.Parameter("timeout", keyword, default=10.0, annotation=Timeout),
            inspect.Parameter("json", keyword, default=False, annotation=Json),
            inspect.Parameter("ca", keyword, default=None, annotation=Ca),
            inspect.Parameter("cert", keyword, default=None, annotation=Cert),
            inspect.Parameter("key", keyword, default=None, annotation=Key),
            inspect.Parameter("bearer", keyword, default="", annotation=Token),
        ]

        @functools.wraps(function)
        def run(**given: Any) -> None:
            made = _run(given)
            try:
                function(made, **given)
            except LockdError as error:
                made.fail_with(error)
            except OSError as error:
                made.fail(EXIT_REFUSED, f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))

        all_parameters = [p.replace(kind=keyword) for p in parameters] + shared
        wrapper: Any = run
        wrapper.__signature__ = inspect.Signature(all_parameters, return_annotation=None)
        wrapper.__annotations__ = {p.name: p.annotation for p in all_parameters} | {"return": None}
        del wrapper.__wrapped__
        app.command(name, **settings)(run)
        return function

    return register


def _run(given: dict[str, Any]) -> Run:
    """Take the shared options out of the given ones."""
    from lockd_client._core.endpoints import parse_endpoints

    ca, cert, key = given.pop("ca"), given.pop("cert"), given.pop("key")
    tls = Tls(_bytes(ca), _bytes(cert), _bytes(key)) if ca or cert or key else None
    made = Run(given.pop("endpoints"), given.pop("timeout"), given.pop("json"), tls, given.pop("bearer"))
    try:
        parse_endpoints(made.endpoints)
    except LockdError as error:
        usage(error.message)
    return made


def _bytes(path: Path | None) -> bytes | None:
    return path.read_bytes() if path is not None else None


def parse_flags(text: str, flags: Mapping[str, Any]) -> int:
    """Flag names joined by "|" or ","; ends the command with a usage error for one that is not known."""
    value = 0
    for part in filter(None, (p.strip() for p in text.replace(",", "|").split("|"))):
        if part.upper() not in flags:
            usage(f"{part!r} is not a flag; there are: {', '.join(name.lower() for name in flags if name != 'NONE')}")
        value |= int(flags[part.upper()])
    return value
