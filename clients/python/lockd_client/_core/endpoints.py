"""Which node to talk to: the leader when it is known, else one after the other, with growing pauses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockd_client.errors import FieldViolation, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable

FIRST_PAUSE = 10_000_000
"""Nanoseconds: the pause after the first failure."""
LONGEST_PAUSE = 500_000_000
"""Nanoseconds: where the pauses stop growing."""

_HOW = "Give endpoints as host:port,host:port."


def pause(failures: int, jitter: float) -> int:
    """Nanoseconds to wait after so many failures in a row; `jitter` in [0, 1) spreads clients over the upper half of the pause."""
    if failures <= 0:
        return 0
    whole = min(LONGEST_PAUSE, FIRST_PAUSE << min(failures - 1, 16))
    return whole // 2 + int(whole // 2 * jitter)


def parse_endpoints(text: str | Iterable[str]) -> list[str]:
    """Addresses from "host:port,host:port" or a list of them, in order, each once.

    Raises:
        InvalidArgument: Nothing is given, or an address is not `host:port`.
    """
    parts = text.split(",") if isinstance(text, str) else list(text)
    addresses: list[str] = []
    for part in parts:
        address = part.strip()
        if not address:
            continue
        host, colon, port = address.rpartition(":")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            violation = FieldViolation("endpoints", f"{address!r} is not host:port")
            raise InvalidArgument(f"{address!r} is not an address.", violations=[violation], advice=_HOW)
        if address not in addresses:
            addresses.append(address)
    if not addresses:
        violation = FieldViolation("endpoints", "at least one host:port is needed")
        raise InvalidArgument("No endpoint was given.", violations=[violation], advice=_HOW)
    return addresses


class Endpoints:
    """The known addresses and where the leader was last seen. Not safe for threads: the owner guards it."""

    def __init__(self, addresses: Iterable[str]) -> None:
        self._addresses = list(addresses)
        self._next = 0
        self._leader: str | None = None
        self._hinted = False
        self._failures = 0

    @property
    def addresses(self) -> tuple[str, ...]:
        """All known addresses: the given ones first, then those that were discovered."""
        return tuple(self._addresses)

    @property
    def failures(self) -> int:
        """Failures in a row, over all addresses."""
        return self._failures

    def learn(self, addresses: Iterable[str]) -> None:
        """Add addresses that the cluster itself named."""
        for address in addresses:
            if address and address not in self._addresses:
                self._addresses.append(address)

    def choose(self) -> str:
        """The address to try now."""
        return self._leader if self._leader is not None else self._addresses[self._next % len(self._addresses)]

    def pause(self, jitter: float) -> int:
        """Nanoseconds to wait before the chosen address is tried: none after the first hint to a leader."""
        return 0 if self._hinted and self._failures <= 1 else pause(self._failures, jitter)

    def succeeded(self, address: str) -> None:
        """The address served as leader."""
        self._leader = address
        self._hinted = False
        self._failures = 0

    def redirected(self, address: str, leader: str) -> None:
        """The node at `address` says that the leader is at `leader`; hints that go in circles count as failures."""
        self._failures += 1
        self.learn([leader])
        if leader == address:
            self._rotate(address)
            return
        self._leader = leader
        self._hinted = True

    def failed(self, address: str) -> None:
        """The address did not serve: forget that it leads, and go on to the next."""
        self._failures += 1
        if self._leader in (address, None):
            self._rotate(address)

    def _rotate(self, address: str) -> None:
        self._leader = None
        self._hinted = False
        if address in self._addresses:
            self._next = (self._addresses.index(address) + 1) % len(self._addresses)
        else:
            self._next += 1
