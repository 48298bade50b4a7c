"""The client's half of a watch: what it asks for next, what it has seen, and when it gives up (semantics, sections 8 and 9)."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockd.v1 import watch_pb2 as pb
from lockd_client import ledger_model
from lockd_client._core import watching
from lockd_client._core.ledger_codec import pack_accounts, pack_transfers
from lockd_client._core.records import accounts, transfers
from lockd_client._core.watching import Progress, Search, event
from lockd_client.errors import InvalidArgument
from lockd_client.watch_model import Event, EventKind, LockDelayEnded, WatchFilter

Place = tuple[int, int]


def response(places: Sequence[Place], progress: int) -> pb.WatchResponse:
    """A response with events at these places."""
    events = [pb.WatchEvent(revision=r, position=p, lock_delay_ended=pb.LockDelayEnded(resource="a")) for r, p in places]
    return pb.WatchResponse(events=events, progress_revision=progress)


def test_a_watch_from_now_is_resumed_where_it_began() -> None:
    """The first response fixes the beginning, so that a reconnect before any event loses none."""
    progress = Progress((), 0, None)
    assert progress.request(1.0).start_revision == 0
    progress.take(response((), 41))
    assert progress.request(1.0).start_revision == 42


def test_an_entry_in_parts_is_asked_for_again_and_shown_once() -> None:
    """Resuming in the middle of an entry repeats its beginning, which is passed over."""
    progress = Progress((), 5, None)
    assert [e.place for e in progress.take(response([(5, 0), (5, 1)], 4))] == [(5, 0), (5, 1)]
    assert progress.request(1.0).start_revision == 5
    assert [e.place for e in progress.take(response([(5, 0), (5, 1), (5, 2)], 5))] == [(5, 2)]
    assert progress.request(1.0).start_revision == 6


def test_after_a_place_the_rest_of_its_entry_comes_first() -> None:
    """`after` is exact inside an entry."""
    progress = Progress((), 0, (5, 1))
    assert progress.request(1.0).start_revision == 5
    assert [e.place for e in progress.take(response([(5, 0), (5, 1), (5, 2), (6, 0)], 6))] == [(5, 2), (6, 0)]


@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=12))
def test_any_cuts_give_every_event_once(sizes: list[int], rounds: list[tuple[bool, int]]) -> None:
    """Connections may end anywhere, with any amount repeated by the next: what is shown is the log, once and in order."""
    log = [(revision + 1, position) for revision, size in enumerate(sizes) for position in range(size)]
    progress = Progress((), 1, None)
    shown: list[Place] = []
    sent = 0
    for goes_on, count in [*rounds, (False, len(log))]:
        if not goes_on:
            # A new connection begins with the whole of the entry that is not complete.
            sent = sum(place[0] < progress.next_revision for place in log)
        part = log[sent : sent + count]
        sent += len(part)
        complete = log[sent][0] - 1 if sent < len(log) else len(sizes)
        shown += [e.place for e in progress.take(response(part, complete))]
    assert shown == log


def test_an_empty_filter_among_others_passes_everything() -> None:
    """Any of the filters may pass an event, and an empty one passes all."""
    one = WatchFilter(kinds=(EventKind.LOCKS,), prefix="a")
    assert len(Progress([one], 0, None).request(1.0).filters) == 1
    assert len(Progress([one, WatchFilter()], 0, None).request(1.0).filters) == 0


@pytest.mark.parametrize(("start", "after"), [(-1, None), (0, (0, 0)), (0, (1, -1)), (3, (3, 0))])
def test_a_beginning_that_makes_no_sense_is_refused(start: int, after: Place | None) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidArgument):
        Progress((), start, after)


def test_only_when_all_nodes_have_forgotten_the_watch_ends() -> None:
    """COMPACTED at one node is no end while another one has not been asked; the end names the most that is remembered."""
    search = Search()
    search.compacted("a", 9)
    assert search.given_up(["a", "b"]) is None
    search.compacted("b", 7)
    gone = search.given_up(["a", "b"])
    assert gone is not None
    assert gone.oldest_revision == 7


def test_nodes_that_do_not_answer_are_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead node may remember what the others forgot, but the watch does not hope for ever; an answer makes all well."""
    now = time.monotonic_ns()
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    search = Search()
    search.compacted("a", 9)
    search.failed("b")
    assert search.given_up(["a", "b"]) is None
    now += watching.SILENT_NODES_LIMIT
    assert search.given_up(["a", "b"]) is not None
    search.answered()
    assert search.given_up(["a", "b"]) is None
    search.failed("a")
    search.failed("b")
    now += watching.SILENT_NODES_LIMIT
    assert search.given_up(["a", "b"]) is None


def test_an_event_of_a_newer_service_keeps_its_place() -> None:
    """What this client does not know is an Event, not an error."""
    assert event(pb.WatchEvent(revision=3, position=1)) == Event(3, 1, 0)
    assert isinstance(event(response([(1, 0)], 1).events[0]), LockDelayEnded)


def test_records_are_unpacked_as_they_are_packed() -> None:
    """Accounts and transfers survive the 128-byte form, with every field at its own value."""
    account = ledger_model.Account(2**127 + 1, 2, 3, 4, 2**126 + 5, 6, 7, 2**125 + 8, 2**124 + 9, 10, 11, 12)
    assert accounts(pack_accounts([account, account])) == (account, account)
    transfer = ledger_model.Transfer(2**127 + 1, 2**126 + 2, 3, 2**125 + 4, 5, 6, 7, 2**124 + 8, 9, 2**123 + 10, 11, 12, 13, b"m")
    assert transfers(pack_transfers([transfer]), (b"m",)) == (transfer,)
