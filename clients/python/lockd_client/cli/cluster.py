"""Commands about nodes and members."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockd_client.cli.frame import EXIT_REFUSED, Run, command, table
from lockd_client.errors import LockdError

if TYPE_CHECKING:
    from lockd_client.model import Member

MemberId = Annotated[str, typer.Argument(metavar="ID", help="The member's id.")]


def register(app: typer.Typer, member: typer.Typer, leader: typer.Typer, snapshot: typer.Typer) -> None:
    """Add the commands to their groups."""
    command(app, "status")(status)
    command(member, "list")(member_list)
    command(member, "add")(member_add)
    command(member, "promote")(member_promote)
    command(member, "remove")(member_remove)
    command(leader, "transfer")(leader_transfer)
    command(snapshot, "save")(snapshot_save)


def status(run: Run) -> None:
    """Show every node: role, term, log, health."""
    with run.connect() as client:
        found = client.cluster.status_all(timeout=min(run.timeout, 2.0))
    rows: list[list[object]] = []
    for address, node in found.items():
        if isinstance(node, LockdError):
            rows.append([address, "-", "no answer", "-", "-", "-", "-", "-", "-", node.message])
            continue
        log = [node.commit_index, node.applied_index, f"{node.fsync_p99 * 1e3:.2f}"]
        rows.append([address, node.id, node.role, node.term, node.leader_id or "-", *log, node.engine, node.failed or "ok"])
    columns = ("ADDRESS", "ID", "ROLE", "TERM", "LEADER", "COMMIT", "APPLIED", "FSYNC P99 MS", "ENGINE", "HEALTH")
    run.show({"nodes": found}, table(*columns, rows=rows))


def _show_members(run: Run, members: list[Member]) -> None:
    rows = [[m.id, "voter" if m.voter else "learner", m.client_address, m.peer_address] for m in members]
    run.show({"members": members}, table("ID", "VOTE", "CLIENTS AT", "PEERS AT", rows=rows))


def member_list(run: Run) -> None:
    """List the members."""
    with run.connect() as client:
        _show_members(run, client.cluster.members())


def member_add(
    run: Run,
    id: MemberId,  # noqa: A002 - the option's name
    peer: Annotated[str, typer.Option("--peer", help="HOST:PORT at which the other members reach it.")],
    client_address: Annotated[str, typer.Option("--client", help="HOST:PORT at which clients reach it.")],
    voter: Annotated[bool, typer.Option("--voter", help="Give it a vote at once; only where it has caught up already.")] = False,
) -> None:
    """Add a member, as a learner; `member promote` gives it a vote once it has caught up."""
    with run.connect() as client:
        _show_members(run, client.cluster.add(id, peer, client_address, voter=voter))


def member_promote(run: Run, id: MemberId) -> None:  # noqa: A002
    """Give a learner that has caught up a vote."""
    with run.connect() as client:
        _show_members(run, client.cluster.promote(id))


def member_remove(run: Run, id: MemberId) -> None:  # noqa: A002
    """Remove a member."""
    with run.connect() as client:
        _show_members(run, client.cluster.remove(id))


def leader_transfer(
    run: Run, to: Annotated[str, typer.Argument(metavar="[ID]", help="The voter that shall lead; default: the one furthest ahead.")] = ""
) -> None:
    """Hand leadership to another voter."""
    with run.connect() as client:
        leader = client.cluster.transfer(to)
    run.show({"leader_id": leader}, f"{leader} leads")


def snapshot_save(run: Run, file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; replaced when complete.")]) -> None:
    """Save a consistent snapshot of the whole state to a file."""
    part = file.with_name(file.name + ".part")
    size = 0
    try:
        with run.connect() as client, part.open("wb") as target:
            for chunk in client.cluster.save_snapshot(timeout=max(run.timeout, 300.0)):
                size += target.write(chunk)
        part.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    if not size:
        run.fail(EXIT_REFUSED, "the node sent an empty snapshot")
    run.show({"file": str(file), "bytes": size}, f"{file}: {size:,} bytes")
