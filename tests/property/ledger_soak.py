"""A long comparison of machine and reference, by hand: `python -m tests.property.ledger_soak --events 1000000 --seed 1`.

One ledger lives for some hundred batches and is then replaced, because the reference takes time that grows with what it holds. On a
difference the seed that shows it is printed.
"""

from __future__ import annotations

import argparse
import sys
import time
from random import Random

from tests.property.ledger_batches import random_run


def main() -> int:
    """Run until so many events were compared; exit code 1 on the first difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    begun, events, seed = time.monotonic(), 0, arguments.seed
    statuses: dict[str, int] = {}
    while events < arguments.events:
        rng = Random(seed)
        try:
            pair = random_run(rng, rng.choice((20, 100, 200)), largest=rng.choice((4, 12, 60)), check_every=rng.choice((1, 10, 50)))
        except Exception as error:
            print(f"DIFFERENT with seed {seed}: {type(error).__name__}: {error}")
            raise
        for status, count in pair.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
            events += count
        seed += 1
    for status, count in sorted(statuses.items()):
        print(f"{count:>10} {status}")
    print(f"{events} events agree, seeds {arguments.seed} to {seed - 1}, {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
