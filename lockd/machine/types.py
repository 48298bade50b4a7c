"""Names, modes and limits that every part of the machine shares."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NewType, TypeAlias

SessionId = NewType("SessionId", int)
"""Identifies a session; 64 bits, never reused, 0 means "no session"."""

RequestId = NewType("RequestId", int)
"""Number of a request inside its session, increasing from 1; 0 means "not deduplicated"."""

FencingToken = NewType("FencingToken", int)
"""64 bits, strictly increasing over all grants of the cluster for ever (semantics, section 3)."""

Revision = NewType("Revision", int)
"""The log index at which something changed."""

Resource = NewType("Resource", str)
"""A lock's or row's path: 1 to 16 parts joined by "/", no part empty, "." or "..", no control characters."""

Nanos: TypeAlias = int
"""Log time or a duration, in nanoseconds."""

FOREVER: Nanos = -1
"""A wait without a time limit."""


class LockMode(IntEnum):
    """Multi-granularity lock modes (Gray and Reuter, "Transaction Processing", 1993, chapter 7.8)."""

    INTENT_SHARED = 1
    INTENT_EXCLUSIVE = 2
    SHARED = 3
    SHARED_INTENT_EXCLUSIVE = 4
    UPDATE = 5
    EXCLUSIVE = 6


class Code(IntEnum):
    """The gRPC status codes that the machine itself answers with; the numbers are gRPC's."""

    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    DEADLINE_EXCEEDED = 4
    CANCELLED = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that every replica applies alike; part of the replicated state, so that they cannot differ between replicas."""

    path_bytes: int = 512
    path_parts: int = 16
    owner_bytes: int = 128
    session_ttl_min: Nanos = 1_000_000_000
    session_ttl_max: Nanos = 3_600_000_000_000
    sessions: int = 200_000
    unacknowledged_per_session: int = 65_536
    claims_per_acquire: int = 1_024
    waiters_per_resource: int = 65_536
    holds_per_session: int = 1_000_000
    lock_delay_max: Nanos = 3_600_000_000_000
    guards_per_command: int = 1_024
    value_bytes: int = 1 << 20
    content_type_bytes: int = 128
    metadata_bytes: int = 4_096
    operations_per_transaction: int = 10_000
    history_revisions: int = 100_000
    expiries_per_entry: int = 1_000
    reason_bytes: int = 512


LIMITS = Limits()
