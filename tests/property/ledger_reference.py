"""A second ledger, slow and obvious, written from the specification's text: what the machine is compared with.

It shares no code with the machine. Events are plain dataclasses, statuses are the specification's names, a chain keeps a copy of the
state to go back to, and each list of refusals is the specification's list in its order: (condition, status); the first condition that
holds wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

MAX = 2**128 - 1
LAST_TIMESTAMP = 2**63 - 1
SECOND = 10**9

TRANSIENT = {
    "debit_account_not_found",
    "credit_account_not_found",
    "pending_transfer_not_found",
    "debit_account_already_closed",
    "credit_account_already_closed",
    "exceeds_credits",
    "exceeds_debits",
}


@dataclass(frozen=True)
class RefAccount:
    """An account, or an account event."""

    id: int = 0
    debits_pending: int = 0
    debits_posted: int = 0
    credits_pending: int = 0
    credits_posted: int = 0
    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    reserved: int = 0
    ledger: int = 0
    code: int = 0
    flags: int = 0
    timestamp: int = 0

    def has(self, bit: int) -> bool:
        """Whether the flag at this place, counted from 0 in the specification's order, is set."""
        return bool(self.flags >> bit & 1)


@dataclass(frozen=True)
class RefTransfer:
    """A transfer, or a transfer event."""

    id: int = 0
    debit_account_id: int = 0
    credit_account_id: int = 0
    amount: int = 0
    pending_id: int = 0
    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    timeout: int = 0
    ledger: int = 0
    code: int = 0
    flags: int = 0
    timestamp: int = 0

    def has(self, bit: int) -> bool:
        """Whether the flag at this place, counted from 0 in the specification's order, is set."""
        return bool(self.flags >> bit & 1)


A_LIMIT_DEBITS, A_LIMIT_CREDITS, A_HISTORY, A_IMPORTED, A_CLOSED = 1, 2, 3, 4, 5
LINKED, PENDING, POST, VOID, BAL_DEBIT, BAL_CREDIT, CLOSE_DEBIT, CLOSE_CREDIT, IMPORTED = range(9)

Result = tuple[int, str]
Refusals = list[tuple[bool, str]]


def first_of(refusals: Refusals) -> str | None:
    """The status of the first condition that holds."""
    return next((status for holds, status in refusals if holds), None)


@dataclass
class State:
    """Everything that a broken chain takes back."""

    accounts: dict[int, RefAccount] = field(default_factory=dict)
    transfers: dict[int, RefTransfer] = field(default_factory=dict)
    fates: dict[int, str] = field(default_factory=dict)
    history: dict[int, list[tuple[int, int, int, int, int]]] = field(default_factory=dict)
    metadata: dict[int, bytes] = field(default_factory=dict)

    def copy(self) -> State:
        """An independent copy; the values inside never change."""
        history = {account_id: list(lines) for account_id, lines in self.history.items()}
        return State(dict(self.accounts), dict(self.transfers), dict(self.fates), history, dict(self.metadata))


