"""What must always hold in the machine's state; a violation is a fault of ours and halts the replica."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockd.machine.holds import Lock
from lockd.machine.modes import COMPATIBLE, INTENTION, IX

if TYPE_CHECKING:
    from lockd.machine.locking import LockTable
    from lockd.machine.sessions import Session
    from lockd.machine.state import Machine


class MachineInvariantError(Exception):
    """The state contradicts itself. The message carries the evidence."""


def _require(holds: object, evidence: str) -> None:
    if not holds:
        raise MachineInvariantError(evidence)


def check(machine: Machine) -> None:
    """Look at sessions, holds, waits and rows. Costs as much as the state is large; for tests and for drills."""
    locks = machine.locks
    _require(not locks.dirty and not locks.stirred and not locks.suspects, "the lock table is not settled")
    for lock in locks.locks.values():
        _check_lock(locks, lock)
    for session in machine.sessions.live.values():
        _check_session(machine, session)
    for waiter in locks.waiters.values():
        blocked = [place for place, lock in enumerate(waiter.locks) if locks.held(lock, waiter, place)]
        over = waiter.session.expires_at <= machine.log_time
        _require(blocked or over, f"waiter {waiter.ticket} waits for nothing")
        _require(over or waiter.parked in blocked, f"waiter {waiter.ticket} is parked at a resource that does not block it")
        _require(waiter.session.waits.get(waiter.request_id) is waiter, f"waiter {waiter.ticket} is unknown to its session")
    wrong = machine.rows.check()
    _require(wrong is None, str(wrong))


def _check_lock(locks: LockTable, lock: Lock) -> None:
    name = lock.name
    _require(not lock.idle, f"{name} is neither held nor waited for, but is kept")
    counts = [0] * 7
    for holding in lock.holders.values():
        _require(holding.effective == holding.due_effective(), f"{name}: effective mode {holding.effective} is out of date")
        counts[holding.effective] += 1
    _require(counts[1:] == lock.held[1:], f"{name}: counts {lock.held} of modes, holders give {counts}")
    _require(lock.mask == sum(1 << mode for mode in range(1, 7) if counts[mode]), f"{name}: mask {lock.mask:b}")
    real = [holding for holding in lock.holders.values() if holding.session is not None]
    for place, one in enumerate(real):
        for other in real[:place]:
            _require(COMPATIBLE[one.effective][other.effective], f"{name} is held in modes {one.effective} and {other.effective} at once")
    _require(lock.used == sum(holding.permits for holding in lock.holders.values()), f"{name}: {lock.used} permits used")
    _require(lock.used <= lock.limit, f"{name}: {lock.used} permits of {lock.limit}")
    lines = lock.lines or {}
    mask = sum(1 << key for key, line in lines.items() if line)
    _require(mask == lock.waiting_mask, f"{name}: mask of lines {lock.waiting_mask:b}")
    for line in [*lines.values(), *(lock.parked or {}).values()]:
        _require(line == sorted(set(line)), f"{name}: a line is out of order")
        _require(all(ticket in locks.waiters for ticket in line), f"{name}: a line has a ticket without a waiter")
    waiting = [
        (waiter, need) for waiter in locks.waiters.values() for own, need in zip(waiter.locks, waiter.needs, strict=True) if own is lock
    ]
    _require(len(waiting) == lock.waiting, f"{name}: {lock.waiting} wait, waiters give {len(waiting)}")
    claims = sum(1 for h in lock.holders.values() if h.mode) + sum(1 for _, need in waiting if need.claimed and need.mode)
    pooled = sum(1 for h in lock.holders.values() if h.grants is not None) + sum(1 for _, need in waiting if need.permits)
    _require(
        (claims, pooled) == (lock.claims, lock.pooled),
        f"{name}: {lock.claims} claims and {lock.pooled} on a pool, not {claims} and {pooled}",
    )
    _require(not (claims and pooled), f"{name} is a lock and a semaphore at once")


def _check_session(machine: Machine, session: Session) -> None:
    implied: dict[str, list[int]] = {}
    for resource, holding in session.holds.items():
        _require(machine.locks.locks.get(resource) is holding.lock, f"session {session.id} holds {resource}, which the table does not know")
        _require(holding.lock.holders.get(session.id) is holding, f"{resource} does not know its holder {session.id}")
        if holding.mode:
            _require(0 < holding.first_token <= holding.token <= machine.moment.last_token, f"{resource}: token {holding.token}")
        if holding.grants is not None:
            _require(sum(holding.grants.values()) == holding.permits and holding.count == len(holding.grants), f"{resource}: permits")
        if holding.claimed:
            intention = INTENTION[holding.mode] if holding.mode else IX
            parts = resource.split("/")
            for end in range(1, len(parts)):
                implied.setdefault("/".join(parts[:end]), [0, 0])[intention == IX] += 1
    for resource, holding in session.holds.items():
        _require([holding.shared, holding.exclusive] == implied.pop(resource, [0, 0]), f"session {session.id}: intentions on {resource}")
    _require(not implied, f"session {session.id} lacks intentions on {sorted(implied)}")
    for key in session.ephemeral:
        row = machine.rows.get(key)
        _require(row is not None and row.session == session.id, f"session {session.id} should own row {key}")
    _require(all(request_id >= session.acknowledged for request_id in session.answers), f"session {session.id} keeps acknowledged answers")
