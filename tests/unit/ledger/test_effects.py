"""Effects and expiry (ledger.md, "Effects"), chosen cases beside the comparison with the reference."""

from __future__ import annotations

import pytest

from ledger import codec
from ledger.machine.model import (
    BATCH_MAX,
    MAX_TIMESTAMP,
    AccountFlags,
    BatchOutcome,
    BatchRefusal,
    Fate,
    LedgerInvariantError,
    TransferFlags,
    TransferStatus,
)
from ledger.machine.state import Ledger
from ledger.machine.values import AccountValue

S = 10**9
T0 = 1000 * S


class Desk:
    """A ledger with accounts 1 to 4 on ledger 1, and short ways to use it."""

    def __init__(self, **flags: int) -> None:
        self.ledger = Ledger()
        packed = b"".join(codec.pack_account(id=i, ledger=1, code=1, flags=flags.get(f"a{i}", 0)) for i in range(1, 5))
        self.ledger.create_accounts(packed, log_time=T0, index=1)
        self.now = T0

    def send(self, *events: dict[str, int]) -> BatchOutcome:
        """One batch, one second later."""
        self.now += S
        base = {"debit_account_id": 1, "credit_account_id": 2, "ledger": 1, "code": 1}
        packed = b"".join(codec.pack_transfer(**{**({} if event.get("pending_id") else base), **event}) for event in events)
        return self.ledger.create_transfers(packed, log_time=self.now, index=2)

    def statuses(self, *events: dict[str, int]) -> list[str]:
        """The names of the statuses of one batch."""
        return [TransferStatus(result.status).name.lower() for result in codec.unpack_results(self.send(*events).results)]

    def account(self, account_id: int) -> AccountValue:
        """The account as it stands."""
        return codec.unpack_account(self.ledger.lookup_accounts(codec.pack_ids([account_id])))

    def balances(self, account_id: int) -> tuple[int, int, int, int]:
        """Debits pending, debits posted, credits pending, credits posted."""
        value = self.account(account_id)
        return value.debits_pending, value.debits_posted, value.credits_pending, value.credits_posted


PENDING, POST, VOID = int(TransferFlags.PENDING), int(TransferFlags.POST_PENDING_TRANSFER), int(TransferFlags.VOID_PENDING_TRANSFER)


def test_an_ordinary_transfer_moves_posted_balances() -> None:
    """Ordinary: debits_posted of one and credits_posted of the other grow by the amount; the stored transfer carries its timestamp."""
    desk = Desk()
    outcome = desk.send({"id": 1, "amount": 30})
    assert desk.balances(1) == (0, 30, 0, 0)
    assert desk.balances(2) == (0, 0, 0, 30)
    assert outcome.created == desk.ledger.lookup_transfers(codec.pack_ids([1]))
    assert codec.unpack_transfer(outcome.created).timestamp == desk.now


def test_posting_a_part_gives_back_the_rest() -> None:
    """Post: the pending pair falls by the whole pending amount, the posted pair grows by the posted amount."""
    desk = Desk()
    desk.send({"id": 1, "amount": 30, "flags": PENDING})
    assert desk.balances(1) == (30, 0, 0, 0)
    outcome = desk.send({"id": 2, "pending_id": 1, "amount": 12, "flags": POST})
    assert desk.balances(1) == (0, 12, 0, 0)
    assert desk.balances(2) == (0, 0, 0, 12)
    assert [(item.fate, item.pending[:16], item.timestamp) for item in outcome.resolutions] == [(Fate.POSTED, codec.pack_id(1), desk.now)]
    assert desk.ledger.fate(codec.pack_id(1)) is Fate.POSTED
    assert desk.ledger.fate(codec.pack_id(2)) is Fate.NONE


