"""Waiting for a condition, instead of for a time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 15.0


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as the condition holds; fail after a time that no healthy run takes."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.002)


def until_sync(condition: Callable[[], object]) -> None:
    """The same, blocking."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.002)
