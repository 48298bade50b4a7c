"""Configuration: precedence, and problems that name the setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from lockd.cli import parse_member
from lockd.config import ConfigError, is_loopback, load, split_address

MEMBERS = [
    {"id": "a", "peer": "127.0.0.1:1", "client": "127.0.0.1:2"},
    {"id": "b", "peer": "127.0.0.1:3", "client": "127.0.0.1:4"},
]


def test_flags_win_over_variables_and_variables_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three sources have one order."""
    file = tmp_path / "node.toml"
    file.write_text('id = "file"\ncluster = "file"\nlog_level = "error"\n')
    monkeypatch.setenv("LOCKD_CLUSTER", "variable")
    monkeypatch.setenv("LOCKD_LOG_LEVEL", "debug")
    made = load(file, {"log_level": "warning", "listen": None})
    assert (made.id, made.cluster, made.log_level, made.listen) == ("file", "variable", "warning", "127.0.0.1:7601")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"id": "bad name"}, "id"),
        ({"id": ""}, "id"),
        ({"listen": "nowhere"}, "listen"),
        ({"listen": "127.0.0.1:99999"}, "listen"),
        ({"listen": "0.0.0.0:7601"}, "reachable from outside"),
        ({"peer_listen": "10.0.0.1:7601"}, "peer_listen"),
        ({"engine": "paxos"}, "engine"),
        ({"heartbeat_ms": 100}, "three times"),
        ({"heartbeat_ms": "soon"}, "heartbeat_ms"),
        ({"members": MEMBERS, "id": "c"}, "not among the members"),
        ({"members": [MEMBERS[0], MEMBERS[0]], "id": "a"}, "same id"),
        ({"members": MEMBERS, "id": "a", "join": ("127.0.0.1:9",)}, "exclude each other"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_setting_is_named(flags: dict[str, object], says: str) -> None:
    """Each problem is reported with the setting it is about, before anything starts."""
    with pytest.raises(ConfigError, match=says):
        load(None, flags)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    """A file that is missing, no TOML or no UTF-8 is reported with its path."""
    with pytest.raises(ConfigError, match=r"gone\.toml"):
        load(tmp_path / "gone.toml", {})
    bad = tmp_path / "bad.toml"
    for content in (b"id = ", b"id = '\xff'"):
        bad.write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad\.toml"):
            load(bad, {})


def test_the_network_is_opened_only_in_so_many_words() -> None:
    """Without TLS a node serves beyond loopback only if it is told so explicitly."""
    assert load(None, {"listen": "0.0.0.0:7601", "allow_insecure_network": True}).listen == "0.0.0.0:7601"


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1:1", True), ("127.9.9.9:1", True), ("localhost:1", True), ("[::1]:1", True), ("0.0.0.0:1", False), ("db.example:1", False)],
)
def test_loopback_is_recognised(address: str, loopback: bool) -> None:
    """Only addresses that no other machine reaches count as loopback."""
    assert is_loopback(address) is loopback


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:x", "host:70000", "ho st:1"])
def test_an_address_needs_host_and_port(address: str) -> None:
    """What is not host:port is refused."""
    with pytest.raises(ValueError, match="not host:port"):
        split_address(address)


def test_members_come_as_text() -> None:
    """A member on the command line has a name and two addresses."""
    assert parse_member("n1=127.0.0.1:1,127.0.0.1:2").client == "127.0.0.1:2"
    for text in ("n1", "n1=127.0.0.1:1", "=1,2", "n1=127.0.0.1:1,"):
        with pytest.raises(ValueError):
            parse_member(text)
