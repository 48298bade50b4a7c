"""Tasks of one client exclude each other, although the service counts their locks as one session's."""

from __future__ import annotations

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockd.machine import modes
from lockd_client import Claim, Client, Deadlock, LockHeld, LockLost, LockMode, WaitTimeout, connect
from lockd_client._core.turns import CONFLICTS, Turn, Turns, steps
from lockd_client.sync import connect as connect_sync
from tests.client.fake_world import status
from tests.client.waiting import until, until_sync

if TYPE_CHECKING:
    from tests.client.fake_server import FakeCluster

X, S, U, IS = LockMode.EXCLUSIVE, LockMode.SHARED, LockMode.UPDATE, LockMode.INTENT_SHARED


class Flag:
    """A signal that counts."""

    def __init__(self) -> None:
        self.count = 0

    def set(self) -> None:
        """It came."""
        self.count += 1


def turn(owner: str, *names: str, mode: LockMode = X) -> Turn[Flag]:
    """A claim on paths."""
    return Turn(owner, steps(names, mode))


def test_conflicts_are_the_machines() -> None:
    """The client's matrix is that of the service, mode by mode, and so are the intentions on ancestors."""
    for one, other in itertools.product(LockMode, LockMode):
        assert (int(other) in CONFLICTS[one]) == (not modes.COMPATIBLE[one][other])
    for mode in LockMode:
        assert steps(["a/b/c"], mode) == (("a", modes.INTENTION[mode]), ("a/b", modes.INTENTION[mode]), ("a/b/c", int(mode)))


def test_semaphores_need_no_turn() -> None:
    """Permits are counted by the service; many tasks may have some."""
    assert steps([Claim("pool", limit=3, permits=1)], X) == ()


def test_one_after_another_in_order() -> None:
    """An exclusive turn excludes other owners, and passes on in the order of the line."""
    turns: Turns[Flag] = Turns()
    first, second, third = turn("a", "x"), turn("b", "x"), turn("c", "x")
    flags = [Flag(), Flag()]
    assert turns.take(first)
    for waiting, flag in ((second, flags[0]), (third, flags[1])):
        assert not turns.take(waiting)
        assert turns.wait(waiting, flag)
    turns.give(first)
    turns.give(first)
    assert (second.had, third.had) == (True, False)
    turns.give(second)
    assert third.had
    assert [f.count for f in flags] == [1, 1]
    turns.give(third)
    assert turns._places == {}
    assert turns._waits == {}


def test_readers_share_and_do_not_overtake_a_writer() -> None:
    """Shared turns go together; one that comes after a waiting writer waits behind it."""
    turns: Turns[Flag] = Turns()
    readers = [turn(name, "x", mode=S) for name in "ab"]
    assert all(turns.take(t) for t in readers)
    writer, late = turn("w", "x"), turn("c", "x", mode=S)
    assert not turns.take(writer)
    turns.wait(writer, Flag())
    assert not turns.take(late)
    turns.wait(late, Flag())
    turns.give(readers[0])
    assert not writer.had
    turns.give(readers[1])
    assert (writer.had, late.had) == (True, False)
    turns.give(writer)
    assert late.had


def test_the_same_owner_may_take_it_again() -> None:
    """Reentrant: also up to a stronger mode, and past those who wait."""
    turns: Turns[Flag] = Turns()
    outer = turn("a", "x", mode=S)
    assert turns.take(outer)
    waiting = turn("b", "x")
    assert not turns.take(waiting)
    turns.wait(waiting, Flag())
    inner = turn("a", "x")
    assert turns.take(inner)
    turns.give(outer)
    assert not waiting.had
    turns.give(inner)
    assert waiting.had