def test_voiding_gives_back_everything_and_takes_over_what_is_left_zero() -> None:
    """Void: the pending pair falls; the stored void has the pending transfer's accounts, amount, user data, ledger and code."""
    desk = Desk()
    desk.send({"id": 1, "amount": 30, "flags": PENDING, "user_data_128": 5, "user_data_64": 6, "user_data_32": 7})
    outcome = desk.send({"id": 2, "pending_id": 1, "flags": VOID})
    void = codec.unpack_transfer(outcome.created)
    assert desk.balances(1) == desk.balances(2) == (0, 0, 0, 0)
    assert (void.debit_account_id, void.credit_account_id, void.amount, void.ledger, void.code) == (1, 2, 30, 1, 1)
    assert (void.user_data_128, void.user_data_64, void.user_data_32) == (5, 6, 7)


def test_a_void_of_more_has_a_different_amount() -> None:
    """Statuses, 5: a void of any other non-zero amount, also a larger one, is `pending_transfer_has_different_amount`."""
    desk = Desk()
    desk.send({"id": 1, "amount": 30, "flags": PENDING})
    void, post = {"id": 2, "pending_id": 1, "flags": VOID}, {"id": 2, "pending_id": 1, "flags": POST}
    assert desk.statuses({**void, "amount": 29}, {**void, "amount": 31}, {**void, "amount": 2**128 - 1}, {**post, "amount": 31}) == [
        "pending_transfer_has_different_amount",
        "pending_transfer_has_different_amount",
        "pending_transfer_has_different_amount",
        "exceeds_pending_transfer_amount",
    ]


@pytest.mark.parametrize(
    ("posted", "retried", "expected"),
    [
        (12, 12, "exists"),
        (12, 13, "exists_with_different_amount"),
        (12, 2**128 - 1, "exists_with_different_amount"),
        (30, 30, "exists"),
        (30, 29, "exists_with_different_amount"),
        (30, 31, "exists"),
        (30, 2**128 - 1, "exists"),
        (2**128 - 1, 30, "exists"),
        (0, 0, "exists"),
    ],
)
def test_retry_of_a_post(posted: int, retried: int, expected: str) -> None:
    """Statuses, 2: a part must be retried with the same part; all may be retried with all or more."""
    desk = Desk()
    desk.send({"id": 1, "amount": 30, "flags": PENDING})
    assert desk.statuses({"id": 2, "pending_id": 1, "amount": posted, "flags": POST}) == ["created"]
    assert desk.statuses({"id": 2, "pending_id": 1, "amount": retried, "flags": POST}) == [expected]


@pytest.mark.parametrize(("retried", "expected"), [(99, "exists"), (30, "exists"), (29, "exists_with_different_amount")])
def test_retry_of_a_balancing_transfer(retried: int, expected: str) -> None:
    """Statuses, 2: a balancing transfer is retried with any amount that is at least what was moved."""
    desk = Desk()
    desk.send({"id": 1, "debit_account_id": 2, "credit_account_id": 1, "amount": 30})
    balancing = int(TransferFlags.BALANCING_DEBIT)
    outcome = desk.send({"id": 2, "amount": 50, "flags": balancing})
    assert codec.unpack_transfer(outcome.created).amount == 30
    assert desk.statuses({"id": 2, "amount": retried, "flags": balancing}) == [expected]


def test_balancing_with_both_moves_the_smaller() -> None:
    """Effects: balancing on both sides moves the smaller of both rooms, 0 if there is none, without any limit flag."""
    desk = Desk()
    desk.send(
        {"id": 1, "debit_account_id": 3, "credit_account_id": 1, "amount": 30},
        {"id": 2, "debit_account_id": 2, "credit_account_id": 3, "amount": 20},
    )
    both = int(TransferFlags.BALANCING_DEBIT | TransferFlags.BALANCING_CREDIT)
    outcome = desk.send({"id": 3, "amount": 2**128 - 1, "flags": both}, {"id": 4, "amount": 5, "flags": both})
    assert [transfer.amount for transfer in codec.unpack_transfers(outcome.created)] == [20, 0]


