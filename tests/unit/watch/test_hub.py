"""The ring and its watchers: exactly the suffix, in order, within bounds (semantics, section 9)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockd.watch.hub import CompactedError, Hub, HubLimits, SlowConsumerError, TooManyWatchersError, Watcher

SIZE = 10
ROOMY = HubLimits(ring_events=1_000, ring_bytes=10_000, backlog_events=500, backlog_bytes=5_000, watchers=4)


def make(limits: HubLimits = ROOMY) -> Hub:
    """A hub of numbers that weigh the same each; negative ones have nothing to show."""

    def encode(event: object, log_time: int) -> bytes:
        assert isinstance(event, int)
        return struct.pack("<qq", event, log_time) if event >= 0 else b""

    return Hub(encode, lambda events: SIZE * len(events), limits)


def follow(hub: Hub, start: int = 0, applied: int = 0) -> Watcher:
    """Watch everything."""
    return hub.watch(start, applied, lambda _: True, lambda: None)


def drain(hub: Hub, watcher: Watcher, applied: int = 0, most: int = 1_000) -> list[int]:
    """All that there is to take, in steps of `most`."""
    found: list[int] = []
    while True:
        taken = hub.take(watcher, applied, most=most)
        found += [struct.unpack("<qq", frame)[0] for frame in taken.frames]
        if not taken.more:
            return found


def test_a_watch_from_now_begins_after_what_is_applied() -> None:
    """Start 0 shows nothing that was applied before the watch began, and everything after."""
    hub = make()
    hub.append(3, 0, [30])
    watcher = follow(hub, applied=5)
    hub.append(6, 0, [60])
    assert drain(hub, watcher, 6) == [60]


def test_a_watch_from_an_old_revision_gets_what_the_ring_has() -> None:
    """All entries from the start revision on, whether or not that very revision had events."""
    hub = make()
    for revision in (2, 4, 6):
        hub.append(revision, 0, [revision * 10, revision * 10 + 1])
    assert drain(hub, follow(hub, 3)) == [40, 41, 60, 61]


def test_a_revision_that_has_not_happened_is_waited_for() -> None:
    """A node that lags behind the one that the client saw before shows nothing that the client has had."""
    hub = make()
    watcher = follow(hub, 5, applied=2)
    for revision in range(3, 8):
        hub.append(revision, 0, [revision])
    assert drain(hub, watcher, 7) == [5, 6, 7]


def test_progress_names_the_last_revision_that_is_complete() -> None:
    """An entry that was handed out in parts counts only with its last part; without events progress follows the log."""
    hub = make()
    watcher = follow(hub, 1)
    hub.append(4, 0, [1, 2, 3])
    first = hub.take(watcher, 4, most=2)
    assert (len(first.frames), first.progress, first.more) == (2, 3, True)
    assert hub.take(watcher, 4).progress == 4
    assert hub.take(watcher, 9).progress == 9


def test_the_ring_forgets_the_oldest_and_says_so() -> None:
    """Beyond its bound the ring drops whole entries; a start below the oldest is COMPACTED with what can be had."""
    hub = make(HubLimits(ring_events=3, ring_bytes=1_000, backlog_events=2, backlog_bytes=1_000))
    for revision in range(1, 6):
        hub.append(revision, 0, [revision])
    assert (hub.oldest, hub.events) == (3, 3)
    with pytest.raises(CompactedError) as refused:
        follow(hub, 2)
    assert refused.value.oldest == 3
    assert drain(hub, follow(hub, 3)) == [3, 4, 5]


def test_the_ring_is_bounded_by_bytes_too() -> None:
    """Few large events push out the old ones as many small ones do."""
    hub = make(HubLimits(ring_events=1_000, ring_bytes=3 * SIZE, backlog_events=1_000, backlog_bytes=3 * SIZE))
    for revision in range(1, 10):
        hub.append(revision, 0, [revision])
    assert (hub.oldest, hub.size) == (7, 3 * SIZE)


def test_one_entry_beyond_all_bounds_is_still_shown() -> None:
    """The newest entry is kept whatever its size, or its events would reach nobody."""
    hub = make(HubLimits(ring_events=2, ring_bytes=10, backlog_events=1, backlog_bytes=10))
    watcher = follow(hub)
    hub.append(1, 0, [1, 2, 3, 4])
    assert drain(hub, watcher) == [1, 2, 3, 4]


def test_a_live_watcher_that_misses_too_much_is_cut_while_it_can_resume() -> None:
    """The cut names a revision that the ring still has, and nothing is lost or repeated by resuming there."""
    hub = make(HubLimits(ring_events=100, ring_bytes=10_000, backlog_events=5, backlog_bytes=10_000))
    woken: list[bool] = []
    watcher = hub.watch(0, 0, lambda _: True, lambda: woken.append(True))
    hub.append(1, 0, [1])
    assert drain(hub, watcher, 1) == [1]
    for revision in range(2, 9):
        hub.append(revision, 0, [revision])
    with pytest.raises(SlowConsumerError) as cut:
        hub.take(watcher, 8)
    assert cut.value.resume == 2
    assert hub.watchers == 0
    assert woken
    assert drain(hub, follow(hub, cut.value.resume)) == [2, 3, 4, 5, 6, 7, 8]


def test_a_live_watcher_is_cut_by_bytes_too() -> None:
    """Few events, but large."""
    hub = make(HubLimits(ring_events=100, ring_bytes=10_000, backlog_events=100, backlog_bytes=2 * SIZE))
    watcher = follow(hub)
    drain(hub, watcher)
    for revision in range(1, 6):
        hub.append(revision, 0, [revision])
    with pytest.raises(SlowConsumerError):
        hub.take(watcher, 5)


def test_a_watcher_that_catches_up_may_lag_as_far_as_the_ring_goes() -> None:
    """One that began far back is not cut for being behind, only when the ring leaves it behind."""
    hub = make(HubLimits(ring_events=10, ring_bytes=10_000, backlog_events=2, backlog_bytes=10_000))
    for revision in range(1, 9):
        hub.append(revision, 0, [revision])
    watcher = follow(hub, 1)
    hub.append(9, 0, [9])
    hub.append(10, 0, [10])
    assert len(hub.take(watcher, 10, most=1).frames) == 1
    hub.append(11, 0, [11])
    assert hub.take(watcher, 11, most=1).frames
    hub.append(12, 0, [12])
    hub.append(13, 0, [13])
    with pytest.raises(SlowConsumerError) as cut:
        hub.take(watcher, 13)
    assert cut.value.resume == 3


def test_a_snapshot_cuts_those_who_have_not_seen_what_it_replaced() -> None:
    """Restart clears the ring: who waits for a later revision goes on, everybody else hears COMPACTED with the oldest."""
    hub = make()
    hub.append(1, 0, [1])
    behind, ahead = follow(hub, 1), follow(hub, 8, applied=1)
    hub.restart(7)
    with pytest.raises(CompactedError) as cut:
        hub.take(behind, 7)
    assert cut.value.oldest == 8
    hub.append(8, 0, [8])
    assert drain(hub, ahead, 8) == [8]
    with pytest.raises(CompactedError):
        follow(hub, 7)


def test_only_so_many_may_watch_and_who_leaves_makes_room() -> None:
    """The bound of watchers is refused beyond, and leaving twice is no error."""
    hub = make()
    watchers = [follow(hub) for _ in range(ROOMY.watchers)]
    with pytest.raises(TooManyWatchersError):
        follow(hub)
    hub.leave(watchers[0])
    hub.leave(watchers[0])
    follow(hub)


def test_an_event_is_encoded_once_and_only_if_somebody_wants_it() -> None:
    """All watchers share the bytes; nothing is encoded on the way from the log."""
    encoded: list[object] = []

    def encode(event: object, log_time: int) -> bytes:
        encoded.append((event, log_time))
        return b"x"

    hub = Hub(encode, len, ROOMY)
    hub.append(1, 77, ["a", "b"])
    assert encoded == []
    watchers = [hub.watch(1, 0, lambda event: event == "a", lambda: None) for _ in range(3)]
    assert [hub.take(watcher, 1).frames for watcher in watchers] == [[b"x"]] * 3
    assert encoded == [("a", 77)]


def test_a_look_is_bounded_although_nothing_passes() -> None:
    """A filter that passes nothing does not hold up the node: the look ends at its bound and says that there is more."""
    hub = make()
    hub.append(1, 0, list(range(10)))
    watcher = hub.watch(1, 0, lambda _: False, lambda: None)
    taken = hub.take(watcher, 1, look=4)
    assert (taken.frames, taken.more, taken.progress) == ([], True, 0)
    assert [hub.take(watcher, 1, look=4).more for _ in range(2)] == [True, False]


STEP = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 3), st.integers(0, 4)),
    st.tuples(st.just("watch"), st.integers(0, 12), st.booleans()),
    st.tuples(st.just("take"), st.integers(0, 5), st.integers(1, 4)),
    st.tuples(st.just("resume"), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("restart"), st.integers(0, 4), st.just(0)),
)


class Follower:
    """What one client of the model has seen, over all its watches."""

    def __init__(self, start: int, even: bool) -> None:
        self.start = start
        self.even = even
        self.resume = start
        self.seen: list[tuple[int, int]] = []
        self.watcher: Watcher | None = None
        self.skip = -1
        self.lost = False
        """A watch ended in COMPACTED: there is a gap, and the client knows it."""

    def accepts(self, event: object) -> bool:
        """Odd numbers do not pass those who want even ones."""
        return not self.even or (isinstance(event, int) and event % 2 == 0)


class World:
    """A hub, all that ever happened, and its followers."""

    def __init__(self) -> None:
        self.hub = make(HubLimits(ring_events=12, ring_bytes=1_000, backlog_events=6, backlog_bytes=1_000, watchers=100))
        self.applied = 0
        self.number = 0
        self.history: list[tuple[int, int]] = []
        self.followers: list[Follower] = []
        self.claims: list[bool] = []
        """Whether what refusals and cuts said was so."""

    def append(self, step: int, count: int) -> None:
        """One entry, after `step - 1` that had no events."""
        self.applied += step
        if count:
            events = list(range(self.number, self.number + count))
            self.number += count
            self.history += [(self.applied, event) for event in events]
            self.hub.append(self.applied, 0, events)

    def watch(self, follower: Follower) -> None:
        """Begin, or resume where the follower got to."""
        try:
            follower.watcher = self.hub.watch(follower.resume, self.applied, follower.accepts, lambda: None)
        except CompactedError as refused:
            self.claims.append(refused.oldest == self.hub.oldest)
            follower.lost = True
        else:
            follower.start = follower.start or self.applied + 1
            follower.resume = follower.watcher.resume
            follower.skip = follower.seen[-1][1] if follower.seen else -1

    def take(self, follower: Follower, most: int) -> None:
        """One response; a client that resumes passes over what it has seen of an entry that came in parts."""
        assert follower.watcher is not None
        try:
            taken = self.hub.take(follower.watcher, self.applied, most=most)
        except SlowConsumerError as cut:
            self.claims.append(cut.resume == follower.resume)
            follower.watcher = None
            return
        except CompactedError:
            follower.watcher, follower.lost = None, True
            return
        revisions = {event: revision for revision, event in self.history}
        for frame in taken.frames:
            event = struct.unpack("<qq", frame)[0]
            # Only what comes after a resume may have been seen before.
            if event > follower.skip:
                follower.seen.append((revisions[event], event))
        assert taken.progress + 1 >= follower.resume
        follower.resume = taken.progress + 1

    def check(self) -> None:
        """Every follower has seen exactly what it wanted up to where it got, once and in order."""
        assert all(self.claims)
        for follower in self.followers:
            wanted = [(r, e) for r, e in self.history if r >= follower.start and follower.accepts(e)]
            assert follower.seen == wanted[: len(follower.seen)]
            assert [x for x in wanted if x[0] < follower.resume] == [x for x in follower.seen if x[0] < follower.resume]
        assert self.hub.events <= 12 or len(list(self.hub.since(0))) == 1


def act(world: World, kind: str, one: int, two: int | bool) -> None:
    """Carry out one step of the script."""
    if kind == "append":
        world.append(one, int(two))
    elif kind == "restart":
        # A snapshot takes the place of entries that this node never sees.
        world.applied += one
        world.hub.restart(world.applied)
    elif kind == "watch":
        world.followers.append(Follower(one, bool(two)))
        world.watch(world.followers[-1])
    elif world.followers:
        follower = world.followers[one % len(world.followers)]
        if follower.lost:
            return
        if kind == "resume":
            if follower.watcher is not None:
                world.hub.leave(follower.watcher)
            world.watch(follower)
        elif follower.watcher is not None:
            world.take(follower, int(two))


@given(st.lists(STEP, max_size=60))
def test_any_interleaving_gives_exactly_the_suffix(script: Sequence[tuple[str, int, int | bool]]) -> None:
    """However appends, watches, cuts, resumes and snapshots interleave: no gap, no duplicate, in order, or an honest COMPACTED."""
    world = World()
    for kind, one, two in script:
        act(world, kind, one, two)
        world.check()
    for follower in world.followers:
        if not follower.lost and follower.watcher is None:
            world.watch(follower)
        while not follower.lost and follower.watcher is not None and follower.resume <= world.applied:
            world.take(follower, 3)
        if not follower.lost and follower.watcher is not None:
            wanted = [(r, e) for r, e in world.history if r >= follower.start and follower.accepts(e)]
            assert follower.seen == wanted
