"""Commands about locks: look, hold, run a command under one, give back, take away."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockd_client.cli.frame import EXIT_REFUSED, Run, command, table, usage
from lockd_client.errors import LockdError, LockLost
from lockd_client.model import LockMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lockd_client.sync import Grant

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit codes of shells for a command that is not there, or that may not be run."""


class Mode(StrEnum):
    """Lock modes as options."""

    INTENT_SHARED = "intent-shared"
    INTENT_EXCLUSIVE = "intent-exclusive"
    SHARED = "shared"
    SHARED_INTENT_EXCLUSIVE = "shared-intent-exclusive"
    UPDATE = "update"
    EXCLUSIVE = "exclusive"

    @property
    def mode(self) -> LockMode:
        """The client's mode."""
        return LockMode[self.name]


Name = Annotated[str, typer.Argument(metavar="NAME", help='A path such as "accounts/alice".')]
ModeOption = Annotated[Mode, typer.Option("--mode", help="How it is locked.")]
Ttl = Annotated[float, typer.Option("--ttl", min=1.0, max=3600.0, help="Seconds that the lock outlives this program's last sign of life.")]
WaitOption = Annotated[
    float | None, typer.Option("--wait", min=0.0, help="Seconds to wait for it; 0: do not wait. Default: as long as it takes.")
]


def register(app: typer.Typer, lock: typer.Typer) -> None:
    """Add the commands to their groups."""
    command(app, "locks")(list_locks)
    command(lock, "hold")(hold)
    # Options behind the first word of the command are the command's.
    command(lock, "run", context_settings={"allow_interspersed_args": True})(run_command)
    command(app, "unlock")(unlock)


def list_locks(
    run: Run, prefix: Annotated[str, typer.Argument(metavar="[PREFIX]", help="Only this path and what lies below it.")] = ""
) -> None:
    """List locks with their holders and waiters."""
    with run.connect() as client:
        found = client.locks.list(prefix)
    rows: list[list[object]] = []
    for state in found:
        rows += [[state.resource, "holds", h.mode.name.lower(), h.token, h.session_id, h.owner, f"{h.age:.1f}"] for h in state.holders]
        rows += [[state.resource, "waits", w.mode.name.lower(), "-", w.session_id, w.owner, f"{w.age:.1f}"] for w in state.waiters]
        if state.delayed_for:
            rows.append([state.resource, "delayed", "-", "-", "-", f"free in {state.delayed_for:.1f} s", "-"])
    run.show({"locks": found}, table("RESOURCE", "STATE", "MODE", "TOKEN", "SESSION", "OWNER", "AGE S", rows=rows))


