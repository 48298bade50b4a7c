"""Locks: exclusive, and readers with a writer. Holders are processes; every grant has a token above all before it on this resource."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from chaos.history import Op, Outcome

_ACQUIRE, _HELD, _RELEASE, _GONE, _GUARDED, _FENCED, _FREE = range(7)


class Lock:
    """An exclusive lock.

    - `acquire -> token` (or "held": a try that found it taken), `release([token]) -> bool` (False: it was not held any more),
    - `guarded([token]) -> bool`: a write that carried the token; False: refused as fenced,
    - `~expire`: the process's session may end at any time from here on; `~undo`: as above, for an acquire given up.

    State: (holder, token, highest token). A token of 0 is one that nobody was told.
    """

    name = "lock"

    def initial(self) -> Hashable:
        """Free."""
        return (None, 0, 0)

    def prepare(self, op: Op) -> Any:
        """(what, process, token)."""
        return _prepare(op)

    def step(self, state: Any, call: Any) -> Iterable[Hashable]:
        """One state, or none."""
        what, process, token, _ = call
        holder, held, highest = state
        if what == _ACQUIRE:
            if holder is not None or (token and token <= highest):
                return ()
            return ((process, token, token or highest),)
        if what == _HELD:
            return (state,) if holder is not None and holder != process else ()
        if what == _GUARDED:
            return (state,) if holder == process and held == token else ()
        if what == _FENCED:
            return (state,) if holder != process or held != token else ()
        if what == _FREE:
            return (state,) if holder != process else ()
        # A release that is known to have been one, or whatever may end the hold.
        if holder == process:
            return ((None, 0, highest),)
        return () if what == _RELEASE else (state,)

    def show(self, state: Any) -> str:
        """Who holds it."""
        holder, held, highest = state
        return f"free, highest token {highest}" if holder is None else f"held by {holder} with token {held or '(not known)'}"


class RwLock:
    """A lock with modes: `acquire(mode) -> token` with mode "shared" or "exclusive"; otherwise as `Lock`.

    State: (holders as sorted (process, exclusive) pairs, highest token).
    """

    name = "rw-lock"

    def initial(self) -> Hashable:
        """Free."""
        return ((), 0)

    def prepare(self, op: Op) -> Any:
        """(what, process, token, exclusive)."""
        return _prepare(op)

    def step(self, state: Any, call: Any) -> Iterable[Hashable]:
        """One state, or none."""
        what, process, token, exclusive = call
        holders, highest = state
        own = [h for h in holders if h[0] == process]
        if what == _ACQUIRE:
            blocked = own or (exclusive and holders) or any(h[1] for h in holders)
            if blocked or (token and token <= highest):
                return ()
            return ((tuple(sorted((*holders, (process, exclusive)))), max(token, highest)),)
        if what == _HELD:
            # A try is also refused behind a waiting writer, which nobody sees: only an empty lock must not refuse.
            return (state,) if holders and not own else ()
        if what in (_GUARDED, _FENCED):
            return (state,) if bool(own) is (what == _GUARDED) else ()
        if what == _FREE:
            return () if own else (state,)
        if own:
            return ((tuple(h for h in holders if h[0] != process), highest),)
        return () if what == _RELEASE else (state,)

    def show(self, state: Any) -> str:
        """Who holds it."""
        holders, highest = state
        names = ", ".join(f"{p} ({'exclusive' if x else 'shared'})" for p, x in holders)
        return f"held by {names}" if holders else f"free, highest token {highest}"


def _prepare(op: Op) -> tuple[int, str, int, bool] | None:
    if op.outcome is Outcome.FAIL:
        return None
    exclusive = op.args != "shared"
    if op.kind == "acquire":
        if op.ok and op.result == "held":
            return (_HELD, op.process, 0, exclusive)
        return (_ACQUIRE, op.process, int(op.result) if op.ok else 0, exclusive)
    if op.kind == "release":
        if op.unknown:
            return (_GONE, op.process, 0, exclusive)
        return (_RELEASE if op.result else _FREE, op.process, 0, exclusive)
    if op.kind in ("~expire", "~undo"):
        return (_GONE, op.process, 0, exclusive)
    if op.kind == "guarded" and op.ok:
        return (_GUARDED if op.result else _FENCED, op.process, int(op.args[0]), exclusive)
    return None