def test_ancestors_exclude_what_lies_below() -> None:
    """An exclusive lock of a table keeps other tasks from its rows, and the other way round; neighbours do not meet."""
    turns: Turns[Flag] = Turns()
    row, neighbour, table = turn("a", "t/1"), turn("b", "t/2"), turn("c", "t")
    assert turns.take(row)
    assert turns.take(neighbour)
    assert not turns.take(table)
    turns.wait(table, Flag())
    turns.give(row)
    assert table.blocked_at is not None
    turns.give(neighbour)
    assert table.had
    assert not turns.take(turn("d", "t/9", mode=IS))


def test_leaving_the_line_lets_the_next_go() -> None:
    """Whoever gives up does not hold up those behind."""
    turns: Turns[Flag] = Turns()
    reader, writer, late = turn("a", "x", mode=S), turn("b", "x"), turn("c", "x", mode=S)
    turns.take(reader)
    for waiting in (writer, late):
        turns.take(waiting)
        turns.wait(waiting, Flag())
    turns.give(writer)
    assert late.had


def test_circles_are_found() -> None:
    """Two owners that would wait for each other, in two paths or by two upgrades of one."""
    turns: Turns[Flag] = Turns()
    assert turns.take(turn("a", "x"))
    assert turns.take(turn("b", "y"))
    one, two = turn("a", "y"), turn("b", "x")
    assert not turns.take(one)
    assert turns.wait(one, Flag())
    assert not turns.take(two)
    assert not turns.wait(two, Flag())
    turns = Turns()
    for owner in "ab":
        assert turns.take(turn(owner, "z", mode=S))
    first, second = turn("a", "z"), turn("b", "z")
    assert not turns.take(first)
    assert turns.wait(first, Flag())
    assert not turns.take(second)
    assert not turns.wait(second, Flag())


NAMES = st.lists(st.sampled_from(["a", "a/b", "a/b/c", "a/d", "e"]), min_size=1, max_size=2, unique=True)


@given(st.lists(st.tuples(st.sampled_from("pqr"), NAMES, st.sampled_from(list(LockMode)), st.booleans()), max_size=40))
def test_never_two_that_do_not_go_together(script: list[tuple[str, list[str], LockMode, bool]]) -> None:
    """Whatever is taken and given: no two owners ever have modes of one path that exclude each other; in the end nothing is left."""
    turns: Turns[Flag] = Turns()
    made: list[Turn[Flag]] = []
    for owner, names, mode, give in script:
        if give and made:
            turns.give(made.pop(0))
        elif owner not in turns._waits:
            new = turn(owner, *names, mode=mode)
            if turns.take(new) or turns.wait(new, Flag()):
                made.append(new)
            else:
                turns.give(new)
        had = [(t.owner, path, m) for t in made if t.had and not t.given for path, m in t.steps]
        for (one, path, mode_one), (other, where, mode_other) in itertools.combinations(had, 2):
            assert one == other or path != where or mode_other not in CONFLICTS[mode_one]
    for left in made:
        turns.give(left)
    assert turns._places == {}
    assert turns._waits == {}


async def test_tasks_of_one_client_exclude_each_other(cluster: FakeCluster) -> None:
    """Many tasks, one client, one name: one at a time, each with a larger token."""
    inside = 0
    tokens: list[int] = []

    async def work(client: Client) -> None:
        nonlocal inside
        async with client.lock("a") as grant:
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            tokens.append(grant.token)
            inside -= 1

    async with connect(cluster.endpoints) as client:
        await asyncio.gather(*(work(client) for _ in range(20)))
    assert tokens == sorted(set(tokens))


async def test_a_task_may_take_its_own_lock_again(cluster: FakeCluster) -> None:
    """Reentrant in one task; another one waits, or is refused when it does not want to."""
    async with connect(cluster.endpoints) as client, client.lock("a"), client.lock("a", wait=0):

        async def other(wait: float) -> None:
            await client.acquire("a", wait=wait)

        with pytest.raises(LockHeld):
            await asyncio.create_task(other(0))
        with pytest.raises(WaitTimeout):
            await asyncio.create_task(other(0.02))


