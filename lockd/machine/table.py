"""Holds: who has what, and what keeps a request from having it. The first of the three layers of the lock table."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from lockd.machine import events, refusals
from lockd.machine.holds import NEW, NO_TOKEN, PERMITS, Holding, Lock
from lockd.machine.modes import INTENTION, IS, IX, MODE_OF, SUPREMUM, X
from lockd.machine.moment import Moment
from lockd.machine.paths import Lineage
from lockd.machine.results import Hold, Refused
from lockd.machine.sessions import Session
from lockd.machine.types import FencingToken, Limits, LockMode, Nanos, Resource
from lockd.machine.waiting import Need, Waiter, Want


@dataclass(frozen=True, slots=True)
class Ghost:
    """What a lost hold leaves behind until its lock delay ends: `lineage[-1]` (or `permits` of it) stays unavailable until `until`.

    `intention` is what the lost hold implied on the ancestors, and the ghost goes on to.
    """

    order: int
    lineage: Lineage
    until: Nanos
    intention: int
    permits: int
    limit: int


class HoldTable:
    """All locks, and the primitives that keep them consistent."""

    __slots__ = ("dirty", "ghosts", "limits", "locks", "moment", "waiters")

    def __init__(self, limits: Limits, moment: Moment) -> None:
        self.limits = limits
        self.moment = moment
        self.locks: dict[Resource, Lock] = {}
        self.waiters: dict[int, Waiter] = {}
        self.ghosts: dict[int, Ghost] = {}
        self.dirty: deque[Lock] = deque()

    def refile(self, session: Session, lock: Lock) -> None:
        """The session's effective mode has changed here: its own waiters may belong into other lines. The next layer knows how."""
        raise NotImplementedError

    # --- asking ----------------------------------------------------------------------------------------------------------------

    def blocking(self, session: Session, needs: tuple[Need, ...]) -> Need | None:
        """The need that makes a request of this session, coming now, wait; the one furthest down if there are several."""
        locks, key = self.locks, session.id
        for need in reversed(needs):
            lock = locks.get(need.resource)
            if lock is None:
                continue
            if need.mode:
                holding = lock.holders.get(key)
                if holding is None:
                    if (lock.mask or lock.waiting_mask) and lock.blocks_fresh(None, need.mode):
                        return need
                else:
                    target = SUPREMUM[holding.effective][need.mode]
                    if target != holding.effective and lock.blocks_fresh(holding, target):
                        return need
            elif lock.used + lock.permits_ahead(self.moment.last_ticket + 1, self.waiters) + need.permits > need.limit:
                return need
        return None

    def mismatch(self, wants: tuple[Want, ...]) -> Refused | None:
        """Refused if a want takes a lock for a semaphore, a semaphore for a lock, or names another limit than those who are there."""
        for want in wants:
            lock = self.locks.get(want.lineage[-1])
            if lock is None:
                continue
            if lock.claims if want.permits else lock.pooled:
                return refusals.precondition(
                    "SEMAPHORE_MISMATCH",
                    "the resource is in use as a lock" if want.permits else "the resource is in use as a semaphore",
                    ("resource", lock.name),
                )
            if lock.pooled and lock.limit != want.limit:
                return refusals.precondition(
                    "SEMAPHORE_MISMATCH",
                    f"the semaphore is in use with limit {lock.limit}",
                    ("resource", lock.name),
                    ("limit", str(lock.limit)),
                )
        return None

    def held(self, lock: Lock, waiter: Waiter, place: int) -> bool:
        """Whether this resource keeps the waiter waiting."""
        key = waiter.keys[place]
        if key == 0:
            return False
        if key == NEW | PERMITS:
            need = waiter.needs[place]
            return lock.used + lock.permits_ahead(waiter.ticket, self.waiters) + need.permits > lock.limit
        return lock.blocks(lock.holders.get(waiter.session.id), key, waiter.ticket)

    # --- holding ---------------------------------------------------------------------------------------------------------------

    def take(self, session: Session, want: Want, lock_delay: Nanos) -> Hold:
        """Give the session what it wants; nothing may stand against it."""
        if want.permits:
            holding = self._hold(session, want.lineage[-1])
            if lock_delay > holding.lock_delay:
                holding.lock_delay = lock_delay
            return self._take_permits(session, holding, want)
        return self.take_mode(session, want.lineage, want.mode, lock_delay)

    def take_mode(self, session: Session, lineage: Lineage, mode: int, lock_delay: Nanos) -> Hold:
        """Give the session a lock; nothing may stand against it."""
        resource = lineage[-1]
        holding = self._hold(session, resource)
        if lock_delay > holding.lock_delay:
            holding.lock_delay = lock_delay
        had = holding.mode
        if had == 0:
            holding.since = self.moment.log_time
            holding.lock.claims += 1
            self._set_mode(session, holding, lineage, mode)
            holding.first_token = holding.token
        elif (target := SUPREMUM[had][mode]) != had:
            self._set_mode(session, holding, lineage, target)
        holding.count += 1
        return Hold(resource, MODE_OF[holding.mode], holding.token, holding.count)

    def convert(self, session: Session, lineage: Lineage, mode: int) -> Hold:
        """Give the session's hold another mode; nothing may stand against it."""
        holding = session.holds[lineage[-1]]
        if holding.mode != mode:
            self._set_mode(session, holding, lineage, mode)
        return Hold(lineage[-1], MODE_OF[mode], holding.token, holding.count)

    def _hold(self, session: Session, resource: Resource) -> Holding:
        lock = self.locks.get(resource)
        if lock is None:
            lock = self.locks[resource] = Lock(resource)
        holding = lock.holders.get(session.id)
        if holding is None:
            moment = self.moment
            moment.last_order += 1
            holding = Holding(session, lock, moment.last_order, moment.log_time)
            lock.holders[session.id] = session.holds[resource] = holding
        return holding

    def _set_mode(self, session: Session, holding: Holding, lineage: Lineage, mode: int) -> None:
        moment, lock = self.moment, holding.lock
        had = holding.mode
        holding.mode = mode
        token = holding.token = moment.next_token()
        if had == 0:
            intention = INTENTION[mode]
            for resource in lineage[:-1]:
                self._imply(session, resource, intention)
        elif INTENTION[had] != INTENTION[mode]:
            self.intend(session, lineage, INTENTION[had], INTENTION[mode])
        if SUPREMUM[had][mode] == mode:
            self._strengthen(session, holding, SUPREMUM[holding.effective][mode])
        else:
            self.refresh(holding)
        made = moment.events
        made.append(events.LockGranted(moment.index, len(made), lock.name, session.id, session.owner, MODE_OF[mode], token))

    def _imply(self, session: Session, resource: Resource, intention: int) -> None:
        holding = self._hold(session, resource)
        if intention == IX:
            holding.exclusive += 1
        else:
            holding.shared += 1
        self._strengthen(session, holding, SUPREMUM[holding.effective][intention])

    def _strengthen(self, session: Session, holding: Holding, effective: int) -> None:
        # What grows stronger unblocks nobody, but for the session's own waiters.
        if effective != holding.effective:
            holding.lock.change(holding, effective)
            if session.waits:
                self.refile(session, holding.lock)

    def _take_permits(self, session: Session, holding: Holding, want: Want) -> Hold:
        moment, lock = self.moment, holding.lock
        if holding.grants is None:
            holding.grants = {}
            holding.since = moment.log_time
            lock.pooled += 1
            lock.limit = want.limit
            self.intend(session, want.lineage, 0, IX)
        token = holding.token = moment.next_token()
        holding.grants[token] = want.permits
        holding.permits += want.permits
        holding.count += 1
        lock.used += want.permits
        if session.waits:
            # The permits of several grants add up: somebody may now wait for this session who did not before.
            self.refile(session, lock)
        resource = lock.name
        mode = LockMode.SHARED
        moment.events.append(
            events.LockGranted(moment.index, len(moment.events), resource, session.id, session.owner, mode, token, want.permits)
        )
        return Hold(resource, mode, token, holding.count, holding.permits)

    def intend(self, session: Session, lineage: Lineage, old: int, new: int) -> None:
        """On every ancestor, replace one implied intention of the session by another; 0 is none."""
        for resource in lineage[:-1]:
            holding = self._hold(session, resource)
            holding.shared += (new == IS) - (old == IS)
            holding.exclusive += (new == IX) - (old == IX)
            self.refresh(holding)

    def refresh(self, holding: Holding) -> None:
        """Bring the effective mode up to date after its parts have changed; a holding without any part is gone."""
        old, new, lock, session = holding.effective, holding.due_effective(), holding.lock, holding.session
        if new != old:
            lock.change(holding, new)
        if session is not None:
            if new == 0 and holding.grants is None:
                del lock.holders[session.id], session.holds[lock.name]
            if new != old and session.waits:
                self.refile(session, lock)
        if lock.waiting:
            if new != old:
                self.touch(lock)
        elif not lock.holders:
            del self.locks[lock.name]

    def touch(self, lock: Lock) -> None:
        """Something changed here: look again at those who are parked here."""
        if not lock.dirty and lock.parked:
            lock.dirty = True
            self.dirty.append(lock)

    # --- giving back -----------------------------------------------------------------------------------------------------------

    def drop(self, session: Session, holding: Holding, lineage: Lineage) -> None:
        """Take the whole claim away, however often it was made; what is implied from below stays."""
        lock = holding.lock
        if holding.grants is not None:
            lock.used -= holding.permits
            holding.grants, holding.permits = None, 0
            lock.pooled -= 1
            self._end_pool(lock)
            intention = IX
        else:
            lock.claims -= 1
            intention = INTENTION[holding.mode]
            holding.mode = 0
        holding.count = holding.lock_delay = 0
        holding.token = holding.first_token = NO_TOKEN
        self.refresh(holding)
        self.intend(session, lineage, intention, 0)

    def drop_permits(self, session: Session, holding: Holding, lineage: Lineage, token: int) -> None:
        """Give back the permits of one grant."""
        grants = holding.grants
        if grants is None:
            raise TypeError("not a semaphore")
        if len(grants) == 1:
            self.drop(session, holding, lineage)
            return
        permits = grants.pop(token)
        holding.permits -= permits
        holding.count -= 1
        holding.token = FencingToken(max(grants))
        holding.lock.used -= permits
        self.touch(holding.lock)

    def _end_pool(self, lock: Lock) -> None:
        self.touch(lock)
        if not lock.pooled:
            lock.limit = 0

    # --- ghosts ----------------------------------------------------------------------------------------------------------------

    def haunt(self, ghost: Ghost) -> None:
        """Keep a resource unavailable to all."""
        self.ghosts[ghost.order] = ghost
        leaf = self._ghost_hold(ghost.lineage[-1], ghost)
        if ghost.permits:
            leaf.grants, leaf.permits = {}, ghost.permits
            leaf.lock.used += ghost.permits
            leaf.lock.pooled += 1
            leaf.lock.limit = ghost.limit
        else:
            leaf.mode = X
            leaf.lock.claims += 1
            self.refresh(leaf)
        for resource in ghost.lineage[:-1]:
            holding = self._ghost_hold(resource, ghost)
            holding.shared, holding.exclusive = int(ghost.intention == IS), int(ghost.intention == IX)
            self.refresh(holding)

    def _ghost_hold(self, resource: Resource, ghost: Ghost) -> Holding:
        lock = self.locks.get(resource)
        if lock is None:
            lock = self.locks[resource] = Lock(resource)
        holding = lock.holders[-ghost.order] = Holding(None, lock, ghost.order, self.moment.log_time)
        return holding

    def exorcise(self, order: int) -> Resource:
        """A lock delay is over. Returns the resource."""
        ghost = self.ghosts.pop(order)
        for resource in ghost.lineage:
            lock = self.locks[resource]
            holding = lock.holders.pop(-order)
            if holding.effective:
                lock.change(holding, 0)
            if holding.permits:
                lock.used -= holding.permits
                lock.pooled -= 1
                self._end_pool(lock)
            elif holding.mode:
                lock.claims -= 1
            self.touch(lock)
            if lock.idle:
                del self.locks[resource]
        return ghost.lineage[-1]
