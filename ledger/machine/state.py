"""The ledger: one deterministic state machine over packed batches.

Everything goes `refuse or decide -> evolve -> hand over to the store`. No method raises on any bytes; a broken invariant raises
`LedgerInvariantError`, and a store that fails raises what it raises: both halt the replica.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ledger.machine import bulk, chains, invariants, queries, snapshot
from ledger.machine.batch import TransferBatch
from ledger.machine.books import Books
from ledger.machine.chains import ACCOUNTS, TRANSFERS
from ledger.machine.decide import PENDING, RESOLVES, decide_transfer, refuse_account
from ledger.machine.evolve import apply_transfer, expire, open_account
from ledger.machine.model import (
    ACCOUNT,
    BATCH_MAX,
    CREATED,
    EVENT_SIZE,
    MAX_TIMESTAMP,
    TRANSFER,
    TRANSIENT,
    ZERO_ID,
    AccountChange,
    AccountEvent,
    AccountStatus,
    BatchOutcome,
    BatchRefusal,
    Fate,
    TransferEvent,
    TransferStatus,
)
from ledger.machine.transfers import Append, MemoryTransfers, Row, TransferStore
from ledger.machine.values import AccountFilter, QueryFilter


class _AccountScope:
    """Chains of accounts: what was created is taken away again."""

    __slots__ = ("_books", "_mark", "created")

    def __init__(self, books: Books) -> None:
        self._books = books
        self._mark = 0
        self.created: list[bytes] = []

    def open(self) -> None:
        self._mark = len(self.created)

    def close(self) -> None:
        """Nothing is kept for a chain that succeeded."""

    def roll_back(self) -> None:
        while len(self.created) > self._mark:
            self.created.pop()
            self._books.remove_last_account()


class Ledger:
    """Accounts and transfers, driven by the log.

    `log_time` (nanoseconds) is the leader's stamp of the entry; `index` the entry's position in the log. The event at position p of
    a batch of n gets timestamp `max(last + 1, log_time - (n - p - 1))`: unique and growing, whatever the leader's clock does.
    """

    __slots__ = ("_books", "_fast", "_store")

    def __init__(self, transfers: TransferStore | None = None, *, fast: bool = True) -> None:
        """`fast=False` sends plain batches the general way too; the results are the same."""
        self._books = Books()
        self._store: TransferStore = MemoryTransfers() if transfers is None else transfers
        self._fast = fast

    @property
    def last_timestamp(self) -> int:
        """The highest timestamp given to any event so far, in nanoseconds."""
        return self._books.last_timestamp

    @property
    def last_index(self) -> int:
        """The log index of the last batch that was not refused as a whole."""
        return self._books.last_index

    @property
    def account_count(self) -> int:
        """How many accounts there are."""
        return len(self._books.accounts)

    @property
    def transfer_count(self) -> int:
        """How many transfers were created."""
        return len(self._store)

    @property
    def transfers(self) -> TransferStore:
        """The store behind the machine, for reading."""
        return self._store

    def create_accounts(self, packed: bytes, *, log_time: int, index: int) -> BatchOutcome:
        """Decide and apply a batch of account events of 128 bytes each."""
        count, start, refusal = self._begin(packed, log_time)
        if refusal is not None or not count:
            return BatchOutcome(refusal)
        books = self._books
        taken: frozenset[int] = frozenset()
        events = list(ACCOUNT.iter_unpack(packed))
        if events[0][-2] & ACCOUNTS.imported:
            taken = self._store.timestamps_taken([event[-1] for event in events], books.sequence)
        scope = _AccountScope(books)

        def decide(_: int, event: AccountEvent, now: int) -> tuple[int, int]:
            status = refuse_account(event, books, taken)
            if status == AccountStatus.EXISTS:
                return status, books.accounts[event[0]].timestamp
            if status != CREATED:
                return status, now
            account = open_account(event, event[-1] or now, books)
            scope.created.append(account.pack())
            return status, account.timestamp

        results = chains.run(ACCOUNTS, events, count, start, scope, decide)
        books.last_timestamp = start + count - 1
        books.last_index = index
        return BatchOutcome(results=results, created=b"".join(scope.created))

    def create_transfers(self, packed: bytes, *, log_time: int, index: int, metadata: Sequence[bytes] | None = None) -> BatchOutcome:
        """Decide and apply a batch of transfer events of 128 bytes each, with free-form metadata for each event, or none."""
        count, start, refusal = self._begin(packed, log_time)
        if refusal is None and metadata is not None and len(metadata) != count:
            refusal = BatchRefusal.METADATA_COUNT
        if refusal is not None or not count:
            return BatchOutcome(refusal)
        if self._fast and metadata is None:
            outcome = bulk.apply(self._books, self._store, packed, count, start, index)
            if outcome is not None:
                return outcome
        return self._create_transfers(packed, count, start, index, metadata)

    def _begin(self, packed: bytes, log_time: int) -> tuple[int, int, BatchRefusal | None]:
        """The number of events, the timestamp of the first, and why the batch is refused as a whole, if it is."""
        count, rest = divmod(len(packed), EVENT_SIZE)
        start = max(self._books.last_timestamp + 1, log_time - count + 1)
        if rest:
            return count, start, BatchRefusal.LENGTH_NOT_A_MULTIPLE
        if count > BATCH_MAX:
            return count, start, BatchRefusal.TOO_MANY_EVENTS
        if not 0 <= log_time <= MAX_TIMESTAMP or start + count - 1 > MAX_TIMESTAMP:
            return count, start, BatchRefusal.LOG_TIME_OUT_OF_RANGE
        return count, start, None

    def _create_transfers(self, packed: bytes, count: int, start: int, index: int, metadata: Sequence[bytes] | None) -> BatchOutcome:
        """The general way: one event after another."""
        books = self._books
        events: list[TransferEvent] = list(TRANSFER.iter_unpack(packed))
        known, known_fates = self._fetch(events)
        batch = TransferBatch(books, known, known_fates)

        def decide(position: int, event: TransferEvent, now: int) -> tuple[int, int]:
            decision = decide_transfer(event, now, books, batch)
            if not isinstance(decision, int):
                apply_transfer(event, decision, books, batch)
                if metadata is not None:
                    batch.metadata.append(metadata[position])
                return CREATED, decision.timestamp
            if decision == TransferStatus.EXISTS:
                return decision, int.from_bytes((batch.find(event[0]) or bytes(128))[120:], "little")
            if decision in TRANSIENT:
                batch.failed[event[0]] = None
            return decision, now

        results = chains.run(TRANSFERS, events, count, start, batch, decide)
        books.last_timestamp = start + count - 1
        return self._commit(batch, results, index, keeps_metadata=metadata is not None)

    def _fetch(self, events: Sequence[TransferEvent]) -> tuple[Mapping[bytes, bytes], Mapping[bytes, Fate]]:
        """All old transfers that these events may ask for, in one look-up, and how the pending ones among them ended."""
        books = self._books
        ids: dict[bytes, None] = {}
        pending_ids: dict[bytes, None] = {}
        for event in events:
            ids[event[0]] = None
            if event[5] != ZERO_ID:
                ids[event[5]] = None
                if event[12] & RESOLVES:
                    pending_ids[event[5]] = None
        known = self._store.lookup(ids.keys(), books.sequence)
        ended = [pending_id for pending_id in pending_ids if pending_id in known and pending_id not in books.open]
        return known, self._store.fates(ended, books.sequence) if ended else {}

    def _commit(self, batch: TransferBatch, results: bytes, index: int, *, keeps_metadata: bool) -> BatchOutcome:
        """Make the end of the batch part of the books and of the store."""
        books = self._books
        for transfer in batch.created:
            if transfer[118] & PENDING:
                books.open[transfer[:16]] = transfer
                books.due.add(transfer)
        for pending_id in batch.fates:
            del books.open[pending_id]
        books.due.compact(books.open)
        metadata = tuple(batch.metadata) if keeps_metadata else None
        outcome = BatchOutcome(
            results=results,
            created=b"".join(batch.created),
            metadata=metadata,
            resolutions=tuple(batch.resolutions),
            account_changes=tuple(batch.changes),
            balances=b"".join(batch.balances),
            failed=tuple(batch.failed),
        )
        fates = list(batch.fates.items())
        self._hand_over(
            Append(books.sequence, index, list(batch.fresh), outcome.created, outcome.failed, fates, outcome.balances, metadata),
        )
        return outcome

    def _hand_over(self, append: Append) -> None:
        self._store.append(append)
        self._books.sequence += 1
        self._books.last_index = append.index

    def next_expiry(self) -> int | None:
        """Log time, in nanoseconds, at which the next open pending transfer expires; None if none has a timeout."""
        return self._books.due.next(self._books.open)

    def expire(self, log_time: int, limit: int, *, index: int = 0) -> BatchOutcome:
        """Expire what is due at `log_time`, at most `limit` (itself at most 8190), in order of expiry, then of creation.

        The outcome's `resolutions` say what expired. Each gets its own timestamp, at or after `log_time`, so never before its expiry.
        Call again while `next_expiry()` is due.
        """
        books = self._books
        start = max(books.last_timestamp + 1, log_time)
        room = MAX_TIMESTAMP - start + 1
        due = books.due.pop_due(log_time, min(limit, BATCH_MAX, room), books.open)
        if not due:
            return BatchOutcome()
        changes: list[AccountChange] = []
        resolutions = []
        for position, pending in enumerate(due):
            resolutions.append(expire(pending, start + position, books, changes))
            del books.open[pending[:16]]
        books.last_timestamp = start + len(due) - 1
        fates = [(pending[:16], Fate.EXPIRED) for pending in due]
        self._hand_over(Append(books.sequence, max(index, books.last_index), [], b"", (), fates))
        return BatchOutcome(resolutions=tuple(resolutions), account_changes=tuple(changes))

    def lookup_accounts(self, packed_ids: bytes) -> bytes:
        """The 128-byte forms of those accounts that exist, in the order asked. Not a list of at most 8190 ids of 16 bytes: nothing."""
        return queries.lookup_accounts(self._books, packed_ids)

    def lookup_transfers(self, packed_ids: bytes) -> bytes:
        """The 128-byte forms of those transfers that exist, in the order asked. Not a list of at most 8190 ids of 16 bytes: nothing."""
        return queries.lookup_transfers(self._books, self._store, packed_ids)

    def fate(self, transfer_id: bytes) -> Fate:
        """Where a transfer stands: NONE if it is unknown or not a pending one."""
        return queries.fate(self._books, self._store, transfer_id)

    def get_account_transfers(self, selection: AccountFilter) -> bytes:
        """Packed transfers of an account, by timestamp. An invalid filter selects nothing (`queries.account_filter_problem` says why)."""
        return queries.get_account_transfers(self._store, selection)

    def get_account_balances(self, selection: AccountFilter) -> bytes:
        """Packed balances (`BALANCE`) of an account that keeps history, one for each transfer that the filter selects."""
        return queries.get_account_balances(self._books, self._store, selection)

    def query_accounts(self, selection: QueryFilter) -> bytes:
        """Packed accounts, by timestamp. An invalid filter selects nothing (`queries.query_filter_problem` says why)."""
        return queries.query_accounts(self._books, selection)

    def query_transfers(self, selection: QueryFilter) -> bytes:
        """Packed transfers, by timestamp. An invalid filter selects nothing."""
        return queries.query_transfers(self._store, selection)

    def check_invariants(self) -> None:
        """Walk all accounts and open pending transfers. Raises LedgerInvariantError with the evidence."""
        invariants.check_all(self._books)

    def check_sums(self) -> None:
        """The same question put to the running sums alone, in constant time. Raises LedgerInvariantError."""
        invariants.check_sums(self._books)

    def export_state(self) -> Iterator[Row]:
        """The machine's own rows, without the store's: for a store that is durable by itself."""
        return snapshot.export(self._books)

    def export(self) -> Iterator[Row]:
        """Everything as plain rows, in a canonical order: equal states give equal rows."""
        yield from snapshot.export(self._books)
        yield from self._store.export()

    @classmethod
    def restore(cls, rows: Iterable[Row], transfers: TransferStore | None = None, *, fast: bool = True) -> Ledger:
        """The ledger that gave these rows. Raises ValueError on damaged or unknown rows.

        With `transfers` given, `rows` are those of `export_state`, and the store may be ahead of them: a replay answers as the first time.
        """
        restored = cls(transfers, fast=fast)
        snapshot.restore(rows, restored._books, restored._store if transfers is None else None)
        return restored
