# Generated from _async/_rows.py by tools/unasync.py: edit that.
"""Strong rows and transactions as a client sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockd.v1 import row_pb2, session_pb2
from lockd_client._core import methods
from lockd_client._core.requests import consistency_value, row
from lockd_client._core.transaction import TransactionBuilder, TransactionResult, result
from lockd_client.model import Consistency, Row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lockd_client._sync._client import Client
    from lockd_client.model import Guard

PAGE = 1_000
"""Rows asked for at once."""


class Rows:
    """Strong rows: linearizable, versioned, guarded by fencing tokens. `timeout`, everywhere: seconds; None: the client's."""

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        self._client = client

    def get(
        self, key: str, *, at_revision: int = 0, consistency: Consistency = Consistency.LINEARIZABLE, timeout: float | None = None
    ) -> Row | None:
        """A row as of a revision (0: now), or None.

        Raises:
            OutOfRange: The revision is compacted.
            Unavailable: No node could answer in time.
        """
        request = row_pb2.GetRowRequest(key=key, at_revision=at_revision, consistency=consistency_value(consistency))
        if consistency is Consistency.LINEARIZABLE and self._client.session_id:
            command = session_pb2.StreamCommand(get_row=request)
            response = (self._client.request(command, len(key) + 32, timeout, write=False)).get_row
        else:
            response = self._client.transport.call(methods.GET_ROW, request, self._seconds(timeout))
        return row(response.row) if response.HasField("row") else None

    def put(
        self,
        key: str,
        value: bytes,
        *,
        content_type: str = "",
        ephemeral: bool = False,
        guards: Iterable[Guard] = (),
        timeout: float | None = None,
    ) -> int:
        """Write a row of at most 1 MiB; returns its version. An ephemeral one goes with this client's session.

        Raises:
            InvalidArgument: The key or value breaks a rule.
            FencedError: A guard does not hold.
            UnknownOutcome: No answer in time.
        """
        made = Transaction(self._client).guard(*guards).put(key, value, content_type=content_type, ephemeral=ephemeral)
        return (made.commit(timeout=timeout)).results[0].put_version or 0

    def delete(self, key: str, *, guards: Iterable[Guard] = (), timeout: float | None = None) -> bool:
        """Delete a row; whether it was there. Errors as in `put`."""
        made = Transaction(self._client).guard(*guards).delete(key)
        return bool((made.commit(timeout=timeout)).results[0].deleted)

    def list(
        self,
        prefix: str = "",
        *,
        start: str = "",
        end: str = "",
        limit: int = 0,
        at_revision: int = 0,
        consistency: Consistency = Consistency.LINEARIZABLE,
        timeout: float | None = None,
    ) -> list[Row]:
        """Rows in key order, all of one revision: those whose key starts with `prefix`, or, with `end`, start <= key < end.

        Args:
            prefix: Of the key, as a string.
            start: First key.
            end: First key that is not wanted.
            limit: At most so many; 0: all.
            at_revision: As of a revision; 0: now.
            consistency: How fresh.
            timeout: Seconds a page; None: the client's.

        Raises:
            OutOfRange: The revision is compacted.
            Unavailable: No node could answer in time.
        """
        found: list[Row] = []
        page = ""
        while True:
            request = row_pb2.ListRowsRequest(
                prefix=prefix,
                start=start,
                end=end,
                page_size=min(PAGE, limit - len(found)) if limit else PAGE,
                page_token=page,
                consistency=consistency_value(consistency),
                at_revision=at_revision,
            )
            response = self._client.transport.call(methods.LIST_ROWS, request, self._seconds(timeout))
            found.extend(row(m) for m in response.rows)
            page = response.next_page_token
            if not page or (limit and len(found) >= limit):
                return found

    def compact(self, revision: int, *, timeout: float | None = None) -> int:
        """Forget row history below a revision; returns the oldest that is kept.

        Raises:
            PermissionDenied: The identity has not the admin role.
        """
        request = row_pb2.CompactRowsRequest(revision=revision)
        return (self._client.transport.call(methods.COMPACT_ROWS, request, self._seconds(timeout))).revision

    def _seconds(self, timeout: float | None) -> float:
        return self._client.timeout if timeout is None else timeout


class Transaction(TransactionBuilder):
    """A transaction that can be committed, once."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client

    def commit(self, *, timeout: float | None = None) -> TransactionResult:
        """Apply it: atomic, in one log entry.

        Raises:
            FencedError: A guard does not hold.
            TransfersRefused: A transfer would not be created.
            LockHeld: A lock is not free.
            InvalidArgument: Something breaks a rule.
            UnknownOutcome: No answer in time.
        """
        reply = self._client.request(self.command, self.size, timeout, decode=result, guards=self.guards)
        return result(reply)
