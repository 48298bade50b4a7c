"""Strong rows: what is there now, and what was there at each revision that is still kept (semantics, section 4)."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from lockd.machine import events
from lockd.machine.keys import SortedKeys
from lockd.machine.moment import Moment
from lockd.machine.results import Compacted, Refused, Row
from lockd.machine.sessions import Session
from lockd.machine.types import Code, Limits, Resource, Revision, SessionId

Past: TypeAlias = tuple[int, Row]
"""A former state of a row, and the revision at which it was replaced or deleted."""


class Rows:
    """All rows and their history.

    A revision is a log index: the state at revision r is that after entry r, so that of several writes of
    one entry only the last has a past.
    """

    __slots__ = ("_compacted", "_ended", "_keys", "_limits", "_moment", "_past", "_sessions", "current")

    def __init__(self, limits: Limits, moment: Moment, sessions: Mapping[SessionId, Session]) -> None:
        self._limits = limits
        self._moment = moment
        self._sessions = sessions
        self.current: dict[Resource, Row] = {}
        self._past: dict[Resource, list[Past]] = {}
        # (revision at which a past row ended, its key), in that order: what compaction forgets first.
        self._ended: deque[tuple[int, Resource]] = deque()
        # All keys that have a present or a past.
        self._keys = SortedKeys()
        self._compacted = 0

    def __len__(self) -> int:
        return len(self.current)

    # --- reading ---------------------------------------------------------------------------------------------------------------

    @property
    def oldest(self) -> Revision:
        """The oldest revision that can still be read."""
        return Revision(max(self._compacted, self._moment.index - self._limits.history_revisions, 0))

    def get(self, key: str, revision: int | None = None) -> Row | None:
        """The row now, or at a revision not below `oldest`."""
        row: Row | None = self.current.get(key)  # type: ignore[call-overload]
        if revision is None or (row is not None and row.mod_revision <= revision):
            return row
        past: list[Past] = self._past.get(key, [])  # type: ignore[call-overload]
        place = bisect_right(past, revision, key=_ended_at)
        if place < len(past) and past[place][1].mod_revision <= revision:
            return past[place][1]
        return None

    def range(self, start: str, end: str | None = None, revision: int | None = None) -> Iterator[Row]:
        """Rows with start <= key < end (None: to the last), in key order, now or at a revision not below `oldest`."""
        for key in self._keys.range(start, end):
            row = self.get(key, revision)
            if row is not None:
                yield row

    # --- writing ---------------------------------------------------------------------------------------------------------------

    def put(self, key: Resource, value: bytes, content_type: str, session: Session | None) -> int:
        """Write a row, with a session one that goes with it. Returns its version."""
        moment = self._moment
        index, previous = moment.index, self.current.get(key)
        owner = SessionId(0) if session is None else session.id
        if previous is None:
            row = Row(key, value, content_type, index, index, 1, owner)
            if key not in self._past:
                self._keys.add(key)
        else:
            row = Row(key, value, content_type, previous.create_revision, index, previous.version + 1, owner)
            self._replace(previous)
        self.current[key] = row
        if session is not None:
            session.ephemeral[key] = None
        moment.events.append(events.RowPut(index, len(moment.events), row))
        self._forget()
        return row.version

    def delete(self, key: str) -> bool:
        """Delete a row. Returns whether it was there."""
        moment = self._moment
        row = self.current.pop(key, None)  # type: ignore[call-overload]
        if row is None:
            return False
        self._replace(row)
        if row.key not in self._past:
            self._keys.remove(row.key)
        moment.events.append(events.RowDeleted(moment.index, len(moment.events), row.key, row))
        self._forget()
        return True

    def delete_range(self, start: str, end: str) -> int:
        """Delete all rows with start <= key < end. Returns how many were there."""
        return sum([self.delete(key) for key in list(self._keys.range(start, end))])

    def end_session(self, session: Session) -> None:
        """Delete the rows that go with a session."""
        for key in sorted(session.ephemeral):
            self.delete(key)

    def _replace(self, row: Row) -> None:
        if row.session:
            owner = self._sessions.get(row.session)
            if owner is not None:
                owner.ephemeral.pop(row.key, None)
        index = self._moment.index
        if row.mod_revision < index:
            self._past.setdefault(row.key, []).append((index, row))
            self._ended.append((index, row.key))

    # --- forgetting ------------------------------------------------------------------------------------------------------------

    def compact(self, revision: int) -> Compacted | Refused:
        """Forget the history below `revision`."""
        moment = self._moment
        if not 0 <= revision <= moment.index:
            return Refused(Code.OUT_OF_RANGE, "FUTURE_REVISION", "only what has been can be forgotten", (("revision", str(moment.index)),))
        if revision > self.oldest:
            self._compacted = revision
            self._forget()
            moment.events.append(events.RowsCompacted(moment.index, len(moment.events), self.oldest))
        return Compacted(self.oldest)

    def _forget(self) -> None:
        oldest, ended = self.oldest, self._ended
        while ended and ended[0][0] <= oldest:
            _, key = ended.popleft()
            past = self._past[key]
            del past[0]
            if not past:
                del self._past[key]
                if key not in self.current:
                    self._keys.remove(key)

    # --- snapshots -------------------------------------------------------------------------------------------------------------

    def export(self) -> Iterator[tuple[object, ...]]:
        """Rows in key order, then the past in the order in which it ended."""
        yield ("rows", self._compacted)
        for key in sorted(self.current):
            yield ("row", *_fields(self.current[key]))
        places: dict[Resource, int] = {}
        for ended, key in self._ended:
            place = places.get(key, 0)
            places[key] = place + 1
            yield ("past", ended, *_fields(self._past[key][place][1]))

    def restore_row(self, row: tuple[object, ...]) -> bool:
        """Take one row of `export`; False if it is none."""
        match row:
            case ("rows", int(compacted)):
                self._compacted = compacted
            case ("row", *fields):
                found = _row(fields)
                self.current[found.key] = found
            case ("past", int(ended), *fields):
                found = _row(fields)
                self._past.setdefault(found.key, []).append((ended, found))
                self._ended.append((ended, found.key))
            case _:
                return False
        return True

    def restored(self, sessions: Mapping[SessionId, Session]) -> None:
        """All rows are back: rebuild what follows from them."""
        self._keys = SortedKeys([*self.current, *self._past])
        for key, row in self.current.items():
            if row.session:
                sessions[row.session].ephemeral[key] = None

    def check(self) -> str | None:
        """What is wrong with the indexes; None if nothing is."""
        if list(self._keys.range("")) != sorted({*self.current, *self._past}):
            return "the key index differs from the rows"
        if sorted((ended, key) for key, past in self._past.items() for ended, _ in past) != sorted(self._ended):
            return "the order of endings differs from the history"
        if any(row.session and key not in self._sessions[row.session].ephemeral for key, row in self.current.items()):
            return "an ephemeral row is unknown to its session"
        return None


def _ended_at(past: Past) -> int:
    return past[0]


def _fields(row: Row) -> tuple[object, ...]:
    return (row.key, row.value, row.content_type, row.create_revision, row.mod_revision, row.version, row.session)


def _row(fields: list[object]) -> Row:
    match fields:
        case [str(key), bytes(value), str(content_type), int(created), int(modified), int(version), int(session)]:
            return Row(Resource(key), value, content_type, Revision(created), Revision(modified), version, SessionId(session))
        case _:
            raise ValueError("damaged row")
