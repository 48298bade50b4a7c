# Generated from _async/_ledger.py by tools/unasync.py: edit that.
"""The ledger as a client sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.v1 import ledger_pb2
from lockd.v1 import session_pb2
from lockd_client._core import ledger_codec as codec
from lockd_client._core import methods
from lockd_client._core.requests import consistency_value, guard_messages
from lockd_client.model import Consistency

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lockd_client._sync._client import Client
    from lockd_client.ledger_model import (
        Account,
        AccountBalance,
        AccountFilter,
        CreateAccountResult,
        CreateTransferResult,
        QueryFilter,
        Transfer,
    )
    from lockd_client.model import Guard


class Ledger:
    """Accounts and transfers: double entry, 128-bit integers, minor units. `timeout`, everywhere: seconds; None: the client's."""

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        self._client = client

    def create_accounts(
        self, accounts: Sequence[Account], *, guards: Iterable[Guard] = (), timeout: float | None = None
    ) -> list[CreateAccountResult]:
        """Create 1 to 8,190 accounts in one log entry.

        Args:
            accounts: What to create.
            guards: Fencing tokens that must be current, else nothing is applied.
            timeout: Seconds; None: the client's.

        Returns:
            A result for each, in order; a refusal of one is a status, not an error.

        Raises:
            InvalidArgument: A number does not fit its field (index and field are named); nothing was sent.
            FencedError: A guard does not hold.
            UnknownOutcome: No answer in time. Sending the same accounts again is harmless: their ids make it so.
        """
        command = session_pb2.StreamCommand()
        request = command.create_accounts
        request.packed = codec.pack_accounts(accounts)
        request.guards.extend(guard_messages(guards))
        reply = self._client.request(command, len(request.packed) + 64, timeout, decode=_account_results, guards=guards)
        return _account_results(reply)

    def create_transfers(
        self, transfers: Sequence[Transfer], *, guards: Iterable[Guard] = (), timeout: float | None = None
    ) -> list[CreateTransferResult]:
        """Create 1 to 8,190 transfers in one log entry. Arguments, result and errors as in `create_accounts`."""
        command = session_pb2.StreamCommand()
        request = command.create_transfers
        request.packed = codec.pack_transfers(transfers)
        request.metadata.extend(codec.transfer_metadata(transfers))
        request.guards.extend(guard_messages(guards))
        reply = self._client.request(command, request.ByteSize(), timeout, decode=_transfer_results, guards=guards)
        return _transfer_results(reply)

    def create_transfers_packed(self, packed: bytes, *, guards: Iterable[Guard] = (), timeout: float | None = None) -> bytes:
        """Create 1 to 8,190 transfers from 128-byte little-endian records, without an object for each.

        Returns:
            16 bytes a transfer: timestamp u64, status u32 (CreateTransferStatus), reserved u32; little-endian.

        Raises:
            InvalidArgument: The length is not that of 1 to 8,190 records.
            FencedError: A guard does not hold.
            UnknownOutcome: No answer in time.
        """
        codec.check_packed(packed)
        command = session_pb2.StreamCommand()
        command.create_transfers.packed = packed
        command.create_transfers.guards.extend(guard_messages(guards))
        reply = self._client.request(command, len(packed) + 64, timeout, decode=_packed_results, guards=guards)
        return reply.create_transfers.packed_results

    def lookup_accounts(
        self, ids: Iterable[int], *, consistency: Consistency = Consistency.LINEARIZABLE, timeout: float | None = None
    ) -> list[Account]:
        """The accounts that are there, in the order of the 1 to 8,190 ids.

        Raises:
            InvalidArgument: An id is out of range.
            Unavailable: No node could answer in time.
        """
        request = ledger_pb2.LookupAccountsRequest(ids=codec.id_messages(ids), consistency=consistency_value(consistency))
        if consistency is Consistency.LINEARIZABLE and self._client.session_id:
            command = session_pb2.StreamCommand(lookup_accounts=request)
            reply = self._client.request(command, 20 * len(request.ids) + 32, timeout, write=False)
            return [codec.account(m) for m in reply.lookup_accounts.accounts]
        response = self._client.transport.call(methods.LOOKUP_ACCOUNTS, request, self._seconds(timeout))
        return [codec.account(m) for m in response.accounts]

    def lookup_transfers(
        self, ids: Iterable[int], *, consistency: Consistency = Consistency.LINEARIZABLE, timeout: float | None = None
    ) -> list[Transfer]:
        """The transfers that are there, in the order of the 1 to 8,190 ids. Errors as in `lookup_accounts`."""
        request = ledger_pb2.LookupTransfersRequest(ids=codec.id_messages(ids), consistency=consistency_value(consistency))
        if consistency is Consistency.LINEARIZABLE and self._client.session_id:
            command = session_pb2.StreamCommand(lookup_transfers=request)
            reply = self._client.request(command, 20 * len(request.ids) + 32, timeout, write=False)
            return [codec.transfer(m) for m in reply.lookup_transfers.transfers]
        response = self._client.transport.call(methods.LOOKUP_TRANSFERS, request, self._seconds(timeout))
        return [codec.transfer(m) for m in response.transfers]

    def account_transfers(
        self, wanted: AccountFilter, *, consistency: Consistency = Consistency.LINEARIZABLE, timeout: float | None = None
    ) -> list[Transfer]:
        """Transfers of one account, oldest first unless reversed.

        Raises:
            InvalidArgument: A number of the filter is out of range.
            Unavailable: No node could answer in time.
        """
        request = codec.account_filter(wanted, consistency)
        response = self._client.transport.call(methods.GET_ACCOUNT_TRANSFERS, request, self._seconds(timeout))
        return [codec.transfer(m) for m in response.transfers]

    def account_balances(
        self, wanted: AccountFilter, *, consistency: Consistency = Consistency.LINEARIZABLE, timeout: float | None = None
    ) -> list[AccountBalance]:
        """Balances of one account after each of its transfers; only for accounts with the HISTORY flag. Errors as above."""
        request = codec.account_filter(wanted, consistency)
        response = self._client.transport.call(methods.GET_ACCOUNT_BALANCES, request, self._seconds(timeout))
        return [codec.balance(m) for m in response.balances]

    def query_accounts(
        self, wanted: QueryFilter, *, consistency: Consistency = Consistency.LINEARIZABLE, timeout: float | None = None
    ) -> list[Account]:
        """Accounts by user data, ledger, code and time. Errors as above."""
        request = codec.query_filter(wanted, consistency)
        response = self._client.transport.call(methods.QUERY_ACCOUNTS, request, self._seconds(timeout))
        return [codec.account(m) for m in response.accounts]

    def query_transfers(
        self, wanted: QueryFilter, *, consistency: Consistency = Consistency.LINEARIZABLE, timeout: float | None = None
    ) -> list[Transfer]:
        """Transfers by user data, ledger, code and time. Errors as above."""
        request = codec.query_filter(wanted, consistency)
        response = self._client.transport.call(methods.QUERY_TRANSFERS, request, self._seconds(timeout))
        return [codec.transfer(m) for m in response.transfers]

    def _seconds(self, timeout: float | None) -> float:
        return self._client.timeout if timeout is None else timeout


def _account_results(reply: session_pb2.StreamReply) -> list[CreateAccountResult]:
    return codec.account_results(reply.create_accounts)


def _transfer_results(reply: session_pb2.StreamReply) -> list[CreateTransferResult]:
    return codec.transfer_results(reply.create_transfers)


def _packed_results(reply: session_pb2.StreamReply) -> bytes:
    return reply.create_transfers.packed_results
