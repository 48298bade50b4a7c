"""The ledger machine against the reference, on random batches (ledger.md, all of it)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import codec
from ledger.machine import bulk
from ledger.machine.model import BATCH_MAX, BatchOutcome, TransferFlags, TransferStatus
from ledger.machine.state import Ledger
from ledger.machine.transfers import MemoryTransfers
from tests.property.ledger_batches import ACCOUNT_IDS, EPOCH, Maker, Pair, pack_accounts, pack_transfers, random_run
from tests.property.ledger_reference import RefAccount, RefTransfer

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)


@pytest.mark.parametrize("seed", range(40))
def test_machine_and_reference_agree(seed: int) -> None:
    """Every paragraph: results, timestamps, balances, fates, history, failed ids and snapshots equal the reference's after every batch."""
    random_run(Random(seed), 40)


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW)
@given(rng=st.randoms(use_true_random=False))
def test_machine_and_reference_agree_on_what_hypothesis_finds(rng: Random) -> None:
    """Every paragraph: the same, with batches that shrink to the smallest one that disagrees."""
    random_run(rng, 5, largest=5)


@pytest.mark.parametrize("seed", range(6))
def test_machine_and_reference_agree_on_larger_batches(seed: int) -> None:
    """A batch: the same for batches of hundreds of events, in which chains, retries and posts meet each other."""
    random_run(Random(1000 + seed), 12, largest=300, check_every=6)


