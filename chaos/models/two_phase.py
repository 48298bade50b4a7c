"""One pending transfer of a ledger: posted, voided or expired, once; then nothing more."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from chaos.history import Op, Outcome


class TwoPhase:
    """A pending transfer, by its id as the key.

    `pend(amount) -> "created"`, `post(amount) -> status`, `void -> status`, `~expire`, `read -> phase or None`. Statuses are those of the
    ledger contract: created, pending_transfer_not_found, exceeds_pending_transfer_amount, pending_transfer_already_posted,
    pending_transfer_already_voided, pending_transfer_expired. State: (phase, amount).
    """

    name = "two-phase"

    def initial(self) -> Hashable:
        """Not there."""
        return ("absent", 0)

    def prepare(self, op: Op) -> Any:
        """(what, amount, status)."""
        if op.outcome is Outcome.FAIL or (op.kind == "read" and not op.ok):
            return None
        if op.kind not in ("pend", "post", "void", "~expire", "read"):
            return None
        return (op.kind, op.args, op.result if op.ok else None)

    def step(self, state: Any, call: Any) -> Iterable[Hashable]:
        """One state, or none."""
        what, amount, status = call
        phase, pending = state
        if what == "read":
            return (state,) if status == phase else ()
        if what == "~expire":
            return (("expired", pending),) if phase == "pending" else (state,)
        after, answer = self._answer(phase, pending, what, amount)
        if status is not None and status != answer:
            return ()
        return (after,)

    def _answer(self, phase: str, pending: int, what: str, amount: Any) -> tuple[tuple[str, int], str]:
        if what == "pend":
            return (("pending", amount), "created") if phase == "absent" else ((phase, pending), "exists")
        if phase == "absent":
            return (phase, pending), "pending_transfer_not_found"
        if what == "post" and amount > pending:
            return (phase, pending), "exceeds_pending_transfer_amount"
        if phase == "posted":
            return (phase, pending), "pending_transfer_already_posted"
        if phase == "voided":
            return (phase, pending), "pending_transfer_already_voided"
        if phase == "expired":
            return (phase, pending), "pending_transfer_expired"
        return (("posted", pending), "created") if what == "post" else (("voided", pending), "created")

    def show(self, state: Any) -> str:
        """Its phase."""
        return f"{state[0]} ({state[1]})"
