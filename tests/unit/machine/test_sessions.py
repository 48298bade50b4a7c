"""Sessions: liveness by log time, and requests that are harmless to repeat (semantics, section 2)."""

from __future__ import annotations

import pytest

from lockd.machine import commands as c
from lockd.machine import events
from lockd.machine import results as r
from lockd.machine.types import FOREVER, Limits, RequestId, Resource, SessionId
from tests.unit.machine.rig import SECOND, Rig, acquire, claim, guard

EXPIRED = ("FAILED_PRECONDITION", "SESSION_EXPIRED")


def test_a_session_lives_for_its_ttl_and_not_longer() -> None:
    """Without a keepalive the session expires at exactly ttl after its opening, never a nanosecond before."""
    rig = Rig()
    session = rig.open("ann", ttl=10 * SECOND)
    assert rig.machine.next_due() == rig.now + 10 * SECOND
    rig.tick(10 * SECOND - 1)
    assert session in rig.machine.sessions.live
    rig.tick(1)
    assert session not in rig.machine.sessions.live
    assert rig.events == [events.SessionExpired(rig.machine.index, 0, session, "ann")]
    assert rig.refusal("ann", c.KeepAlive()) == EXPIRED


def test_a_keepalive_extends_from_the_log_time_at_which_it_is_applied() -> None:
    """Each keepalive makes the session live ttl from then; the answer says until when."""
    rig = Rig()
    rig.open("ann", ttl=10 * SECOND)
    for _ in range(5):
        kept = rig.get(r.KeptAlive, "ann", c.KeepAlive(), after=9 * SECOND)
        assert kept == r.KeptAlive(10 * SECOND, rig.now + 10 * SECOND)
    rig.tick(10 * SECOND)
    assert rig.refusal("ann", c.KeepAlive()) == EXPIRED


def test_other_requests_do_not_keep_a_session_alive() -> None:
    """Only keepalives extend: what counts is that the client's clock of life reaches the leader."""
    rig = Rig()
    rig.open("ann", ttl=10 * SECOND)
    rig.ask("ann", acquire("a"), after=9 * SECOND)
    rig.tick(SECOND)
    assert rig.refusal("ann", acquire("b")) == EXPIRED


def test_a_new_reign_gives_every_session_a_full_ttl_once() -> None:
    """The first entry of a reign extends each live session to log time plus its ttl; the entries after it do not."""
    rig = Rig()
    rig.open("ann", ttl=10 * SECOND)
    rig.tick(10 * SECOND - 1, reign=True)
    rig.tick(10 * SECOND - 1)
    assert rig.names["ann"] in rig.machine.sessions.live
    rig.tick(1)
    assert rig.names["ann"] not in rig.machine.sessions.live


def test_a_new_reign_saves_a_session_whose_time_ran_out_without_a_leader() -> None:
    """Expiry never happens early: a session that nobody could keep alive while there was no leader lives on."""
    rig = Rig()
    rig.open("ann", ttl=SECOND)
    rig.tick(60 * SECOND, reign=True)
    assert rig.names["ann"] in rig.machine.sessions.live


def test_a_new_reign_raises_nobody_from_the_dead() -> None:
    """A session that the log has already seen over, though its end was not carried out yet, stays over."""
    rig = Rig(Limits(expiries_per_entry=1))
    rig.open("ann", ttl=SECOND)
    rig.open("bob", ttl=SECOND)
    rig.tick(2 * SECOND)
    assert rig.refusal("bob", c.KeepAlive()) == EXPIRED
    rig.open("cid", ttl=SECOND)
    rig.open("dan", ttl=SECOND)
    rig.tick(2 * SECOND)
    rig.tick(1, reign=True)
    assert rig.names["dan"] not in rig.machine.sessions.live


def test_log_time_never_goes_back() -> None:
    """An entry stamped earlier than the one before is applied at the time of the one before."""
    rig = Rig()
    rig.open("ann")
    before = rig.machine.log_time
    rig.apply(after=-50 * SECOND)
    assert rig.machine.log_time == before


