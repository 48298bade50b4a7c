"""Watching and audit as a program imports them: `watch` and `audit` for asyncio, `watch_sync` and `audit_sync` for threads."""

from __future__ import annotations

from lockd_client._async._watch import Watch, audit, watch
from lockd_client._sync._watch import Watch as WatchSync
from lockd_client._sync._watch import audit as audit_sync
from lockd_client._sync._watch import watch as watch_sync
from lockd_client.watch_model import (
    AccountsCreated,
    AuditTrail,
    CommandRefused,
    Compacted,
    DeadlockResolved,
    Event,
    EventKind,
    LockDelayEnded,
    LockForced,
    LockGranted,
    LockLost,
    LockReleased,
    MessagePublished,
    PendingResolved,
    RowDeleted,
    RowPut,
    RowsCompacted,
    SessionClosed,
    SessionExpired,
    SessionOpened,
    TransfersCreated,
    TransfersExpired,
    WaitTimedOut,
    WatchFilter,
)

__all__ = [
    "AccountsCreated",
    "AuditTrail",
    "CommandRefused",
    "Compacted",
    "DeadlockResolved",
    "Event",
    "EventKind",
    "LockDelayEnded",
    "LockForced",
    "LockGranted",
    "LockLost",
    "LockReleased",
    "MessagePublished",
    "PendingResolved",
    "RowDeleted",
    "RowPut",
    "RowsCompacted",
    "SessionClosed",
    "SessionExpired",
    "SessionOpened",
    "TransfersCreated",
    "TransfersExpired",
    "WaitTimedOut",
    "Watch",
    "WatchFilter",
    "WatchSync",
    "audit",
    "audit_sync",
    "watch",
    "watch_sync",
]
