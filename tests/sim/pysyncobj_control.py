"""The control: the published PySyncObj under the same kind of schedule, on a perfect disk and TCP-like links.

A checker that cannot fail proves nothing. So the log that is known to lose acknowledged writes goes through virtual time, cut links and
crashes as our core does, and the simulation must find the loss. The package is unmodified: its clock, its random numbers, its transport and
its journal are replaced where it looks them up. The journal here is better than any real one (everything is durable at once, nothing
tears), and links are in-order connections, so what is lost is lost by the protocol itself.

Run `python -m tests.sim.pysyncobj_control [--seeds N] [--start N]` for the list of seeds that lose writes.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import pickle
import random
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pysyncobj.syncobj as package
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.journal import Journal
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from tests.sim.world import MS, SECOND, US, World

NAMES = ("n1", "n2", "n3")


class Address(str):
    """A node's name with a hash that is the same in every process: the package iterates sets of nodes."""

    __slots__ = ()

    def __hash__(self) -> int:
        return int(self[1:])


@dataclass(slots=True)
class PerfectDisk:
    """What one replica wrote: durable at once, whole for ever."""

    entries: list[tuple[bytes, int, int]] = field(default_factory=list)
    term: int = 0
    vote: str | None = None


class PerfectJournal(Journal):  # type: ignore[misc]
    """The package's journal over a `PerfectDisk`."""

    def __init__(self, disk: PerfectDisk) -> None:
        self._disk = disk

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append one entry."""
        self._disk.entries.append((command, idx, term))

    def clear(self) -> None:
        """Drop every entry."""
        self._disk.entries.clear()

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803
        """Drop the tail."""
        del self._disk.entries[entryFrom:]

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802, N803
        """Drop the head."""
        del self._disk.entries[:entryTo]

    def __getitem__(self, item: Any) -> Any:
        return self._disk.entries[item]

    def __len__(self) -> int:
        return len(self._disk.entries)

    def _destroy(self) -> None:
        """Nothing is held open."""

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803
        """Not remembered, as in the package's own journals in memory."""

    def getRaftCommitIndex(self) -> int:  # noqa: N802
        """The index of the first entry."""
        return 1

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802, N803
        """Remember term and vote."""
        self._disk.term, self._disk.vote = term, votedForNodeId

    def getCurrentTerm(self) -> int:  # noqa: N802
        """The term remembered."""
        return self._disk.term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802
        """The vote remembered."""
        return self._disk.vote


class Wire(Transport):  # type: ignore[misc]
    """The package's transport over simulated connections."""

    def __init__(self, control: Control, name: str) -> None:
        super().__init__(None, Node(Address(name)), [])
        self._control = control
        self._name = name

    def send(self, node: Any, message: Any) -> bool:
        """Put a message on the connection; False if there is none."""
        return self._control.send(self._name, str(node.id), message)


