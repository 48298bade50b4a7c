"""Clusters of real processes for the tests that need them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lockd_client.testing import LocalCluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    """Three nodes that have elected a leader."""
    with LocalCluster(3, tmp_path / "cluster") as running:
        yield running


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Three nodes for tests that break nothing, started once a module."""
    with LocalCluster(3, tmp_path_factory.mktemp("shared")) as running:
        yield running
