"""All that can be asked for by name."""

from __future__ import annotations

from typing import Final

from chaos.workloads.base import Workload
from chaos.workloads.ledger import BankWorkload, TwoPhaseWorkload
from chaos.workloads.list_append import ListAppendWorkload
from chaos.workloads.lock import LockWorkload, RwLockWorkload
from chaos.workloads.register import RegisterWorkload
from chaos.workloads.session import SessionWorkload

CATALOGUE: Final[dict[str, type[Workload]]] = {
    kind.name: kind
    for kind in (
        LockWorkload,
        RwLockWorkload,
        RegisterWorkload,
        ListAppendWorkload,
        BankWorkload,
        TwoPhaseWorkload,
        SessionWorkload,
    )
}


def find(name: str) -> type[Workload]:
    """The workload of this name. Raises ValueError."""
    if name not in CATALOGUE:
        raise ValueError(f"no workload {name!r}; there are {', '.join(CATALOGUE)}")
    return CATALOGUE[name]
