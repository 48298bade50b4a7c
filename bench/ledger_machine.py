"""How many transfers a second does the pure ledger machine apply, in memory, in one process on one core?

`python -m bench.ledger_machine [--batches 40] [--rounds 3] [--json]`. Each question is asked in a fresh ledger; figures come from the
fastest batch and from all batches together. With --json, one object a line: question, system, metric, value, unit.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from random import Random

from ledger.codec import pack_account, pack_transfer
from ledger.machine.model import BATCH_MAX, AccountFlags, TransferFlags
from ledger.machine.state import Ledger

START = 1_700_000_000_000_000_000
ACCOUNTS = 1000


def account_ids(*, wide: bool) -> list[int]:
    """A thousand ids: small numbers, or random ones of 128 bits."""
    rng = Random(7)
    return [rng.getrandbits(127) | 1 for _ in range(ACCOUNTS)] if wide else list(range(1, ACCOUNTS + 1))


def opened(ids: list[int], flags: int = 0, *, fast: bool = True) -> Ledger:
    """A ledger with these accounts."""
    ledger = Ledger(fast=fast)
    ledger.create_accounts(b"".join(pack_account(id=i, ledger=1, code=1, flags=flags) for i in ids), log_time=START, index=1)
    return ledger


def plain(ids: list[int], batches: int) -> Iterator[bytes]:
    """Full batches of plain transfers with random ids between random accounts."""
    rng = Random(1)
    for _ in range(batches):
        events = []
        for _ in range(BATCH_MAX):
            debit, credit = rng.sample(ids, 2)
            events.append(
                pack_transfer(
                    id=rng.getrandbits(127) | 1,
                    debit_account_id=debit,
                    credit_account_id=credit,
                    amount=rng.randrange(1, 10_000),
                    ledger=1,
                    code=1,
                )
            )
        yield b"".join(events)


def two_phase(ids: list[int], batches: int) -> Iterator[bytes]:
    """Full batches in which each pending transfer is posted by the event after it."""
    rng = Random(2)
    for _ in range(batches):
        events = []
        for _ in range(BATCH_MAX // 2):
            debit, credit = rng.sample(ids, 2)
            pending_id = rng.getrandbits(127) | 1
            pending = int(TransferFlags.PENDING)
            events.append(
                pack_transfer(
                    id=pending_id,
                    debit_account_id=debit,
                    credit_account_id=credit,
                    amount=rng.randrange(1, 10_000),
                    ledger=1,
                    code=1,
                    flags=pending,
                    timeout=60,
                )
            )
            post = int(TransferFlags.POST_PENDING_TRANSFER)
            events.append(pack_transfer(id=rng.getrandbits(127) | 1, pending_id=pending_id, amount=2**128 - 1, flags=post))
        yield b"".join(events)


def measure(ledger: Ledger, batches: list[bytes]) -> tuple[float, float, float]:
    """Transfers a second: in the fastest batch, over all of them, and over all of them by CPU time (on a busy machine they differ)."""
    times = []
    gc.collect()
    cpu = time.process_time()
    for index, packed in enumerate(batches, start=2):
        begun = time.perf_counter()
        outcome = ledger.create_transfers(packed, log_time=START + index * 1_000_000, index=index)
        times.append(time.perf_counter() - begun)
        if outcome.refusal is not None or len(outcome.results) != len(packed) // 8:
            raise RuntimeError(f"the batch was refused: {outcome.refusal}")
    cpu = time.process_time() - cpu
    ledger.check_invariants()
    count = len(batches[0]) // 128
    return count / min(times), count * len(batches) / sum(times), count * len(batches) / cpu


Question = tuple[str, Callable[[], Ledger], Callable[[int], Iterator[bytes]]]


def questions() -> list[Question]:
    """What is asked: a sentence, a fresh ledger, its batches."""
    small, wide = account_ids(wide=False), account_ids(wide=True)
    limit = int(AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS)
    return [
        ("plain transfers, 1,000 accounts with small ids", lambda: opened(small), lambda n: plain(small, n)),
        ("plain transfers, 1,000 accounts with 128-bit ids", lambda: opened(wide), lambda n: plain(wide, n)),
        ("plain transfers, every account limited (about half are refused)", lambda: opened(small, limit), lambda n: plain(small, n)),
        ("plain transfers, the general path", lambda: opened(small, fast=False), lambda n: plain(small, max(1, n // 4))),
        ("pending transfers, each posted by the next event", lambda: opened(small), lambda n: two_phase(small, max(1, n // 4))),
    ]


def main() -> int:
    """Ask all questions and print the answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for question, fresh, make in questions():
        batches = list(make(arguments.batches))
        rounds = [measure(fresh(), batches) for _ in range(arguments.rounds)]
        for metric, value in (
            ("fastest batch", max(answer[0] for answer in rounds)),
            ("all batches, best round", max(answer[1] for answer in rounds)),
            ("all batches, CPU time", max(answer[2] for answer in rounds)),
        ):
            if arguments.json:
                line = {
                    "question": question,
                    "system": "lockd ledger machine",
                    "metric": metric,
                    "value": round(value),
                    "unit": "transfers/s",
                }
                print(json.dumps(line))
            else:
                print(f"{question:66} {metric:24} {value:>12,.0f} transfers/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
