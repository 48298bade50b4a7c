# ruff: noqa: S603 - the commands are our own
"""One node of a cluster under test: a real `lockd serve` process, its faults, and its certain end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_LAUNCH: Final = "import ctypes,os,sys; ctypes.CDLL(None).prctl(1,9); os.execv(sys.argv[1],sys.argv[1:])"
"""Dies with us, whatever becomes of us (PR_SET_PDEATHSIG), then becomes the node."""


class CannotRunError(RuntimeError):
    """This machine, or this build, cannot do what was asked; the message says why."""


def build_clock(directory: Path) -> Path:
    """Compile the library that moves a node's wall clock. Raises CannotRunError."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise CannotRunError("clock faults need a C compiler (gcc), and there is none")
    library = directory / "clock.so"
    source = Path(__file__).with_name("clock.c")
    made = subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], capture_output=True, check=False, text=True)
    if made.returncode != 0:
        raise CannotRunError(f"the clock library cannot be compiled: {made.stderr.strip()}")
    return library


def check_strace() -> str:
    """Path of strace, if it may attach to our processes. Raises CannotRunError."""
    path = shutil.which("strace")
    if path is None:
        raise CannotRunError("disk faults need strace, and it is not installed")
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as victim:
        tried = subprocess.Popen([path, "-qq", "-p", str(victim.pid)], stderr=subprocess.PIPE, text=True)
        try:
            tried.wait(0.5)
            said = (tried.stderr.read() if tried.stderr else "").strip()
        except subprocess.TimeoutExpired:
            said = ""
            tried.terminate()
        tried.communicate()
        victim.kill()
    if said:
        raise CannotRunError(f"strace may not attach to processes here: {said}")
    return path


class Node:
    """A node's process. Addresses that others use are the proxy's; `listen` is where it really serves."""

    def __init__(self, name: str, directory: Path, listen: str, settings: Mapping[str, Any], clock: Path | None) -> None:
        self.name = name
        self.directory = directory
        self.listen = listen
        self.log_path = directory.with_suffix(".log")
        self.paused = False
        self.expected_exit = True
        """Whether an end of the process now is our doing (or that of a fault that we inject)."""
        self.process: subprocess.Popen[bytes] | None = None
        self._config = directory.with_suffix(".toml")
        self._config.write_text("".join(f"{k} = {_toml(v)}\n" for k, v in settings.items()), encoding="utf-8")
        self._clock = clock
        self._offset = directory.with_suffix(".clock")
        self._offset.write_bytes(struct.pack("=q", 0))
        self._tracer: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self.process.pid if self.process is not None and self.process.poll() is None else None

    def start(self) -> int:
        """Start the process, from the thread whose end shall be its end too; its pid."""
        if self.pid is not None:
            raise RuntimeError(f"{self.name} is running already")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LOCKD_")}
        if self._clock is not None:
            environment |= {"LD_PRELOAD": str(self._clock), "CHAOS_CLOCK_FILE": str(self._offset)}
        command = [sys.executable, "-S", "-c", _LAUNCH, sys.executable, "-m", "lockd.cli", "serve", "--config", str(self._config)]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self.paused = False
        self.expected_exit = False
        return self.process.pid

    def kill(self) -> None:
        """Send SIGKILL, and wait until it is gone."""
        self.expected_exit = True
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.end_trace()

    def terminate(self, timeout: float) -> int:
        """Ask it to stop; kill it if it does not. Its exit code. Blocks."""
        self.expected_exit = True
        self.end_trace()
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGCONT)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def pause(self) -> bool:
        """SIGSTOP; whether it runs at all."""
        return self._signal(signal.SIGSTOP, paused=True)

    def resume(self) -> bool:
        """SIGCONT; whether it runs at all."""
        return self._signal(signal.SIGCONT, paused=False)

    def _signal(self, number: signal.Signals, *, paused: bool) -> bool:
        pid = self.pid
        if pid is None:
            return False
        os.kill(pid, number)
        self.paused = paused
        return True

    def set_clock(self, offset: int) -> None:
        """Move the wall clock by so many nanoseconds from the true time, at once. Raises CannotRunError without the library."""
        if self._clock is None:
            raise CannotRunError(f"{self.name} was not started with a movable clock")
        with self._offset.open("r+b") as file:
            file.write(struct.pack("=q", offset))

    def trace(self, strace: str, injection: str) -> bool:
        """Let system calls fail or lag, as strace's `inject=` says, until `end_trace`; whether it runs at all."""
        pid = self.pid
        if pid is None or self._tracer is not None:
            return False
        self._tracer = subprocess.Popen(
            [strace, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={injection.split(':')[0]}", "-e", f"inject={injection}", "-p", str(pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return True

    def end_trace(self) -> None:
        """System calls work again."""
        tracer, self._tracer = self._tracer, None
        if tracer is None:
            return
        tracer.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            tracer.wait(2)
        if tracer.poll() is None:
            tracer.kill()
            tracer.wait()

    def log(self, lines: int = 12) -> str:
        """The end of what it wrote."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


def wait_gone(nodes: list[Node], timeout: float) -> None:
    """End all of these. Blocks at most about twice the timeout."""
    for node in nodes:
        node.expected_exit = True
        node.end_trace()
        if node.process is not None and node.process.poll() is None:
            node.process.send_signal(signal.SIGTERM)
            node.process.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + timeout
    for node in nodes:
        node.terminate(max(0.1, deadline - time.monotonic()))


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    return "[" + ", ".join(_toml(v) for v in value) + "]"