class Store(SyncObj):  # type: ignore[misc]
    """A replicated list of writes."""

    def __init__(self, name: str, conf: SyncObjConf, wire: Wire) -> None:
        self.writes: list[int] = []
        others = [Node(Address(other)) for other in NAMES if other != name]
        super().__init__(Node(Address(name)), others, conf, nodeClass=Node, transport=wire)

    @replicated  # type: ignore[untyped-decorator]
    def write(self, number: int, padding: str) -> int:
        """Append `number`; the result is its position."""
        self.writes.append(number)
        return len(self.writes)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one run showed."""

    seed: int
    asked: int
    acknowledged: int
    lost: tuple[int, ...]
    """Acknowledged writes that are neither in the log nor in the state of the leader, after everything was healed and restarted."""
    settled: bool
    """Whether the cluster had one leader and equal logs at the end."""
    two_leaders: bool


class Control:
    """Three PySyncObj nodes in virtual time."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.seed = seed
        rng = self.world.rng
        self.delay = rng.choice((5, 15, 30, 40)) * MS
        self.byte_time = rng.choice((1, 5, 20, 40)) * US
        """How long a link is busy with one byte: 200 kB/s to 25 kB/s, and one that is hardly limited."""
        self.conf = {
            "autoTick": False,
            "journalFile": "journal",
            "appendEntriesUseBatch": rng.random() < 0.5,
            "appendEntriesBatchSizeBytes": rng.choice((300, 1000, 4000)),
            "logCompactionMinEntries": 10**9,
            "logCompactionMinTime": 10**9,
        }
        self.disks = {name: PerfectDisk() for name in NAMES}
        self.nodes: dict[str, Store] = {}
        self.wires: dict[str, Wire] = {}
        self.life = dict.fromkeys(NAMES, 0)
        self.connected: set[tuple[str, str]] = set()
        self.stalled: set[tuple[str, str]] = set()
        self.queues: dict[tuple[str, str], deque[tuple[int, bytes]]] = {(a, b): deque() for a in NAMES for b in NAMES if a != b}
        self.busy_until = 0
        """Until then one fault with several steps is under way, and no other begins."""
        self.asked = 0
        self.acknowledged: dict[int, int] = {}
        self.leaders: dict[int, set[str]] = {}

    # --- network: in-order connections that break and come back ----------------------------------------------------------------------

    def send(self, sender: str, to: str, message: Any) -> bool:
        """One message onto the connection, as bytes."""
        if _pair(sender, to) not in self.connected:
            return False
        queue = self.queues[sender, to]
        raw = pickle.dumps(message)
        due = self.world.now + self.delay + int(self.world.rng.random() * 2 * MS)
        if queue:
            due = max(due, queue[-1][0] + len(raw) * self.byte_time)
        queue.append((due, raw))
        self.world.at(due, self._arrive, sender, to)
        return True

    def _arrive(self, sender: str, to: str) -> None:
        queue = self.queues[sender, to]
        while queue and queue[0][0] <= self.world.now and (sender, to) not in self.stalled:
            message = pickle.loads(queue.popleft()[1])
            if to in self.wires:
                with contextlib.suppress(Exception):
                    self.wires[to]._onMessageReceived(Node(Address(sender)), message)

    def connect(self, a: str, b: str) -> None:
        """Open a connection, if both are up."""
        pair = _pair(a, b)
        if a in self.nodes and b in self.nodes and pair not in self.connected:
            self.connected.add(pair)
            self.wires[a]._onNodeConnected(Node(Address(b)))
            self.wires[b]._onNodeConnected(Node(Address(a)))

    def disconnect(self, a: str, b: str) -> None:
        """Break the connection; what is under way is lost."""
        pair = _pair(a, b)
        if pair not in self.connected:
            return
        self.connected.discard(pair)
        for one, other in ((a, b), (b, a)):
            self.queues[one, other].clear()
            self.stalled.discard((one, other))
            if one in self.wires:
                self.wires[one]._onNodeDisconnected(Node(Address(other)))

    def unstall(self, a: str, b: str) -> None:
        """A retransmission came through: what waited arrives now."""
        self.stalled.discard((a, b))
        self._arrive(a, b)

    # --- nodes ------------------------------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start a node from its disk."""
        if name in self.nodes:
            return
        package.createJournal = lambda _name: PerfectJournal(self.disks[name])
        self.wires[name] = Wire(self, name)
        self.nodes[name] = Store(name, SyncObjConf(**self.conf), self.wires[name])
        self.life[name] += 1
        self.world.after(int(self.world.rng.random() * 20 * MS), self._tick, name, self.life[name])

    def crash(self, name: str) -> None:
        """Kill a node; its disk stays."""
        if name not in self.nodes:
            return
        del self.nodes[name], self.wires[name]
        self.life[name] += 1
        for other in NAMES:
            if other != name:
                self.disconnect(name, other)

    def _tick(self, name: str, life: int) -> None:
        if life != self.life[name]:
            return
        with contextlib.suppress(Exception):
            self.nodes[name].doTick(0.0)
        node = self.nodes[name]
        if node._isLeader():
            self.leaders.setdefault(node._getTerm(), set()).add(name)
        self.world.after(10 * MS + int(self.world.rng.random() * 20 * MS), self._tick, name, life)

    def leader(self) -> str | None:
        """The leader of the highest term."""
        return max(((node._getTerm(), name) for name, node in self.nodes.items() if node._isLeader()), default=(0, None))[1]

    def ask(self, name: str) -> None:
        """A client asks this node for one more write."""
        number, self.asked = self.asked, self.asked + 1

        def answered(result: Any, error: Any) -> None:
            if error == 0 and result is not None:
                self.acknowledged[number] = result

        with contextlib.suppress(Exception):
            self.nodes[name].write(number, "x" * 100, callback=answered)

    # --- a run ------------------------------------------------------------------------------------------------------------------------

    def _mend(self) -> None:
        for a, b in list(self.stalled):
            self.unstall(a, b)
        for a in NAMES:
            for b in NAMES:
                if a < b:
                    self.connect(a, b)

    def _stir(self, *, faults: bool) -> None:
        """A few writes, and perhaps one random fault."""
        rng = self.world.rng
        leader = self.leader()
        if leader is not None and self.nodes:
            for _ in range(rng.choice((0, 1, 3, 8))):
                self.ask(leader if rng.random() < 0.8 else rng.choice(sorted(self.nodes)))
        if not faults or self.world.now < self.busy_until:
            return
        a, b = rng.sample(NAMES, 2)
        if leader is not None and rng.random() < 0.6:
            a = leader
            b = rng.choice([name for name in NAMES if name != leader])
        dice = rng.random()
        if dice < 0.05 and a == leader and len(self.nodes) == len(NAMES):
            self._squeeze(a, b)
        elif dice < 0.10:
            self.disconnect(a, b)
            self.connect(a, b)
        elif dice < 0.16:
            self.disconnect(a, b)
        elif dice < 0.22:
            self.stalled.add((a, b))
            self.world.after(int(rng.uniform(0.1, 2.5) * SECOND), self.unstall, a, b)
        elif dice < 0.26 and len(self.nodes) == len(NAMES):
            self.crash(a)
            self.world.after(int(rng.uniform(0.1, 2.0) * SECOND), self._back, a)
        elif dice < 0.34:
            self._mend()

    def _squeeze(self, leader: str, follower: str) -> None:
        """The leader goes on with one follower; their connection is reset; then the leader dies, and the two others go on."""
        rng = self.world.rng
        third = next(name for name in NAMES if name not in (leader, follower))
        self.disconnect(leader, third)
        self.disconnect(follower, third)
        reset = int(rng.uniform(0.1, 0.5) * SECOND)
        died = reset + int(rng.uniform(1.0, 6.0) * self.delay)
        self.busy_until = self.world.now + died + 2 * SECOND
        for delay, action, arguments in (
            (reset, self.disconnect, (leader, follower)),
            (reset, self.connect, (leader, follower)),
            (died, self.crash, (leader,)),
            (died, self.connect, (follower, third)),
            (died + int(rng.uniform(1.5, 4.0) * SECOND), self._back, (leader,)),
        ):
            self.world.after(delay, action, *arguments)

    def _back(self, name: str) -> None:
        self.start(name)
        self._mend()

    def settled(self) -> bool:
        """One leader, all logs equal, and applied to the end."""
        logs = {tuple((entry[1], entry[2]) for entry in disk.entries) for disk in self.disks.values()}
        last = max(disk.entries[-1][1] for disk in self.disks.values())
        return len(logs) == 1 and self.leader() is not None and all(node.raftLastApplied == last for node in self.nodes.values())

    def _held_for_good(self) -> set[int] | None:
        """What a leader's log holds that has committed an entry of its own term: what is not there is gone. None without such a leader."""
        name = self.leader()
        if name is None:
            return None
        node, entries = self.nodes[name], self.disks[name].entries
        if entries[-1][2] != node._getTerm() or node.raftCommitIndex != entries[-1][1] or node.raftLastApplied != entries[-1][1]:
            return None
        return set(node.writes)

    def run(self, *, faults: bool = True) -> Verdict:
        """Start, stir for ten seconds of virtual time, heal, restart everything from disk, and look."""
        world = self.world
        for name in NAMES:
            self.start(name)
        self._mend()
        world.run_until(2 * SECOND)
        for step in range(250):
            self._stir(faults=faults)
            world.run_until(2 * SECOND + (step + 1) * 40 * MS)
        world.run_until(world.now + SECOND)
        for name in NAMES:
            self.crash(name)
        for name in NAMES:
            self.start(name)
        self._mend()
        self.delay = MS
        for _ in range(60):
            world.run_until(world.now + SECOND // 2)
            if self.settled():
                break
        settled = self.settled()
        held = self._held_for_good()
        lost = tuple(sorted(number for number in self.acknowledged if number not in held)) if held is not None else ()
        return Verdict(self.seed, self.asked, len(self.acknowledged), lost, settled, any(len(names) > 1 for names in self.leaders.values()))


def _pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)


