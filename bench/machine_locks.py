"""What does a lock cost the pure machine: alone, in a crowd, in deadlocks, at expiry?

`python -m bench.machine_locks [--json]`. CPU time of one process on one core; log and network are not part of it. Medians and worst
steps are over single log entries; where an entry carries many requests, its time is divided among them.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from random import Random

from bench.common import Report, percentile
from lockd.machine import commands as c
from lockd.machine.results import Applied, Granted
from lockd.machine.state import Machine
from lockd.machine.types import FOREVER, Limits, LockMode, RequestId, Resource, SessionId

SECOND = 10**9
HOUR = 3600 * SECOND
US, MS = 1e6, 1e3


class Driver:
    """A machine, and the time that each of its entries took."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.machine = Machine(limits or Limits())
        self.index = 0
        self.now = 1_000 * SECOND
        self.next_request: dict[int, int] = {}

    def apply(self, requests: Sequence[c.Request], after: int = 1_000) -> tuple[Applied, float]:
        """One entry, and its CPU seconds."""
        self.index += 1
        self.now += after
        entry = c.LogEntry(self.now, tuple(requests))
        began = time.process_time()
        applied = self.machine.apply(self.index, entry)
        return applied, time.process_time() - began

    def open(self, count: int, ttl: int = HOUR) -> list[SessionId]:
        """Sessions, opened in entries of a thousand."""
        before = set(self.machine.sessions.live)
        opening = c.Request(SessionId(0), RequestId(0), RequestId(0), c.OpenSession(ttl, "bench"))
        for start in range(0, count, 1_000):
            self.apply([opening] * min(1_000, count - start))
        return [session for session in self.machine.sessions.live if session not in before]

    def request(self, session: SessionId, command: c.Command) -> c.Request:
        """A request of a session that acknowledges all answers before it."""
        number = self.next_request[session] = self.next_request.get(session, 0) + 1
        return c.Request(session, RequestId(number), RequestId(number), command)


def acquire(path: str, wait: int = 0, mode: LockMode = LockMode.EXCLUSIVE, delay: int = 0) -> c.Acquire:
    """Ask for one resource."""
    return c.Acquire((c.Claim(Resource(path), mode),), wait, delay)


def release(applied: Applied, place: int) -> c.Release:
    """Give back what an acquire got."""
    granted = applied.results[place]
    if not isinstance(granted, Granted):
        raise TypeError(f"not granted: {granted}")
    return c.Release(tuple([c.Guard(hold.resource, hold.token) for hold in granted.holds]))


def uncontended(report: Report) -> None:
    """One session takes and gives back t/<n>, a thousand to an entry."""
    driver = Driver()
    (session,) = driver.open(1)
    taken, given = [], []
    for entry in range(60):
        asked = [driver.request(session, acquire(f"t/{entry * 1_000 + n}")) for n in range(1_000)]
        applied, seconds = driver.apply(asked)
        taken.append(seconds / 1_000)
        _, seconds = driver.apply([driver.request(session, release(applied, place)) for place in range(1_000)])
        given.append(seconds / 1_000)
    for metric, times in (("acquire", taken), ("release", given)):
        report.add("uncontended lock of a 2-part path", "lockd machine", f"{metric}, median", percentile(times, 0.5) * US, "us")
        report.add("uncontended lock of a 2-part path", "lockd machine", f"{metric}, best", min(times) * US, "us")


