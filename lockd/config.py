"""Configuration of a node: a TOML file, LOCKD_* variables and flags, in rising precedence."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
"""A replica's or cluster's name: letters, digits, dot, dash and underscore; at most 63."""

_ADDRESS = re.compile(r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})$")


class ConfigError(ValueError):
    """The configuration cannot be used; the message says which setting and why."""


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`. Raises ValueError."""
    match = _ADDRESS.match(address)
    if match is None or not 0 <= int(match[2]) <= 65535:
        raise ValueError(f"{address!r} is not host:port")
    return match[1].strip("[]"), int(match[2])


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address."""
    host, _ = split_address(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class MemberConfig(BaseModel):
    """One member of the cluster as it is first formed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Name
    peer: str
    client: str

    @field_validator("peer", "client")
    @classmethod
    def _address(cls, value: str) -> str:
        split_address(value)
        return value


class TlsFiles(BaseModel):
    """PEM files of one identity: the authority that it trusts, its certificate and its key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ca: Path
    cert: Path
    key: Path


class NodeConfig(BaseSettings):
    """Everything that `lockd serve` needs to know."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    id: Name = "lockd-1"
    """This replica's name; unique in the cluster for ever."""
    cluster: Name = "lockd"
    """The cluster's name; a data directory and a peer of another cluster are refused."""
    data: Path | None = None
    """Directory for the log and the snapshots. None: in memory, for trials only."""
    listen: str = "127.0.0.1:7601"
    """Where clients are served."""
    peer_listen: str = "127.0.0.1:7701"
    """Where the other members are served."""
    advertise: str | None = None
    """The address under which clients reach this node, if it is not `listen`."""
    peer_advertise: str | None = None
    """The address under which members reach this node, if it is not `peer_listen`."""
    members: tuple[MemberConfig, ...] = ()
    """The members as the cluster is first formed; the same on each of them. Later changes go through `lockctl member`."""
    join: tuple[str, ...] = ()
    """Peer addresses of any members: this node joins their running cluster instead of forming one."""
    learner: bool = False
    """With `join`: stay a learner, do not become a voter."""
    engine: Literal["core", "pysyncobj"] = "core"
    """What keeps the log. pysyncobj is the control of the tests: see docs/engine-pysyncobj.md for what it does not promise."""
    tls: TlsFiles | None = None
    """TLS for clients."""
    peer_tls: TlsFiles | None = None
    """Mutual TLS between members."""
    allow_insecure_network: bool = False
    """Serve beyond loopback without TLS. Anyone who reaches the ports can then read, write and vote."""
    metrics_listen: str | None = None
    """Where Prometheus metrics are served over HTTP; None: nowhere."""
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    election_timeout_ms: Annotated[int, Field(ge=50, le=60_000)] = 150
    """Least time without a leader's word before an election; the most is twice that."""
    heartbeat_ms: Annotated[int, Field(ge=5, le=10_000)] = 30
    snapshot_log_bytes: Annotated[int, Field(ge=1 << 16)] = 64 << 20
    """Take a snapshot when the log has grown by this much."""
    keep_log_bytes: Annotated[int, Field(ge=0)] = 16 << 20
    """Keep this much of the log before a snapshot for slow followers."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is handed in: `load` merges file, variables and flags, so that an environment cannot leak in unseen."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @field_validator("listen", "peer_listen", "advertise", "peer_advertise", "metrics_listen")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None:
            split_address(value)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.members and self.join:
            raise ValueError("members and join exclude each other: form a cluster, or join one")
        names = [m.id for m in self.members]
        if len(set(names)) != len(names):
            raise ValueError("two members have the same id")
        if self.members and self.id not in names:
            raise ValueError(f"id {self.id!r} is not among the members {names}")
        if self.heartbeat_ms * 3 > self.election_timeout_ms:
            raise ValueError("election_timeout_ms must be at least three times heartbeat_ms")
        if not self.allow_insecure_network:
            for name, address, tls in (("listen", self.listen, self.tls), ("peer_listen", self.peer_listen, self.peer_tls)):
                if tls is None and not is_loopback(address):
                    raise ValueError(f"{name} = {address!r} is reachable from outside: configure TLS, or set allow_insecure_network = true")
        return self


def load(file: Path | None, flags: dict[str, Any]) -> NodeConfig:
    """The configuration from `file`, LOCKD_* variables and `flags` (None values are left out). Raises ConfigError with every problem."""
    content: dict[str, Any] = {}
    if file is not None:
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read {file}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} is not TOML: {error}") from error
    try:
        variables = EnvSettingsSource(NodeConfig, env_prefix="LOCKD_", env_nested_delimiter="__")()
        return NodeConfig(**content | variables | {k: v for k, v in flags.items() if v is not None})
    except SettingsError as error:
        raise ConfigError(f"a LOCKD_ variable cannot be read: {error}") from error
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, p['loc'])) or 'configuration'}: {p['msg'].removeprefix('Value error, ')}" for p in error.errors()]
        raise ConfigError("; ".join(problems)) from error
