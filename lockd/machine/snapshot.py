"""The machine's state as plain rows and back. The first element of a row is its kind; every order is canonical."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import chain
from typing import TYPE_CHECKING

from ledger.machine.state import Ledger
from ledger.machine.transfers import TransferStore
from lockd.machine.claims import needs_of
from lockd.machine.digest import fingerprint
from lockd.machine.holds import Holding, Lock
from lockd.machine.paths import parse_path
from lockd.machine.plain import Plain, result_from_plain, to_plain
from lockd.machine.sessions import Session
from lockd.machine.table import Ghost
from lockd.machine.types import Limits, RequestId, Resource, Revision, SessionId
from lockd.machine.waiting import Waiter, Want

if TYPE_CHECKING:
    from lockd.machine.state import Machine

Row = tuple[Plain, ...]
VERSION = 1


def export(machine: Machine, *, transfers: bool) -> Iterator[Row]:
    """Counters and limits; sessions with their answers; holds and ghosts in the order in which they began; waiters; rows; the ledger."""
    moment = machine.moment
    counters = (moment.last_token, moment.last_session, moment.last_order, moment.last_ticket)
    yield ("machine", VERSION, moment.index, moment.log_time, *counters)
    yield ("limits", tuple([(field.name, getattr(machine.limits, field.name)) for field in fields(Limits)]))
    sessions = machine.sessions.live
    for key in sorted(sessions):
        session = sessions[key]
        yield ("session", key, session.owner, session.ttl, session.opened_at, session.expires_at, session.acknowledged)
        for request_id in sorted(session.answers):
            asked, result = session.answers[request_id]
            known = asked if asked is None or isinstance(asked, int) else fingerprint(asked)
            yield ("answer", key, request_id, known, None if result is None else to_plain(result))
    holdings = [holding for session in sessions.values() for holding in session.holds.values()]
    everyone: list[Holding | Ghost] = [*holdings, *machine.locks.ghosts.values()]
    for one in sorted(everyone, key=lambda one: one.order):
        yield _ghost_row(one) if isinstance(one, Ghost) else _hold_row(one)
    for ticket in sorted(machine.locks.waiters):
        yield _waiter_row(machine.locks.waiters[ticket])
    yield from machine.rows.export()
    ledger = machine.ledger
    for row in ledger.export() if transfers else ledger.export_state():
        yield ("ledger", *row)


def _ghost_row(ghost: Ghost) -> Row:
    return ("ghost", ghost.order, ghost.lineage[-1], ghost.until, ghost.intention, ghost.permits, ghost.limit)


def _hold_row(h: Holding) -> Row:
    session = h.session.id if h.session is not None else 0
    tokens = (h.mode, h.count, h.token, h.first_token, h.lock_delay, h.shared, h.exclusive)
    grants = None if h.grants is None else (h.lock.limit, tuple(sorted(h.grants.items())))
    return ("hold", h.order, session, h.lock.name, h.since, *tokens, grants)


def _waiter_row(w: Waiter) -> Row:
    wants = tuple([(want.lineage[-1], want.mode, want.permits, want.limit) for want in w.wants])
    # A conversion may need more than it wants: see LockTable.request_conversion.
    target = w.needs[-1].mode if w.token is not None else None
    return (
        "waiter",
        w.ticket,
        w.session.id,
        w.request_id,
        wants,
        w.deadline,
        w.lock_delay,
        w.since,
        w.token,
        target,
        w.parked,
        tuple(w.fresh),
    )


def restore(kind: type[Machine], rows: Iterable[Row], transfers: TransferStore | None) -> Machine:
    """A machine from rows. Raises ValueError on a damaged, foreign or missing row."""
    source = iter(rows)
    head, limits = next(source, ()), next(source, ())
    match head, limits:
        case ("machine", int(version), *_), ("limits", tuple(bounds)):
            if version != VERSION:
                raise ValueError(f"machine rows of version {version}; this build reads version {VERSION}")
            rest, ledger_rows = _split(source)
            try:
                machine = kind(Limits(**dict(bounds)))
                _fill(machine, head, rest)
            except (KeyError, IndexError, TypeError) as error:
                raise ValueError(f"damaged machine rows: {error!r}") from error
            machine.use_ledger(Ledger.restore(ledger_rows, transfers))
            return machine
        case _:
            raise ValueError("not the rows of a machine")


def _split(source: Iterator[Row]) -> tuple[Iterator[Row], Iterator[Row]]:
    """The machine's own rows, and, once those have been read, the ledger's without their mark."""
    first: list[Row] = []

    def own() -> Iterator[Row]:
        for row in source:
            if row[:1] == ("ledger",):
                first.append(row)
                return
            yield row

    def ledger() -> Iterator[Row]:
        for row in chain(first, source):
            if row[:1] != ("ledger",):
                raise ValueError(f"row of kind {row[:1]!r} among those of the ledger")
            yield row[1:]

    return own(), ledger()


def _fill(machine: Machine, head: Row, rows: Iterator[Row]) -> None:
    moment = machine.moment
    _, _, index, moment.log_time, moment.last_token, moment.last_session, moment.last_order, moment.last_ticket = head
    moment.index = Revision(index)
    sessions = machine.sessions.live
    for row in rows:
        match row:
            case ("session", int(key), str(owner), int(ttl), int(opened_at), int(expires_at), int(acknowledged)):
                session = Session(SessionId(key), owner, ttl, opened_at)
                session.expires_at, session.acknowledged = expires_at, acknowledged
                machine.sessions.add(session)
            case ("answer", int(key), int(request_id), asked, result):
                sessions[SessionId(key)].answers[request_id] = (asked, result_from_plain(result))
            case ("hold", *_):
                _restore_hold(machine, row)
            case ("ghost", int(order), str(resource), int(until), int(intention), int(permits), int(limit)):
                machine.locks.haunt(Ghost(order, parse_path(resource, machine.limits), until, intention, permits, limit))
            case ("waiter", *_):
                _restore_waiter(machine, row)
            case _ if machine.rows.restore_row(row):
                continue
            case _:
                raise ValueError(f"row of a kind that does not belong here: {row[:1]!r}")
    machine.rows.restored(sessions)


def _restore_hold(machine: Machine, row: Row) -> None:
    _, order, key, name, since, mode, count, token, first_token, lock_delay, shared, exclusive, grants = row
    session, locks = machine.sessions.live[key], machine.locks.locks
    lock = locks.get(name)
    if lock is None:
        lock = locks[name] = Lock(Resource(name))
    holding = Holding(session, lock, order, since)
    holding.mode, holding.count, holding.token, holding.first_token = mode, count, token, first_token
    holding.lock_delay, holding.shared, holding.exclusive = lock_delay, shared, exclusive
    if mode:
        lock.claims += 1
    if grants is not None:
        lock.limit, pairs = grants
        holding.grants = dict(pairs)
        holding.permits = sum(holding.grants.values())
        lock.used += holding.permits
        lock.pooled += 1
    lock.holders[key] = session.holds[name] = holding
    lock.change(holding, holding.due_effective())


def _restore_waiter(machine: Machine, row: Row) -> None:
    _, ticket, key, request_id, claims, deadline, lock_delay, since, token, target, parked, fresh = row
    wants = tuple([Want(parse_path(name, machine.limits), mode, permits, limit) for name, mode, permits, limit in claims])
    needs = needs_of(wants if target is None else (Want(wants[0].lineage, target),))
    session = machine.sessions.live[key]
    waiter = Waiter(
        ticket, session, RequestId(request_id), wants, needs, deadline=deadline, lock_delay=lock_delay, since=since, token=token
    )
    machine.locks.join(waiter, parked, fresh)