class ReferenceLedger:
    """The specification, executed."""

    def __init__(self) -> None:
        self.state = State()
        self.failed: set[int] = set()
        self.last_timestamp = 0

    # --- batches ---------------------------------------------------------------------------------------------------------------------

    def create_accounts(self, events: list[RefAccount], log_time: int) -> list[Result]:
        """One batch of account events."""
        return self._batch(events, log_time, A_IMPORTED, lambda _, event, now: self._account(event, now))

    def create_transfers(self, events: list[RefTransfer], log_time: int, metadata: list[bytes] | None = None) -> list[Result]:
        """One batch of transfer events."""

        def one(position: int, event: RefTransfer, now: int) -> Result:
            timestamp, status = self._transfer(event, now)
            if status == "created" and metadata is not None and metadata[position]:
                self.state.metadata[event.id] = metadata[position]
            if status in TRANSIENT:
                self.failed.add(event.id)
            return timestamp, status

        return self._batch(events, log_time, IMPORTED, one)

    def _batch(
        self,
        events: Sequence[RefAccount] | Sequence[RefTransfer],
        log_time: int,
        imported_bit: int,
        one: Callable[..., Result],
    ) -> list[Result]:
        count = len(events)
        times = []
        for position in range(count):
            self.last_timestamp = max(self.last_timestamp + 1, log_time - (count - position - 1))
            times.append(self.last_timestamp)
        results: list[Result] = []
        position = 0
        while position < count:
            end = position
            while end < count - 1 and events[end].has(LINKED):
                end += 1
            chain = range(position, end + 1)
            before = self.state.copy()
            outcome: list[Result] = []
            broken_at: int | None = None
            for place in chain:
                event = events[place]
                if place == count - 1 and event.has(LINKED):
                    outcome.append((times[place], "linked_event_chain_open"))
                    broken_at = place if broken_at is None else broken_at
                elif broken_at is not None:
                    outcome.append((times[place], "linked_event_failed"))
                else:
                    status = self._envelope(event, events[0].has(imported_bit), imported_bit, times[-1])
                    result = (times[place], status) if status else one(place, event, times[place])
                    outcome.append(result)
                    if result[1] != "created":
                        broken_at = place
            if broken_at is not None:
                self.state = before
                for place in range(position, broken_at):
                    outcome[place - position] = (times[place], "linked_event_failed")
            results += outcome
            position = end + 1
        return results

    @staticmethod
    def _envelope(event: RefAccount | RefTransfer, batch_imported: bool, imported_bit: int, cluster_time: int) -> str | None:
        imported = event.has(imported_bit)
        return first_of(
            [
                (batch_imported and not imported, "imported_event_expected"),
                (imported and not batch_imported, "imported_event_not_expected"),
                (not imported and event.timestamp != 0, "timestamp_must_be_zero"),
                (imported and not 1 <= event.timestamp <= LAST_TIMESTAMP, "imported_event_timestamp_out_of_range"),
                (imported and event.timestamp >= cluster_time, "imported_event_timestamp_must_not_advance"),
            ]
        )

    # --- accounts --------------------------------------------------------------------------------------------------------------------

    def _account(self, event: RefAccount, now: int) -> Result:
        old = self.state.accounts.get(event.id)
        status = first_of(
            [
                (event.reserved != 0, "reserved_field"),
                (event.flags >= 2**6, "reserved_flag"),
                (event.id == 0, "id_must_not_be_zero"),
                (event.id == MAX, "id_must_not_be_int_max"),
            ]
        )
        if status is None and old is not None:
            fields = ["flags", "user_data_128", "user_data_64", "user_data_32", "ledger", "code"]
            status = first_of([(getattr(event, name) != getattr(old, name), f"exists_with_different_{name}") for name in fields])
            if status is None:
                return old.timestamp, "exists"
        youngest = max((account.timestamp for account in self.state.accounts.values()), default=0)
        transfer_times = {transfer.timestamp for transfer in self.state.transfers.values()}
        status = status or first_of(
            [
                (event.has(A_LIMIT_DEBITS) and event.has(A_LIMIT_CREDITS), "flags_are_mutually_exclusive"),
                (event.debits_pending != 0, "debits_pending_must_be_zero"),
                (event.debits_posted != 0, "debits_posted_must_be_zero"),
                (event.credits_pending != 0, "credits_pending_must_be_zero"),
                (event.credits_posted != 0, "credits_posted_must_be_zero"),
                (event.ledger == 0, "ledger_must_not_be_zero"),
                (event.code == 0, "code_must_not_be_zero"),
                (
                    event.has(A_IMPORTED) and (event.timestamp <= youngest or event.timestamp in transfer_times),
                    "imported_event_timestamp_must_not_regress",
                ),
            ]
        )
        if status is not None:
            return now, status
        timestamp = event.timestamp if event.has(A_IMPORTED) else now
        self.state.accounts[event.id] = replace(event, timestamp=timestamp)
        if event.has(A_HISTORY):
            self.state.history[event.id] = []
        return timestamp, "created"

    # --- transfers -------------------------------------------------------------------------------------------------------------------

    def _transfer(self, event: RefTransfer, now: int) -> Result:
        status = first_of(
            [
                (event.flags >= 2**9, "reserved_flag"),
                (event.id == 0, "id_must_not_be_zero"),
                (event.id == MAX, "id_must_not_be_int_max"),
            ]
        )
        if status is None and event.id in self.state.transfers:
            old = self.state.transfers[event.id]
            status = self._exists(event, old)
            return (old.timestamp if status == "exists" else now), status
        phases = [bit for bit in (PENDING, POST, VOID) if event.has(bit)]
        extras = any(event.has(bit) for bit in (BAL_DEBIT, BAL_CREDIT, CLOSE_DEBIT, CLOSE_CREDIT))
        resolves = event.has(POST) or event.has(VOID)
        status = status or first_of(
            [
                (event.id in self.failed, "id_already_failed"),
                (len(phases) > 1 or (resolves and extras), "flags_are_mutually_exclusive"),
            ]
        )
        if status is not None:
            return now, status
        return self._post_or_void(event, now) if resolves else self._move(event, now)

    def _exists(self, event: RefTransfer, old: RefTransfer) -> str:
        if event.flags != old.flags:
            return "exists_with_different_flags"
        if event.pending_id != old.pending_id:
            return "exists_with_different_pending_id"
        if event.timeout != old.timeout:
            return "exists_with_different_timeout"
        same_amount = event.amount == old.amount
        if old.has(BAL_DEBIT) or old.has(BAL_CREDIT):
            same_amount = old.amount <= event.amount
        if old.has(POST) or old.has(VOID):
            pending = self.state.transfers[old.pending_id]
            names = ["debit_account_id", "credit_account_id", "user_data_128", "user_data_64", "user_data_32", "ledger", "code"]
            event = replace(event, **{name: getattr(event, name) or getattr(pending, name) for name in names})
            if old.has(VOID):
                same_amount = (event.amount or pending.amount) == old.amount
            elif old.amount < pending.amount:
                same_amount = event.amount == old.amount
            else:
                same_amount = event.amount >= old.amount
        differences = [
            (getattr(event, name) != getattr(old, name), f"exists_with_different_{name}")
            for name in (
                "debit_account_id",
                "credit_account_id",
                "amount",
                "user_data_128",
                "user_data_64",
                "user_data_32",
                "ledger",
                "code",
            )
        ]
        differences[2] = (not same_amount, "exists_with_different_amount")
        return first_of(differences) or "exists"

    def _move(self, event: RefTransfer, now: int) -> Result:
        state = self.state
        debit = state.accounts.get(event.debit_account_id, RefAccount())
        credit = state.accounts.get(event.credit_account_id, RefAccount())
        imported = event.has(IMPORTED)
        when = event.timestamp if imported else now
        status = first_of(
            [
                (event.debit_account_id == 0, "debit_account_id_must_not_be_zero"),
                (event.debit_account_id == MAX, "debit_account_id_must_not_be_int_max"),
                (event.credit_account_id == 0, "credit_account_id_must_not_be_zero"),
                (event.credit_account_id == MAX, "credit_account_id_must_not_be_int_max"),
                (event.debit_account_id == event.credit_account_id, "accounts_must_be_different"),
                (event.pending_id != 0, "pending_id_must_be_zero"),
                (event.timeout != 0 and not event.has(PENDING), "timeout_reserved_for_pending_transfer"),
                ((event.has(CLOSE_DEBIT) or event.has(CLOSE_CREDIT)) and not event.has(PENDING), "closing_transfer_must_be_pending"),
                (event.ledger == 0, "ledger_must_not_be_zero"),
                (event.code == 0, "code_must_not_be_zero"),
                (event.debit_account_id not in state.accounts, "debit_account_not_found"),
                (event.credit_account_id not in state.accounts, "credit_account_not_found"),
                (debit.ledger != credit.ledger, "accounts_must_have_the_same_ledger"),
                (event.ledger != debit.ledger, "transfer_must_have_the_same_ledger_as_accounts"),
                (imported and self._regresses(when), "imported_event_timestamp_must_not_regress"),
                (imported and when <= debit.timestamp, "imported_event_timestamp_must_postdate_debit_account"),
                (imported and when <= credit.timestamp, "imported_event_timestamp_must_postdate_credit_account"),
                (imported and event.timeout != 0, "imported_event_timeout_must_be_zero"),
                (debit.has(A_CLOSED), "debit_account_already_closed"),
                (credit.has(A_CLOSED), "credit_account_already_closed"),
            ]
        )
        amount = event.amount
        if event.has(BAL_DEBIT):
            amount = min(amount, max(0, debit.credits_posted - debit.debits_pending - debit.debits_posted))
        if event.has(BAL_CREDIT):
            amount = min(amount, max(0, credit.debits_posted - credit.credits_pending - credit.credits_posted))
        debits, credits_ = debit.debits_pending + debit.debits_posted, credit.credits_pending + credit.credits_posted
        status = status or first_of(
            [
                (event.has(PENDING) and debit.debits_pending + amount > MAX, "overflows_debits_pending"),
                (event.has(PENDING) and credit.credits_pending + amount > MAX, "overflows_credits_pending"),
                (debit.debits_posted + amount > MAX, "overflows_debits_posted"),
                (credit.credits_posted + amount > MAX, "overflows_credits_posted"),
                (debits + amount > MAX, "overflows_debits"),
                (credits_ + amount > MAX, "overflows_credits"),
                (when + event.timeout * SECOND > LAST_TIMESTAMP, "overflows_timeout"),
                (debit.has(A_LIMIT_DEBITS) and debits + amount > debit.credits_posted, "exceeds_credits"),
                (credit.has(A_LIMIT_CREDITS) and credits_ + amount > credit.debits_posted, "exceeds_debits"),
            ]
        )
        if status is not None:
            return now, status
        if event.has(PENDING):
            self._add(debit.id, debits_pending=amount)
            self._add(credit.id, credits_pending=amount)
            self._set_closed(debit.id, True, event.has(CLOSE_DEBIT))
            self._set_closed(credit.id, True, event.has(CLOSE_CREDIT))
            state.fates[event.id] = "pending"
        else:
            self._add(debit.id, debits_posted=amount)
            self._add(credit.id, credits_posted=amount)
        return self._store(replace(event, amount=amount, timestamp=when))

    def _post_or_void(self, event: RefTransfer, now: int) -> Result:
        state = self.state
        pending = state.transfers.get(event.pending_id, RefTransfer())
        debit = state.accounts.get(pending.debit_account_id, RefAccount())
        credit = state.accounts.get(pending.credit_account_id, RefAccount())
        fate = state.fates.get(event.pending_id)
        imported = event.has(IMPORTED)
        when = event.timestamp if imported else now
        due = pending.timeout != 0 and pending.timestamp + pending.timeout * SECOND <= now
        post, void = event.has(POST), event.has(VOID)
        status = first_of(
            [
                (event.pending_id == 0, "pending_id_must_not_be_zero"),
                (event.pending_id == MAX, "pending_id_must_not_be_int_max"),
                (event.pending_id == event.id, "pending_id_must_be_different"),
                (event.timeout != 0, "timeout_reserved_for_pending_transfer"),
                (event.pending_id not in state.transfers, "pending_transfer_not_found"),
                (not pending.has(PENDING), "pending_transfer_not_pending"),
                (event.debit_account_id not in (0, pending.debit_account_id), "pending_transfer_has_different_debit_account_id"),
                (event.credit_account_id not in (0, pending.credit_account_id), "pending_transfer_has_different_credit_account_id"),
                (event.ledger not in (0, pending.ledger), "pending_transfer_has_different_ledger"),
                (event.code not in (0, pending.code), "pending_transfer_has_different_code"),
                (post and event.amount != MAX and event.amount > pending.amount, "exceeds_pending_transfer_amount"),
                (void and event.amount not in (0, pending.amount), "pending_transfer_has_different_amount"),
                (fate == "posted", "pending_transfer_already_posted"),
                (fate == "voided", "pending_transfer_already_voided"),
                (fate == "expired" or due, "pending_transfer_expired"),
                (imported and self._regresses(when), "imported_event_timestamp_must_not_regress"),
                (post and debit.has(A_CLOSED), "debit_account_already_closed"),
                (post and credit.has(A_CLOSED), "credit_account_already_closed"),
            ]
        )
        if status is not None:
            return now, status
        amount = pending.amount if void or event.amount == MAX else event.amount
        self._release(pending)
        if post:
            self._add(debit.id, debits_posted=amount)
            self._add(credit.id, credits_posted=amount)
        state.fates[pending.id] = "posted" if post else "voided"
        if void:
            self._reopen(pending)
        return self._store(
            replace(
                event,
                debit_account_id=pending.debit_account_id,
                credit_account_id=pending.credit_account_id,
                amount=amount,
                user_data_128=event.user_data_128 or pending.user_data_128,
                user_data_64=event.user_data_64 or pending.user_data_64,
                user_data_32=event.user_data_32 or pending.user_data_32,
                ledger=pending.ledger,
                code=pending.code,
                timestamp=when,
            )
        )

    def expire(self, log_time: int, limit: int) -> list[int]:
        """Expire what is due, in order of expiry, then of creation; returns the ids of the pending transfers."""
        state = self.state
        due = []
        for transfer_id, fate in state.fates.items():
            pending = state.transfers[transfer_id]
            if fate == "pending" and pending.timeout:
                expiry = pending.timestamp + pending.timeout * SECOND
                if expiry <= log_time:
                    due.append((expiry, pending.timestamp, transfer_id))
        expired = [transfer_id for _, _, transfer_id in sorted(due)[:limit]]
        for transfer_id in expired:
            self._release(state.transfers[transfer_id])
            self._reopen(state.transfers[transfer_id])
            state.fates[transfer_id] = "expired"
        if expired:
            self.last_timestamp = max(self.last_timestamp + 1, log_time) + len(expired) - 1
        return expired

    # --- small parts -----------------------------------------------------------------------------------------------------------------

    def _regresses(self, when: int) -> bool:
        youngest = max((transfer.timestamp for transfer in self.state.transfers.values()), default=0)
        return when <= youngest or when in {account.timestamp for account in self.state.accounts.values()}

    def _add(self, account_id: int, **amounts: int) -> None:
        account = self.state.accounts[account_id]
        self.state.accounts[account_id] = replace(account, **{name: getattr(account, name) + amount for name, amount in amounts.items()})

    def _release(self, pending: RefTransfer) -> None:
        self._add(pending.debit_account_id, debits_pending=-pending.amount)
        self._add(pending.credit_account_id, credits_pending=-pending.amount)

    def _reopen(self, pending: RefTransfer) -> None:
        self._set_closed(pending.debit_account_id, False, pending.has(CLOSE_DEBIT))
        self._set_closed(pending.credit_account_id, False, pending.has(CLOSE_CREDIT))

    def _set_closed(self, account_id: int, closed: bool, applies: bool) -> None:
        if applies:
            account = self.state.accounts[account_id]
            flags = account.flags | 2**A_CLOSED if closed else account.flags & ~(2**A_CLOSED)
            self.state.accounts[account_id] = replace(account, flags=flags)

    def _store(self, transfer: RefTransfer) -> Result:
        self.state.transfers[transfer.id] = transfer
        for account_id in (transfer.debit_account_id, transfer.credit_account_id):
            account = self.state.accounts[account_id]
            if account.has(A_HISTORY):
                self.state.history[account_id].append(
                    (
                        account.debits_pending,
                        account.debits_posted,
                        account.credits_pending,
                        account.credits_posted,
                        transfer.timestamp,
                    )
                )
        return transfer.timestamp, "created"
