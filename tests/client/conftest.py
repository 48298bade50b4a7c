"""A fake cluster for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.client.fake_server import FakeCluster

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    """One node that leads."""
    with FakeCluster() as made:
        yield made


@pytest.fixture
def three() -> Iterator[FakeCluster]:
    """Three nodes; the first leads."""
    with FakeCluster(3) as made:
        yield made
