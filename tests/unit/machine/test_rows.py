"""Strong rows and their history (semantics, section 4)."""

from __future__ import annotations

from lockd.machine import commands as c
from lockd.machine import events
from lockd.machine import results as r
from lockd.machine.types import Limits, Resource, Revision
from tests.unit.machine.rig import Rig


def write(rig: Rig, *operations: c.Operation) -> int:
    """One transaction of its own. Returns its revision."""
    return rig.get(r.Transacted, "", c.Transact((), (), operations)).revision


def put(key: str, value: bytes = b"v") -> c.PutRow:
    """A write."""
    return c.PutRow(Resource(key), value)


def delete(key: str) -> c.DeleteRow:
    """A deletion."""
    return c.DeleteRow(Resource(key))


def keys(rig: Rig, start: str = "", end: str | None = None, revision: int | None = None) -> list[str]:
    """The keys of a range."""
    return [row.key for row in rig.machine.rows.range(start, end, revision)]


def value(rig: Rig, key: str, revision: int) -> bytes | None:
    """A row's value at a revision."""
    row = rig.machine.rows.get(key, revision)
    return None if row is None else row.value


def test_revisions_and_version_of_a_row() -> None:
    """create_revision stays, mod_revision and version move with each write; after a deletion they begin anew."""
    rig = Rig()
    first = write(rig, put("k"))
    second = write(rig, put("k"), put("k"))
    row = rig.machine.rows.get("k")
    assert row is not None
    assert (row.create_revision, row.mod_revision, row.version) == (first, second, 3)
    write(rig, delete("k"))
    third = write(rig, put("k"))
    row = rig.machine.rows.get("k")
    assert row is not None
    assert (row.create_revision, row.mod_revision, row.version) == (third, third, 1)


def test_the_past_can_be_read() -> None:
    """At each revision a row is as it was after that entry, deletions and what came between included."""
    rig = Rig()
    first = write(rig, put("k", b"1"))
    rig.tick(1)
    second = write(rig, put("k", b"lost"), put("k", b"2"))
    third = write(rig, delete("k"))
    fourth = write(rig, put("k", b"4"))
    assert [value(rig, "k", revision) for revision in range(first - 1, fourth + 1)] == [None, b"1", b"1", b"2", None, b"4"]
    assert (second, third) == (first + 2, first + 3)


def test_a_range_is_stable_at_a_revision() -> None:
    """Pages of one revision fit together, whatever is written between them."""
    rig = Rig()
    revision = write(rig, *[put(f"k/{n:02}") for n in range(10)])
    first = keys(rig, "k/", "k0", revision)[:4]
    write(rig, delete("k/00"), delete("k/05"), put("k/99"), put("k/03", b"new"))
    rest = keys(rig, first[-1] + "\x00", "k0", revision)
    assert first + rest == [f"k/{n:02}" for n in range(10)]
    assert keys(rig, "k/", "k0") == [f"k/{n:02}" for n in (1, 2, 3, 4, 6, 7, 8, 9, 99)]


def test_ranges_are_half_open_and_ordered_by_code_points() -> None:
    """Start <= key < end in the order of code points."""
    rig = Rig()
    write(rig, *[put(key) for key in ("b", "a", "a/b", "ab", "é", "c", "B")])
    assert keys(rig) == ["B", "a", "a/b", "ab", "b", "c", "é"]
    assert keys(rig, "a", "b") == ["a", "a/b", "ab"]
    assert keys(rig, "b", "b") == []


def test_deleting_a_range_counts_what_was_there() -> None:
    """DeleteRange deletes start <= key < end and says how many rows; an event for each."""
    rig = Rig()
    write(rig, put("a"), put("b/1"), put("b/2"), put("c"))
    done = rig.get(r.Transacted, "", c.Transact((), (), (c.DeleteRange("b", "c"), c.DeleteRange("b", "c"))))
    assert done.results == (r.RowsDeleted(2), r.RowsDeleted(0))
    assert [event.key for event in rig.events if isinstance(event, events.RowDeleted)] == ["b/1", "b/2"]
    assert keys(rig) == ["a", "c"]


def test_compaction_forgets_what_ended_before() -> None:
    """After CompactRows(n) revision n and later can be read, and older versions take no room."""
    rig = Rig()
    revisions = [write(rig, put("k", str(n).encode())) for n in range(6)]
    gone = write(rig, put("gone"))
    write(rig, delete("gone"))
    assert rig.ask("", c.CompactRows(Revision(revisions[3]))) == r.Compacted(Revision(revisions[3]))
    assert rig.machine.rows.oldest == revisions[3]
    assert [value(rig, "k", revision) for revision in revisions[3:]] == [b"3", b"4", b"5"]
    assert value(rig, "gone", gone) == b"v"
    rig.ask("", c.CompactRows(rig.machine.index))
    assert [row[0] for row in rig.machine.rows.export()] == ["rows", "row"]


def test_compaction_never_goes_back_or_ahead() -> None:
    """An older revision changes nothing and answers the present oldest; a future one is OUT_OF_RANGE."""
    rig = Rig()
    rig.tick(1)
    rig.tick(1)
    assert rig.ask("", c.CompactRows(Revision(2))) == r.Compacted(Revision(2))
    assert rig.ask("", c.CompactRows(Revision(1))) == r.Compacted(Revision(2))
    assert rig.refusal("", c.CompactRows(Revision(100))) == ("OUT_OF_RANGE", "FUTURE_REVISION")
    assert rig.refusal("", c.CompactRows(Revision(-1))) == ("OUT_OF_RANGE", "FUTURE_REVISION")


def test_history_is_bounded_without_compaction() -> None:
    """Only the last history_revisions revisions are kept: the oldest moves with the log, and old versions go as rows are written."""
    rig = Rig(Limits(history_revisions=5))
    for number in range(50):
        write(rig, put("k", str(number).encode()))
    assert rig.machine.rows.oldest == 45
    assert sum(1 for row in rig.machine.rows.export() if row[0] == "past") == 5
    assert [value(rig, "k", revision) for revision in range(45, 51)] == [b"44", b"45", b"46", b"47", b"48", b"49"]


def test_history_survives_a_restore() -> None:
    """A snapshot carries rows and their past."""
    rig = Rig()
    first = write(rig, put("a", b"1"), put("b"))
    write(rig, put("a", b"2"), delete("b"))
    rig.machine = type(rig.machine).restore(rig.machine.export())
    assert value(rig, "a", first) == b"1"
    assert value(rig, "b", first) == b"v"
    assert keys(rig) == ["a"]
    assert keys(rig, revision=first) == ["a", "b"]
