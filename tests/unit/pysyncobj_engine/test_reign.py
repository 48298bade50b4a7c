"""Tickets, bounds and barriers of one process."""

from __future__ import annotations

import pytest

from lockd.raft.port import OverloadedError
from lockd.raft.pysyncobj_engine.reign import Proposals, payload_of
from tests.unit.pysyncobj_engine.support import settings


def test_a_ticket_comes_back_once_with_its_own_entry() -> None:
    """The committed command names its ticket; a second time it does not."""
    proposals = Proposals(settings())
    tickets = [proposals.add(b"one"), proposals.add(b"two")]
    commands = proposals.take()
    assert [payload_of(command) for command in commands] == [b"one", b"two"]
    assert [proposals.committed(command) for command in commands] == tickets
    assert proposals.committed(commands[0]) is None
    assert proposals.outstanding == 0


def test_entries_of_other_processes_have_no_ticket() -> None:
    """The same ticket number of another process, or of an earlier life of this one, is not taken for ours."""
    ours, theirs = Proposals(settings()), Proposals(settings())
    ticket = ours.add(b"x")
    assert theirs.add(b"x") == ticket
    assert ours.committed(theirs.take()[0]) is None
    assert ours.outstanding == 1


def test_the_end_of_a_reign_gives_up_every_ticket_and_barrier() -> None:
    """Tickets are named once, in order; barriers are refused; and entries that commit later bring no ticket back."""
    proposals = Proposals(settings())
    answers: list[int] = []
    tickets = [proposals.add(b"taken")]
    proposals.barrier(answers.append)
    commands = proposals.take()
    tickets.append(proposals.add(b"waiting"))
    proposals.barrier(answers.append)
    assert proposals.end() == tickets
    assert answers == [0, 0]
    assert proposals.end() == []
    assert proposals.committed(commands[0]) is None
    proposals.barrier_committed(commands[1], 5)
    assert answers == [0, 0]
    assert not proposals.waiting


def test_barriers_share_an_entry_and_wait_for_a_later_one() -> None:
    """All that wait when entries are taken share one empty entry; one that comes later needs the next."""
    proposals = Proposals(settings())
    answers: list[tuple[str, int]] = []
    proposals.barrier(lambda index: answers.append(("first", index)))
    proposals.barrier(lambda index: answers.append(("second", index)))
    (entry,) = proposals.take()
    proposals.barrier(lambda index: answers.append(("third", index)))
    proposals.barrier_committed(entry, 9)
    assert answers == [("first", 9), ("second", 9)]
    (later,) = proposals.take()
    proposals.barrier_committed(later, 10)
    assert answers[2:] == [("third", 10)]


def test_empty_entries_of_others_answer_nobody() -> None:
    """The package's own empty entry, and another process's, confirm no barrier of ours."""
    other = Proposals(settings())
    other.barrier(lambda _: None)
    proposals = Proposals(settings())
    answers: list[int] = []
    proposals.barrier(answers.append)
    proposals.take()
    proposals.barrier_committed(b"\1", 3)
    proposals.barrier_committed(other.take()[0], 4)
    assert answers == []


def test_bounds_are_kept_and_freed() -> None:
    """Too many or too large outstanding proposals are refused until some have ended; what is too long always is."""
    proposals = Proposals(settings(max_outstanding=2, max_outstanding_bytes=100, max_entry_bytes=60))
    first = proposals.add(bytes(50))
    with pytest.raises(OverloadedError):
        proposals.add(bytes(50))
    proposals.add(b"x")
    with pytest.raises(OverloadedError):
        proposals.add(b"y")
    assert proposals.committed(proposals.take()[0]) == first
    proposals.add(b"y")
    with pytest.raises(ValueError, match="61 bytes"):
        proposals.add(bytes(61))