def test_expiry_is_carried_out_in_bounded_portions_in_order_of_time() -> None:
    """At most expiries_per_entry sessions end in one entry, the earliest first; the rest are over already for whoever asks."""
    rig = Rig(Limits(expiries_per_entry=2))
    for number in range(5):
        rig.open(f"s{number}", ttl=(9 - number) * SECOND)
    rig.tick(20 * SECOND)
    assert [event.owner for event in rig.events if isinstance(event, events.SessionExpired)] == ["s4", "s3"]
    due = rig.machine.next_due()
    assert due is not None
    assert due <= rig.now
    rig.apply(rig.request("s0", c.KeepAlive()))
    assert [event.owner for event in rig.events if isinstance(event, events.SessionExpired)] == ["s2", "s1"]
    assert rig.refusal("s0", c.KeepAlive()) == EXPIRED
    assert rig.machine.next_due() is None


def test_session_ids_are_never_used_again() -> None:
    """Ids grow, also within one entry and after sessions have ended."""
    rig = Rig()
    opened = [rig.apply(*[rig.request("", c.OpenSession(SECOND, "x"), 0)] * 3).results for _ in range(3)]
    ids = [result.session for results in opened for result in results if isinstance(result, r.SessionOpened)]
    rig.tick(60 * SECOND)
    ids.append(rig.open("again"))
    assert ids == sorted(set(ids))
    assert len(ids) == 10


def test_closing_frees_everything_in_the_same_entry_without_lock_delay() -> None:
    """Holds go to those who wait in the entry that closes the session; lock delay is for the lost only."""
    rig = Rig()
    rig.open("ann")
    rig.open("bob")
    rig.token("ann", "a", "b", delay=60 * SECOND)
    waiting = rig.wait("bob", "a", "b")
    assert rig.ask("ann", c.CloseSession()) == r.SessionClosed()
    assert rig.done() == {("bob", waiting): "granted"}
    assert [type(event).__name__ for event in rig.events] == ["SessionClosed", "LockReleased", "LockReleased", "LockGranted", "LockGranted"]


def test_closing_ends_the_sessions_own_waits() -> None:
    """A request that waits is told that its session is over."""
    rig = Rig()
    rig.open("ann")
    rig.open("bob")
    rig.token("ann", "a")
    waiting = rig.wait("bob", "a")
    rig.ask("bob", c.CloseSession())
    assert rig.done() == {("bob", waiting): "SESSION_EXPIRED"}


def test_closing_twice_is_closing_once() -> None:
    """A repeated CloseSession, whose first reply was lost, is answered like the first."""
    rig = Rig()
    rig.open("ann")
    assert rig.ask("ann", c.CloseSession()) == r.SessionClosed()
    assert rig.ask("ann", c.CloseSession()) == r.SessionClosed()
    assert rig.events == []


@pytest.mark.parametrize(
    "command",
    [
        acquire("a"),
        c.Release((guard("a", 1),)),
        c.KeepAlive(),
        c.CancelAcquire(RequestId(1)),
        c.Transact((), (), (c.PutRow(Resource("a"), b""),)),
        c.CreateAccounts(b""),
    ],
    ids=lambda command: type(command).__name__,
)
def test_nothing_happens_in_the_name_of_a_session_that_is_over(command: c.Command) -> None:
    """Commands of a closed session are refused with SESSION_EXPIRED, those of one that never was with SESSION_UNKNOWN."""
    rig = Rig()
    rig.open("ann")
    rig.ask("ann", c.CloseSession())
    rig.names["nobody"] = SessionId(rig.names["ann"] + (1 << 40))
    assert rig.refusal("ann", command) == EXPIRED
    assert rig.refusal("nobody", command) == ("FAILED_PRECONDITION", "SESSION_UNKNOWN")
    assert not rig.machine.locks.locks
    assert not len(rig.machine.rows)