def opened(*, fast: bool, flags: int = 0, count: int = 50, wide: bool = False) -> Ledger:
    """A ledger with accounts 1 to `count`."""
    ledger = Ledger(fast=fast)
    accounts = [RefAccount(id=i << 64 | i if wide else i, ledger=1, code=1, flags=flags if i % 3 == 0 else 0) for i in range(1, count + 1)]
    ledger.create_accounts(pack_accounts(accounts), log_time=EPOCH, index=1)
    return ledger


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("count", [1, 2, 127, 128, 129, 1000, BATCH_MAX])
def test_fast_path_is_taken_and_equals_the_general_path(count: int, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch: plain transfers, also those that are refused for their accounts, give the same results, rows and outcome on both paths."""
    rng = Random(count)
    fast, general = opened(fast=True, flags=2, wide=wide), opened(fast=False, flags=2, wide=wide)
    taken: list[bool] = []
    plain = bulk.apply

    def spy(*args: object) -> BatchOutcome | None:
        outcome = plain(*args)  # type: ignore[arg-type]
        taken.append(outcome is not None)
        return outcome

    monkeypatch.setattr(bulk, "apply", spy)
    for index in range(2, 5):
        events = []
        for position in range(count):
            debit, credit = rng.randrange(1, 54), rng.randrange(1, 54)
            if wide:
                debit, credit = debit << 64 | debit, credit << 64 | credit
            if rng.randrange(100) == 0:
                debit = rng.choice((0, 2**128 - 1))
            amount = rng.choice((0, 1, 5, 2**64 - 1, 2**64, 2**90))
            transfer_id = (index * BATCH_MAX + position) << rng.choice((0, 60))
            events.append(
                RefTransfer(
                    id=transfer_id, debit_account_id=debit, credit_account_id=credit, amount=amount, ledger=1, code=1 + position % 3
                )
            )
        packed = pack_transfers(events)
        outcomes = [ledger.create_transfers(packed, log_time=EPOCH + index * 1000, index=index) for ledger in (fast, general)]
        assert outcomes[0] == outcomes[1]
        assert list(fast.export()) == list(general.export())
        fast.check_invariants()
    assert taken == [True, True, True]


@pytest.mark.parametrize("spoiler", ["flags", "timeout", "pending_id", "timestamp", "zero id", "same id", "old id", "no code", "overflow"])
def test_fast_path_declines_what_is_not_plain(spoiler: str) -> None:
    """A batch: one event that is not plain sends the whole batch the general way, with the same outcome."""
    fast, general = opened(fast=True), opened(fast=False)
    fields: dict[str, dict[str, int]] = {
        "flags": {"flags": 2},
        "timeout": {"timeout": 1},
        "pending_id": {"pending_id": 1},
        "timestamp": {"timestamp": 1},
        "zero id": {"id": 0},
        "same id": {"id": 100},
        "old id": {"id": 99},
        "no code": {"code": 0},
        "overflow": {"amount": 2**128 - 1},
    }
    base = {"debit_account_id": 1, "credit_account_id": 2, "amount": 3, "ledger": 1, "code": 1}
    first = codec.pack_transfer(id=99, **base)
    batch = (
        codec.pack_transfer(id=100, **base)
        + codec.pack_transfer(**{"id": 101, **base, **fields[spoiler]})
        + codec.pack_transfer(id=102, **base)
    )
    for ledger in (fast, general):
        ledger.create_transfers(first, log_time=EPOCH + 2, index=2)
    outcomes = [ledger.create_transfers(batch, log_time=EPOCH + 3, index=3) for ledger in (fast, general)]
    assert outcomes[0] == outcomes[1]
    assert list(fast.export()) == list(general.export())
    statuses = {result.status for result in codec.unpack_results(outcomes[0].results)}
    assert (statuses == {TransferStatus.CREATED}) == (spoiler == "flags")


@pytest.mark.parametrize("seed", range(30))
def test_a_failed_chain_leaves_nothing_but_failed_ids(seed: int) -> None:
    """A batch: "nothing of a failed chain is visible to later events, except that ids of transient failures stay failed"."""
    rng = Random(seed)
    pair = random_run(rng, 12)
    maker = Maker(rng)
    maker.next_id = 10_000
    maker.log_time = pair.fast.last_timestamp + 1
    maker.learn(pair.reference)
    before = rows_without_clocks(pair.fast)
    chain = [maker._transfer(edges=False, imported=False) for _ in range(8)]
    chain = [RefTransfer(**{**vars(event), "flags": event.flags & ~256 & 511 | 1, "timestamp": 0}) for event in chain]
    chain.append(RefTransfer(id=0))
    results = pair.create_transfers(chain, maker.log_time)
    assert all(status != "created" for _, status in results)
    pair.check()
    assert rows_without_clocks(pair.fast) == before


def rows_without_clocks(ledger: Ledger) -> list[tuple[object, ...]]:
    """The snapshot without clocks and failed ids."""
    return [row for row in ledger.export() if row[0] not in ("ledger", "failed", "store")]


@pytest.mark.parametrize("seed", range(20))
def test_a_restored_ledger_goes_on_identically(seed: int) -> None:
    """A snapshot taken at any point gives a ledger with the same rows, and the same later results and rows."""
    rng = Random(seed)
    pair, maker = Pair(), Maker(rng)
    pair.create_accounts([RefAccount(id=i, ledger=1, code=1, flags=8 if i == 3 else 0) for i in ACCOUNT_IDS], maker.advance())
    twin: Ledger | None = None
    for step in range(30):
        log_time = maker.advance()
        packed = pack_transfers(maker.transfers(10))
        outcome = pair.fast.create_transfers(packed, log_time=log_time, index=step)
        expired = pair.fast.expire(log_time, 3)
        if twin is not None:
            assert twin.create_transfers(packed, log_time=log_time, index=step) == outcome
            assert twin.expire(log_time, 3) == expired
            assert list(twin.export()) == list(pair.fast.export())
        if step % 7 == 3:
            twin = Ledger.restore(pair.fast.export())
    assert twin is not None
    twin.check_invariants()


@pytest.mark.parametrize("seed", range(20))
def test_a_replay_does_not_see_rows_from_its_own_future(seed: int) -> None:
    """Memory: a ledger restored behind its store replays the log with the same outcomes, and the store does not change by it."""
    rng = Random(seed)
    maker, store = Maker(rng), MemoryTransfers()
    ledger = Ledger(store)
    accounts = pack_accounts([RefAccount(id=i, ledger=1, code=1, flags=8 if i == 3 else 0) for i in ACCOUNT_IDS])
    ledger.create_accounts(accounts, log_time=maker.advance(), index=0)
    batches: list[tuple[bytes, int]] = []
    outcomes: list[tuple[BatchOutcome, BatchOutcome]] = []
    states = []
    for index in range(16):
        states.append(list(ledger.export_state()))
        batches.append((pack_transfers(maker.transfers(8)), maker.advance()))
        outcomes.append(step(ledger, index, *batches[-1]))
    rows = list(store.export())
    for behind in (0, 5, 15):
        replayed = Ledger.restore(states[behind], store, fast=bool(seed % 2))
        for index in range(behind, 16):
            assert step(replayed, index, *batches[index]) == outcomes[index]
        assert list(store.export()) == rows
        assert list(replayed.export_state()) == list(ledger.export_state())


def step(ledger: Ledger, index: int, packed: bytes, log_time: int) -> tuple[BatchOutcome, BatchOutcome]:
    """One batch and one round of expiry."""
    return ledger.create_transfers(packed, log_time=log_time, index=index), ledger.expire(log_time, 2, index=index)


@settings(deadline=None, suppress_health_check=SLOW)
@given(
    packed=st.one_of(st.binary(max_size=700), st.integers(0, 5).flatmap(lambda n: st.binary(min_size=128 * n, max_size=128 * n))),
    log_time=st.integers(-(2**70), 2**70),
)
def test_the_machine_never_raises_on_any_bytes(packed: bytes, log_time: int) -> None:
    """The machine never raises: any bytes at any log time give results for whole events, or a refusal that changes nothing."""
    ledger = opened(fast=True, count=3)
    before = list(ledger.export())
    for call in (ledger.create_accounts, ledger.create_transfers):
        outcome = call(packed, log_time=log_time, index=7)
        if outcome.refusal is None:
            assert len(outcome.results) == len(packed) // 8
        else:
            assert outcome == BatchOutcome(outcome.refusal)
            assert list(ledger.export()) == before
    ledger.lookup_accounts(packed)
    ledger.lookup_transfers(packed)
    ledger.expire(log_time, 10)
    ledger.check_invariants()


@pytest.mark.parametrize("seed", range(8))
def test_log_time_that_stands_still_or_goes_back_still_gives_growing_timestamps(seed: int) -> None:
    """A batch: each event's timestamp is unique and grows, and is the documented function of log time and position."""
    rng = Random(seed)
    ledger = opened(fast=bool(seed % 2), count=2)
    last = ledger.last_timestamp
    for index in range(2, 40):
        count, log_time = rng.randrange(1, 9), EPOCH + rng.randrange(-50, 60)
        packed = codec.pack_transfer(id=0) * count
        for position, result in enumerate(codec.unpack_results(ledger.create_transfers(packed, log_time=log_time, index=index).results)):
            assert result.timestamp == max(last + 1, log_time - (count - position - 1))
            last = result.timestamp


def test_pending_money_is_never_created_or_lost() -> None:
    """Effects: over a long random life, the balances of all accounts are what the stored transfers and their fates add up to."""
    pair = random_run(Random(77), 60)
    posted: dict[int, list[int]] = {}
    state = pair.reference.state
    for transfer in codec.unpack_transfers(pair.fast.lookup_transfers(codec.pack_ids(state.transfers))):
        debit, credit = (
            posted.setdefault(transfer.debit_account_id, [0, 0, 0, 0]),
            posted.setdefault(transfer.credit_account_id, [0, 0, 0, 0]),
        )
        if not transfer.flags & (TransferFlags.PENDING | TransferFlags.VOID_PENDING_TRANSFER):
            debit[1] += transfer.amount
            credit[3] += transfer.amount
        elif state.fates.get(transfer.id) == "pending":
            debit[0] += transfer.amount
            credit[2] += transfer.amount
    for account in codec.unpack_accounts(pair.fast.lookup_accounts(codec.pack_ids(state.accounts))):
        balances = [account.debits_pending, account.debits_posted, account.credits_pending, account.credits_posted]
        assert balances == posted.get(account.id, [0, 0, 0, 0])


DIGEST = """
import hashlib
from random import Random
from tests.property.test_ledger_machine import digest
print(digest(5))
"""


def digest(seed: int) -> str:
    """A hash over the rows and outcomes of one random life."""
    pair = random_run(Random(seed), 25)
    rows = repr(list(pair.fast.export())) + repr(sorted(pair.statuses.items()))
    return hashlib.sha256(rows.encode()).hexdigest()


def test_state_does_not_depend_on_the_hash_seed() -> None:
    """Determinism: the same log gives the same rows in processes with different hash seeds."""
    root = Path(__file__).parents[2]
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            check=True,
            capture_output=True,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)},
        ).stdout
        for hash_seed in ("1", "2", "3")
    }
    assert digests == {digest(5) + "\n"}
