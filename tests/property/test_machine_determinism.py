"""The machine is a function of the log: it never raises, and the same entries give the same state, wherever and however they run."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lockd.machine import commands as c
from lockd.machine.digest import encode
from lockd.machine.plain import to_plain
from lockd.machine.results import Applied
from lockd.machine.state import Machine
from lockd.machine.types import Limits
from tests.property.machine_entries import Entries

LIMITS = Limits(expiries_per_entry=3, unacknowledged_per_session=40, history_revisions=30, sessions=50)


def history(seed: int, length: int, weird: float = 0.02) -> tuple[Machine, list[c.LogEntry], list[Applied]]:
    """A machine, the entries that it has applied, and what each of them did."""
    entries, machine = Entries(seed, weird), Machine(LIMITS)
    log, done = [], []
    for index in range(1, length + 1):
        log.append(entries.entry())
        done.append(machine.apply(index, log[-1]))
        entries.learn(done[-1])
    return machine, log, done


def trace(applied: Applied) -> str:
    """Everything that an entry said, as text."""
    return f"{applied.results} {applied.completions} {applied.events}"


@pytest.mark.parametrize("seed", range(20))
def test_no_entry_of_whatever_values_makes_the_machine_raise(seed: int) -> None:
    """Wild paths, numbers, modes, waits and batches are refused or carried out; the invariants hold after each entry (section 10)."""
    entries, machine = Entries(seed, weird=0.15), Machine(LIMITS)
    for index in range(1, 151):
        applied = machine.apply(index, entry := entries.entry())
        assert len(applied.results) == len(entry.requests)
        entries.learn(applied)
        machine.check_invariants()


@pytest.mark.parametrize("seed", range(8))
def test_replay_gives_the_same_answers_facts_and_state(seed: int) -> None:
    """A second machine that applies the same entries says the same at each of them, and has the same state hash at the end."""
    machine, log, done = history(seed, 200)
    again = Machine(LIMITS)
    for index, (entry, first) in enumerate(zip(log, done, strict=True), start=1):
        assert trace(again.apply(index, entry)) == trace(first)
    assert again.state_hash() == machine.state_hash()


@pytest.mark.parametrize("seed", range(8))
def test_a_restored_machine_goes_on_as_the_one_it_was_taken_from(seed: int) -> None:
    """Export and restore at any point change neither the state hash nor anything that is answered afterwards."""
    machine, log, done = history(seed, 160)
    replica = Machine(LIMITS)
    for index, (entry, first) in enumerate(zip(log, done, strict=True), start=1):
        if index % (1 + seed) == 0:
            rows = list(replica.export())
            replica = Machine.restore(rows)
            assert list(replica.export()) == rows
            replica.check_invariants()
        assert trace(replica.apply(index, entry)) == trace(first)
    assert replica.state_hash() == machine.state_hash()


def test_rows_of_a_snapshot_are_plain_values() -> None:
    """Every exported row is a tuple of ints below 2**64, text, bytes, booleans, None and tuples of these, and begins with its kind."""
    machine, _, _ = history(3, 200)

    def plain(value: object) -> bool:
        if isinstance(value, tuple):
            return all(plain(item) for item in value)
        return value is None or type(value) in (str, bytes, bool) or (type(value) is int and -1 <= value < 2**64)

    rows = list(machine.export())
    assert all(isinstance(row[0], str) and plain(row) for row in rows)
    assert {row[0] for row in rows} >= {"machine", "limits", "session", "answer", "hold", "rows", "row", "ledger"}


@pytest.mark.parametrize("damage", ["cut", "kind", "twice", "foreign"])
def test_damaged_rows_are_refused(damage: str) -> None:
    """A snapshot with rows missing at its head, of unknown kind, or with damaged fields raises ValueError and yields no machine."""
    machine, _, _ = history(3, 100)
    rows = list(machine.export())
    match damage:
        case "cut":
            rows = rows[1:]
        case "kind":
            rows.insert(3, ("surprise", 1))
        case "twice":
            rows.append(("session", 1))
        case _:
            rows = [("table", 1)]
    with pytest.raises(ValueError, match=r"row|rows|kind"):
        Machine.restore(rows)


def run(seed: int) -> str:
    """A digest of everything that a history says and of the state that it ends in."""
    machine, _, done = history(seed, 250)
    told = hashlib.sha256("".join(trace(applied) for applied in done).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{told} {machine.state_hash().hex()}"


def test_hash_seeds_change_nothing() -> None:
    """Two processes under different PYTHONHASHSEED give the same answers, facts and state hash for the same entries."""
    root = Path(__file__).parents[2]
    told = []
    for hash_seed in ("1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        code = "from tests.property.test_machine_determinism import run; print([run(seed) for seed in range(4)])"
        done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True)
        told.append(done.stdout)
    assert told[0] == told[1]
    assert len(told[0]) > 500


def test_equal_values_have_one_encoding_and_different_ones_differ() -> None:
    """The canonical encoding tells apart values that look alike: text and bytes, 1 and True, () and None, and shifted boundaries."""
    values = [
        None,
        False,
        True,
        0,
        1,
        -1,
        "",
        b"",
        "1",
        b"1",
        (),
        ("",),
        ("a", "b"),
        ("ab",),
        ("a", ("b",)),
        (("a",), "b"),
        2**64,
        "\ud800",
    ]
    encoded = [encode(value) for value in values]
    assert len(set(encoded)) == len(values)
    assert encode(to_plain(c.Release((c.Guard("a", 1),)))) == encode(to_plain(c.Release((c.Guard("a", 1),))))  # type: ignore[arg-type]
