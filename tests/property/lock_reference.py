"""The lock table again, slow and obvious: every question is answered from scratch, by looking at everything.

It shares no code with lockd.machine beyond the commands and the numbers of the modes. Rules are those of semantics, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

IS, IX, S, SIX, U, X = range(1, 7)

CONFLICTING = {
    IS: {X},
    IX: {S, SIX, U, X},
    S: {IX, SIX, X},
    SIX: {IX, S, SIX, U, X},
    U: {IX, SIX, U, X},
    X: {IS, IX, S, SIX, U, X},
}
COVERS = {IS: {IS}, IX: {IS, IX}, S: {IS, S}, U: {IS, S, U}, SIX: {IS, IX, S, U, SIX}, X: {IS, IX, S, U, SIX, X}}


Node = tuple[str, int]
"""A session by its id, or a request by its ticket."""


def join(modes: set[int]) -> int:
    """The weakest mode that covers all of these; 0 for none."""
    if not modes:
        return 0
    return min((mode for mode in COVERS if modes <= COVERS[mode]), key=lambda mode: len(COVERS[mode]))


def ancestors(resource: str) -> list[str]:
    """The paths above a path."""
    parts = resource.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


@dataclass(frozen=True)
class RefClaim:
    """A mode of a resource, or permits of a limit."""

    resource: str
    mode: int
    permits: int = 0
    limit: int = 0

    @property
    def intention(self) -> int:
        """What it asks of the ancestors."""
        return IS if not self.permits and self.mode in (IS, S) else IX


@dataclass
class RefHold:
    """A session's claim on a resource; `tokens` are those it was granted under, the latest last."""

    mode: int
    count: int = 1
    delay: int = 0
    grants: dict[int, int] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    limit: int = 0
    ungranted: list[int] = field(default_factory=list)

    @property
    def intention(self) -> int:
        """What it asks of the ancestors."""
        return IS if self.mode in (IS, S) else IX


@dataclass
class RefWaiter:
    """A request that waits. `fresh`: the resources on which it does not go before others."""

    ticket: int
    session: int
    request: int
    claims: list[RefClaim]
    deadline: int | None
    delay: int
    convert_to: int = 0
    fresh: set[str] = field(default_factory=set)


@dataclass
class RefGhost:
    """What a lost hold leaves behind."""

    resource: str
    until: int
    intention: int
    permits: int
    limit: int


