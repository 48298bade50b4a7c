"""What the engine refuses to be set up with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from lockd.raft.core.config import MILLISECOND, Config
from lockd.raft.engine_config import EngineConfig
from lockd.raft.port import Member, ReplicaId
from lockd.raft.pysyncobj_engine import PySyncObjEngine, Settings
from lockd.raft.pysyncobj_engine.settings import host_and_port
from tests.e2e.engine_port.harness import JournalMachine
from tests.unit.pysyncobj_engine.support import A, settings

MEMBERS = (Member(A, "127.0.0.1:7001", "127.0.0.1:1"), Member(ReplicaId("b"), "[::1]:7002", "127.0.0.1:2"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": "z"}, "not among the members"),
        ({"members": (MEMBERS[0], MEMBERS[0])}, "same id"),
        ({"members": (MEMBERS[0], dataclasses.replace(MEMBERS[1], voter=False))}, "no learners"),
        ({"listen": "0.0.0.0:7001"}, "needs? TLS"),
        ({"members": (MEMBERS[0], dataclasses.replace(MEMBERS[1], peer_address="10.0.0.1:7002"))}, "needs? TLS"),
        ({"members": (MEMBERS[0], dataclasses.replace(MEMBERS[1], peer_address="example.org:7002"))}, "needs? TLS"),
        ({"listen": "127.0.0.1"}, "not host:port"),
        ({"heartbeat": 0.2}, "heartbeat"),
        ({"election_max": 0.15}, "election"),
        ({"max_outstanding": 0}, "positive"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], reason: str) -> None:
    """Each impossible setting raises ValueError with the reason, before anything is opened."""
    with pytest.raises(ValueError, match=reason):
        Settings(**{"id": A, "cluster_id": "c", "data_dir": None, "listen": "127.0.0.1:7001", "members": MEMBERS} | changes)


def test_a_network_without_tls_must_be_asked_for() -> None:
    """Addresses beyond loopback are taken when that is asked for."""
    members = (dataclasses.replace(MEMBERS[0], peer_address="10.0.0.1:7001"),)
    assert Settings(A, "c", None, "10.0.0.1:7001", members, insecure_network=True).listen == "10.0.0.1:7001"


def test_the_heartbeat_fits_the_package() -> None:
    """The package wants more than three heartbeats in an election timeout: exactly three become a little more."""
    assert settings(election_min=0.15, heartbeat=0.05).append_period * 3 < 0.15
    assert settings(election_min=0.15, heartbeat=0.03).append_period == 0.03


def test_the_core_engines_configuration_is_enough() -> None:
    """One configuration serves either engine."""
    config = EngineConfig(
        id=A,
        cluster_id="c",
        data_dir=Path("data"),
        listen="127.0.0.1:7001",
        members=MEMBERS,
        core=Config(election_timeout_min=200 * MILLISECOND, election_timeout_max=400 * MILLISECOND, heartbeat=40 * MILLISECOND),
    )
    found = Settings.of(config)
    assert (found.election_min, found.election_max, found.heartbeat) == (0.2, 0.4, 0.04)
    assert (found.id, found.cluster_id, found.data_dir, found.listen, found.members) == (A, "c", Path("data"), "127.0.0.1:7001", MEMBERS)


def test_joining_is_refused() -> None:
    """A configuration that joins a running cluster is not for this engine."""
    config = EngineConfig(id=A, cluster_id="c", data_dir=None, listen="127.0.0.1:7001", join=("127.0.0.1:7002",))
    with pytest.raises(ValueError, match="cannot join"):
        PySyncObjEngine(config, JournalMachine())


@pytest.mark.parametrize("address", ["", ":1", "host", "host:", "host:x", "host:70000"])
def test_bad_addresses_are_refused(address: str) -> None:
    """What is not host:port raises ValueError."""
    with pytest.raises(ValueError, match="not host:port"):
        host_and_port(address)


def test_addresses_are_split() -> None:
    """Names, IPv4 and IPv6."""
    assert host_and_port("localhost:1") == ("localhost", 1)
    assert host_and_port("[::1]:2") == ("::1", 2)