def test_closing_and_voiding_reopens() -> None:
    """Effects: a closing transfer closes its account; voiding it opens the account again; both are reported."""
    desk = Desk()
    closed = int(AccountFlags.CLOSED)
    outcome = desk.send({"id": 1, "amount": 0, "flags": PENDING | int(TransferFlags.CLOSING_CREDIT)})
    assert [(change.account_id, change.closed) for change in outcome.account_changes] == [(codec.pack_id(2), True)]
    assert desk.account(2).flags == closed
    assert desk.statuses({"id": 2, "amount": 1}, {"id": 3, "pending_id": 1, "flags": POST}, {"id": 2, "amount": 1}) == [
        "credit_account_already_closed",
        "credit_account_already_closed",
        "id_already_failed",
    ]
    outcome = desk.send({"id": 4, "pending_id": 1, "flags": VOID})
    assert [(change.account_id, change.closed) for change in outcome.account_changes] == [(codec.pack_id(2), False)]
    assert desk.statuses({"id": 5, "amount": 1}) == ["created"]


def test_expiry_of_a_closing_transfer_reopens() -> None:
    """Effects: a closing transfer that expires gives back its amount and opens the account, as a void does."""
    desk = Desk()
    desk.send({"id": 1, "amount": 4, "timeout": 2, "flags": PENDING | int(TransferFlags.CLOSING_DEBIT)})
    outcome = desk.ledger.expire(desk.now + 2 * S, 10)
    assert [change.closed for change in outcome.account_changes] == [False]
    assert desk.account(1).flags == 0
    assert desk.balances(1) == (0, 0, 0, 0)


def test_expiry_is_ordered_bounded_and_never_early() -> None:
    """Expiry: in order of expiry, then of creation, at most `limit` a call, nothing before its time; what expired cannot be posted."""
    desk = Desk()
    desk.send(
        {"id": 1, "amount": 1, "timeout": 9, "flags": PENDING},
        {"id": 2, "amount": 1, "timeout": 3, "flags": PENDING},
        {"id": 3, "amount": 1, "timeout": 3, "flags": PENDING},
        {"id": 4, "amount": 1, "timeout": 0, "flags": PENDING},
    )
    due = codec.unpack_transfer(desk.ledger.lookup_transfers(codec.pack_ids([2]))).timestamp + 3 * S
    assert desk.ledger.next_expiry() == due
    assert desk.ledger.expire(due - 1, 10) == BatchOutcome()
    assert [item.pending[:1] for item in desk.ledger.expire(due + 100 * S, 2).resolutions] == [b"\x02", b"\x03"]
    assert [item.pending[:1] for item in desk.ledger.expire(due + 100 * S, 2).resolutions] == [b"\x01"]
    assert desk.ledger.next_expiry() is None
    assert desk.balances(1) == (1, 0, 0, 0)
    assert desk.ledger.fate(codec.pack_id(4)) is Fate.PENDING
    assert desk.statuses({"id": 9, "pending_id": 2, "amount": 1, "flags": POST}) == ["pending_transfer_expired"]


def test_each_expiry_has_its_own_growing_timestamp() -> None:
    """Expiry: the first gets the log time, or the next free timestamp; each further one a nanosecond more; later events come after."""
    desk = Desk()
    desk.send(*({"id": i, "amount": 1, "timeout": 1, "flags": PENDING} for i in range(1, 6)))
    late = desk.now + 50 * S
    assert [item.timestamp for item in desk.ledger.expire(late, 3).resolutions] == [late, late + 1, late + 2]
    assert [item.timestamp for item in desk.ledger.expire(late, 3).resolutions] == [late + 3, late + 4]
    assert desk.ledger.last_timestamp == late + 4


