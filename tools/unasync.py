"""Generate the blocking client from the asyncio one: `python tools/unasync.py [--check]`. With --check: fail if it is not current.

The source is written once, in `lockd_client/_async`; what differs between the two worlds is in the two `_backend.py`, which are both
written by hand. Here names are replaced, token by token, and nothing else (docs/adr/0004-sync-client.md).
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "clients" / "python" / "lockd_client"
BY_HAND = {"_backend.py"}
NOTE = "# Generated from {source} by tools/unasync.py: edit that.\n"

NAMES = {
    "_async": "_sync",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "AsyncIterator": "Iterator",
    "StopAsyncIteration": "StopIteration",
}
IN_TEXT = [(re.compile(r"\basync with\b"), "with"), (re.compile(r"\basync for\b"), "for"), (re.compile(r"\bawait (?=[\w(])"), "")]


def translate(source: str) -> str:
    """The blocking form of a module: `async` and `await` go, names are replaced, docstrings follow."""
    lines = source.splitlines(keepends=True)
    out: list[str] = []
    row, column = 1, 0

    def copy_until(end_row: int, end_column: int) -> None:
        """Whatever lies between two tokens stays as it is."""
        nonlocal row, column
        while row < end_row:
            out.append(lines[row - 1][column:])
            row, column = row + 1, 0
        out.append(lines[row - 1][column:end_column] if row <= len(lines) else "")
        column = end_column

    skip_space = False
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.ENDMARKER, tokenize.DEDENT, tokenize.INDENT):
            continue
        if skip_space:
            # The space after a removed keyword goes with it.
            row, column = token.start
            skip_space = False
        copy_until(*token.start)
        text = token.string
        if token.type == tokenize.NAME and text in ("async", "await"):
            text, skip_space = "", True
        elif token.type == tokenize.NAME:
            text = NAMES.get(text, text)
        elif token.type in (tokenize.STRING, tokenize.COMMENT):
            for pattern, replacement in IN_TEXT:
                text = pattern.sub(replacement, text)
        out.append(text)
        row, column = token.end
    return "".join(out)


def tidy(text: str, name: str) -> str:
    """Sorted imports and the house's layout, so that the generated files pass the same checks."""
    ruff = [sys.executable, "-m", "ruff"]
    common = ["--stdin-filename", str(PACKAGE / "_sync" / name), "-"]
    for step in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        done = subprocess.run([*ruff, *step, *common], input=text, capture_output=True, text=True, check=True)  # noqa: S603 - our own tool
        text = done.stdout
    return text


def generate() -> dict[Path, str]:
    """Every generated file and its content."""
    made: dict[Path, str] = {}
    for source in sorted((PACKAGE / "_async").glob("*.py")):
        if source.name in BY_HAND:
            continue
        note = NOTE.format(source=f"_async/{source.name}")
        made[PACKAGE / "_sync" / source.name] = tidy(note + translate(source.read_text(encoding="utf-8")), source.name)
    return made


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a generated file is not current")
    check = parser.parse_args().check
    made = generate()
    stale = [p for p, text in made.items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    left = [p for p in (PACKAGE / "_sync").glob("*.py") if p not in made and p.name not in BY_HAND]
    if check:
        if stale or left:
            names = ", ".join(str(p.relative_to(ROOT)) for p in (*stale, *left))
            sys.exit(f"not current, run `python tools/unasync.py`: {names}")
        print(f"{len(made)} files are current")
        return
    for path in stale:
        path.write_text(made[path], encoding="utf-8")
    for path in left:
        path.unlink()
    print(f"{len(stale)} of {len(made)} files written")


if __name__ == "__main__":
    main()
