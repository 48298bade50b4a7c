"""Clients with sessions: each asks for one thing at a time, and repeats a request under its number until it is answered or time is up."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol, TypeAlias

from tests.sim.history import History
from tests.sim.register import encode_write
from tests.sim.world import MS, World

Answer: TypeAlias = Callable[[str, "int | str | None"], None]
"""Called with ("ok", value), ("not leader", name of the leader or None), ("unknown", None) or ("refused", None)."""


class Service(Protocol):
    """What clients talk to: the cluster, node by node. A node that is down answers nothing."""

    def nodes(self) -> list[str]:
        """Names a client may try."""

    def write(self, node: str, data: bytes, answer: Answer) -> None:
        """Ask this node to order `data`."""

    def read(self, node: str, answer: Answer) -> None:
        """Ask this node for the register's value, linearizably."""


class Client:
    """One session. Its requests and the answers travel with delay, and some are lost."""

    __slots__ = (
        "_attempt",
        "_floor",
        "_history",
        "_number",
        "_reading",
        "_rng",
        "_service",
        "_since",
        "_target",
        "_waiting",
        "_wall",
        "_world",
        "answered",
        "budget",
        "give_up_after",
        "given_up",
        "loss",
        "padding",
        "patience",
        "reads",
        "session",
        "think",
        "until",
    )

    def __init__(self, world: World, service: Service, history: History, session: int, rng: random.Random, wall: Callable[[], int]) -> None:
        self._world = world
        self._service = service
        self._history = history
        self._rng = rng
        self._wall = wall
        self.session = session
        self._number = 0
        self._attempt = 0
        self._target: str | None = None
        self._reading = False
        self._waiting = False
        self._since = 0
        self._floor = 0
        self.budget = 10
        """Operations still to begin."""
        self.until = 0
        """No operation begins after this time."""
        self.think = 40 * MS
        self.patience = 250 * MS
        self.give_up_after = 1500 * MS
        self.loss = 0.03
        self.reads = 0.4
        self.padding = 0
        self.answered = 0
        self.given_up = 0

    def start(self) -> None:
        """Begin."""
        self._world.after(int(self._rng.random() * self.think), self._begin)

    def _begin(self) -> None:
        if self.budget == 0 or self._world.now >= self.until:
            return
        self.budget -= 1
        self._waiting = True
        self._since = self._world.now
        self._reading = self._rng.random() < self.reads
        if not self._reading:
            self._number += 1
            self._floor = self._history.request((self.session, self._number))
        self._try()

    def _try(self) -> None:
        """Send the request, under a new attempt, to the node that is thought to lead or to any."""
        world, rng = self._world, self._rng
        self._attempt += 1
        attempt = self._attempt
        target = self._target
        if target is None or (self._reading and rng.random() < 0.7):
            target = rng.choice(self._service.nodes())
        self._target = target
        world.after(self.patience // 2 + int(rng.random() * self.patience), self._timed_out, attempt)
        if rng.random() < self.loss:
            return
        delay = MS // 10 + int(rng.random() * 2 * MS)
        if self._reading:
            self._floor = self._history.floor
            world.after(delay, self._service.read, target, self._answerer(attempt, self._number, reading=True, floor=self._floor))
        else:
            data = encode_write(self.session, self._number, self._wall(), int(rng.random() * self.padding))
            world.after(delay, self._service.write, target, data, self._answerer(attempt, self._number, reading=False, floor=self._floor))

    def _answerer(self, attempt: int, number: int, *, reading: bool, floor: int) -> Answer:
        def answer(word: str, value: int | str | None) -> None:
            if self._rng.random() >= self.loss:
                delay = MS // 10 + int(self._rng.random() * 2 * MS)
                self._world.after(delay, self._answered, attempt, number, reading, floor, word, value)

        return answer

    def _answered(self, attempt: int, number: int, reading: bool, floor: int, word: str, value: int | str | None) -> None:
        if word == "ok" and isinstance(value, int):
            # A late answer is as true as a timely one.
            if reading:
                self._history.read_answered(value, floor)
            else:
                self._history.write_answered((self.session, number), value, floor)
        if not self._waiting:
            return
        if attempt != self._attempt and (word != "ok" or reading or self._reading or number != self._number):
            return
        if word == "ok":
            self._attempt += 1
            self._waiting = False
            self.answered += 1
            self._world.after(int(self._rng.random() * 2 * self.think), self._begin)
            return
        self._target = value if word == "not leader" and isinstance(value, str) else None
        self._attempt += 1
        self._world.after(MS + int(self._rng.random() * 20 * MS), self._retry, self._attempt)

    def _timed_out(self, attempt: int) -> None:
        if attempt == self._attempt:
            if self._rng.random() < 0.7:
                self._target = None
            self._retry(attempt)

    def _retry(self, attempt: int) -> None:
        if attempt != self._attempt:
            return
        if self._world.now - self._since > self.give_up_after:
            self._attempt += 1
            self._waiting = False
            self.given_up += 1
            self._begin()
            return
        self._try()
