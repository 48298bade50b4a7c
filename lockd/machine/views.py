"""What people and services ask of the state: pure reads, paged by name or id. None of them changes anything."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lockd.machine.deadlock import waits_for
from lockd.machine.holds import Holding
from lockd.machine.types import FencingToken, Nanos, RequestId, Resource, SessionId
from lockd.machine.waiting import Waiter

if TYPE_CHECKING:
    from lockd.machine.state import Machine


@dataclass(frozen=True, slots=True)
class HolderView:
    """One holder of a resource; `age` is log time since it took it."""

    session: SessionId
    owner: str
    mode: int
    token: FencingToken
    count: int
    age: Nanos
    permits: int


@dataclass(frozen=True, slots=True)
class WaiterView:
    """One waiter for a resource; `age` is log time since it asked."""

    session: SessionId
    owner: str
    mode: int
    request_id: RequestId
    age: Nanos


@dataclass(frozen=True, slots=True)
class LockView:
    """One resource that is claimed or waited for. `delayed_for`: how long a lost holder's lock delay still keeps it; 0: not at all."""

    resource: Resource
    holders: tuple[HolderView, ...]
    waiters: tuple[WaiterView, ...]
    delayed_for: Nanos


@dataclass(frozen=True, slots=True)
class SessionView:
    """One live session. `expires_in` is negative while its expiry is due and not yet logged."""

    session: SessionId
    owner: str
    ttl: Nanos
    expires_in: Nanos
    holds: int
    waits: int


@dataclass(frozen=True, slots=True)
class WaitEdgeView:
    """One session waits for another because of a resource."""

    waiter: SessionId
    holder: SessionId
    resource: Resource


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is of everything."""

    sessions: int
    locks: int
    rows: int
    accounts: int
    transfers: int


def counts(machine: Machine) -> Counts:
    """How much there is of everything, at once."""
    return Counts(
        sessions=len(machine.sessions.live),
        locks=len(machine.locks.locks),
        rows=len(machine.rows.current),
        accounts=machine.ledger.account_count,
        transfers=machine.ledger.transfer_count,
    )


def _below(prefix: str, name: str) -> bool:
    return not prefix or name == prefix or name.startswith(prefix + "/")


def locks(machine: Machine, prefix: str, after: str, limit: int) -> list[LockView]:
    """At most `limit` resources that somebody claims or waits for, at or below `prefix`, by name, after the name `after`."""
    table = machine.locks
    waiting: dict[Resource, list[tuple[Waiter, int]]] = {}
    for waiter in table.waiters.values():
        for want in waiter.wants:
            waiting.setdefault(want.lineage[-1], []).append((waiter, want.mode))
    delayed: dict[Resource, Nanos] = {}
    for ghost in table.ghosts.values():
        delayed[ghost.lineage[-1]] = max(ghost.until, delayed.get(ghost.lineage[-1], 0))
    names = (
        name
        for name, lock in table.locks.items()
        if name > after and _below(prefix, name) and (name in waiting or name in delayed or any(h.claimed for h in lock.holders.values()))
    )
    now = machine.log_time
    return [
        LockView(
            name,
            tuple([_holder(h, now) for h in table.locks[name].holders.values() if h.claimed and h.session is not None]),
            tuple([WaiterView(w.session.id, w.session.owner, mode, w.request_id, now - w.since) for w, mode in waiting.get(name, ())]),
            max(delayed.get(name, 0) - now, 0),
        )
        for name in heapq.nsmallest(limit, names)
    ]


def _holder(holding: Holding, now: Nanos) -> HolderView:
    session = holding.session
    if session is None:
        raise ValueError("the ghost of a lost hold has no session")
    return HolderView(
        session.id, session.owner, holding.mode, FencingToken(holding.token), holding.count, now - holding.since, holding.permits
    )


def wait_graph(machine: Machine) -> list[WaitEdgeView]:
    """Who waits for whom, by the waiters' order."""
    edges: dict[WaitEdgeView, None] = {}
    for waiter in machine.locks.waiters.values():
        for edge in waits_for(machine.locks, waiter):
            if edge is not None and edge[1] is not None:
                other = edge[0].session if isinstance(edge[0], Waiter) else edge[0]
                if other is not waiter.session:
                    edges[WaitEdgeView(waiter.session.id, other.id, edge[1])] = None
    return list(edges)


def sessions(machine: Machine, after: int, limit: int) -> list[SessionView]:
    """At most `limit` live sessions, by id, after the id `after`."""
    live = machine.sessions.live
    ids: Iterable[SessionId] = (session_id for session_id in live if session_id > after)
    return [
        SessionView(s.id, s.owner, s.ttl, s.expires_at - machine.log_time, len(s.holds), len(s.waits))
        for s in (live[session_id] for session_id in heapq.nsmallest(limit, ids))
    ]
