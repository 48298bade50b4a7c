"""Lock values to and from the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import duration_pb2

from lockd.v1 import cluster_pb2, common_pb2, lock_pb2, row_pb2, session_pb2
from lockd_client.errors import FieldViolation, InvalidArgument
from lockd_client.model import (
    Claim,
    Consistency,
    Guard,
    Hold,
    Holder,
    LockMode,
    LockState,
    Member,
    NodeStatus,
    PeerStatus,
    Row,
    SessionState,
    Waiting,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MODES = {mode: lock_pb2.LockMode.ValueType(mode) for mode in LockMode}
MODE_OF = {int(mode): mode for mode in LockMode}
PERMITS_MODE = LockMode.EXCLUSIVE
"""What a semaphore's hold is shown as; the service names no mode there."""


def as_claims(resources: str | Claim | Sequence[str | Claim]) -> Sequence[str | Claim]:
    """One or many resources as a sequence.

    Raises:
        InvalidArgument: There is none.
    """
    if isinstance(resources, str | Claim):
        return (resources,)
    if not resources:
        raise InvalidArgument("An acquire needs a resource.", violations=[FieldViolation("claims", "at least one is needed")])
    return resources


def seconds_to_nanos(field: str, seconds: float) -> int:
    """A duration in nanoseconds.

    Raises:
        InvalidArgument: It is negative, or not a number.
    """
    if not seconds >= 0 or seconds > 1e9:
        raise InvalidArgument(f"{field} must be 0 or more seconds, not {seconds}.", violations=[FieldViolation(field, "out of range")])
    return int(seconds * 1e9)


_FOREVER = lock_pb2.Wait(forever=True)


def wait_message(wait: float | None) -> lock_pb2.Wait | None:
    """How long an acquire may wait: None waits for ever, 0 does not wait.

    Raises:
        InvalidArgument: It is negative.
    """
    if wait is None:
        return _FOREVER
    if wait == 0:
        return None
    message = lock_pb2.Wait()
    message.timeout.FromNanoseconds(seconds_to_nanos("wait", wait))
    return message


def acquire_command(
    claims: Sequence[str | Claim], mode: LockMode, wait: float | None, lock_delay: float
) -> tuple[session_pb2.StreamCommand, int]:
    """An acquire and its approximate size in bytes; plain names get the mode.

    Raises:
        InvalidArgument: A duration is out of range.
    """
    command = session_pb2.StreamCommand()
    acquire = command.acquire
    size = 32
    for claim in claims:
        message = acquire.claims.add()
        if isinstance(claim, str):
            message.resource = claim
            message.mode = MODES[mode]
            size += len(claim) + 16
            continue
        message.resource = claim.resource
        message.mode = MODES[claim.mode]
        if claim.limit or claim.permits:
            message.permits = claim.permits
            message.limit = claim.limit
        size += len(claim.resource) + 16
    if wait is None:
        acquire.wait.forever = True
    elif wait:
        acquire.wait.timeout.FromNanoseconds(seconds_to_nanos("wait", wait))
    if lock_delay:
        acquire.lock_delay.FromNanoseconds(seconds_to_nanos("lock_delay", lock_delay))
    return command, size


def holds_from(messages: Iterable[lock_pb2.Hold]) -> tuple[Hold, ...]:
    """What an acquire got."""
    return tuple([Hold(m.resource, MODE_OF.get(m.mode, PERMITS_MODE), m.token, m.count, m.permits) for m in messages])


def guard_messages(guards: Iterable[Guard]) -> list[common_pb2.Guard]:
    """Guards of a write."""
    return [common_pb2.Guard(resource=g.resource, token=g.token) for g in guards]


def consistency_value(consistency: Consistency) -> common_pb2.Consistency.ValueType:
    """A consistency as the protocol's number."""
    return common_pb2.Consistency.ValueType(consistency)


def seconds(duration: duration_pb2.Duration) -> float:
    """A duration in seconds."""
    return duration.ToNanoseconds() / 1e9


def lock_state(message: lock_pb2.LockState) -> LockState:
    """Holders and waiters of one resource."""
    return LockState(
        message.resource,
        tuple(
            Holder(h.session_id, h.owner, MODE_OF.get(h.mode, PERMITS_MODE), h.token, h.count, seconds(h.age), h.permits)
            for h in message.holders
        ),
        tuple(Waiting(w.session_id, w.owner, MODE_OF.get(w.mode, PERMITS_MODE), w.request_id, seconds(w.age)) for w in message.waiters),
        seconds(message.delayed_for),
    )


def session_state(message: session_pb2.SessionState) -> SessionState:
    """A session as the service sees it."""
    return SessionState(message.session_id, message.owner, seconds(message.ttl), seconds(message.expires_in), message.holds, message.waits)


def row(message: row_pb2.Row) -> Row:
    """A row from its message."""
    return Row(
        message.key,
        message.value,
        message.content_type,
        message.create_revision,
        message.mod_revision,
        message.version,
        message.session_id,
    )


def member(message: cluster_pb2.Member) -> Member:
    """A member from its message."""
    return Member(message.id, message.peer_address, message.client_address, message.voter)


def node_status(m: cluster_pb2.GetStatusResponse) -> NodeStatus:
    """A node's status from its message."""
    return NodeStatus(
        id=m.id,
        cluster_id=m.cluster_id,
        role=m.role,
        term=m.term,
        leader_id=m.leader_id,
        leader_address=m.leader_address,
        commit_index=m.commit_index,
        applied_index=m.applied_index,
        first_index=m.first_index,
        last_index=m.last_index,
        snapshot_index=m.snapshot_index,
        log_bytes=m.log_bytes,
        peers=tuple(PeerStatus(p.id, p.match_index, p.next_index, p.state, seconds(p.last_contact)) for p in m.peers),
        members=tuple(member(x) for x in m.members),
        fsync_p50=seconds(m.fsync_p50),
        fsync_p99=seconds(m.fsync_p99),
        failed=m.failed,
        version=m.version,
        engine=m.engine,
        sessions=m.sessions,
        locks=m.locks,
        rows=m.rows,
        accounts=m.accounts,
        transfers=m.transfers,
        data_directory=m.data_directory,
    )
