"""The `lockd` command: run a node.

Exit codes: 0 stopped as asked, 1 the node failed (disk, invariant), 64 the configuration or the command line cannot be used,
73 the data directory is damaged or belongs to another node.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

try:
    from lockd.config import ConfigError, MemberConfig, NodeConfig, load
    from lockd.ops import logs
except ModuleNotFoundError as missing:  # the base install is the client's
    sys.exit(f'lockd: {missing}; a node needs the server packages: pip install "lockd[server]"')

EXIT_FAILED = 1
EXIT_USAGE = 64
EXIT_DATA = 73

# Typer carries its own click and does not name this class.
_UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="lockd",
    help="Run a lockd node: a strongly consistent lock and ledger service. `lockctl` talks to it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def parse_member(text: str) -> MemberConfig:
    """`ID=PEER_HOST:PORT,CLIENT_HOST:PORT`. Raises ValueError."""
    name, _, addresses = text.partition("=")
    peer, _, client = addresses.partition(",")
    if not (name and peer and client):
        raise ValueError(f"{text!r} is not ID=PEER_HOST:PORT,CLIENT_HOST:PORT")
    return MemberConfig(id=name, peer=peer, client=client)


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="TOML file; see docs/operations.md for every setting.")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="This replica's name, unique in the cluster for ever.")] = None,
    cluster: Annotated[str | None, typer.Option(help="The cluster's name.")] = None,
    data: Annotated[Path | None, typer.Option(help="Directory of the log and the snapshots.")] = None,
    listen: Annotated[str | None, typer.Option(help="HOST:PORT for clients.")] = None,
    peer_listen: Annotated[str | None, typer.Option(help="HOST:PORT for the other members.")] = None,
    member: Annotated[list[str] | None, typer.Option(help="ID=PEER_HOST:PORT,CLIENT_HOST:PORT of each first member; repeat it.")] = None,
    join: Annotated[list[str] | None, typer.Option(help="Peer HOST:PORT of any member of a running cluster to join.")] = None,
    learner: Annotated[bool | None, typer.Option("--learner", help="With --join: stay a learner.")] = None,
    engine: Annotated[str | None, typer.Option(help="core (default) or pysyncobj.")] = None,
    metrics_listen: Annotated[str | None, typer.Option(help="HOST:PORT for Prometheus metrics.")] = None,
    log_format: Annotated[str | None, typer.Option(help="json or console.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    allow_insecure_network: Annotated[
        bool | None, typer.Option("--allow-insecure-network", help="Serve beyond loopback without TLS.")
    ] = None,
) -> None:
    """Run one node of a cluster. Flags win over LOCKD_* variables, and those over the file."""
    try:
        members = tuple(parse_member(m) for m in member) if member else None
        flags: dict[str, Any] = {
            "id": id_,
            "cluster": cluster,
            "data": data,
            "listen": listen,
            "peer_listen": peer_listen,
            "members": members,
            "join": tuple(join) if join else None,
            "learner": learner,
            "engine": engine,
            "metrics_listen": metrics_listen,
            "log_format": log_format,
            "log_level": log_level,
            "allow_insecure_network": allow_insecure_network,
        }
        settings = load(config, flags)
    except ValueError as error:
        _exit(EXIT_USAGE, f"lockd serve: {error}")
    if settings.data is None:
        _exit(EXIT_USAGE, "lockd serve: data: name a directory (a node without one forgets everything; `lockd dev --memory` is for that)")
    _run(settings)


@app.command()
def dev(
    listen: Annotated[str, typer.Option(help="HOST:PORT for clients.")] = "127.0.0.1:7601",
    data: Annotated[Path | None, typer.Option(help="Directory to keep the data in; default: .lockd-dev in the current one.")] = None,
    memory: Annotated[bool, typer.Option("--memory", help="Keep everything in memory: gone when the node stops.")] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run a single node for a laptop: one command, no configuration."""
    if memory and data is not None:
        _exit(EXIT_USAGE, "lockd dev: --memory and --data exclude each other")
    directory = None if memory else data or Path(".lockd-dev")
    flags = {"id": "dev", "cluster": "dev", "listen": listen, "peer_listen": "127.0.0.1:0", "data": directory}
    try:
        settings = load(None, {**flags, "log_format": "console", "log_level": log_level})
    except ConfigError as error:
        _exit(EXIT_USAGE, f"lockd dev: {error}")
    where = "in memory" if directory is None else f"in {directory.resolve()}"
    typer.echo(f"lockd dev: clients at {listen}, data {where}. Try: lockctl status --endpoints {listen}", err=True)
    _run(settings)


