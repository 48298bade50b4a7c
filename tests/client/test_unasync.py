"""The generated blocking client: current, and translated token by token."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools.unasync import translate

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_generated_client_is_current() -> None:
    """`_sync` is what tools/unasync.py makes of `_async`; edit there."""
    done = subprocess.run([sys.executable, "tools/unasync.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_keywords_go_and_names_are_replaced() -> None:
    """`async` and `await` disappear with the space behind them; strings, layout and everything else stay."""
    source = (
        '"""Use `async with` and `await x`."""\n'
        "from a._async.b import c\n"
        "async def f(x: AsyncIterator[int]) -> None:\n"
        "    # await nothing\n"
        "    async with c() as d, e:\n"
        '        return await g(  "async", await h)\n'
        "    async def __aenter__(self): ...\n"
    )
    assert translate(source) == (
        '"""Use `with` and `x`."""\n'
        "from a._sync.b import c\n"
        "def f(x: Iterator[int]) -> None:\n"
        "    # nothing\n"
        "    with c() as d, e:\n"
        '        return g(  "async", h)\n'
        "    def __enter__(self): ...\n"
    )