async def test_a_circle_of_tasks_is_a_deadlock(cluster: FakeCluster) -> None:
    """The service cannot see it, the client does: the younger request is refused, and the other goes on."""
    async with connect(cluster.endpoints) as client:
        both = asyncio.Barrier(2)

        async def work(first: str, second: str) -> bool:
            async with client.lock(first):
                await both.wait()
                try:
                    async with client.lock(second):
                        return True
                except Deadlock:
                    return False

        assert sorted(await asyncio.gather(work("a", "b"), work("b", "a"))) == [False, True]


async def test_a_circle_of_sessions_that_is_none_of_tasks_is_asked_again(cluster: FakeCluster) -> None:
    """The service takes all tasks of a client for one: a task that holds nothing else asks again, one that does is told."""
    async with connect(cluster.endpoints) as client:
        why = status(grpc.StatusCode.ABORTED, "DEADLOCK", "a circle")
        await client.acquire("mine")
        cluster.refusals += [("acquire", why)] * 3
        granted = await asyncio.create_task(client.acquire("a"))
        assert granted.held
        assert not cluster.refusals
        cluster.refusals += [("acquire", why)]
        with pytest.raises(Deadlock):
            await client.acquire("b")
        cluster.refusals += [("acquire", why)] * 100
        with pytest.raises(WaitTimeout):
            await asyncio.create_task(client.acquire("c", wait=0.1))
        cluster.refusals.clear()


async def test_a_waiting_task_moves_to_the_new_session(cluster: FakeCluster) -> None:
    """The session is lost while a task waits for its turn: it asks again in the new session."""
    async with connect(cluster.endpoints, ttl=0.4) as client:
        grant = await client.acquire("a")
        waiting = asyncio.create_task(client.acquire("a"))
        await asyncio.sleep(0)
        cluster.lose_session(grant.session_id)
        again = await waiting
        assert again.session_id != grant.session_id
        assert grant.lost is not None


async def test_a_cancelled_turn_lets_the_next_go(cluster: FakeCluster) -> None:
    """A task that gives up while it waits for its turn leaves nothing behind."""
    async with connect(cluster.endpoints) as client:
        grant = await client.acquire("a")
        first = asyncio.create_task(client.acquire("a"))
        second = asyncio.create_task(client.acquire("a"))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await grant.release()
        assert (await second).held


async def test_an_upgrade_waits_for_other_readers_of_the_client(cluster: FakeCluster) -> None:
    """Two tasks read under one lock; one of them may write only when the other has given it back."""
    async with connect(cluster.endpoints) as client:
        mine = await client.acquire("a", mode=S)
        theirs = await asyncio.create_task(client.acquire("a", mode=S))
        with pytest.raises(LockHeld):
            await mine.convert(X, wait=0)
        assert mine.mode is S
        upgrade = asyncio.create_task(mine.convert(X))
        await asyncio.sleep(0)
        assert not upgrade.done()
        await theirs.release()
        await upgrade
        assert mine.mode is X
        with pytest.raises(LockHeld):
            await asyncio.create_task(client.acquire("a", mode=S, wait=0))
        await mine.release()
        assert await client.try_lock("a") is not None


async def test_a_lock_that_was_taken_away_frees_the_turn(cluster: FakeCluster) -> None:
    """After a forced release the next task of the client can have the lock."""
    async with connect(cluster.endpoints) as client:
        with pytest.raises(LockLost):
            async with client.lock("a"):
                cluster.force_release("a")
        await until(lambda: "a" not in cluster.holders)
        assert await asyncio.create_task(client.try_lock("a")) is not None


def test_threads_of_one_client_exclude_each_other(cluster: FakeCluster) -> None:
    """The same in the blocking client, between threads."""
    counter = [0]

    with connect_sync(cluster.endpoints) as client, ThreadPoolExecutor(6) as pool:

        def work(_: int) -> None:
            with client.lock("a"):
                seen = counter[0]
                until_sync(lambda: True)
                counter[0] = seen + 1

        list(pool.map(work, range(30)))
    assert counter == [30]
