"""How a replica becomes a member: it asks to be a learner, catches up, and asks to vote."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from lockd.raft.core.types import Member, Membership, ReplicaId
from lockd.raft.driver import Driver
from lockd.raft.engine_config import EngineConfig
from lockd.raft.envelope import JoinReply, JoinRequest
from lockd.raft.port import RaftError
from lockd.raft.transport import Transport

__all__ = ["Joiner", "answer_join"]

PAUSE = 0.1
TIMEOUT = 5.0

_log = logging.getLogger(__name__)


class _Leader(Protocol):
    driver: Driver

    async def change_member(self, member: Member | None, *, remove: ReplicaId | None = None, timeout: float = 10.0) -> Membership: ...

    def leader(self) -> Member | None: ...

    @property
    def is_leader(self) -> bool: ...


class Joiner:
    """Asks members, one after the other and whom they name as the leader, until this replica is what it is to be."""

    def __init__(self, config: EngineConfig, driver: Driver, transport: Transport) -> None:
        self._config = config
        self._driver = driver
        self._transport = transport
        self._targets = [parse_target(text) for text in config.join]
        self._next = 0

    async def run(self) -> None:
        """Until done. A replica that was removed waits for ever: it does not join again under the same id."""
        asked = False
        while True:
            membership = self._driver.node.membership
            own = next((member for member in membership.members if member.id == self._config.id), None)
            if own is None and membership.members and not asked:
                # It was removed, or it is so far behind that its log does not yet tell of it: either way asking again is not for it to do.
                await asyncio.sleep(PAUSE)
                continue
            if own is not None and (own.voter or self._config.learner):
                return
            if own is None:
                asked = True
                reply = await self._ask(promote=False)
                if reply is not None and reply.membership is not None and not self._driver.node.membership.members:
                    self._transport.set_members(reply.membership.members)
            elif self._driver.leader is not None:
                await self._ask(promote=True)
            await asyncio.sleep(PAUSE)

    async def _ask(self, *, promote: bool) -> JoinReply | None:
        config = self._config
        member = Member(config.id, config.own_address, config.client_address, voter=False)
        leader = self._driver.leader_member()
        if promote and leader is not None:
            peer, address = leader.id, leader.peer_address
        else:
            found, address = self._targets[self._next % len(self._targets)]
            self._next += 1
            if found is not None:
                peer = found
            else:
                return await self._follow(None, address, JoinRequest(config.cluster_id, member, promote))
        return await self._follow(peer, address, JoinRequest(config.cluster_id, member, promote))

    async def _follow(self, peer: ReplicaId | None, address: str, request: JoinRequest) -> JoinReply | None:
        """Ask there, and once more where the answer says that the leader is."""
        for _ in range(2):
            try:
                reply = await self._transport.ask_to_join(address, peer, request, TIMEOUT)
            except OSError as error:
                _log.info("%s", error)
                return None
            if reply.membership is not None:
                return reply
            _log.info("%s answers: %s", address, reply.reason)
            if not reply.leader_address or reply.leader_address == address:
                return reply
            peer, address = reply.leader, reply.leader_address
        return None


def parse_target(text: str) -> tuple[ReplicaId | None, str]:
    """`id@host:port` or `host:port`."""
    name, at, address = text.rpartition("@")
    return (ReplicaId(name) if at else None), address


async def answer_join(engine: _Leader, request: JoinRequest) -> JoinReply:
    """What a member says to a request to join."""
    if not engine.is_leader:
        leader = engine.leader()
        if leader is None:
            return JoinReply(None, "no leader is known here")
        return JoinReply(None, "ask the leader", leader.id, leader.peer_address)
    asked = request.member
    present = next((member for member in engine.driver.node.membership.members if member.id == asked.id), None)
    if request.promote and present is None:
        return JoinReply(None, f"{asked.id} is no member")
    voter = request.promote or (present is not None and present.voter)
    member = Member(asked.id, asked.peer_address, asked.client_address, voter=voter)
    try:
        membership = await engine.change_member(member, timeout=TIMEOUT - 1)
    except RaftError as error:
        return JoinReply(None, str(error))
    return JoinReply(membership)
