"""The register as a workload: clients' requests in, answers out, everything shown to the history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lockd.raft.port import Committed, NotLeaderError, RaftError
from tests.sim.clients import Answer, Client
from tests.sim.history import History
from tests.sim.register import Register
from tests.sim.world import SimulationError

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.replica import Replica


class RegisterWorkload:
    """Clients with sessions on one register, and whether what they see is linearizable (see `tests.sim.history`)."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.history = History()
        self.values: dict[int, int] = {}
        """The value of the register after an index, as the first snapshot restored there had it."""
        setup = cluster.setup
        sessions = range(1, setup.clients + 1)
        self.clients = [Client(cluster.world, self, self.history, session, cluster.rng, cluster.wall) for session in sessions]
        for client in self.clients:
            client.budget = setup.operations
            client.until = setup.duration
            client.reads = setup.reads
            client.think = setup.think
            client.padding = setup.padding
            client.loss = setup.loss

    def start(self) -> None:
        """The clients begin."""
        for client in self.clients:
            client.start()

    def urge(self, more: int, think: int) -> None:
        """Every client gets so many more operations, and thinks so long between them."""
        for client in self.clients:
            client.budget += more
            client.think = think

    def application(self, replica: Replica) -> RegisterApp:
        """What a starting replica runs."""
        return RegisterApp(self, replica)

    def final(self, replicas: Sequence[Replica]) -> None:
        """Judge the states of the members after convergence."""
        dumps = set()
        for replica in replicas:
            app = replica.app
            assert isinstance(app, RegisterApp)
            self.history.final(replica.name, app.machine.writes)
            dumps.add((tuple(sorted(app.machine.sessions.items())), app.machine.log_time))
        if len(dumps) != 1:
            raise SimulationError("state machine safety", f"{len(dumps)} different final states")

    def count(self, statistics: Counter[str]) -> None:
        """Add what happened."""
        statistics["writes acknowledged"] += len(self.history.acknowledged)
        statistics["reads answered"] += self.history.reads
        statistics["operations given up"] += sum(client.given_up for client in self.clients)

    # --- what clients talk to ---------------------------------------------------------------------------------------------------------

    def nodes(self) -> list[str]:
        """Every name there is, up or not."""
        return list(self.cluster.replicas)

    def write(self, node: str, data: bytes, answer: Answer) -> None:
        """A client's request arrives."""
        replica = self.cluster.replicas[node]
        replica.event(replica.life, self._write, replica, data, answer)

    @staticmethod
    def _write(replica: Replica, data: bytes, answer: Answer) -> None:
        app = replica.app
        assert isinstance(app, RegisterApp)
        app.write(data, answer)

    def read(self, node: str, answer: Answer) -> None:
        """A client's request arrives."""
        replica = self.cluster.replicas[node]
        replica.event(replica.life, self._read, replica, answer)

    @staticmethod
    def _read(replica: Replica, answer: Answer) -> None:
        app = replica.app
        assert isinstance(app, RegisterApp)
        app.read(answer)


class RegisterApp:
    """One process life of a replica of the register."""

    def __init__(self, workload: RegisterWorkload, replica: Replica) -> None:
        self._workload = workload
        self._replica = replica
        self._history = workload.history
        self._waiting: dict[int, Answer] = {}
        self._reading: dict[int, Answer] = {}
        self._read_number = 0
        self.machine = machine = Register()
        machine.dedup = workload.cluster.parts.dedup
        machine.on_applied = self._applied
        machine.on_abandoned = self._abandoned
        machine.on_restored = self._restored

    def owes(self) -> str | None:
        """Writes and reads that have no answer yet."""
        if self._waiting or self._reading:
            return f"{len(self._waiting)} writes and {len(self._reading)} reads"
        return None

    # --- requests ---------------------------------------------------------------------------------------------------------------------

    def write(self, data: bytes, answer: Answer) -> None:
        """A client asks to order `data`."""
        try:
            ticket = self._replica.driver.propose(data)
        except NotLeaderError as refusal:
            answer("not leader", refusal.leader.id if refusal.leader else None)
        except RaftError:
            answer("refused", None)
        else:
            self._waiting[ticket] = answer
            self._workload.cluster.statistics["proposals"] += 1

    def read(self, answer: Answer) -> None:
        """A client asks for the value."""
        self._read_number += 1
        number = self._read_number

        def confirmed(index: int | None) -> None:
            if self._reading.pop(number, None) is None:
                raise SimulationError("one answer", f"{self._replica.name} answers read {number} twice")
            if index is None:
                answer("unknown", None)
            else:
                answer("ok", self.machine.value)

        self._reading[number] = answer
        try:
            self._replica.driver.read(confirmed)
        except RaftError:
            del self._reading[number]
            answer("refused", None)

    # --- what the machine tells -------------------------------------------------------------------------------------------------------

    def _applied(self, entry: Committed, result: int, fresh: bool) -> None:
        if fresh:
            self._history.executed(self._replica.name, self.machine.writes[-1], result)
        if entry.ticket is not None:
            answer = self._waiting.pop(entry.ticket, None)
            if answer is None:
                raise SimulationError("one answer", f"{self._replica.name} applies ticket {entry.ticket}, which nobody holds")
            answer("ok", result)

    def _abandoned(self, tickets: Sequence[int]) -> None:
        self._workload.cluster.statistics["abandoned"] += len(tickets)
        for ticket in tickets:
            answer = self._waiting.pop(ticket, None)
            if answer is None:
                raise SimulationError("one answer", f"{self._replica.name} abandons ticket {ticket}, which nobody holds")
            answer("unknown", None)

    def _restored(self, index: int) -> None:
        """The state was replaced by a snapshot: it must be a prefix of the order, and belong to `index`."""
        machine, order = self.machine, self._history.order
        if machine.writes != order[: len(machine.writes)]:
            raise SimulationError(
                "state machine safety", f"{self._replica.name} restored a state at {index} that is no prefix of the order"
            )
        known = self._workload.values.setdefault(index, machine.value)
        if known != machine.value or machine.applied > index:
            raise SimulationError(
                "state machine safety", f"{self._replica.name} restored {machine.value} writes at {index}, others {known}"
            )