def keepalives(report: Report, sessions: int = 50_000) -> None:
    """All of many sessions give a sign of life, a thousand to an entry; next_due is asked after each entry."""
    driver = Driver()
    live = driver.open(sessions, 30 * SECOND)
    times = []
    for _ in range(3):
        for start in range(0, sessions, 1_000):
            signs = [c.Request(s, RequestId(0), RequestId(0), c.KeepAlive()) for s in live[start : start + 1_000]]
            _, seconds = driver.apply(signs, after=SECOND // 10)
            began = time.process_time()
            driver.machine.next_due()
            times.append((seconds + time.process_time() - began) / 1_000)
    question = f"keepalive among {sessions:,} sessions"
    report.add(question, "lockd machine", "keepalive, median", percentile(times, 0.5) * US, "us")
    report.add(question, "lockd machine", "worst entry of 1,000", max(times) * 1_000 * MS, "ms")


def queue(report: Report, waiters: int = 10_000) -> None:
    """Many sessions wait for one lock, then get it one after another."""
    driver = Driver()
    holder, *crowd = driver.open(waiters + 1)
    applied, _ = driver.apply([driver.request(holder, acquire("t/hot"))])
    give = release(applied, 0)
    joining = [driver.apply([driver.request(session, acquire("t/hot", FOREVER))])[1] for session in crowd]
    leaving = []
    for _ in range(waiters):
        applied, seconds = driver.apply([driver.request(holder, give)])
        leaving.append(seconds)
        completion = applied.completions[0]
        holder = completion.session
        if not isinstance(completion.result, Granted):
            raise TypeError("the wait failed")
        give = c.Release((c.Guard(Resource("t/hot"), completion.result.holds[0].token),))
    _steps(report, f"{waiters:,} wait for one lock", (("wait", joining), ("release and grant", leaving)))


def scattered(report: Report, waiters: int = 10_000) -> None:
    """Many rows of one table are held, each with one waiter; a release must not look at the waiters of other rows."""
    driver = Driver()
    holders, crowd = driver.open(waiters), driver.open(waiters)
    gives = []
    for number, session in enumerate(holders):
        applied, _ = driver.apply([driver.request(session, acquire(f"t/{number}"))])
        gives.append(release(applied, 0))
    joining = [driver.apply([driver.request(s, acquire(f"t/{n}", FOREVER))])[1] for n, s in enumerate(crowd)]
    leaving = [driver.apply([driver.request(s, give)])[1] for s, give in zip(holders, gives, strict=True)]
    _steps(report, f"{waiters:,} rows of a table, one waiter each", (("wait", joining), ("release and grant", leaving)))


def deadlocks(report: Report, waiters: int = 10_000) -> None:
    """Rings of 2 to 50 sessions, closed one request after another, until ten thousand requests have waited."""
    driver, rng = Driver(), Random(1)
    sessions = driver.open(waiters)
    steps, closing, place = [], [], 0
    while place < waiters - 50:
        size = rng.randrange(2, 51)
        ring = sessions[place : place + size]
        place += size
        driver.apply([driver.request(session, acquire(f"r/{session}")) for session in ring])
        for number, session in enumerate(ring):
            target = ring[(number + 1) % size]
            applied, seconds = driver.apply([driver.request(session, acquire(f"r/{target}", FOREVER))])
            steps.append(seconds)
            if number == size - 1:
                closing.append(seconds)
                if applied.results[0] is None:
                    raise RuntimeError("the cycle was not seen")
    _steps(report, f"{waiters:,} waiters in rings of 2 to 50", (("wait", steps), ("closing a ring", closing)))


def tangle(report: Report, sessions: int = 2_000, steps: int = 10_000) -> None:
    """Sessions that hold several of few locks and ask for more at random: long queues, conversions and cycles at once."""
    driver, rng = Driver(), Random(2)
    live = driver.open(sessions)
    modes = (LockMode.SHARED, LockMode.SHARED, LockMode.UPDATE, LockMode.EXCLUSIVE)
    times = []
    for _ in range(steps):
        claims = tuple([c.Claim(Resource(f"t/{n}"), rng.choice(modes)) for n in rng.sample(range(sessions // 2), 2)])
        _, seconds = driver.apply([driver.request(rng.choice(live), c.Acquire(claims, FOREVER))])
        times.append(seconds)
    report.add(
        f"{steps:,} random acquires of 2 by {sessions:,} sessions",
        "lockd machine",
        "still waiting",
        len(driver.machine.locks.waiters),
        "requests",
    )
    _steps(report, f"{steps:,} random acquires of 2 by {sessions:,} sessions", (("acquire", times),))


def expiry(report: Report, sessions: int = 10_000) -> None:
    """Sessions with two holds each are lost at once; each entry ends a thousand of them."""
    for name, delay in (("", 0), (" with lock delay", SECOND)):
        driver = Driver()
        live = driver.open(sessions, 10 * SECOND)
        for start in range(0, sessions, 1_000):
            part = live[start : start + 1_000]
            driver.apply([driver.request(s, acquire(f"t/{s}/{n}", delay=delay)) for s in part for n in (1, 2)])
        driver.apply([], after=20 * SECOND)
        times = []
        while (due := driver.machine.next_due()) is not None and due <= driver.now:
            times.append(driver.apply([])[1])
        question = f"expiry of {sessions:,} sessions with 2 holds{name}"
        report.add(question, "lockd machine", "worst entry of 1,000", max(times) * MS, "ms")
        report.add(question, "lockd machine", "a session, mean", sum(times) / len(times) / 1_000 * US, "us")


def snapshots(report: Report, sessions: int = 20_000) -> None:
    """Export and restore of sessions with five locks each."""
    driver = Driver()
    for session in driver.open(sessions):
        driver.apply(
            [driver.request(session, c.Acquire(tuple([c.Claim(Resource(f"t/{session}/{n}"), LockMode.EXCLUSIVE) for n in range(5)]), 0))]
        )
    began = time.process_time()
    rows = list(driver.machine.export())
    exported = time.process_time()
    Machine.restore(rows)
    restored = time.process_time()
    question = f"{sessions * 5:,} locks of {sessions:,} sessions"
    report.add(question, "lockd machine", "export", exported - began, "s")
    report.add(question, "lockd machine", "restore", restored - exported, "s")


def _steps(report: Report, question: str, series: Sequence[tuple[str, Sequence[float]]]) -> None:
    for metric, times in series:
        report.add(question, "lockd machine", f"{metric}, median", percentile(times, 0.5) * US, "us")
        report.add(question, "lockd machine", f"{metric}, worst", max(times) * MS, "ms")


QUESTIONS: dict[str, Callable[[Report], None]] = {
    "uncontended": uncontended,
    "keepalives": keepalives,
    "queue": queue,
    "scattered": scattered,
    "deadlocks": deadlocks,
    "tangle": tangle,
    "expiry": expiry,
    "snapshots": snapshots,
}


def main() -> None:
    """Ask all questions, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("questions", nargs="*", choices=[*QUESTIONS, []], help="all, if none is named")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = Report(options.json)
    # What other processes do to this one's caches is noise; what its own collector does is not, so that it stays on.
    reference = min(_reference() for _ in range(5))
    report.add("speed of this machine", "CPython", "dict look-up in a loop", reference * 1e9, "ns")
    for name in options.questions or QUESTIONS:
        gc.collect()
        QUESTIONS[name](report)
    report.close("The cost of locks in the pure machine")


def _reference() -> float:
    known: dict[int, int] = {}
    began = time.process_time()
    for number in range(300_000):
        known.get(number)
    return (time.process_time() - began) / 300_000


if __name__ == "__main__":
    main()