@pytest.mark.parametrize("command", [acquire("a"), c.Release((guard("a", 1),)), c.KeepAlive(), c.CloseSession()], ids=repr)
def test_commands_on_locks_need_a_session(command: c.Command) -> None:
    """Without a session id they are refused with SESSION_REQUIRED."""
    assert Rig().refusal("", command) == ("INVALID_ARGUMENT", "SESSION_REQUIRED")


@pytest.mark.parametrize(
    ("ttl", "owner", "reason"),
    [
        (SECOND - 1, "x", "INVALID_TTL"),
        (3600 * SECOND + 1, "x", "INVALID_TTL"),
        (-1, "x", "INVALID_TTL"),
        (SECOND, "x" * 129, "INVALID_OWNER"),
        (SECOND, "é" * 65, "INVALID_OWNER"),
        (SECOND, "\ud800", "INVALID_OWNER"),
    ],
)
def test_opening_keeps_to_the_limits(ttl: int, owner: str, reason: str) -> None:
    """A ttl outside 1 s to 1 h and an owner label of more than 128 bytes, or that is no text, are refused."""
    assert Rig().refusal("", c.OpenSession(ttl, owner)) == ("INVALID_ARGUMENT", reason)


def test_the_number_of_sessions_is_bounded() -> None:
    """One session more than the limit is RESOURCE_EXHAUSTED; when one has gone there is room again."""
    rig = Rig(Limits(sessions=2))
    rig.open("ann")
    rig.open("bob")
    assert rig.refusal("", c.OpenSession(SECOND, "x")) == ("RESOURCE_EXHAUSTED", "TOO_MANY_SESSIONS")
    rig.ask("ann", c.CloseSession())
    rig.open("cid")


# --- retries -------------------------------------------------------------------------------------------------------------------


def test_a_retry_gets_the_first_answer_and_applies_nothing_twice() -> None:
    """The same request id with the same command returns the first result: one grant, one count, one write."""
    rig = Rig()
    rig.open("ann")
    request = rig.request("ann", acquire("a"))
    first = rig.apply(request).results[0]
    assert isinstance(first, r.Granted)
    assert rig.apply(request, request).results == [first, first]
    assert rig.events == []
    assert rig.get(r.Released, "ann", c.Release((guard("a", first.holds[0].token),))).released == (True,)
    assert rig.apply(request).results == [first], "the answer is that of then, not the state of now"


def test_a_refusal_is_remembered_too() -> None:
    """A retry of a request that was refused is refused alike, even if it could succeed now."""
    rig = Rig()
    rig.open("ann")
    rig.open("bob")
    token = rig.token("ann", "a")
    request = rig.request("bob", acquire("a"))
    first = rig.apply(request).results[0]
    rig.ask("ann", c.Release((guard("a", token),)))
    assert rig.apply(request).results == [first]


def test_a_retry_of_a_request_that_waits_still_waits() -> None:
    """None again, and one waiter only; after the grant the retry gets the grant."""
    rig = Rig()
    rig.open("ann")
    rig.open("bob")
    token = rig.token("ann", "a")
    request = rig.request("bob", acquire("a", wait=FOREVER))
    assert rig.apply(request, request).results == [None, None]
    assert len(rig.machine.locks.waiters) == 1
    rig.ask("ann", c.Release((guard("a", token),)))
    granted = rig.completions[0].result
    assert rig.apply(request).results == [granted]


def test_an_id_that_meant_another_command_is_refused() -> None:
    """The same id for another command is a mistake of the client: INVALID_ARGUMENT REQUEST_ID_REUSED, also after a restore."""
    rig = Rig()
    rig.open("ann")
    rig.apply(rig.request("ann", acquire("a"), 7))
    rig.apply(rig.request("ann", c.CreateAccounts(b"x"), 8))
    for _ in range(2):
        for request_id, command in ((7, acquire("b")), (7, c.CloseSession()), (8, c.CreateAccounts(b"y"))):
            refused = rig.apply(rig.request("ann", command, request_id)).results[0]
            assert isinstance(refused, r.Refused)
            assert refused.reason == "REQUEST_ID_REUSED"
        rig.machine = type(rig.machine).restore(rig.machine.export())


