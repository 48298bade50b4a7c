"""Commands about what happens and what happened: watch, audit."""

from __future__ import annotations

import json
import re
import time
from dataclasses import fields
from datetime import UTC, datetime
from typing import Annotated

import typer

from lockd_client._sync._watch import audit as read_audit
from lockd_client._sync._watch import watch as start_watch
from lockd_client.cli.frame import Run, command, plain, table, usage
from lockd_client.watch_model import AccountsCreated, Event, EventKind, TransfersCreated

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_AGE = re.compile(r"^(\d+)([smhd])$")
_SHOWN = 200
"""Characters of one value in a line of text."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "watch")(watch)
    command(app, "audit")(audit)


def moment(text: str, option: str) -> int:
    """Nanoseconds since the epoch, from an age such as 15m, or a time as in ISO 8601 (without a zone: UTC); 0 for no text."""
    if not text:
        return 0
    age = _AGE.match(text)
    if age is not None:
        return time.time_ns() - int(age[1]) * _UNITS[age[2]] * 1_000_000_000
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        usage(f"{option}: {text!r} is neither an age (30s, 15m, 2h, 1d) nor a time (2026-01-31T12:00:00Z)")
    known = parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)
    seconds, micros = divmod(round((known - datetime.fromtimestamp(0, UTC)).total_seconds() * 1_000_000), 1_000_000)
    return seconds * 1_000_000_000 + micros * 1_000


def name(event: Event) -> str:
    """What happened, in words: lock granted."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(event).__name__).lower()


def clock(nanos: int) -> str:
    """A log time for people, in UTC."""
    return datetime.fromtimestamp(nanos // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{nanos // 1_000_000 % 1_000:03}Z"


def details(event: Event) -> str:
    """The rest of an event, in one line."""
    if isinstance(event, AccountsCreated | TransfersCreated):
        return f"{len(event.packed) // 128} records"
    shown: list[str] = []
    for field in fields(event):
        if field.name in ("revision", "position", "log_time"):
            continue
        value = plain(getattr(event, field.name), field.name)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        shown.append(f"{field.name}={text if len(text) <= _SHOWN else text[:_SHOWN] + '...'}")
    return " ".join(shown)


def as_json(event: Event) -> dict[str, object]:
    """An event for programs: its type, then its fields."""
    return {"event": name(event).replace(" ", "_"), **plain(event)}


def watch(
    run: Run,
    prefix: Annotated[str, typer.Argument(metavar="[PREFIX]", help="Only rows and locks at this path or below it.")] = "",
    kind: Annotated[list[EventKind] | None, typer.Option("--kind", help="Only this kind; may be given again.")] = None,
    topic: Annotated[str, typer.Option("--topic", help="Only messages to this topic or below it.")] = "",
    start: Annotated[int, typer.Option("--from", min=0, help="First revision to show; 0: what comes from now on.")] = 0,
    count: Annotated[int, typer.Option("--count", min=0, help="End after so many events; 0: with Ctrl-C.")] = 0,
) -> None:
    """Show events as they happen, until Ctrl-C. With --json: one object a line."""
    left = count
    with run.connect() as client:
        try:
            with start_watch(client, prefix=prefix, kinds=kind or (), topic=topic, start_revision=start) as events:
                for event in events:
                    line = f"{event.revision}.{event.position}  {clock(event.log_time)}  {name(event):<18} {details(event)}"
                    run.show(as_json(event), line)
                    left -= 1
                    if left == 0:
                        return
        except KeyboardInterrupt:
            return


def audit(
    run: Run,
    resource: Annotated[str, typer.Option("--resource", help="Only what names this path or one below it.")] = "",
    session: Annotated[int, typer.Option("--session", min=0, help="Only what concerns this session.")] = 0,
    since: Annotated[str, typer.Option("--since", help="From this time on: 15m ago, or 2026-01-31T12:00:00Z.")] = "",
    until: Annotated[str, typer.Option("--until", help="Before this time.")] = "",
) -> None:
    """List grants, releases, losses, forced releases, deadlocks and sessions, as far back as the node remembers."""
    first, last = moment(since, "--since"), moment(until, "--until")
    with run.connect() as client:
        trail = read_audit(client, prefix=resource, session_id=session, since=first, until=last)
    if run.json:
        run.show({"events": [as_json(e) for e in trail.events], "oldest_revision": trail.oldest_revision, "revision": trail.revision})
        return
    rows = [[f"{e.revision}.{e.position}", clock(e.log_time), name(e), details(e)] for e in trail.events]
    run.show(None, table("REVISION", "LOG TIME", "EVENT", "DETAILS", rows=rows))
    typer.echo(f"The node remembers revisions {trail.oldest_revision} to {trail.revision}.", err=True)
