"""Choice of node, hints, pauses; validity arithmetic."""

from __future__ import annotations

import pytest

from lockd_client._core.endpoints import FIRST_PAUSE, LONGEST_PAUSE, Endpoints, parse_endpoints, pause
from lockd_client._core.validity import Lease
from lockd_client.errors import InvalidArgument

SECOND = 1_000_000_000


def test_addresses_are_tried_in_turn() -> None:
    """A node that does not serve is followed by the next, round and round."""
    book = Endpoints(["a:1", "b:1", "c:1"])
    seen = []
    for _ in range(4):
        address = book.choose()
        seen.append(address)
        book.failed(address)
    assert seen == ["a:1", "b:1", "c:1", "a:1"]


def test_a_hint_is_followed_at_once() -> None:
    """The address of the leader is tried next and without a pause, even if it was not known."""
    book = Endpoints(["a:1", "b:1"])
    book.redirected("a:1", "z:9")
    assert book.choose() == "z:9"
    assert book.pause(0.5) == 0
    assert book.addresses == ("a:1", "b:1", "z:9")


def test_hints_in_circles_are_slowed_down() -> None:
    """Two nodes that name each other do not make the client spin."""
    book = Endpoints(["a:1", "b:1"])
    book.redirected("a:1", "b:1")
    book.redirected("b:1", "a:1")
    assert book.pause(0.0) > 0


def test_a_node_that_names_itself_is_left() -> None:
    """A hint to the node that gave it leads on to another one."""
    book = Endpoints(["a:1", "b:1"])
    book.redirected("a:1", "a:1")
    assert book.choose() == "b:1"


def test_success_sticks_and_clears_the_pauses() -> None:
    """The leader is asked until it fails."""
    book = Endpoints(["a:1", "b:1"])
    book.failed("a:1")
    book.succeeded("b:1")
    assert (book.choose(), book.failures, book.pause(0.9)) == ("b:1", 0, 0)
    book.failed("b:1")
    assert book.choose() == "a:1"


def test_pauses_grow_within_bounds() -> None:
    """From 10 ms, doubling to 500 ms, jittered over the upper half."""
    assert pause(0, 0.5) == 0
    assert FIRST_PAUSE // 2 <= pause(1, 0.0) <= pause(1, 0.999) < FIRST_PAUSE
    assert pause(2, 0.0) == FIRST_PAUSE
    assert LONGEST_PAUSE // 2 <= pause(50, 0.0) < pause(50, 0.999) < LONGEST_PAUSE


def test_endpoints_are_parsed() -> None:
    """Commas, spaces, repetitions and lists are understood."""
    assert parse_endpoints(" a:1, b:2 ,,a:1") == ["a:1", "b:2"]
    assert parse_endpoints(["[::1]:7601"]) == ["[::1]:7601"]


@pytest.mark.parametrize("text", ["", " , ", "a", "a:", ":1", "a:0", "a:65536", "a:x"])
def test_bad_endpoints_are_refused(text: str) -> None:
    """What is not host:port is named, before anything is tried."""
    with pytest.raises(InvalidArgument) as caught:
        parse_endpoints(text)
    assert caught.value.violations[0].field == "endpoints"


def test_validity_counts_from_the_sending() -> None:
    """A session is certain until its ttl, less one per cent, after the last acknowledged keepalive was sent."""
    lease = Lease(10 * SECOND, 5 * SECOND)
    assert lease.valid_until == 14_900_000_000
    assert lease.remaining(14 * SECOND) == 900_000_000
    assert lease.remaining(20 * SECOND) == 0
    assert lease.interval == 10 * SECOND // 3


def test_a_late_answer_never_shortens_validity() -> None:
    """Answers that overtake each other leave the best one in force."""
    lease = Lease(10 * SECOND, 5 * SECOND)
    lease.renew(8 * SECOND)
    lease.renew(6 * SECOND)
    assert lease.acknowledged == 8 * SECOND
