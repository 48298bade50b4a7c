"""The tree of commands."""

from __future__ import annotations

import importlib.metadata

import typer

from lockd_client.cli import cluster, importing, ledger, locks, watching
from lockd_client.cli.frame import DefaultGroup, Group

app = typer.Typer(
    name="lockctl",
    cls=Group,
    help="Talk to a lockd cluster: its nodes, locks and ledger. Exit codes: 0 done, 1 refused, 2 unreachable or unknown outcome, 64 usage.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _group(name: str, text: str, cls: type[Group] = Group, metavar: str = "COMMAND") -> typer.Typer:
    made = typer.Typer(name=name, cls=cls, help=text, no_args_is_help=True, rich_markup_mode=None, subcommand_metavar=metavar)
    app.add_typer(made)
    return made


def _version() -> None:
    """Print the version."""
    typer.echo(importlib.metadata.version("lockd"))


cluster.register(
    app,
    _group("member", "Look at the members, add one, give it a vote, remove it."),
    _group("leader", "Hand leadership to another node."),
    _group("snapshot", "Save a consistent snapshot."),
)
locks.register(
    app,
    _group(
        "lock",
        "Hold a lock: until Ctrl-C, or while a command runs.",
        DefaultGroup,
        "[hold] NAME | run NAME -- CMD...",
    ),
)
ledger.register(app, _group("account", "Create accounts, and look at their balances."))
importing.register(app)
watching.register(app)
app.command("version")(_version)


def main() -> None:
    """Entry point of `lockctl`."""
    app()
