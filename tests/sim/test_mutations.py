"""Every deliberate bug is caught: the simulation can fail, and for the right reasons."""

from __future__ import annotations

import pytest

from lockd.raft.core import node as core_node
from lockd.raft.core import replication
from tests.sim.mutation_list import MUTATIONS, Edit, Mutation
from tests.sim.mutations import MAX_SEEDS, hunt, report, switched_on

BY_NAME = {mutation.name: mutation for mutation in MUTATIONS}


@pytest.mark.parametrize("name", list(BY_NAME))
def test_a_deliberate_bug_is_caught(name: str) -> None:
    """Within a bounded number of histories some promise is seen to be broken."""
    assert hunt(BY_NAME[name]).seeds > 0, f"{name} survived {MAX_SEEDS} histories"


def test_the_list_is_long_and_has_no_doubles() -> None:
    """At least twenty bugs, each once."""
    assert len(BY_NAME) == len(MUTATIONS) >= 20


def test_a_mutation_is_gone_when_it_is_switched_off() -> None:
    """Production code is as it was, in its module, in those that import it, and in the tables of handlers."""
    mutation = BY_NAME["acknowledged before fsync"]
    before = replication.on_append
    with switched_on(mutation):
        assert replication.on_append is not before
        assert before not in core_node._MESSAGES.values()
    assert replication.on_append is before
    assert before in core_node._MESSAGES.values()


def test_a_mutation_of_code_that_has_changed_is_an_error() -> None:
    """If the text to edit is gone, the list must be looked after."""
    stale = Mutation("stale", "none", (Edit("lockd.raft.core.replication:on_append", "no such text", ""),))
    with pytest.raises(LookupError, match="no longer contains"), switched_on(stale):
        pass


def test_the_report_says_what_was_not_caught() -> None:
    """A survivor is named as one."""
    harmless = Mutation("harmless", "none")
    catch = hunt(harmless, limit=1)
    assert catch.seeds == 0
    assert "0 of 1 caught" in report([catch])
    assert "**not caught**" in report([catch])
