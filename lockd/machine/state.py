"""The machine: everything strong, as one deterministic function of the log.

`apply(index, entry)` is the whole of it. Every replica that applies the same entries gets the same state, results and facts. It reads no
clock, and raises on no entry; a broken invariant of its own raises MachineInvariantError, which halts the replica.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ledger.machine.model import BatchOutcome
from ledger.machine.state import Ledger
from ledger.machine.transfers import TransferStore
from lockd.machine import commands as c
from lockd.machine import events, invariants, refusals, snapshot
from lockd.machine.digest import digest_rows
from lockd.machine.invariants import MachineInvariantError
from lockd.machine.locking import LockTable
from lockd.machine.moment import MAX_TIME, MAX_U64, Moment
from lockd.machine.plain import Plain
from lockd.machine.results import Applied, BatchDone, Compacted, Refused, Result, SessionClosed
from lockd.machine.rows import Rows
from lockd.machine.sessions import Session, Sessions
from lockd.machine.transact import Transactions
from lockd.machine.types import LIMITS, Limits, Nanos, RequestId, Revision

Handler = Callable[[Any, RequestId, Any], Result | None]


class Machine:
    """Sessions, locks, strong rows and the ledger, driven by the log."""

    __slots__ = ("_handlers", "_transactions", "ledger", "limits", "locks", "moment", "rows", "sessions")

    def __init__(self, limits: Limits = LIMITS, ledger: Ledger | None = None) -> None:
        # Equal limits are the same limits: the cache of parsed paths goes by identity.
        self.limits = LIMITS if limits == LIMITS else limits
        self.ledger = Ledger() if ledger is None else ledger
        self.moment = Moment()
        self.sessions = Sessions(self.limits, self.moment)
        self.locks = LockTable(self.limits, self.moment)
        self.rows = Rows(self.limits, self.moment, self.sessions.live)
        self._transactions = Transactions(self.limits, self.moment, self.locks, self.rows, self.ledger)
        self._handlers = self._make_handlers()

    def _make_handlers(self) -> dict[type, tuple[bool, Handler]]:
        # Those that need a session get one; the others get the request's, or None.
        return {
            c.OpenSession: (False, self._open),
            c.CloseSession: (True, self._close),
            c.Acquire: (True, self.locks.acquire),
            c.Convert: (True, self.locks.request_conversion),
            c.CancelAcquire: (True, lambda session, _, command: self.locks.cancel(session, command.target)),
            c.Release: (True, lambda session, _, command: self.locks.release(session, command.holds)),
            c.ForceRelease: (False, lambda _, __, command: self.locks.force_release(command)),
            c.Transact: (False, lambda session, _, command: self._transactions.run(session, command)),
            c.CompactRows: (False, lambda _, __, command: self._compact(command)),
            c.CreateAccounts: (False, self._create_accounts),
            c.CreateTransfers: (False, self._create_transfers),
        }

    def use_ledger(self, ledger: Ledger) -> None:
        """Put another ledger in place of the one that the machine has; for restoring."""
        self.ledger = ledger
        self._transactions = Transactions(self.limits, self.moment, self.locks, self.rows, ledger)

    @property
    def log_time(self) -> Nanos:
        """The log time of the last entry applied, in nanoseconds; never goes back."""
        return self.moment.log_time

    @property
    def index(self) -> Revision:
        """The index of the last entry applied."""
        return self.moment.index

    # --- the step --------------------------------------------------------------------------------------------------------------

    def apply(self, index: int, entry: c.LogEntry) -> Applied:
        """Carry out one committed entry: time, then a new reign, then what is due, then the requests in their order.

        `index` must be greater than that of any entry before, which is the log's promise; else MachineInvariantError.
        """
        moment = self.moment
        if index <= moment.index:
            raise MachineInvariantError(f"entry {index} comes after entry {moment.index}")
        applied = Applied([], [], [])
        moment.index, moment.events, moment.completions = Revision(index), applied.events, applied.completions
        before = moment.log_time
        moment.log_time = min(max(before, entry.log_time), MAX_TIME)
        if entry.leader_term > 0:
            self.sessions.extend_all(before)
        self._expire()
        execute, results = self._execute, applied.results
        for request in entry.requests:
            results.append(execute(request))
        return applied

    def _execute(self, request: c.Request) -> Result | None:
        command = request.command
        kind = type(command)
        if kind is c.Unknown:
            return self._unknown(request)
        if request.session == 0:
            needs_session, handler = self._handlers.get(kind, (True, None))
            return refusals.SESSION_REQUIRED if needs_session or handler is None else handler(None, RequestId(0), command)
        session = self.sessions.find(request.session)
        if isinstance(session, Refused):
            # A session that is over is closed, as asked for: the reply to the first CloseSession may have been lost.
            return SessionClosed() if kind is c.CloseSession and session is refusals.SESSION_EXPIRED else session
        if request.acknowledged > session.acknowledged:
            session.acknowledge(request.acknowledged)
        if kind is c.KeepAlive:
            return self.sessions.keep_alive(session)
        _, handler = self._handlers.get(kind, (True, _refuse))
        request_id = request.request_id
        if request_id == 0:
            return handler(session, request_id, command)
        if not 0 < request_id <= MAX_U64:
            return refusals.INVALID_REQUEST_ID
        known = session.recall(request_id, command)
        if known is not None:
            return known[0]
        if len(session.answers) >= self.limits.unacknowledged_per_session:
            return refusals.WINDOW_FULL
        result = handler(session, request_id, command)
        session.remember(request_id, command, result)
        return result

    def _unknown(self, request: c.Request) -> Refused:
        moment, command = self.moment, request.command
        if isinstance(command, c.Unknown):
            moment.events.append(
                events.UnknownRefused(moment.index, len(moment.events), request.session, command.kind, command.digest),
            )
        return refusals.UNKNOWN_COMMAND

    # --- time ------------------------------------------------------------------------------------------------------------------

    def next_due(self) -> Nanos | None:
        """Log time at which a session, a wait, a lock delay or a pending transfer ends, and a Tick has something to do; None: never."""
        times = [due[0] for due in (self.sessions.next_due(), self.locks.next_deadline(), self.locks.next_delay()) if due is not None]
        pending = self.ledger.next_expiry()
        if pending is not None:
            times.append(pending)
        return min(times, default=None)

    def _expire(self) -> None:
        """End what is due, in the order of time; at equal times sessions, then waits, then delays, each by number."""
        moment, locks = self.moment, self.locks
        budget, now = self.limits.expiries_per_entry, moment.log_time
        while budget > 0:
            session, wait, delay = self.sessions.next_due(), locks.next_deadline(), locks.next_delay()
            first = min([due[0] for due in (session, wait, delay) if due is not None], default=MAX_U64)
            if first > now:
                break
            if session is not None and session[0] == first:
                self._expire_session(self.sessions.live[session[1]])
            elif wait is not None and wait[0] == first:
                locks.time_out(wait[1])
            else:
                locks.end_delay()
            locks.settle()
            budget -= 1
        pending = self.ledger.next_expiry() if budget > 0 else None
        if pending is not None and pending <= now:
            outcome = self.ledger.expire(now, budget, index=moment.index)
            moment.events.append(events.TransfersExpired(moment.index, len(moment.events), outcome))

    # --- sessions --------------------------------------------------------------------------------------------------------------

    def _open(self, _: Session | None, __: RequestId, command: c.OpenSession) -> Result:
        return self.sessions.open(command.ttl, command.owner)

    def _close(self, session: Session, _: RequestId, __: c.CloseSession) -> Result:
        moment = self.moment
        moment.events.append(events.SessionClosed(moment.index, len(moment.events), session.id, session.owner))
        self._end(session, lost=False)
        self.locks.settle()
        return SessionClosed()

    def _expire_session(self, session: Session) -> None:
        moment = self.moment
        moment.events.append(events.SessionExpired(moment.index, len(moment.events), session.id, session.owner))
        self._end(session, lost=True)

    def _end(self, session: Session, *, lost: bool) -> None:
        del self.sessions.live[session.id]
        self.locks.end_session(session, lost=lost)
        self.rows.end_session(session)

    # --- rows and ledger -------------------------------------------------------------------------------------------------------

    def _compact(self, command: c.CompactRows) -> Compacted | Refused:
        return self.rows.compact(command.revision)

    def _create_accounts(self, _: Session | None, __: RequestId, command: c.CreateAccounts) -> Result:
        fenced = self.locks.check_guards(command.guards)
        if fenced is not None:
            return fenced
        moment = self.moment
        outcome = self.ledger.create_accounts(command.packed, log_time=moment.log_time, index=moment.index)
        return self._batch(outcome, events.AccountsCreated)

    def _create_transfers(self, _: Session | None, __: RequestId, command: c.CreateTransfers) -> Result:
        fenced = self.locks.check_guards(command.guards) or self._transactions.check_metadata(command.metadata)
        if fenced is not None:
            return fenced
        moment = self.moment
        outcome = self.ledger.create_transfers(
            command.packed, log_time=moment.log_time, index=moment.index, metadata=command.metadata or None
        )
        return self._batch(outcome, events.TransfersCreated)

    def _batch(self, outcome: BatchOutcome, event: type[events.AccountsCreated | events.TransfersCreated]) -> Result:
        if outcome.refusal is not None:
            return refusals.invalid(outcome.refusal.name, outcome.refusal.value)
        moment = self.moment
        moment.events.append(event(moment.index, len(moment.events), outcome))
        return BatchDone(outcome.results)

    # --- the state as a whole --------------------------------------------------------------------------------------------------

    def export(self, *, transfers: bool = True) -> Iterator[tuple[Plain, ...]]:
        """Everything as plain rows in a canonical order: equal states give equal rows.

        Without `transfers`, the rows of the ledger's store are left out: for a store that is durable by itself.
        """
        return snapshot.export(self, transfers=transfers)

    @classmethod
    def restore(cls, rows: Iterable[tuple[Plain, ...]], transfers: TransferStore | None = None) -> Machine:
        """The machine that gave these rows. Raises ValueError on damaged or unknown rows.

        With `transfers` given, the rows are those of `export(transfers=False)`, and the store may be ahead of them.
        """
        return snapshot.restore(cls, rows, transfers)

    def state_hash(self) -> bytes:
        """SHA-256 over the canonical form of the whole state; equal on replicas that have applied the same entries."""
        return digest_rows(self.export())

    def check_invariants(self) -> None:
        """Look at everything that must always hold. Raises MachineInvariantError or the ledger's LedgerInvariantError."""
        invariants.check(self)
        self.ledger.check_invariants()


def _refuse(_: Session | None, __: RequestId, ___: object) -> Result:
    return refusals.UNKNOWN_COMMAND
