"""Snapshots of a node as it is shipped: `lockd serve`, with its own start, its own imports and its own gRPC."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lockd_client import Account, Transfer
from lockd_client.sync import connect
from lockd_client.testing import LocalCluster, NodeProcess

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ACCOUNTS = [Account(id=n, ledger=1, code=1) for n in range(1, 11)]


def children(node: NodeProcess) -> set[int]:
    """Processes that this one has forked and that are still there."""
    found: set[int] = set()
    for task in Path(f"/proc/{node.pid}/task").iterdir():
        try:
            found.update(map(int, (task / "children").read_text().split()))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_a_served_node_snapshots_by_fork_under_load(tmp_path: Path) -> None:
    """While clients write, snapshots appear one after the other, each made by a child of the node, and none fails."""
    config = tmp_path / "node.toml"
    config.write_text("snapshot_log_bytes = 70000\nkeep_log_bytes = 10000\n")
    with LocalCluster(3, tmp_path / "cluster", options=["--config", str(config)]) as cluster:
        seen: dict[str, set[int]] = {node.name: set() for node in cluster.nodes}
        positions: dict[str, set[int]] = {node.name: set() for node in cluster.nodes}
        with connect(cluster.endpoints, timeout=30.0) as client:
            client.ledger.create_accounts(ACCOUNTS)
            end = time.monotonic() + 60
            number = 0
            while time.monotonic() < end and min(map(len, positions.values())) < 5:
                batch = [Transfer(number * 100 + n, 1 + n % 9, 10, 1, 1, 1) for n in range(1, 101)]
                assert all(result.ok for result in client.ledger.create_transfers(batch))
                number += 1
                for node in cluster.nodes:
                    seen[node.name] |= children(node)
                    index = node.status().snapshot_index
                    if index:
                        positions[node.name].add(index)
        leader = cluster.wait_healthy()
        assert {node.status().failed for node in cluster.nodes} == {""}
        assert leader.status().transfers == number * 100
        for node in cluster.nodes:
            assert len(positions[node.name]) >= 5, f"{node.name} has snapshots at {sorted(positions[node.name])}"
            assert seen[node.name], f"{node.name}: no child was ever seen"
            said = node.log(1000)
            assert "fork handlers" not in said
            assert "snapshot at" not in said, said
    for node in cluster.nodes:
        node.start()
    try:
        leader = cluster.wait_healthy()
        assert leader.status().transfers == number * 100, "what the snapshots hold is the state"
    finally:
        cluster.stop()
