"""The small parts: the encoding of memberships, the log, jitter, settings."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockd.raft.core.config import Config, CoreInvariantError, Jitter
from lockd.raft.core.log import ENTRY_OVERHEAD, Log
from lockd.raft.core.membership import decode_membership, encode_membership, sort_members
from lockd.raft.core.types import Member, Membership, ReplicaId
from tests.unit.raft_core.machine import A, B, entry, log_of, members

untimed = settings(deadline=None)
"""A deadline of wall time fails whenever the machine stalls, and says nothing about the code: these examples take milliseconds."""

_text = st.text(max_size=20).filter(lambda text: not any(0xD800 <= ord(c) <= 0xDFFF for c in text))
_members = st.lists(st.builds(Member, st.builds(ReplicaId, _text), _text, _text, voter=st.booleans()), max_size=6, unique_by=lambda m: m.id)


@untimed
@given(_members)
def test_a_membership_survives_its_encoding(found: list[Member]) -> None:
    """decode(encode(m)) is m, for any names and addresses."""
    membership = sort_members(Membership(tuple(found)))
    assert decode_membership(encode_membership(membership)) == membership


@untimed
@given(st.binary(max_size=60))
def test_garbage_is_no_membership(data: bytes) -> None:
    """Any bytes either decode to a membership that encodes to the same bytes, or raise ValueError."""
    try:
        membership = decode_membership(data)
    except ValueError:
        return
    assert encode_membership(membership) == data


@untimed
@given(st.data())
def test_a_damaged_membership_is_refused_or_another_one(data: st.DataObject) -> None:
    """One changed, missing or added byte never decodes to the same membership, and raises nothing but ValueError."""
    good = encode_membership(members("abc", "d"))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = data.draw(
        st.sampled_from([good[:at], good + b"\0", good[:at] + good[at + 1 :], good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :]])
    )
    with contextlib.suppress(ValueError):
        assert decode_membership(bad) != members("abc", "d")


def test_names_too_long_to_encode_are_refused() -> None:
    """64 KiB in one name: ValueError, not a truncated membership."""
    with pytest.raises(ValueError, match="too large"):
        encode_membership(Membership((Member(ReplicaId("x" * 70_000), "", ""),)))


def test_members_out_of_order_or_twice_are_refused() -> None:
    """One membership has one encoding."""
    a, b = members("ab").members
    for order in ((b, a), (a, a)):
        with pytest.raises(ValueError, match="out of order"):
            decode_membership(encode_membership(Membership(order)))


@untimed
@given(st.lists(st.sampled_from(["append", "truncate", "drop", "persist"]), max_size=40), st.randoms(use_true_random=False))
def test_the_log_agrees_with_a_plain_list(operations: list[str], random: object) -> None:
    """Terms, ranges, sizes and batches are those of a list of all entries, whatever was appended, truncated and dropped."""
    rng = random
    log, model, base, number, term = Log(0, 0, ()), [entry(0, 0)], 0, 0, 1
    for operation in operations:
        last = len(model) - 1
        if operation == "append":
            term += rng.randrange(2)  # type: ignore[attr-defined]
            new = tuple(entry(last + 1 + i, term, b"x" * rng.randrange(9)) for i in range(rng.randrange(1, 5)))  # type: ignore[attr-defined]
            log.append(new)
            model += new
            number += 1
            log.written(number)
        elif operation == "truncate" and last > base:
            index = rng.randrange(base + 1, last + 1)  # type: ignore[attr-defined]
            log.truncate_from(index)
            del model[index:]
        elif operation == "drop" and last > base:
            keep = rng.randrange(base + 1, last + 2)  # type: ignore[attr-defined]
            log.drop_before(keep)
            base = keep - 1
        elif operation == "persist":
            log.persisted(number)
            assert log.durable == len(model) - 1
        last = len(model) - 1
        assert (log.base_index, log.last_index, log.last_term) == (base, last, model[last].term)
        assert [log.term_at(i) for i in range(base, last + 2)] == [*(e.term for e in model[base:]), None]
        assert log.entries(base + 1, last + 1) == model[base + 1 :]
        assert log.size == sum(len(e.data) + ENTRY_OVERHEAD for e in model[base + 1 :])
        assert log.durable <= last
        for first in range(base + 1, last + 1):
            for limit in (1, 40, 10_000):
                batch, size = log.batch(first, limit)
                assert list(batch) == model[first : first + len(batch)]
                assert size == sum(len(e.data) + ENTRY_OVERHEAD for e in batch)
                assert len(batch) == 1 or size <= limit
                whole = first + len(batch) > last
                assert whole or size + len(model[first + len(batch)].data) + ENTRY_OVERHEAD > limit or len(batch) == 1


def test_the_log_refuses_gaps() -> None:
    """An entry that does not follow the last one is a broken invariant."""
    log = Log(0, 0, log_of([1, 1]))
    with pytest.raises(CoreInvariantError, match="appended after 2"):
        log.append((entry(4, 1),))
    log.drop_before(3)
    with pytest.raises(CoreInvariantError, match="truncation"):
        log.truncate_from(1)


def test_jitter_is_a_function_of_seed_and_id() -> None:
    """The same seed and id give the same timeouts; another id gives others; all are in range and spread."""
    draws = [Jitter(1, A).between(150, 300), Jitter(1, A).between(150, 300)]
    assert draws[0] == draws[1]
    one, other = Jitter(1, A), Jitter(1, B)
    first, second = [one.between(150, 300) for _ in range(500)], [other.between(150, 300) for _ in range(500)]
    assert first != second
    assert min(first) >= 150
    assert max(first) <= 300
    assert len(set(first)) > 100


def test_settings_under_which_nobody_could_lead_are_refused() -> None:
    """The heartbeat must be shorter than the election timeout, and limits positive."""
    with pytest.raises(ValueError, match="heartbeat"):
        Config(heartbeat=200_000_000)
    with pytest.raises(ValueError, match="heartbeat"):
        Config(election_timeout_max=100_000_000)
    with pytest.raises(ValueError, match="positive"):
        Config(max_inflight_messages=0)