def test_what_is_due_but_not_yet_expired_can_be_neither_posted_nor_voided() -> None:
    """Expiry: from its expiry on a transfer answers `pending_transfer_expired`, even before the command that gives back its amount."""
    desk = Desk()
    desk.send({"id": 1, "amount": 1, "timeout": 1, "flags": PENDING}, {"id": 2, "amount": 1, "timeout": 2, "flags": PENDING})
    assert desk.statuses({"id": 3, "pending_id": 1, "flags": VOID}, {"id": 4, "pending_id": 2, "flags": VOID}) == [
        "pending_transfer_expired",
        "created",
    ]
    assert desk.balances(1) == (1, 0, 0, 0)
    assert len(desk.ledger.expire(desk.now, 10).resolutions) == 1


def test_a_chain_sees_itself_and_leaves_nothing_when_it_breaks() -> None:
    """A batch: events of a chain see those before them; when it breaks, later events see none of it, but the failed id stays failed."""
    desk = Desk()
    linked = int(TransferFlags.LINKED)
    assert desk.statuses(
        {"id": 1, "amount": 5, "flags": linked | PENDING},
        {"id": 2, "pending_id": 1, "amount": 5, "flags": linked | POST},
        {"id": 3, "debit_account_id": 77},
        {"id": 2, "amount": 1},
        {"id": 3, "amount": 1},
        {"id": 4, "pending_id": 1, "amount": 5, "flags": POST},
    ) == [
        "linked_event_failed",
        "linked_event_failed",
        "debit_account_not_found",
        "created",
        "id_already_failed",
        "pending_transfer_not_found",
    ]
    assert desk.balances(1) == (0, 1, 0, 0)
    desk.ledger.check_invariants()


def test_an_imported_post_ends_a_pending_transfer_that_has_a_timeout() -> None:
    """Imported: a post with a time of its own, after the pending transfer's, is judged for expiry by the cluster's time."""
    desk = Desk()
    desk.send({"id": 1, "amount": 5, "timeout": 100, "flags": PENDING})
    imported = POST | int(TransferFlags.IMPORTED)
    post = {"id": 2, "pending_id": 1, "amount": 5, "flags": imported, "timestamp": desk.now + 5}
    assert desk.statuses(post) == ["created"]
    assert codec.unpack_transfer(desk.ledger.lookup_transfers(codec.pack_ids([2]))).timestamp == post["timestamp"]
    assert desk.ledger.next_expiry() is None


def test_metadata_is_stored_reported_and_never_compared() -> None:
    """Calls: metadata belongs to created transfers only; a retry with other metadata still exists, and the first metadata stays."""
    desk = Desk()
    base = {"debit_account_id": 1, "credit_account_id": 2, "ledger": 1, "code": 1}
    packed = codec.pack_transfer(id=1, **base) + codec.pack_transfer(id=0, **base) + codec.pack_transfer(id=2, **base)
    outcome = desk.ledger.create_transfers(packed, log_time=T0 + S, index=2, metadata=[b"one", b"lost", b""])
    assert outcome.metadata == (b"one", b"")
    again = desk.ledger.create_transfers(packed[:128], log_time=T0 + S, index=3, metadata=[b"other"])
    assert codec.unpack_results(again.results)[0].status == TransferStatus.EXISTS
    assert desk.ledger.transfers.metadata(codec.pack_id(1)) == b"one"
    assert desk.ledger.transfers.metadata(codec.pack_id(2)) is None


@pytest.mark.parametrize(
    ("packed", "log_time", "metadata", "refusal"),
    [
        (bytes(127), T0, None, BatchRefusal.LENGTH_NOT_A_MULTIPLE),
        (bytes(128 * (BATCH_MAX + 1)), T0, None, BatchRefusal.TOO_MANY_EVENTS),
        (bytes(128), -1, None, BatchRefusal.LOG_TIME_OUT_OF_RANGE),
        (bytes(128), MAX_TIMESTAMP + 1, None, BatchRefusal.LOG_TIME_OUT_OF_RANGE),
        (bytes(128), T0, [], BatchRefusal.METADATA_COUNT),
    ],
)
def test_a_batch_that_cannot_be_read_is_refused_as_a_whole(
    packed: bytes, log_time: int, metadata: list[bytes] | None, refusal: BatchRefusal
) -> None:
    """A batch: wrong length, too many events, impossible log time or metadata that does not match change nothing and say why."""
    desk = Desk()
    before = list(desk.ledger.export())
    assert desk.ledger.create_transfers(packed, log_time=log_time, index=9, metadata=metadata) == BatchOutcome(refusal)
    assert list(desk.ledger.export()) == before