def test_acknowledged_answers_are_forgotten() -> None:
    """Ids below the acknowledged one are refused with REQUEST_ACKNOWLEDGED, and take no memory any more."""
    rig = Rig()
    session = rig.open("ann")
    for request_id in range(1, 101):
        rig.apply(rig.request("ann", acquire("a"), request_id))
    assert len(rig.machine.sessions.live[session].answers) == 100
    rig.apply(rig.request("ann", c.KeepAlive(), 0, acknowledged=100))
    assert list(rig.machine.sessions.live[session].answers) == [100]
    refused = rig.apply(rig.request("ann", acquire("a"), 99)).results[0]
    assert isinstance(refused, r.Refused)
    assert refused.reason == "REQUEST_ACKNOWLEDGED"
    rig.apply(rig.request("ann", c.KeepAlive(), 0, acknowledged=2**63))
    assert not rig.machine.sessions.live[session].answers


def test_the_window_of_unacknowledged_answers_is_bounded() -> None:
    """A request beyond the window is RESOURCE_EXHAUSTED and not applied; after an acknowledgement the same id runs."""
    rig = Rig(Limits(unacknowledged_per_session=3))
    session = rig.open("ann")
    for request_id in (1, 2, 3):
        rig.apply(rig.request("ann", acquire(f"r{request_id}"), request_id))
    refused = rig.apply(rig.request("ann", acquire("r4"), 4)).results[0]
    assert isinstance(refused, r.Refused)
    assert refused.reason == "WINDOW_FULL"
    assert isinstance(rig.apply(rig.request("ann", acquire("r1"), 1)).results[0], r.Granted), "a retry needs no room"
    granted = rig.apply(rig.request("ann", acquire("r4"), 4, acknowledged=3)).results[0]
    assert isinstance(granted, r.Granted)
    assert len(rig.machine.sessions.live[session].answers) == 2


def test_id_zero_is_not_remembered() -> None:
    """A request with id 0 runs every time; one that may wait is refused without an id, since nobody could ask for its answer."""
    rig = Rig()
    rig.open("ann")
    for count in (1, 2, 3):
        granted = rig.apply(rig.request("ann", acquire("a"), 0)).results[0]
        assert isinstance(granted, r.Granted)
        assert granted.holds[0].count == count
    refused = rig.apply(rig.request("ann", acquire("a", wait=1), 0)).results[0]
    assert isinstance(refused, r.Refused)
    assert refused.reason == "REQUEST_ID_REQUIRED"


def test_a_keepalive_is_not_remembered() -> None:
    """It takes no room in the window, whatever its id."""
    rig = Rig()
    session = rig.open("ann")
    for request_id in range(1, 50):
        rig.apply(rig.request("ann", c.KeepAlive(), request_id))
    assert not rig.machine.sessions.live[session].answers


def test_an_unknown_command_is_refused_and_recorded() -> None:
    """What this version cannot decode is UNKNOWN_COMMAND on every replica, with an audit event (section 10)."""
    rig = Rig()
    assert rig.refusal("", c.Unknown("teleport", b"digest")) == ("INVALID_ARGUMENT", "UNKNOWN_COMMAND")
    assert rig.events == [events.UnknownRefused(rig.machine.index, 0, SessionId(0), "teleport", b"digest")]


def test_facts_are_numbered_inside_their_entry() -> None:
    """Every event carries the entry's index and its own place in the entry, across requests."""
    rig = Rig()
    rig.open("ann")
    rig.apply(rig.request("ann", acquire("a", "b")), rig.request("ann", c.Acquire((claim("c"),), 0)), rig.request("ann", c.CloseSession()))
    numbered = [(event.revision, event.position) for event in rig.events if hasattr(event, "revision") and hasattr(event, "position")]
    assert numbered == [(rig.machine.index, place) for place in range(7)]
