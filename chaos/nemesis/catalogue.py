"""All that can be asked for by name."""

from __future__ import annotations

from typing import Final

from chaos.nemesis import machine, network, process
from chaos.nemesis.base import Nemesis

CATALOGUE: Final[dict[str, type[Nemesis]]] = {
    kind.name: kind
    for kind in (
        network.Halves,
        network.Ring,
        network.OneWay,
        network.IsolateLeader,
        network.Flapping,
        network.SlowLinks,
        network.NarrowLinks,
        network.LossyLinks,
        network.Resets,
        network.ClientCut,
        process.KillOne,
        process.KillLeader,
        process.KillMajority,
        process.KillAll,
        process.PauseShort,
        process.PauseLong,
        process.Rolling,
        process.Transfer,
        process.Snapshots,
        process.Storm,
        machine.FsyncEio,
        machine.FsyncEnospc,
        machine.SlowDisk,
        machine.ClockJumps,
        machine.ClockStrobe,
    )
}


def find(names: list[str]) -> list[type[Nemesis]]:
    """The nemeses of these names; "none" is nobody. Raises ValueError for one that is not known."""
    wanted = [name for name in names if name and name != "none"]
    unknown = [name for name in wanted if name not in CATALOGUE]
    if unknown:
        raise ValueError(f"no nemesis {', '.join(unknown)}; there are {', '.join(CATALOGUE)}")
    return [CATALOGUE[name] for name in wanted]
