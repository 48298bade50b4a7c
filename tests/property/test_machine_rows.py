"""Rows against a model that keeps a copy of everything at every revision."""

from __future__ import annotations

from random import Random

import pytest

from lockd.machine.keys import SortedKeys
from lockd.machine.moment import Moment
from lockd.machine.results import Row
from lockd.machine.rows import Rows
from lockd.machine.types import Limits, Resource, Revision, SessionId

KEYS = tuple(Resource(f"{letter}/{number}") for letter in "abc" for number in range(8))


@pytest.mark.parametrize("seed", range(15))
def test_every_revision_that_is_kept_reads_as_it_was(seed: int) -> None:
    """Random writes, deletions, range deletions and compactions: get and range agree with whole copies at each kept revision."""
    rng = Random(seed)
    moment = Moment()
    rows = Rows(Limits(history_revisions=rng.choice((3, 20, 1000))), moment, {})
    copies: dict[int, dict[str, Row]] = {0: {}}
    now: dict[str, Row] = {}
    for index in range(1, 150):
        moment.index = Revision(index)
        for _ in range(rng.choice((0, 1, 1, 3))):
            key = rng.choice(KEYS)
            match rng.randrange(8):
                case 0 | 1:
                    assert rows.delete(key) is (now.pop(key, None) is not None)
                case 2:
                    start, end = rng.choice(KEYS), rng.choice(KEYS)
                    gone = [name for name in now if start <= name < end]
                    assert rows.delete_range(start, end) == len(gone)
                    now = {name: row for name, row in now.items() if name not in gone}
                case _:
                    old = now.get(key)
                    content = str(rng.random()).encode()
                    version = old.version + 1 if old else 1
                    created = old.create_revision if old else moment.index
                    now[key] = Row(key, content, "", created, moment.index, version, SessionId(0))
                    assert rows.put(key, content, "", None) == version
        copies[index] = dict(now)
        if rng.random() < 0.05:
            rows.compact(rng.randrange(index + 1))
        assert rows.check() is None
        for revision in {rows.oldest, rng.randrange(rows.oldest, index + 1), index}:
            copy = copies[revision]
            assert {key: rows.get(key, revision) for key in KEYS if rows.get(key, revision)} == copy
            start, end = sorted(rng.sample(KEYS, 2))
            assert [row.key for row in rows.range(start, end, revision)] == sorted(key for key in copy if start <= key < end)
        assert {row.key: row for row in rows.range("")} == now


@pytest.mark.parametrize("seed", range(5))
def test_sorted_keys_behave_like_a_sorted_set(seed: int) -> None:
    """Adding, removing and ranging over thousands of keys gives what a sorted list of a set gives, over many chunks."""
    rng = Random(seed)
    kept = {f"{rng.randrange(10**6):06}" for _ in range(rng.choice((0, 10, 5000)))}
    keys = SortedKeys(kept)
    for step in range(6000):
        key = f"{rng.randrange(10**6):06}" if rng.random() < (0.8 if step < 3000 else 0.2) or not kept else rng.choice(sorted(kept)[:50])
        if key in kept:
            kept.remove(key)
            keys.remove(key)
        else:
            kept.add(key)
            keys.add(key)
        if step % 500 == 0:
            start, end = sorted((f"{rng.randrange(10**6):06}", f"{rng.randrange(10**6):06}"))
            assert list(keys.range(start, end)) == sorted(name for name in kept if start <= name < end)
            assert list(keys.range("")) == sorted(kept)
    assert len(keys) == len(kept)
