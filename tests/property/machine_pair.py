"""The machine and the reference of its lock table, side by side: every step is put to both, and both must say the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from lockd.machine import commands as c
from lockd.machine import events, results
from lockd.machine.state import Machine
from lockd.machine.types import FOREVER, FencingToken, Limits, LockMode, RequestId, Resource, SessionId
from tests.property.lock_reference import RefClaim, ReferenceLocks, RefGhost, RefHold, RefWaiter, join

EXPIRED = "SESSION_EXPIRED"


@dataclass
class _Client:
    """What the pair knows of a session."""

    ttl: int
    expires_at: int
    next_request: int = 1
    granted: dict[int, list[tuple[str, int]]] = field(default_factory=dict)
    conversions: set[int] = field(default_factory=set)


class Pair:
    """Drives both; every method is one log entry of `elapsed` nanoseconds later. Raises AssertionError where they differ."""

    def __init__(self, expiries_per_entry: int = 3) -> None:
        self.machine = Machine(Limits(session_ttl_min=1, expiries_per_entry=expiries_per_entry))
        self.reference = ReferenceLocks()
        self.clients: dict[int, _Client] = {}
        self.now = 0
        self.index = 0
        self.budget = expiries_per_entry
        self.learned = 0
        self.undone = (0, 0)
        self.victims: deque[events.DeadlockResolved] = deque()
        self.last_token = 0
        self.expected: dict[tuple[int, int], str] = {}

    # --- one entry -------------------------------------------------------------------------------------------------------------

    def _apply(self, elapsed: int, request: c.Request | None, leader_term: int = 0) -> results.Applied:
        self.index += 1
        entry = c.LogEntry(self.now + elapsed, () if request is None else (request,), leader_term)
        self.learned = 0
        self.undone = (0, 0)
        applied = self.machine.apply(self.index, entry)
        self.victims.extend([event for event in applied.events if isinstance(event, events.DeadlockResolved)])
        return applied

    def _advance(self, applied: results.Applied, elapsed: int, *, reign: bool = False) -> None:
        before = self.now
        self.now += elapsed
        if reign:
            for client in self.clients.values():
                if client.expires_at > before:
                    client.expires_at = max(client.expires_at, self.now + client.ttl)
        reference = self.reference
        for _ in range(self.budget):
            reference.over = {session for session, client in self.clients.items() if client.expires_at <= self.now}
            due = [(client.expires_at, 0, session) for session, client in self.clients.items()]
            due += [(waiter.deadline, 1, waiter.ticket) for waiter in reference.waiters if waiter.deadline is not None]
            due += [(ghost.until, 2, place) for place, ghost in enumerate(reference.ghosts)]
            first = min(due, default=None)
            if first is None or first[0] > self.now:
                break
            match first:
                case (_, 0, session):
                    self._end_session(session, lost=True)
                case (_, 1, ticket):
                    waiter = next(waiter for waiter in reference.waiters if waiter.ticket == ticket)
                    reference.waiters.remove(waiter)
                    self.expected[waiter.session, waiter.request] = "WAIT_TIMEOUT"
                case (_, _, place):
                    del reference.ghosts[place]
            self._settle()
        reference.over = {session for session, client in self.clients.items() if client.expires_at <= self.now}
        self._learn_tokens(applied, up_to_release=True)

    def _settle(self) -> None:
        reference = self.reference
        while True:
            for waiter in reference.settle():
                self.expected[waiter.session, waiter.request] = "granted"
            if not reference.has_cycle():
                return
            # Which of several cycles is broken first is the machine's choice; that it is one, and whom it refuses, is checked.
            assert self.victims, "a cycle was left"
            victim = self._check_victim(self.victims.popleft())
            reference.waiters.remove(victim)
            self.expected[victim.session, victim.request] = "DEADLOCK"

    def _end_session(self, session: int, *, lost: bool) -> None:
        reference = self.reference
        del self.clients[session]
        reference.over.discard(session)
        for waiter in [waiter for waiter in reference.waiters if waiter.session == session]:
            reference.waiters.remove(waiter)
            self.expected[session, waiter.request] = EXPIRED
        for holder, resource in [key for key in reference.holds if key[0] == session]:
            hold = reference.holds[holder, resource]
            if lost and hold.delay:
                permits = sum(hold.grants.values())
                reference.ghosts.append(RefGhost(resource, self.now + hold.delay, hold.intention, permits, hold.limit))
            reference.end(holder, resource)

    def _request(self, session: int, command: c.Command) -> c.Request:
        client = self.clients.get(session)
        request_id = client.next_request if client is not None else 1
        if client is not None:
            client.next_request += 1
        return c.Request(SessionId(session), RequestId(request_id), RequestId(0), command)

    # --- comparing -------------------------------------------------------------------------------------------------------------

    def _compare(self, applied: results.Applied, request: c.Request | None, said: str | None) -> None:
        """Both have carried out the entry; `said` is the reference's answer to the request, None if it waits."""
        assert not self.victims, "somebody was refused who was in no cycle"
        own = None if request is None else (request.session, request.request_id)
        if own is not None:
            answer = self.expected.pop(own, None) if said is None else said
            assert _name(applied.results[0]) == (answer or "waits"), (applied.results[0], answer)
        told = {(item.session, item.request_id): _name(item.result) for item in applied.completions}
        assert told == self.expected, (told, self.expected)
        assert len(told) == len(applied.completions)
        self.expected = {}
        self._learn_tokens(applied)
        for item in applied.completions:
            if (item.session, item.request_id) == self.undone:
                continue
            self._learn_grant(item.session, item.request_id, item.result)
        if request is not None:
            self._learn_grant(request.session, request.request_id, applied.results[0])
        self._compare_states()

    def _check_victim(self, event: events.DeadlockResolved) -> RefWaiter:
        """The request that the machine refused, which is the youngest of a cycle that is there."""
        reference, steps = self.reference, event.cycle
        edges = reference.edges()
        for (one, resource), (other, _) in zip(steps, [*steps[1:], steps[0]], strict=True):
            assert (one, other, resource) in edges, (one, other, resource, edges)
        victim = next(w for w in reference.waiters if (w.session, w.request) == (event.session, event.request_id))
        for session, _ in steps:
            oldest = min(waiter.ticket for waiter in reference.waiters if waiter.session == session)
            assert oldest <= victim.ticket, "a younger request of the cycle was spared"
        return victim

    def _learn_tokens(self, applied: results.Applied, *, up_to_release: bool = False) -> None:
        """Note the tokens of what has been granted; those of the time before the request are needed to judge the request."""
        for event in applied.events[self.learned :]:
            if up_to_release and isinstance(event, events.LockReleased | events.LockForced):
                return
            if isinstance(event, events.LockGranted):
                hold = self.reference.holds.get((event.session, event.resource))
                if up_to_release and (hold is None or (event.permits and event.permits not in hold.ungranted)):
                    return
                assert hold is not None
                assert event.token > self.last_token, "tokens must grow"
                self.last_token = event.token
                hold.tokens.append(event.token)
                if event.permits:
                    hold.ungranted.remove(event.permits)
                    hold.grants[event.token] = event.permits
            self.learned += 1

    def _learn_grant(self, session: int, request_id: int, result: results.Result | None) -> None:
        if isinstance(result, results.Granted) and session in self.clients and request_id not in self.clients[session].conversions:
            self.clients[session].granted[request_id] = [(hold.resource, hold.token) for hold in result.holds]

    def _compare_states(self) -> None:
        table, reference = self.machine.locks, self.reference
        machine_holds = {
            (session.id, resource): (holding.mode, holding.count, holding.permits, holding.lock_delay)
            for session in self.machine.sessions.live.values()
            for resource, holding in session.holds.items()
            if holding.claimed
        }
        holds = {key: (hold.mode, hold.count, sum(hold.grants.values()), hold.delay) for key, hold in reference.holds.items()}
        assert machine_holds == holds, (machine_holds, holds)
        assert [(w.session.id, w.request_id) for w in table.waiters.values()] == [(w.session, w.request) for w in reference.waiters]
        # Ghosts of one session arise together; which of them is first is the machine's choice.
        order = [(str(ghost.lineage[-1]), ghost.until, ghost.permits) for _, ghost in sorted(table.ghosts.items())]
        assert sorted(order) == sorted((ghost.resource, ghost.until, ghost.permits) for ghost in reference.ghosts)
        reference.ghosts.sort(key=lambda ghost: order.index((ghost.resource, ghost.until, ghost.permits)))
        for session in self.machine.sessions.live.values():
            for resource, holding in session.holds.items():
                assert holding.effective == reference.effective(session.id, resource)
        live = {session.id: session.expires_at for session in self.machine.sessions.live.values()}
        assert live == {session: client.expires_at for session, client in self.clients.items()}

    # --- steps -----------------------------------------------------------------------------------------------------------------

    def open(self, elapsed: int, ttl: int) -> int:
        """A new session. Returns its id."""
        applied = self._apply(elapsed, c.Request(SessionId(0), RequestId(0), RequestId(0), c.OpenSession(ttl, "owner")))
        self._advance(applied, elapsed)
        opened = applied.results[0]
        assert isinstance(opened, results.SessionOpened)
        self.clients[opened.session] = _Client(ttl, self.now + ttl)
        self._compare(applied, None, None)
        return opened.session

    def tick(self, elapsed: int, *, reign: bool = False) -> None:
        """Only time passes; with `reign` under a new leader."""
        applied = self._apply(elapsed, None, int(reign))
        self._advance(applied, elapsed, reign=reign)
        self._compare(applied, None, None)

    def keep_alive(self, elapsed: int, session: int) -> None:
        """A sign of life."""
        applied = self._apply(elapsed, c.Request(SessionId(session), RequestId(0), RequestId(0), c.KeepAlive()))
        self._advance(applied, elapsed)
        if self._alive(session):
            client = self.clients[session]
            client.expires_at = max(client.expires_at, self.now + client.ttl)
            assert isinstance(applied.results[0], results.KeptAlive)
        else:
            assert _name(applied.results[0]) == EXPIRED
        self._compare(applied, None, None)

    def _alive(self, session: int) -> bool:
        client = self.clients.get(session)
        return client is not None and client.expires_at > self.now

    def close(self, elapsed: int, session: int) -> None:
        """The client goes."""
        request = self._request(session, c.CloseSession())
        applied = self._apply(elapsed, request)
        self._advance(applied, elapsed)
        if self._alive(session):
            self._end_session(session, lost=False)
            self._settle()
        self._compare(applied, request, "SessionClosed")

    def acquire(self, elapsed: int, session: int, claims: Sequence[RefClaim], wait: int, delay: int = 0) -> None:
        """Ask for locks and permits."""
        if self._ambiguous(session, [claim.resource for claim in claims], converts=False):
            return
        wanted = tuple([c.Claim(Resource(x.resource), LockMode(x.mode or 6), x.permits, x.limit) for x in claims])
        request = self._request(session, c.Acquire(wanted, wait, delay))
        applied = self._apply(elapsed, request)
        self._advance(applied, elapsed)
        said: str | None = EXPIRED
        if self._alive(session):
            said = self._mismatch(claims) or self._ask(session, request.request_id, list(claims), wait, delay, 0)
        self._compare(applied, request, said)

    def _ambiguous(self, session: int, resources: list[str], *, converts: bool) -> bool:
        """Whether the session has a conversion waiting beside another request for the same resource.

        Of a conversion to a weaker mode and a request for a stronger one that become possible together, the later one has the last word.
        Their order is the machine's choice (the same on every replica), which the reference does not make.
        """
        own = [waiter for waiter in self.reference.waiters if waiter.session == session]
        return any(claim.resource in resources for waiter in own if converts or waiter.convert_to for claim in waiter.claims)

    def _mismatch(self, claims: Sequence[RefClaim]) -> str | None:
        for claim in claims:
            modes, limit = self.reference.kind(claim.resource)
            if (claim.permits and (modes or limit not in (0, claim.limit))) or (not claim.permits and limit):
                return "SEMAPHORE_MISMATCH"
        return None

    def _ask(self, session: int, request_id: int, claims: list[RefClaim], wait: int, delay: int, convert_to: int) -> str | None:
        reference = self.reference
        reference.tickets += 1
        deadline = self.now + wait if wait > 0 else None
        waiter = RefWaiter(reference.tickets, session, request_id, claims, deadline, delay, convert_to)
        reference.ask(waiter)
        if reference.grantable(waiter):
            reference.grant(waiter)
            self._settle()
            return "granted"
        if wait == 0:
            return "LOCK_HELD"
        reference.waiters.append(waiter)
        self._settle()
        return None

    def convert(self, elapsed: int, session: int, resource: str, mode: int, wait: int) -> None:
        """Change the mode of a hold."""
        if self._ambiguous(session, [resource], converts=True):
            return
        hold = self.reference.holds.get((session, resource))
        token = hold.tokens[0] if hold is not None else 1
        request = self._request(session, c.Convert(Resource(resource), FencingToken(token), LockMode(mode), wait))
        self.clients[session].conversions.add(request.request_id)
        applied = self._apply(elapsed, request)
        self._advance(applied, elapsed)
        hold = self.reference.holds.get((session, resource))
        said: str | None = EXPIRED
        if self._alive(session):
            if hold is None or not _owns(hold, token):
                said = "NOT_HOLDER"
            elif hold.grants:
                said = "SEMAPHORE_MISMATCH"
            else:
                target = join({hold.mode, mode})
                said = self._ask(session, request.request_id, [RefClaim(resource, target)], wait, 0, mode)
        self._compare(applied, request, said)

    def release(self, elapsed: int, session: int, resource: str, token: int) -> None:
        """Give a hold back under some token, right or wrong."""
        request = self._request(session, c.Release((c.Guard(Resource(resource), FencingToken(token)),)))
        applied = self._apply(elapsed, request)
        self._advance(applied, elapsed)
        said = EXPIRED
        if self._alive(session):
            said = "NOT_HOLDER"
            if not self._belongs_to_another(session, resource, token):
                said = f"released {self._give_back(session, resource, token)}"
                self._settle()
        self._compare(applied, request, said)

    def _belongs_to_another(self, session: int, resource: str, token: int) -> bool:
        holds = self.reference.holds
        own = holds.get((session, resource))
        if own is not None and own.tokens[-1] == token:
            return False
        others = [hold for (holder, name), hold in holds.items() if name == resource and holder != session]
        return any(token in hold.grants if hold.grants else hold.tokens[-1] == token for hold in others)

    def _give_back(self, session: int, resource: str, token: int) -> bool:
        reference = self.reference
        hold = reference.holds.get((session, resource))
        if hold is None or not _owns(hold, token):
            return False
        hold.count -= 1
        hold.grants.pop(token, None)
        if hold.grants:
            hold.tokens = sorted(hold.grants)
        if hold.count == 0:
            self._end(session, resource)
        return True

    def _end(self, session: int, resource: str) -> None:
        reference = self.reference
        reference.end(session, resource)
        for waiter in [w for w in reference.waiters if w.convert_to and w.session == session and w.claims[0].resource == resource]:
            reference.waiters.remove(waiter)
            self.expected[waiter.session, waiter.request] = "NOT_HOLDER"
        reference.lose_places()

    def cancel(self, elapsed: int, session: int, target: int) -> None:
        """Undo a request."""
        request = self._request(session, c.CancelAcquire(RequestId(target)))
        applied = self._apply(elapsed, request)
        self._advance(applied, elapsed)
        said = EXPIRED
        if self._alive(session):
            for item in applied.completions:
                # What was granted as time passed is there to be undone.
                if (item.session, item.request_id) == (session, target) and self.expected.get((session, target)) == "granted":
                    self._learn_grant(session, target, item.result)
            said = f"cancelled {self._cancel(session, target)}"
            self._settle()
        self._compare(applied, request, said)

    def _cancel(self, session: int, target: int) -> tuple[bool, bool]:
        waiter = next((w for w in self.reference.waiters if (w.session, w.request) == (session, target)), None)
        if waiter is not None:
            self.reference.waiters.remove(waiter)
            self.expected[session, target] = "CANCELLED"
            return True, False
        granted = self.clients[session].granted.pop(target, None)
        if granted is None:
            return False, False
        self.undone = (session, target)
        released = [self._give_back(session, resource, token) for resource, token in granted]
        return False, any(released)

    def force(self, elapsed: int, resource: str) -> None:
        """An operator takes a resource away."""
        request = c.Request(SessionId(0), RequestId(0), RequestId(0), c.ForceRelease(Resource(resource), "operator", "test"))
        applied = self._apply(elapsed, request)
        self._advance(applied, elapsed)
        reference = self.reference
        taken = [key for key in reference.holds if key[1] == resource]
        for session, name in taken:
            self._end(session, name)
        reference.ghosts = [ghost for ghost in reference.ghosts if ghost.resource != resource]
        self._settle()
        forced = applied.results[0]
        assert isinstance(forced, results.Released)
        assert len(forced.released) == len(taken)
        self._compare(applied, None, None)

    def restore(self) -> None:
        """Go on from a snapshot."""
        restored = Machine.restore(self.machine.export())
        assert restored.state_hash() == self.machine.state_hash()
        self.machine = restored


def _owns(hold: RefHold, token: int) -> bool:
    return token in hold.grants if hold.grants else hold.tokens[0] <= token <= hold.tokens[-1]


def _name(result: results.Result | None) -> str:
    match result:
        case None:
            return "waits"
        case results.Refused():
            return result.reason
        case results.Granted():
            return "granted"
        case results.Released():
            return f"released {result.released[0]}"
        case results.Cancelled():
            return f"cancelled {(result.waiting, result.released)}"
        case _:
            return type(result).__name__


__all__ = ["FOREVER", "Pair", "RefClaim"]