@contextlib.contextmanager
def virtual(control: Control) -> Iterator[None]:
    """Let the package see virtual time and seeded random numbers, and put everything back afterwards."""
    saved = package.monotonicTime, package.random, package.createJournal
    logger = logging.getLogger("pysyncobj")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    package.monotonicTime = lambda: 1000 + control.world.now / SECOND
    package.random = random.Random(control.seed)
    try:
        yield
    finally:
        package.monotonicTime, package.random, package.createJournal = saved
        logger.setLevel(level)


def run(seed: int) -> Verdict:
    """One run of the control."""
    control = Control(seed)
    with virtual(control):
        verdict = control.run()
        control.nodes.clear()
    return verdict


def main(arguments: list[str]) -> int:
    """Print what each seed shows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args(arguments)
    verdicts: list[Verdict] = []
    for seed in range(options.start, options.start + options.seeds):
        verdicts.append(run(seed))
        print(verdicts[-1])
    print(f"{sum(bool(verdict.lost) for verdict in verdicts)} of {options.seeds} seeds lost acknowledged writes")
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(page(verdicts))
    return 0


def page(verdicts: list[Verdict]) -> str:
    """The report: what each losing seed lost."""
    losing = [verdict for verdict in verdicts if verdict.lost]
    lines = [
        "# The control: PySyncObj 0.3.17 under the simulation",
        "",
        f"{len(losing)} of {len(verdicts)} runs (three nodes, a perfect disk, in-order links) lost writes that had been acknowledged,",
        f"and {sum(not verdict.settled for verdict in verdicts)} had not converged 30 s after healing. A write is lost if, after all",
        "was healed and restarted from disk, a leader that has committed an entry of its own term does not hold it.",
        "",
        f"Again: `python -m tests.sim.pysyncobj_control --start {verdicts[0].seed} --seeds {len(verdicts)}`.",
        "",
        "| seed | writes asked for | acknowledged | acknowledged and lost |",
        "|---:|---:|---:|---:|",
        *(f"| {verdict.seed} | {verdict.asked} | {verdict.acknowledged} | {len(verdict.lost)} |" for verdict in losing),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