@app.command()
def restore(
    backup: Annotated[Path, typer.Argument(help="A file that `lockctl snapshot save` wrote.")],
    data: Annotated[Path, typer.Option(help="Directory to make; must be empty or not there.")],
    id_: Annotated[str, typer.Option("--id", help="This replica's name in the new cluster.")],
    cluster: Annotated[str, typer.Option(help="The new cluster's name: another one than the old cluster's.")],
    member: Annotated[list[str], typer.Option(help="ID=PEER_HOST:PORT,CLIENT_HOST:PORT of each member of the new cluster.")],
) -> None:
    """Begin a new cluster from a backup: run it once for each member, from the same file, then `lockd serve` each.

    Fencing tokens and revisions go on above those in the backup.
    """
    from lockd.codec.backups import BackupError
    from lockd.raft.core.types import Member, ReplicaId
    from lockd.raft.disk import DirectoryInUseError
    from lockd.raft.journal_format import JournalError
    from lockd.restore import RestoreError
    from lockd.restore import restore as make

    try:
        members = [parse_member(m) for m in member]
        settings = load(None, {"id": id_, "cluster": cluster, "members": members, "data": data})
        first = tuple(Member(ReplicaId(m.id), m.peer, m.client) for m in settings.members)
        index = make(backup, data, settings.cluster, settings.id, first)
    except (BackupError, RestoreError, JournalError, DirectoryInUseError) as error:
        _exit(EXIT_DATA, f"lockd restore: {error}")
    except (OSError, ValueError) as error:
        _exit(EXIT_USAGE, f"lockd restore: {error}")
    typer.echo(f"{data} holds replica {settings.id} of cluster {settings.cluster}, at log index {index}")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(importlib.metadata.version("lockd"))


def _run(config: NodeConfig) -> None:
    """Serve until SIGTERM, SIGINT or a failure; then exit with the matching code."""
    logs.configure(config.log_format, config.log_level, config.id)
    # Before gRPC is imported: its fork handlers must not run in the child that writes a snapshot (docs/adr/0006), and
    # a peer that goes away is our event to log, not the library's.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Here, not above: `lockd --help` should not wait for gRPC.
    import uvloop

    from lockd.raft.disk import DirectoryInUseError
    from lockd.raft.journal_format import JournalError
    from lockd.server import Node

    async def main() -> str | None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with Node(config) as node:
            stopped = asyncio.create_task(node.wait())
            asked = asyncio.create_task(stop.wait())
            await asyncio.wait((stopped, asked), return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()
            reason = stopped.result() if stopped.done() else None
            stopped.cancel()
            return reason

    try:
        reason = uvloop.run(main())
    except ConfigError as error:
        _exit(EXIT_USAGE, f"lockd: {error}")
    except (JournalError, DirectoryInUseError) as error:
        _exit(EXIT_DATA, f"lockd: refusing to start: {error}")
    except OSError as error:
        _exit(EXIT_FAILED, f"lockd: {error}")
    if reason is not None:
        _exit(EXIT_FAILED, f"lockd: the node failed: {reason}")


def _exit(code: int, message: str) -> NoReturn:
    typer.echo(message, err=True)
    sys.exit(code)


def main() -> None:
    """Entry point."""
    try:
        app(standalone_mode=False)
    except _UsageError as error:
        error.show()
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
