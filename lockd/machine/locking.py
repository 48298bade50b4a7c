"""What the commands on locks do. The third layer of the lock table."""

from __future__ import annotations

from lockd.machine import refusals
from lockd.machine.claims import MODE_MAX, needs_of, read_claims, unknown_mode
from lockd.machine.commands import Acquire, Claim, Convert, Guard
from lockd.machine.ending import EndTable
from lockd.machine.holds import Holding
from lockd.machine.modes import INTENTION, SUPREMUM
from lockd.machine.moment import MAX_TIME
from lockd.machine.paths import PathError, parse_path
from lockd.machine.results import Cancelled, Granted, Refused, Released, Result
from lockd.machine.sessions import Session, kind_of
from lockd.machine.types import FOREVER, FencingToken, LockMode, Nanos, RequestId
from lockd.machine.waiting import Need, Waiter, Want


class LockTable(EndTable):
    """Locks, as the commands know them. Every method ends settled but those that say so."""

    __slots__ = ()

    # --- acquire ---------------------------------------------------------------------------------------------------------------

    def acquire(self, session: Session, request_id: RequestId, command: Acquire) -> Result | None:
        """Take all claims or none; None: the request waits."""
        wait = command.wait
        if len(command.claims) == 1:
            granted = self._acquire_at_once(session, request_id, command)
            if granted is not None:
                return granted
        wants = self.check_claims(session, command.claims, command.lock_delay)
        if isinstance(wants, Refused):
            return wants
        if wait < FOREVER:
            return refusals.invalid("INVALID_WAIT", "a wait is 0, -1 for ever, or a number of nanoseconds")
        if wait and not request_id:
            return refusals.REQUEST_ID_REQUIRED
        needs = needs_of(wants)
        blocked = self.blocking(session, needs)
        if blocked is None:
            granted = self.grant(session, wants, command.lock_delay)
            self.settle()
            return granted
        if wait == 0:
            return self.refuse_held(session, blocked)
        return self._wait(session, request_id, wants, needs, blocked, wait, command.lock_delay, None)

    def _acquire_at_once(self, session: Session, request_id: RequestId, command: Acquire) -> Granted | None:
        """The ordinary case, with as little ado as possible: one lock that is free. None: anything else, and nothing has been done."""
        claim, limits, locks, key = command.claims[0], self.limits, self.locks, session.id
        resource, mode = claim.resource, claim.mode
        if claim.limit or claim.permits or not 1 <= mode <= MODE_MAX or command.wait < FOREVER or (command.wait and not request_id):
            return None
        if not 0 <= command.lock_delay <= limits.lock_delay_max or len(session.holds) >= limits.holds_per_session:
            return None
        try:
            lineage = parse_path(resource, limits)
        except PathError:
            return None
        needed = int(mode)
        for name in reversed(lineage):
            lock = locks.get(name)
            if lock is not None:
                holding = lock.holders.get(key)
                had = 0 if holding is None else holding.effective
                target = SUPREMUM[had][needed]
                if (target != had and lock.blocks_fresh(holding, target)) or (lock.pooled and name == resource):
                    return None
            needed = INTENTION[mode]
        hold = self.take_mode(session, lineage, int(mode), command.lock_delay)
        if self.dirty or self.stirred or self.suspects:
            self.settle()
        return Granted((hold,), self.moment.index)

    def check_claims(self, session: Session, claims: tuple[Claim, ...], lock_delay: Nanos) -> tuple[Want, ...] | Refused:
        """Everything that can be wrong with claims, whoever holds what."""
        limits = self.limits
        wants = read_claims(claims, limits)
        if isinstance(wants, Refused):
            return wants
        if not 0 <= lock_delay <= limits.lock_delay_max:
            return refusals.invalid("INVALID_LOCK_DELAY", f"the lock delay must lie between 0 and {limits.lock_delay_max} nanoseconds")
        if len(session.holds) + len(wants) > limits.holds_per_session:
            return refusals.exhausted("TOO_MANY_HOLDS", f"a session holds at most {limits.holds_per_session} resources")
        return self.mismatch(wants) or wants

    def grant(self, session: Session, wants: tuple[Want, ...], lock_delay: Nanos) -> Granted:
        """Take what nothing stands against. Not settled."""
        return Granted(tuple([self.take(session, want, lock_delay) for want in wants]), self.moment.index)

    def refuse_held(self, session: Session, need: Need) -> Refused:
        """A try met a lock that is not free."""
        lock = self.locks[need.resource]
        details: list[tuple[str, str]] = [("resource", lock.name)]
        for holding in lock.holders.values():
            other = holding.session
            if other is None or other is session:
                continue
            mode = "PERMITS" if holding.grants is not None else LockMode(holding.effective).name
            details.append(("holder", f"session {other.id} owner {other.owner} mode {mode}"))
            if len(details) > _HOLDERS_NAMED:
                break
        until = self.delayed_until(lock)
        if until:
            details.append(("delayed_until", str(until)))
        return refusals.aborted("LOCK_HELD", f"{lock.name} is held, or others wait for it", tuple(details))

    def _wait(
        self,
        session: Session,
        request_id: RequestId,
        wants: tuple[Want, ...],
        needs: tuple[Need, ...],
        blocked: Need,
        wait: Nanos,
        lock_delay: Nanos,
        token: FencingToken | None,
    ) -> Result | None:
        moment, limit = self.moment, self.limits.waiters_per_resource
        for want in wants:
            lock = self.locks.get(want.lineage[-1])
            if lock is not None and lock.waiting >= limit:
                return refusals.exhausted("TOO_MANY_WAITERS", f"{limit} requests wait for the resource already", ("resource", lock.name))
        waiter = Waiter(
            moment.next_ticket(),
            session,
            request_id,
            wants,
            needs,
            deadline=0 if wait == FOREVER else min(moment.log_time + wait, MAX_TIME),
            lock_delay=lock_delay,
            since=moment.log_time,
            token=token,
        )
        self.join(waiter, needs.index(blocked))
        self.current, self.outcome = waiter, None
        self.suspects[waiter] = None
        self.settle()
        self.current = None
        return self.outcome

    # --- convert ---------------------------------------------------------------------------------------------------------------

    def request_conversion(self, session: Session, request_id: RequestId, command: Convert) -> Result | None:
        """Change the mode of a hold; None: the request waits."""
        try:
            lineage = parse_path(command.resource, self.limits)
        except PathError as error:
            return refusals.invalid_path(command.resource, str(error))
        mode, wait = int(command.mode), command.wait
        if not 1 <= mode <= MODE_MAX:
            return unknown_mode(mode, command.resource)
        if wait < FOREVER:
            return refusals.invalid("INVALID_WAIT", "a wait is 0, -1 for ever, or a number of nanoseconds")
        if wait and not request_id:
            return refusals.REQUEST_ID_REQUIRED
        holding = session.holds.get(lineage[-1])
        if holding is None or not holding.owns(command.token):
            return not_holder(command.resource)
        if holding.grants is not None:
            return refusals.precondition("SEMAPHORE_MISMATCH", "permits have no mode to convert", ("resource", command.resource))
        want = Want(lineage, mode)
        needs = self._conversion_needs(holding, want)
        blocked = self.blocking(session, needs)
        if blocked is None:
            hold = self.convert(session, lineage, mode)
            self.settle()
            return Granted((hold,), self.moment.index)
        if wait == 0:
            return self.refuse_held(session, blocked)
        return self._wait(session, request_id, (want,), needs, blocked, wait, 0, command.token)

    def _conversion_needs(self, holding: Holding, want: Want) -> tuple[Need, ...]:
        # Towards a mode that neither covers the old one nor is covered by it (SHARED to INTENT_EXCLUSIVE), both must be possible at once.
        target = SUPREMUM[holding.mode][want.mode]
        return needs_of((Want(want.lineage, target),))

    # --- give back -------------------------------------------------------------------------------------------------------------

    def release(self, session: Session, holds: tuple[Guard, ...]) -> Result:
        """Give holds back."""
        refused = self.check_release(session, holds)
        if refused is not None:
            return refused
        released = self.give_back(session, holds)
        if self.dirty or self.stirred or self.suspects:
            self.settle()
        return released

    def check_release(self, session: Session, holds: tuple[Guard, ...]) -> Refused | None:
        """Refused if a name is wrong or a token is the current one of another session."""
        if not holds:
            return refusals.invalid("NO_CLAIMS", "the request names no resource")
        if len(holds) > self.limits.guards_per_command:
            return refusals.invalid(
                "TOO_MANY_CLAIMS", f"{len(holds)} holds, at most {self.limits.guards_per_command} are allowed in one request"
            )
        for guard in holds:
            try:
                parse_path(guard.resource, self.limits)
            except PathError as error:
                return refusals.invalid_path(guard.resource, str(error))
            holding = session.holds.get(guard.resource)
            # Its own current token is the ordinary case, and needs no look at the others.
            if (holding is None or holding.token != guard.token) and self._others_token(session, guard):
                return not_holder(guard.resource)
        return None

    def _others_token(self, session: Session, guard: Guard) -> bool:
        lock = self.locks.get(guard.resource)
        if lock is None:
            return False
        return any(
            holding.session is not None
            and holding.session is not session
            and (guard.token in holding.grants if holding.grants is not None else holding.token == guard.token != 0)
            for holding in lock.holders.values()
        )

    def give_back(self, session: Session, holds: tuple[Guard, ...]) -> Released:
        """Give back what was checked. Not settled."""
        return Released(tuple([self._give_back(session, guard) for guard in holds]), self.moment.index)

    def _give_back(self, session: Session, guard: Guard) -> bool:
        holding = session.holds.get(guard.resource)
        if holding is None or not holding.owns(guard.token):
            return False
        lineage = parse_path(guard.resource, self.limits)
        if holding.grants is not None:
            self.tell_released(session, guard.resource, guard.token)
            self.drop_permits(session, holding, lineage, guard.token)
        elif holding.count > 1:
            holding.count -= 1
        else:
            self.tell_released(session, guard.resource, holding.token)
            self.drop(session, holding, lineage)
            self.fail_conversions(session, lineage)
        return True

    # --- cancel ----------------------------------------------------------------------------------------------------------------

    def cancel(self, session: Session, target: int) -> Result:
        """Undo an acquire or a conversion, whether it waits, has been granted or has not come yet."""
        waiter = session.waits.get(target)
        if waiter is not None:
            self.leave(waiter)
            self.answer(waiter, refusals.CANCELLED)
            self.settle()
            return Cancelled(waiting=True, released=False)
        known = session.answers.get(target)
        if known is None:
            if target > 0 and target >= session.acknowledged and len(session.answers) < self.limits.unacknowledged_per_session:
                # It may still be on its way: it must not take effect after this.
                session.answers[target] = (None, refusals.CANCELLED)
            return Cancelled(waiting=False, released=False)
        asked, result = known
        if not isinstance(result, Granted) or kind_of(asked) is not Acquire:
            return Cancelled(waiting=False, released=False)
        released = [self._give_back(session, Guard(hold.resource, hold.token)) for hold in result.holds]
        session.answers[target] = (asked, refusals.CANCELLED)
        self.settle()
        return Cancelled(waiting=False, released=any(released))

    # --- guards ----------------------------------------------------------------------------------------------------------------

    def check_guards(self, guards: tuple[Guard, ...]) -> Refused | None:
        """Refused with FENCED unless every guard is the current grant of its resource (semantics, section 3)."""
        if len(guards) > self.limits.guards_per_command:
            return refusals.invalid("TOO_MANY_GUARDS", f"{len(guards)} guards, at most {self.limits.guards_per_command} are allowed")
        for guard in guards:
            try:
                parse_path(guard.resource, self.limits)
            except PathError as error:
                return refusals.invalid_path(guard.resource, str(error))
            if not self.is_current(guard):
                current = self.current_token(guard.resource)
                return refusals.precondition(
                    "FENCED",
                    f"the token is not the current grant of {guard.resource}",
                    ("resource", guard.resource),
                    ("token", str(guard.token) if abs(guard.token) <= MAX_TIME * 2 + 1 else "out of range"),
                    ("current", str(current)),
                )
        return None

    def is_current(self, guard: Guard) -> bool:
        """Whether the token is one under which somebody holds the resource now."""
        lock = self.locks.get(guard.resource)
        if lock is None or guard.token <= 0:
            return False
        return any(
            holding.session is not None and (guard.token in holding.grants if holding.grants is not None else holding.token == guard.token)
            for holding in lock.holders.values()
        )

    def current_token(self, resource: str) -> int:
        """The latest token under which the resource is held now; 0 if it is free."""
        lock = self.locks.get(resource)  # type: ignore[call-overload]
        if lock is None:
            return 0
        return max((holding.token for holding in lock.holders.values() if holding.session is not None), default=0)


_HOLDERS_NAMED = 3


def not_holder(resource: str) -> Refused:
    """The token does not belong to the session."""
    return refusals.precondition("NOT_HOLDER", "the session does not hold the resource under this token", ("resource", resource))
