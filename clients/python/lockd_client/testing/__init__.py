"""Real clusters on this machine, for tests, examples and benchmarks."""

from __future__ import annotations

from lockd_client.testing.cluster import LocalCluster, NodeProcess, NodeStartError, free_ports

__all__ = ["LocalCluster", "NodeProcess", "NodeStartError", "free_ports"]