class ReferenceLocks:
    """Who holds and who waits."""

    def __init__(self) -> None:
        self.holds: dict[tuple[int, str], RefHold] = {}
        self.waiters: list[RefWaiter] = []
        self.ghosts: list[RefGhost] = []
        self.over: set[int] = set()
        self.tickets = 0

    # --- what is ---------------------------------------------------------------------------------------------------------------

    def effective(self, session: int, resource: str) -> int:
        """The mode that a session has on a resource, all its claims on it and below it taken together."""
        modes = set()
        for (holder, held), hold in self.holds.items():
            if holder == session and held == resource and hold.mode:
                modes.add(hold.mode)
            if holder == session and resource in ancestors(held):
                modes.add(hold.intention)
        return join(modes)

    def ghost_modes(self, resource: str) -> set[int]:
        """The modes in which ghosts keep a resource."""
        here = {X for ghost in self.ghosts if ghost.resource == resource and not ghost.permits}
        return here | {ghost.intention for ghost in self.ghosts if resource in ancestors(ghost.resource)}

    def sessions(self) -> list[int]:
        """Sessions that hold anything."""
        return sorted({session for session, _ in self.holds})

    def used(self, resource: str) -> int:
        """Permits that are out."""
        held = sum(sum(hold.grants.values()) + sum(hold.ungranted) for (_, name), hold in self.holds.items() if name == resource)
        return held + sum(ghost.permits for ghost in self.ghosts if ghost.resource == resource)

    def kind(self, resource: str) -> tuple[bool, int]:
        """Whether somebody claims it as a lock, and the limit under which somebody claims it as a semaphore (0: nobody)."""
        modes = any(name == resource and hold.mode for (_, name), hold in self.holds.items())
        modes = modes or any(ghost.resource == resource and not ghost.permits for ghost in self.ghosts)
        modes = modes or any(c.resource == resource and not c.permits for w in self.waiters for c in w.claims)
        limits = [hold.limit for (_, name), hold in self.holds.items() if name == resource and hold.limit]
        limits += [ghost.limit for ghost in self.ghosts if ghost.resource == resource and ghost.permits]
        limits += [c.limit for w in self.waiters for c in w.claims if c.resource == resource and c.permits]
        return modes, max(limits, default=0)

    # --- what could be ---------------------------------------------------------------------------------------------------------

    def needs(self, waiter: RefWaiter) -> dict[str, int]:
        """The mode that a request needs on each resource, those above its claims included."""
        needed: dict[str, set[int]] = {}
        for claim in waiter.claims:
            if not claim.permits:
                needed.setdefault(claim.resource, set()).add(claim.mode)
            for ancestor in ancestors(claim.resource):
                needed.setdefault(ancestor, set()).add(claim.intention)
        return {resource: join(modes) for resource, modes in needed.items()}

    def target(self, waiter: RefWaiter, resource: str) -> int:
        """The mode that its session would have on a resource; 0 if that is what it has already, or the request does not need it."""
        need = self.needs(waiter).get(resource, 0)
        have = self.effective(waiter.session, resource)
        target = join({mode for mode in (need, have) if mode})
        return 0 if target == have else target

    def ahead(self, other: RefWaiter, waiter: RefWaiter, resource: str) -> bool:
        """Whether another waiter stands before this one on a resource."""
        if (resource in other.fresh) != (resource in waiter.fresh):
            return resource in waiter.fresh
        return other.ticket < waiter.ticket

    def obstacles(self, waiter: RefWaiter) -> Iterator[tuple[Node | None, str]]:
        """Every (session or request, resource) that keeps the request waiting; None for a ghost, or for permits that are out."""
        for resource in self.needs(waiter):
            target = self.target(waiter, resource)
            if not target:
                continue
            for session in self.sessions():
                if session != waiter.session and self.effective(session, resource) in CONFLICTING[target]:
                    yield ("session", session), resource
            if self.ghost_modes(resource) & CONFLICTING[target]:
                yield None, resource
            for other in self.waiters:
                if other is not waiter and self.ahead(other, waiter, resource) and self.target(other, resource) in CONFLICTING[target]:
                    yield ("request", other.ticket), resource
        for claim in waiter.claims:
            if claim.permits:
                yield from self._permit_obstacles(waiter, claim)

    def _permit_obstacles(self, waiter: RefWaiter, claim: RefClaim) -> Iterator[tuple[Node | None, str]]:
        before = [
            (w.ticket, c.permits) for w in self.waiters for c in w.claims if c.resource == claim.resource and w.ticket < waiter.ticket
        ]
        if self.used(claim.resource) + sum(permits for _, permits in before) + claim.permits > claim.limit:
            yield None, claim.resource
        out = [(s, sum(h.grants.values()) + sum(h.ungranted)) for (s, name), h in self.holds.items() if name == claim.resource]
        for session, permits in out:
            if session != waiter.session and permits + claim.permits > claim.limit:
                yield ("session", session), claim.resource
        for ticket, permits in before:
            if permits + claim.permits > claim.limit:
                yield ("request", ticket), claim.resource

    def grantable(self, waiter: RefWaiter) -> bool:
        """Whether nothing keeps the request waiting."""
        return waiter.session not in self.over and next(self.obstacles(waiter), None) is None

    def edges(self) -> set[tuple[int, int, str]]:
        """The wait-for graph in terms of sessions: (waiting session, session that it waits for, resource)."""
        owners = {("request", waiter.ticket): waiter.session for waiter in self.waiters}
        return {
            (waiter.session, owners.get(node, node[1]), resource)
            for waiter in self.waiters
            for node, resource in self.obstacles(waiter)
            if node is not None
        }

    def has_cycle(self) -> bool:
        """Whether the wait-for graph has a cycle: whether something is left when all who wait for nobody have gone, again and again.

        A request waits for sessions that hold and for requests ahead; a session waits for its requests.
        """
        edges: set[tuple[Node, Node]] = set()
        for waiter in self.waiters:
            request = ("request", waiter.ticket)
            edges.add((("session", waiter.session), request))
            edges |= {(request, node) for node, _ in self.obstacles(waiter) if node is not None}
        while True:
            waiting = {one for one, _ in edges}
            left = {(one, other) for one, other in edges if other in waiting}
            if left == edges:
                return bool(left)
            edges = left

    # --- what happens ----------------------------------------------------------------------------------------------------------

    def ask(self, waiter: RefWaiter) -> None:
        """Note, for a new request, on which resources it goes before others: those that its session has already."""
        waiter.fresh = {resource for resource in self.needs(waiter) if not self.effective(waiter.session, resource)}

    def grant(self, waiter: RefWaiter) -> None:
        """Give the session what the request wants."""
        for claim in waiter.claims:
            hold = self.holds.get((waiter.session, claim.resource))
            if waiter.convert_to:
                if hold is None:
                    raise AssertionError("a conversion without a hold")
                hold.mode = waiter.convert_to
                continue
            if hold is None:
                hold = self.holds[waiter.session, claim.resource] = RefHold(0, 0)
            hold.count += 1
            hold.delay = max(hold.delay, waiter.delay)
            if claim.permits:
                hold.limit = claim.limit
                hold.ungranted.append(claim.permits)
            else:
                hold.mode = join({mode for mode in (hold.mode, claim.mode) if mode})

    def lose_places(self) -> None:
        """Whoever has lost what he held goes before nobody any more."""
        for waiter in self.waiters:
            waiter.fresh |= {resource for resource in self.needs(waiter) if not self.effective(waiter.session, resource)}

    def settle(self) -> list[RefWaiter]:
        """Grant whatever can be granted, until nothing can. Returns who got it."""
        self.lose_places()
        granted: list[RefWaiter] = []
        while True:
            # Latest first: the outcome must not depend on the order.
            found = next((waiter for waiter in reversed(self.waiters) if self.grantable(waiter)), None)
            if found is None:
                return granted
            self.waiters.remove(found)
            self.grant(found)
            self.lose_places()
            granted.append(found)

    def end(self, session: int, resource: str) -> None:
        """Take a hold away, and with it the conversions that waited on it."""
        del self.holds[session, resource]
