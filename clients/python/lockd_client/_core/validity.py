"""How long a session may be relied on: pessimistic arithmetic on a monotonic clock (semantics, section 2)."""

from __future__ import annotations

from dataclasses import dataclass

NANOS_PER_SECOND = 1_000_000_000
DRIFT_DIVISOR = 100
"""A hundredth of the ttl is kept as margin: the clocks of the client and the leader may run at slightly different speeds."""

KEEPALIVES_PER_TTL = 3
"""A keepalive goes out every third of the ttl, so that two may be lost."""

ANSWER_LIMIT = 2 * NANOS_PER_SECOND
"""A stream whose keepalive has no answer after this long (or after a third of the ttl) is given up."""


@dataclass(slots=True)
class Lease:
    """What is known of a session's life. All times are nanoseconds of one monotonic clock."""

    ttl: int
    """The session's time to live."""
    acknowledged: int
    """When the last keepalive that was acknowledged was sent: the service received it later, so it counts from later."""

    @property
    def valid_until(self) -> int:
        """After this the session may have expired."""
        return self.acknowledged + self.ttl - self.ttl // DRIFT_DIVISOR

    @property
    def interval(self) -> int:
        """Time between two keepalives."""
        return self.ttl // KEEPALIVES_PER_TTL

    @property
    def answer_limit(self) -> int:
        """How long a keepalive may stay unanswered before another connection is tried."""
        return min(self.interval, ANSWER_LIMIT)

    def renew(self, sent: int) -> None:
        """A keepalive that was sent at `sent` was acknowledged; answers that overtake each other never shorten the lease."""
        self.acknowledged = max(self.acknowledged, sent)

    def remaining(self, now: int) -> int:
        """Nanoseconds for which the session is certainly alive; 0 when that is over."""
        return max(0, self.valid_until - now)