@contextlib.contextmanager
def _on_signals(action: Callable[[int], None]) -> Iterator[None]:
    """Hand SIGTERM and SIGINT to `action` meanwhile; only the main thread can, and only it needs to."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda n, _: action(n)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _describe(grant: Grant) -> dict[str, object]:
    return {"resource": grant.resource, "token": grant.token, "session_id": grant.session_id, "mode": grant.mode}


def hold(run: Run, name: Name, mode: ModeOption = Mode.EXCLUSIVE, ttl: Ttl = 10.0, wait: WaitOption = None) -> None:
    """Hold a lock until Ctrl-C (or SIGTERM), and print its token. `lockctl lock NAME` is the same."""
    ended: queue.SimpleQueue[LockLost | None] = queue.SimpleQueue()

    def lost(grant: Grant) -> None:
        ended.put(grant.lost)

    with run.connect(ttl=ttl) as client:
        grant = client.acquire(name, mode=mode.mode, wait=wait, on_lost=lost)
        with _on_signals(lambda _: ended.put(None)):
            holder = f"token {grant.token}, session {grant.session_id}"
            run.show(_describe(grant), f"{grant.resource} is held ({holder}); Ctrl-C gives it back")
            sys.stdout.flush()
            why = ended.get()
        if why is not None:
            run.fail_with(why)
        grant.release()


def run_command(
    run: Run,
    name: Name,
    arguments: Annotated[list[str], typer.Argument(metavar="-- CMD [ARGS]", help="The command to run.")],
    mode: ModeOption = Mode.EXCLUSIVE,
    ttl: Ttl = 10.0,
    wait: WaitOption = None,
    grace: Annotated[float, typer.Option("--grace", min=0.0, help="Seconds from SIGTERM to SIGKILL when the lock is lost.")] = 10.0,
) -> None:
    """Run a command while holding a lock.

    Its environment has LOCKD_TOKEN and LOCKD_RESOURCE. If the lock is lost the command is ended (SIGTERM, then SIGKILL) and the exit
    code is 1; else it is the command's own.
    """
    events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    with run.connect(ttl=ttl) as client:
        grant = client.acquire(name, mode=mode.mode, wait=wait, on_lost=lambda g: events.put(("lost", g.lost)))
        try:
            code = _Child(arguments, grant, events).supervise(grace)
        except LockLost as why:
            run.fail_with(why)
        except FileNotFoundError:
            code = NOT_FOUND
            typer.echo(f"lockctl: {arguments[0]}: command not found", err=True)
        except PermissionError:
            code = NOT_EXECUTABLE
            typer.echo(f"lockctl: {arguments[0]}: not executable", err=True)
        try:
            grant.release()
        except LockLost as why:
            run.fail_with(why)
        except LockdError as error:
            typer.echo(f"lockctl: {error.message} The lock goes with the session.", err=True)
    raise typer.Exit(code)


class _Child:
    """The command that runs under the lock, with all that it starts."""

    def __init__(self, arguments: list[str], grant: Grant, events: queue.SimpleQueue[tuple[str, Any]]) -> None:
        environment = os.environ | {"LOCKD_TOKEN": str(grant.token), "LOCKD_RESOURCE": grant.resource}
        # At a terminal the command stays in the foreground group, or it could not read from it; elsewhere it leads a group of its
        # own, so that whatever it starts can be ended with it.
        self._own_group = not (sys.stdin is not None and sys.stdin.isatty())
        self._process = subprocess.Popen(  # noqa: S603 - running the user's command is the purpose
            arguments, env=environment, process_group=0 if self._own_group else None
        )
        self._events = events
        threading.Thread(target=self._watch, name="lockctl-child", daemon=True).start()

    def _watch(self) -> None:
        self._events.put(("ended", self._process.wait()))

    def supervise(self, grace: float) -> int:
        """Wait for the command's end; its exit code as a shell has it.

        Raises:
            LockLost: The lock was lost; the command is gone.
        """
        with _on_signals(self._forward):
            what, value = self._events.get()
            if what == "lost":
                self._end(grace)
                raise value
            return int(value) if value >= 0 else 128 - int(value)

    def _forward(self, number: int) -> None:
        """A signal to lockctl is one to the command; a terminal's Ctrl-C has reached it already."""
        if self._own_group or number != signal.SIGINT:
            self._signal(signal.Signals(number))

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._own_group:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)

    def _end(self, grace: float) -> None:
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        if self._own_group:
            # The command may be gone and what it started not.
            self._signal(signal.SIGKILL)


def unlock(
    run: Run,
    name: Name,
    token: Annotated[int | None, typer.Option("--token", min=1, help="The grant's token.")] = None,
    session: Annotated[int | None, typer.Option("--session", min=1, help="The session that holds it.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Take it away from whoever holds it; their tokens are fenced.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the audit trail; with --force.")] = "",
) -> None:
    """Give back a grant, or take a lock away.

    A grant is named by its token and session (`lockctl locks` shows both). With --force and --reason the lock is taken from every holder.
    """
    if force:
        if not reason:
            usage("--force needs --reason: it is kept in the audit trail")
        if token is not None or session is not None:
            usage("--force takes the lock from every holder: it goes without --token and --session")
        with run.connect() as client:
            forced = client.locks.force_release(name, reason=reason)
        run.show(forced, f"{name}: taken away from {forced.released} holder(s)")
        if not forced.released:
            raise typer.Exit(EXIT_REFUSED)
        return
    if token is None or session is None:
        usage("give --token and --session (see `lockctl locks`), or --force and --reason")
    with run.connect() as client:
        released = client.locks.release(name, session_id=session, token=token)
    run.show({"released": released}, f"{name}: " + ("released" if released else "had been released before"))