def test_a_timeout_may_end_at_the_end_of_time_but_not_after() -> None:
    """Transfer statuses, 8: timestamp plus timeout may be 2**63 - 1, the last timestamp there is; a nanosecond more overflows."""
    for late, expected in ((MAX_TIMESTAMP - 7 * S, "created"), (MAX_TIMESTAMP - 7 * S + 1, "overflows_timeout")):
        desk = Desk()
        desk.now = late - S
        assert desk.statuses({"id": 1, "amount": 1, "timeout": 7, "flags": PENDING}) == [expected]


def test_no_timestamp_is_left_at_the_end_of_time() -> None:
    """A batch: when the clock has reached 2**63 - 1, further batches are refused and expiry does nothing, instead of raising."""
    desk = Desk()
    desk.send({"id": 1, "amount": 1, "timeout": 1, "flags": PENDING})
    assert desk.ledger.create_transfers(codec.pack_transfer(id=0), log_time=MAX_TIMESTAMP, index=3).refusal is None
    assert (
        desk.ledger.create_transfers(codec.pack_transfer(id=0), log_time=MAX_TIMESTAMP, index=4).refusal
        is BatchRefusal.LOG_TIME_OUT_OF_RANGE
    )
    assert desk.ledger.expire(MAX_TIMESTAMP, 5) == BatchOutcome()


def test_an_empty_batch_changes_nothing() -> None:
    """A batch of no events has no results and uses no timestamp."""
    desk = Desk()
    before = list(desk.ledger.export())
    assert desk.send() == BatchOutcome()
    assert desk.ledger.create_accounts(b"", log_time=T0 * 2, index=9) == BatchOutcome()
    assert list(desk.ledger.export()) == before


@pytest.mark.parametrize(
    ("breach", "evidence"),
    [
        ("unbalanced", "ledger 1 does not balance"),
        ("sums", "running sums"),
        ("limit", "debits exceed credits"),
        ("pending", "open transfers reserve"),
        ("negative", "out of range"),
    ],
)
def test_a_broken_invariant_raises_with_evidence(breach: str, evidence: str) -> None:
    """Invariants: each breach is found by the full check, and the message says which account or ledger and by how much."""
    desk = Desk(a4=int(AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS))
    desk.send({"id": 1, "amount": 5, "flags": PENDING}, {"id": 2, "amount": 5})
    books = desk.ledger._books
    one, two, limited = (books.accounts[codec.pack_id(i)] for i in (1, 2, 4))
    desk.ledger.check_invariants()
    if breach == "unbalanced":
        one.debits_posted += 1
        books.debits_posted += 1
        books.credits_posted += 1
    elif breach == "sums":
        books.debits_posted += 1
    elif breach == "limit":
        limited.debits_posted += 1
    elif breach == "pending":
        one.debits_pending -= 1
        two.credits_pending -= 1
        books.debits_pending -= 1
        books.credits_pending -= 1
    else:
        one.credits_posted -= 1
    with pytest.raises(LedgerInvariantError, match=evidence):
        desk.ledger.check_invariants()
    if breach == "sums":
        with pytest.raises(LedgerInvariantError, match=evidence):
            desk.ledger.check_sums()


def test_expiry_without_cover_halts() -> None:
    """Invariants: an open transfer whose accounts do not hold its amount raises on expiry instead of going below zero."""
    desk = Desk()
    desk.send({"id": 1, "amount": 5, "timeout": 1, "flags": PENDING})
    desk.ledger._books.accounts[codec.pack_id(1)].debits_pending = 4
    with pytest.raises(LedgerInvariantError, match="not covered"):
        desk.ledger.expire(desk.now + S, 1)
