"""Random steps for the machine beside its reference, for as long as one likes.

python -m tests.property.machine_soak --steps 1000000 --seed 1
"""

from __future__ import annotations

import argparse
from random import Random

from tests.property.lock_reference import RefClaim
from tests.property.machine_pair import FOREVER, Pair

RESOURCES = ("a", "b", "a/x", "a/y", "a/x/1", "a/x/2", "b/z", "b/z/1")
WAITS = (0, FOREVER, FOREVER, 5, 50, 500)


class Steps:
    """Draws steps from one Random; the same seed gives the same steps."""

    def __init__(self, seed: int, sessions: int = 6) -> None:
        self.rng = Random(seed)
        self.most = sessions
        self.pair = Pair(self.rng.choice((1, 3, 100)))
        self.few = self.rng.random() < 0.5

    def step(self) -> None:
        """One more step."""
        rng, pair = self.rng, self.pair
        elapsed = rng.choice((1, 1, 1, 2, 10)) if rng.random() < 0.97 else rng.randrange(300)
        sessions = sorted(pair.clients)
        if not sessions or (len(sessions) < self.most and rng.random() < 0.2):
            pair.open(elapsed, rng.choice((100, 1_000, 10_000)))
            return
        session = rng.choice(sessions)
        kind = rng.randrange(100)
        if kind < 45:
            pair.acquire(elapsed, session, self._claims(), rng.choice(WAITS), rng.choice((0, 0, 0, 20, 200)))
        elif kind < 72:
            self._release(elapsed, session)
        elif kind < 80:
            resource = self._held(session) or self._resource()
            pair.convert(elapsed, session, resource, rng.randrange(1, 7), rng.choice(WAITS))
        elif kind < 86:
            pair.cancel(
                elapsed, session, rng.randrange(max(1, pair.clients[session].next_request - 8), pair.clients[session].next_request + 1)
            )
        elif kind < 89:
            pair.tick(elapsed, reign=rng.random() < 0.2)
        elif kind < 93:
            pair.keep_alive(elapsed, session)
        elif kind < 95:
            pair.close(elapsed, session)
        elif kind < 97:
            pair.force(elapsed, self._resource())
        else:
            pair.restore()

    def _resource(self) -> str:
        return self.rng.choice(RESOURCES[:4] if self.few else RESOURCES)

    def _claims(self) -> list[RefClaim]:
        rng = self.rng
        claims: dict[str, RefClaim] = {}
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            if rng.random() < 0.15:
                resource, limit = rng.choice(("pool", "a/pool", "b")), rng.choice((1, 3, 3, 3))
                claims[resource] = RefClaim(resource, 0, rng.randrange(1, limit + 1), limit)
            else:
                resource = self._resource()
                claims[resource] = RefClaim(resource, rng.choice((1, 2, 3, 3, 4, 5, 6, 6)))
        return list(claims.values())

    def _held(self, session: int) -> str | None:
        held = [resource for holder, resource in self.pair.reference.holds if holder == session]
        return self.rng.choice(held) if held else None

    def _release(self, elapsed: int, session: int) -> None:
        rng, holds = self.rng, self.pair.reference.holds
        resource = self._held(session)
        if resource is None or rng.random() < 0.1:
            resource = self._resource()
        tokens = [token for (_, name), hold in holds.items() if name == resource for token in hold.tokens]
        own = holds.get((session, resource))
        if own is not None and rng.random() < 0.9:
            tokens = own.tokens[-2:]
        self.pair.release(elapsed, session, resource, rng.choice(tokens) if tokens and rng.random() < 0.97 else rng.randrange(1 << 40))


def main() -> None:
    """Run until the steps are done or something differs; then the seed says how to see it again."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run", type=int, default=500, help="steps with one machine before the next begins")
    options = parser.parse_args()
    seed, done = options.seed, 0
    while done < options.steps:
        steps = Steps(seed)
        for step in range(options.run):
            try:
                steps.step()
                if step % 10 == 0:
                    steps.pair.machine.check_invariants()
            except BaseException:
                print(f"--seed {seed} --steps {step + 1}")
                raise
        done += options.run
        seed += 1
    print(f"{done} steps, seeds {options.seed} to {seed - 1}: no difference")


if __name__ == "__main__":
    main()
