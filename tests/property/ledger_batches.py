"""Random batches for the ledger, biased towards collisions and edges, and a pair that runs machine and reference side by side."""

from __future__ import annotations

from dataclasses import astuple, replace
from random import Random

from ledger import codec
from ledger.machine.model import (
    AccountStatus,
    BatchOutcome,
    Fate,
    TransferStatus,
)
from ledger.machine.state import Ledger
from ledger.machine.values import AccountFilter, AccountValue, BalanceValue, TransferValue
from tests.property.ledger_reference import MAX, SECOND, RefAccount, ReferenceLedger, RefTransfer

EDGES = (0, 1, 2, 7, 10, 100, 2**64 - 1, 2**64, 2**127, MAX - 1, MAX)
SMALL = (0, 0, 1, 1, 2, 3, 5, 10, 50)
ACCOUNT_IDS = (1, 2, 3, 4, 5, 6, 2**64 + 1, 2**127)
EPOCH = 10**12


class Maker:
    """Draws events from one Random. It remembers which ids it has used, so that it can come back to them."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.log_time = EPOCH
        self.next_id = 1
        self.recent: list[int] = []
        self.recent_pending: list[RefTransfer] = []
        self.sent: list[RefTransfer] = []

    def chance(self, percent: int) -> bool:
        """True that often."""
        return self.rng.randrange(100) < percent

    def advance(self) -> int:
        """The log time of the next batch: usually later, sometimes the same, an hour on, or back."""
        kind = self.rng.randrange(20)
        if kind < 14:
            self.log_time += self.rng.randrange(1, 2000)
        elif kind < 17:
            self.log_time += self.rng.choice((SECOND, 2 * SECOND, 10 * SECOND))
        elif kind == 17:
            self.log_time = max(0, self.log_time - self.rng.randrange(5000))
        return self.log_time

    def learn(self, reference: ReferenceLedger) -> None:
        """Know which pending transfers there are: most of those that posts and voids will name are real."""
        state = reference.state
        open_ones = [transfer_id for transfer_id, fate in state.fates.items() if fate == "pending"]
        known = [*list(state.fates)[-4:], *open_ones[-8:]]
        self.recent_pending = [state.transfers[transfer_id] for transfer_id in known]

    def _flags(self, usual: tuple[int, ...], bits: int) -> int:
        if self.chance(4):
            return self.rng.randrange(2**16)
        if self.chance(6):
            return self.rng.randrange(2**bits)
        return self.rng.choice(usual)

    def _timestamp(self, *, imported: bool) -> int:
        if self.chance(3):
            return self.rng.choice((0, 1, 2**63 - 1, 2**63, 2**64 - 1, self.log_time))
        if not imported:
            return 0
        return max(0, self.log_time - self.rng.randrange(3000))

    def accounts(self, count: int) -> list[RefAccount]:
        """A batch of account events."""
        imported = self.chance(15)
        events = []
        for _ in range(count):
            flags = self._flags((0, 0, 0, 0, 2, 4, 8, 10, 12), 6)
            if self.chance(97):
                flags = flags | 16 if imported else flags & ~16
            flags = flags | 1 if self.chance(25) else flags & ~1
            event = RefAccount(
                id=self.rng.choice(ACCOUNT_IDS) if self.chance(95) else self.rng.choice((0, MAX)),
                user_data_128=self.rng.choice(EDGES) if self.chance(10) else 0,
                user_data_64=self.rng.choice((0, 0, 0, 9)),
                user_data_32=self.rng.choice((0, 0, 0, 8)),
                ledger=(1 if self.chance(95) else 2) if self.chance(97) else 0,
                code=self.rng.choice((1, 1, 1, 2)) if self.chance(97) else 0,
                flags=flags,
                timestamp=self._timestamp(imported=imported),
            )
            if self.chance(3):
                name = self.rng.choice(("debits_pending", "debits_posted", "credits_pending", "credits_posted", "reserved"))
                event = replace(event, **{name: 1})
            events.append(event)
        return events

    def plain_transfers(self, count: int) -> list[RefTransfer]:
        """A batch without any flag; most of them can go the fast way."""
        edges = self.chance(20)
        ledger = 1 if self.chance(92) else 2
        wide = self.chance(50)
        pool = ACCOUNT_IDS[:6] if wide else ACCOUNT_IDS
        events = []
        for _ in range(count):
            debit, credit = self.rng.sample(pool, 2)
            if self.chance(3):
                debit = self.rng.choice((0, MAX, credit, 77, 2**64 + 2))
            if self.chance(3):
                credit = self.rng.choice((0, MAX, debit, 77, 2**64 + 2))
            events.append(
                RefTransfer(
                    id=self._new_id() if self.chance(99) else self._some_id(),
                    debit_account_id=debit,
                    credit_account_id=credit,
                    amount=self.rng.choice(EDGES if edges else SMALL),
                    user_data_64=self.rng.choice((0, 0, 5)),
                    ledger=ledger if self.chance(99) else 2,
                    code=self.rng.choice((1, 2)),
                )
            )
        self.sent = (self.sent + events)[-60:]
        return events

    def transfers(self, count: int) -> list[RefTransfer]:
        """A batch with everything."""
        if self.chance(25):
            return self.plain_transfers(count)
        imported = self.chance(12)
        edges = self.chance(25)
        events = []
        for _ in range(count):
            event = self._transfer(edges=edges, imported=imported)
            if self.sent and self.chance(12):
                event = self._retry()
            flags = event.flags
            if self.chance(97):
                flags = flags | 256 if imported else flags & ~256
            if not self.chance(5):
                flags = flags | 1 if self.chance(18) else flags & ~1
            event = replace(event, flags=flags)
            events.append(event)
            self.sent = [*self.sent, event][-60:]
            if flags & 2 and self.chance(30):
                self.recent_pending = [*self.recent_pending, event][-12:]
        return events

    def _transfer(self, *, edges: bool, imported: bool) -> RefTransfer:
        rng = self.rng
        amount = rng.choice(EDGES if edges else SMALL)
        flags = self._flags(
            (
                0,
                0,
                0,
                0,
                2,
                2,
                2,
                2,
                2,
                4,
                4,
                4,
                8,
                8,
                8,
                8,
                16,
                32,
                48,
                18,
                34,
                66 if self.chance(40) else 2,
                130 if self.chance(40) else 2,
            ),
            9,
        )
        if flags & 12:
            return self._resolving(flags, amount, imported=imported)
        debit, credit = rng.sample(ACCOUNT_IDS, 2)
        return RefTransfer(
            id=self._new_id() if self.chance(85) else self._some_id(),
            debit_account_id=debit if self.chance(96) else rng.choice((0, MAX, credit, 77)),
            credit_account_id=credit if self.chance(96) else rng.choice((0, MAX, debit, 77)),
            amount=MAX if flags & 48 and self.chance(50) else amount,
            pending_id=self._some_id() if self.chance(3) else 0,
            user_data_128=rng.choice((0, 0, 3)),
            user_data_64=rng.choice((0, 0, 4)),
            user_data_32=rng.choice((0, 0, 5)),
            timeout=rng.choice((0, 1, 1, 2, 10, 2**32 - 1)) if (flags & 2 and not imported) or self.chance(3) else 0,
            ledger=(1 if self.chance(95) else 2) if self.chance(98) else 0,
            code=1 if self.chance(97) else rng.choice((0, 2)),
            flags=flags,
            timestamp=self._timestamp(imported=imported),
        )

    def _resolving(self, flags: int, amount: int, *, imported: bool) -> RefTransfer:
        rng = self.rng
        pending = rng.choice(self.recent_pending) if self.recent_pending and self.chance(95) else RefTransfer(id=self._some_id(), amount=5)
        options = (0, 1, max(0, pending.amount - 1), pending.amount, min(MAX, pending.amount + 1), MAX, MAX, amount)
        return RefTransfer(
            id=self._new_id() if self.chance(90) else self._some_id(),
            debit_account_id=rng.choice((0, pending.debit_account_id)) if self.chance(95) else 3,
            credit_account_id=rng.choice((0, pending.credit_account_id)) if self.chance(95) else 3,
            amount=rng.choice(options) if flags & 4 or self.chance(20) else rng.choice((0, pending.amount)),
            pending_id=pending.id if self.chance(96) else rng.choice((0, MAX, self._some_id())),
            user_data_128=rng.choice((0, 0, 7)),
            user_data_64=rng.choice((0, 0, 7)),
            user_data_32=rng.choice((0, 0, 7)),
            timeout=1 if self.chance(2) else 0,
            ledger=rng.choice((0, pending.ledger)) if self.chance(95) else 2,
            code=rng.choice((0, pending.code)) if self.chance(95) else 2,
            flags=flags,
            timestamp=self._timestamp(imported=imported),
        )

    def _retry(self) -> RefTransfer:
        """An event that was sent before, usually as it was, sometimes with one field changed."""
        event = self.rng.choice(self.sent)
        if self.chance(50):
            return event
        name = self.rng.choice(
            (
                "debit_account_id",
                "credit_account_id",
                "amount",
                "amount",
                "amount",
                "pending_id",
                "user_data_128",
                "user_data_64",
                "user_data_32",
                "timeout",
                "ledger",
                "code",
                "flags",
            )
        )
        value = self.rng.choice((0, 1, 2, 3, event.amount + 1, MAX)) if name == "amount" else self.rng.choice((0, 1, 2, 3))
        return replace(event, **{name: min(value, MAX)})

    def _new_id(self) -> int:
        self.next_id += 1
        transfer_id = self.next_id if self.next_id % 3 else self.next_id << 70
        self.recent = [*self.recent, transfer_id][-40:]
        return transfer_id

    def _some_id(self) -> int:
        if not self.recent or self.chance(10):
            return self.rng.choice((0, MAX, 1, 2**64, 999_999))
        return self.rng.choice(self.recent)


def pack_accounts(events: list[RefAccount]) -> bytes:
    """The packed form of account events."""
    return b"".join(codec.pack_account_value(AccountValue(*astuple(event))) for event in events)


def pack_transfers(events: list[RefTransfer]) -> bytes:
    """The packed form of transfer events."""
    return b"".join(codec.pack_transfer_value(TransferValue(*astuple(event))) for event in events)


def account_results(outcome: BatchOutcome) -> list[tuple[int, str]]:
    """(timestamp, status name) of each account event."""
    return [(result.timestamp, AccountStatus(result.status).name.lower()) for result in codec.unpack_results(outcome.results)]


def transfer_results(outcome: BatchOutcome) -> list[tuple[int, str]]:
    """(timestamp, status name) of each transfer event."""
    return [(result.timestamp, TransferStatus(result.status).name.lower()) for result in codec.unpack_results(outcome.results)]


class Pair:
    """The machine, once with its fast path and once without, beside the reference; every step compares all three."""

    def __init__(self) -> None:
        self.fast = Ledger(fast=True)
        self.general = Ledger(fast=False)
        self.reference = ReferenceLedger()
        self.index = 0
        self.statuses: dict[str, int] = {}

    def create_accounts(self, events: list[RefAccount], log_time: int) -> list[tuple[int, str]]:
        """One batch of accounts through all three."""
        self.index += 1
        packed = pack_accounts(events)
        outcomes = [ledger.create_accounts(packed, log_time=log_time, index=self.index) for ledger in (self.fast, self.general)]
        expected = self.reference.create_accounts(events, log_time)
        assert outcomes[0] == outcomes[1]
        assert account_results(outcomes[0]) == expected
        created = [event.id for event, (_, status) in zip(events, expected, strict=True) if status == "created"]
        assert [account.id for account in codec.unpack_accounts(outcomes[0].created)] == created
        self._count("account", expected)
        return expected

    def create_transfers(self, events: list[RefTransfer], log_time: int, metadata: list[bytes] | None = None) -> list[tuple[int, str]]:
        """One batch of transfers through all three."""
        self.index += 1
        packed = pack_transfers(events)
        outcomes = [
            ledger.create_transfers(packed, log_time=log_time, index=self.index, metadata=metadata) for ledger in (self.fast, self.general)
        ]
        before = self.reference.state.fates.copy()
        failed = self.reference.failed.copy()
        expected = self.reference.create_transfers(events, log_time, metadata)
        assert outcomes[0] == outcomes[1]
        outcome = outcomes[0]
        assert transfer_results(outcome) == expected
        state = self.reference.state
        created = [event.id for event, (_, status) in zip(events, expected, strict=True) if status == "created"]
        assert [astuple(transfer) for transfer in codec.unpack_transfers(outcome.created)] == [
            astuple(state.transfers[transfer_id]) for transfer_id in created
        ]
        ended = {i: fate for i, fate in state.fates.items() if fate != "pending" and before.get(i, "pending") == "pending"}
        assert {codec.unpack_transfer(item.pending).id: item.fate.name.lower() for item in outcome.resolutions} == ended
        assert {int.from_bytes(i, "little") for i in outcome.failed} == self.reference.failed - failed
        self._count("transfer", expected)
        return expected

    def expire(self, log_time: int, limit: int) -> list[int]:
        """One round of expiry through all three."""
        outcomes = [ledger.expire(log_time, limit) for ledger in (self.fast, self.general)]
        expected = self.reference.expire(log_time, limit)
        assert outcomes[0] == outcomes[1]
        for item in outcomes[0].resolutions:
            pending = codec.unpack_transfer(item.pending)
            assert item.fate is Fate.EXPIRED
            assert item.timestamp >= pending.timestamp + pending.timeout * SECOND
        assert [codec.unpack_transfer(item.pending).id for item in outcomes[0].resolutions] == expected
        return expected

    def restore(self) -> None:
        """Replace both machines by what their snapshots give back; nothing may tell the difference."""
        rows = list(self.fast.export())
        self.fast = Ledger.restore(rows, fast=True)
        assert list(self.fast.export()) == rows
        self.general = Ledger.restore(rows, fast=False)

    def check(self) -> None:
        """Compare the whole state of all three."""
        self.fast.check_invariants()
        self.general.check_invariants()
        self.fast.check_sums()
        assert list(self.fast.export()) == list(self.general.export())
        assert self.fast.last_timestamp == self.reference.last_timestamp
        state = self.reference.state
        accounts = codec.unpack_accounts(self.fast.lookup_accounts(codec.pack_ids(state.accounts)))
        assert [astuple(account) for account in accounts] == [astuple(account) for account in state.accounts.values()]
        transfers = codec.unpack_transfers(self.fast.lookup_transfers(codec.pack_ids(list(state.transfers)[-8000:])))
        assert [astuple(transfer) for transfer in transfers] == [astuple(transfer) for transfer in list(state.transfers.values())[-8000:]]
        for transfer_id, fate in state.fates.items():
            assert self.fast.fate(codec.pack_id(transfer_id)).name.lower() == fate
        waiting = [state.transfers[transfer_id] for transfer_id, fate in state.fates.items() if fate == "pending"]
        expected = min((pending.timestamp + pending.timeout * SECOND for pending in waiting if pending.timeout), default=None)
        assert self.fast.next_expiry() == self.general.next_expiry() == expected
        for account_id, lines in state.history.items():
            kept = codec.unpack_balances(self.fast.get_account_balances(AccountFilter(account_id=account_id)))
            assert kept == [BalanceValue(*line) for line in lines[:8190]]
        for transfer_id in state.transfers:
            assert self.fast.transfers.metadata(codec.pack_id(transfer_id)) == state.metadata.get(transfer_id)

    def _count(self, kind: str, results: list[tuple[int, str]]) -> None:
        for _, status in results:
            key = f"{kind}.{status}"
            self.statuses[key] = self.statuses.get(key, 0) + 1


def random_run(rng: Random, steps: int, *, largest: int = 12, check_every: int = 1) -> Pair:
    """A whole life of a ledger; raises AssertionError where machine and reference part."""
    pair, maker = Pair(), Maker(rng)
    first = list(zip(ACCOUNT_IDS, (0, 0, 2, 8, 4, 0, 10, 0), strict=True))[: 4 if maker.chance(30) else 8]
    opening = [RefAccount(id=i, ledger=2 if i == 6 else 1, code=1, flags=flags) for i, flags in first]
    pair.create_accounts(opening, maker.advance())
    for step in range(steps):
        kind = rng.randrange(20)
        log_time = maker.advance()
        count = rng.randrange(1, largest)
        if kind < 2:
            pair.create_accounts(maker.accounts(count), log_time)
        elif kind < 16:
            metadata = [rng.choice((b"", b"note")) for _ in range(count)] if maker.chance(10) else None
            pair.create_transfers(maker.transfers(count), log_time, metadata)
        elif kind < 19:
            pair.expire(log_time, rng.choice((0, 1, 2, 100)))
        else:
            pair.restore()
        maker.learn(pair.reference)
        if step % check_every == 0:
            pair.check()
    pair.check()
    return pair
