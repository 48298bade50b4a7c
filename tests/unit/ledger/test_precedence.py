"""Precedence (ledger.md, account and transfer statuses): of two refusals that both apply, the one listed first is given.

Each status has a *cause*: fields of the event and settings of the world that bring it about on an otherwise good event. Every two
causes that do not disturb each other are put together, and the status that stands first in the documented order must come out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations

import pytest

from ledger import codec
from ledger.machine.model import MAX_U128, AccountStatus, TransferStatus
from ledger.machine.model import AccountFlags as A
from ledger.machine.model import TransferFlags as T
from ledger.machine.state import Ledger

Fields = dict[str, int]
NOW = 10**12
PAST = 10**9
FILL = MAX_U128 - 5


@dataclass(frozen=True)
class Cause:
    """What brings a status about. `needs`: further fields and settings that must be left alone for it to hold."""

    fields: Mapping[str, int] = field(default_factory=dict)
    flags: int = 0
    world: Mapping[str, int] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()

    def changes(self) -> dict[str, int]:
        """Everything that this cause sets."""
        return {**self.fields, **self.world}


def together(one: Cause, two: Cause) -> bool:
    """Whether both causes hold when both are applied."""
    mine, theirs = one.changes(), two.changes()
    if any(theirs.get(name, value) != value for name, value in mine.items()):
        return False
    return not (one.needs & theirs.keys() - mine.keys()) and not (two.needs & mine.keys() - theirs.keys())


def needs(*names: str) -> frozenset[str]:
    """Short for a frozen set."""
    return frozenset(names)


Lane = tuple[dict[str, Cause], Callable[[Fields, Mapping[str, int]], int]]


# --- accounts ------------------------------------------------------------------------------------------------------------------------


def account_status(changed: Fields, world: Mapping[str, int]) -> int:
    """Create the account (again, if the world says so) and give its status."""
    ledger = Ledger()
    base: Fields = {"id": 7, "user_data_128": 1, "user_data_64": 2, "user_data_32": 3, "ledger": 1, "code": 1}
    if world.get("exists"):
        ledger.create_accounts(codec.pack_account(**base), log_time=PAST, index=1)
    if world.get("younger_account"):
        ledger.create_accounts(codec.pack_account(id=1, ledger=1, code=1), log_time=PAST + 100, index=2)
    event = {**base, **changed}
    batch = []
    if world.get("first_imported", -1) != -1:
        imported = bool(world["first_imported"])
        batch.append(codec.pack_account(id=90, ledger=1, code=1, flags=A.IMPORTED if imported else 0, timestamp=PAST if imported else 0))
    if world.get("in_failed_chain"):
        batch.append(codec.pack_account(id=0, flags=event.get("flags", 0) & A.IMPORTED | A.LINKED, timestamp=event.get("timestamp", 0)))
    batch.append(codec.pack_account(**event))
    return codec.unpack_results(ledger.create_accounts(b"".join(batch), log_time=NOW, index=3).results)[-1].status


A_ENVELOPE = {
    "LINKED_EVENT_FAILED": Cause(world={"in_failed_chain": 1}),
    "LINKED_EVENT_CHAIN_OPEN": Cause(flags=A.LINKED, needs=needs("in_failed_chain")),
    "RESERVED_FIELD": Cause({"reserved": 1}),
    "RESERVED_FLAG": Cause(flags=1 << 15),
    "ID_MUST_NOT_BE_ZERO": Cause({"id": 0}),
    "ID_MUST_NOT_BE_INT_MAX": Cause({"id": MAX_U128}),
}
A_NOT_IMPORTED = {
    "IMPORTED_EVENT_EXPECTED": Cause(world={"first_imported": 1}, needs=needs("in_failed_chain")),
    "TIMESTAMP_MUST_BE_ZERO": Cause({"timestamp": 5}),
}
A_BALANCES = {
    "DEBITS_PENDING_MUST_BE_ZERO": Cause({"debits_pending": 1}),
    "DEBITS_POSTED_MUST_BE_ZERO": Cause({"debits_posted": 1}),
    "CREDITS_PENDING_MUST_BE_ZERO": Cause({"credits_pending": 1}),
    "CREDITS_POSTED_MUST_BE_ZERO": Cause({"credits_posted": 1}),
}
A_NEW = A_BALANCES | {
    "FLAGS_ARE_MUTUALLY_EXCLUSIVE": Cause(flags=A.DEBITS_MUST_NOT_EXCEED_CREDITS | A.CREDITS_MUST_NOT_EXCEED_DEBITS),
    "LEDGER_MUST_NOT_BE_ZERO": Cause({"ledger": 0}),
    "CODE_MUST_NOT_BE_ZERO": Cause({"code": 0}),
}
A_IMPORTED = {
    "IMPORTED_EVENT_NOT_EXPECTED": Cause(world={"first_imported": 0}, needs=needs("in_failed_chain")),
    "IMPORTED_EVENT_TIMESTAMP_OUT_OF_RANGE": Cause({"timestamp": 0}),
    "IMPORTED_EVENT_TIMESTAMP_MUST_NOT_ADVANCE": Cause({"timestamp": NOW}),
    "IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS": Cause(world={"younger_account": 1}, needs=needs("timestamp")),
}
_SAME = needs("exists", "id")
A_EXISTING = {
    "EXISTS_WITH_DIFFERENT_FLAGS": Cause(flags=A.HISTORY, world={"exists": 1}, needs=_SAME),
    "EXISTS_WITH_DIFFERENT_USER_DATA_128": Cause({"user_data_128": 8}, world={"exists": 1}, needs=_SAME),
    "EXISTS_WITH_DIFFERENT_USER_DATA_64": Cause({"user_data_64": 8}, world={"exists": 1}, needs=_SAME),
    "EXISTS_WITH_DIFFERENT_USER_DATA_32": Cause({"user_data_32": 8}, world={"exists": 1}, needs=_SAME),
    "EXISTS_WITH_DIFFERENT_LEDGER": Cause({"ledger": 8}, world={"exists": 1}, needs=_SAME),
    "EXISTS_WITH_DIFFERENT_CODE": Cause({"code": 8}, world={"exists": 1}, needs=_SAME),
    "EXISTS": Cause(world={"exists": 1}, needs=_SAME | {"user_data_128", "user_data_64", "user_data_32", "ledger", "code", "flags"}),
}


def imported_account_status(changed: Fields, world: Mapping[str, int]) -> int:
    """The same for an imported account."""
    flags = changed.get("flags", 0) | A.IMPORTED
    return account_status({"timestamp": PAST + 50, **changed, "flags": flags}, world)


# --- transfers -----------------------------------------------------------------------------------------------------------------------

TRANSFER: Fields = {
    "id": 70,
    "debit_account_id": 1,
    "credit_account_id": 2,
    "amount": 10,
    "user_data_128": 1,
    "user_data_64": 2,
    "user_data_32": 3,
    "ledger": 1,
    "code": 1,
}


class World:
    """A ledger that is set up step by step; every step must succeed."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.index = 0
        self.time = 100

    def account(self, at: int, **fields: int) -> None:
        """One more account, imported with exactly this timestamp."""
        self.index += 1
        fields["flags"] = fields.get("flags", 0) | A.IMPORTED
        packed = codec.pack_account(**{"ledger": 1, "code": 1, "timestamp": at, **fields})
        outcome = self.ledger.create_accounts(packed, log_time=max(at + 1, self.time), index=self.index)
        assert codec.unpack_results(outcome.results)[0].status == AccountStatus.CREATED

    def transfer(self, at: int, expected: int = TransferStatus.CREATED, **fields: int) -> None:
        """One more transfer."""
        self.index += 1
        packed = codec.pack_transfer(**{"ledger": 1, "code": 1, **fields})
        outcome = self.ledger.create_transfers(packed, log_time=at, index=self.index)
        assert codec.unpack_results(outcome.results)[0].status == expected, fields

    def last_status(self, *batch: bytes) -> int:
        """Run the batch; the status of its last event."""
        outcome = self.ledger.create_transfers(b"".join(batch), log_time=NOW, index=self.index + 1)
        return codec.unpack_results(outcome.results)[-1].status


def prefix(world: Mapping[str, int], event: Fields) -> list[bytes]:
    """The events before the one in question in its batch."""
    batch = []
    if world.get("first_imported", -1) != -1:
        imported = bool(world["first_imported"])
        batch.append(codec.pack_transfer(id=90, flags=T.IMPORTED if imported else 0, timestamp=PAST if imported else 0))
    if world.get("in_failed_chain"):
        batch.append(codec.pack_transfer(id=0, flags=event.get("flags", 0) & T.IMPORTED | T.LINKED, timestamp=event.get("timestamp", 0)))
    return batch


def build_accounts(world: Mapping[str, int]) -> World:
    """Accounts 1 (debit), 2 (credit) and 9 (the other side of everything else), in the order of their ages."""
    made = World()
    ages = sorted(((world.get("debit_at", 100), 1), (world.get("credit_at", 200), 2), (world.get("other_at", 300), 9)))
    flags = {1: world.get("debit_flags", 0), 2: world.get("credit_flags", 0), 9: 0}
    for at, account_id in ages:
        if not world.get(f"missing_{account_id}"):
            made.account(at, id=account_id, flags=flags[account_id], ledger=world.get(f"ledger_{account_id}", 1))
    return made


def transfer_status(changed: Fields, world: Mapping[str, int]) -> int:
    """Create an ordinary or pending transfer between accounts 1 and 2 and give its status."""
    made = build_accounts(world)
    for side, account_id in (("debit", 1), ("credit", 2)):
        fill_posted, fill_pending = world.get(f"{side}_posted", 0), world.get(f"{side}_pending", 0)
        ends = {"debit_account_id": 1, "credit_account_id": 9} if side == "debit" else {"debit_account_id": 9, "credit_account_id": 2}
        back = {"debit_account_id": ends["credit_account_id"], "credit_account_id": ends["debit_account_id"]}
        if world.get(f"{side}_flags") and fill_posted + fill_pending:
            made.transfer(PAST, id=20 + account_id, amount=fill_posted + fill_pending, **back)
        if fill_posted:
            made.transfer(PAST, id=30 + account_id, amount=fill_posted, **ends)
        if fill_pending:
            made.transfer(PAST, id=40 + account_id, amount=fill_pending, flags=T.PENDING, **ends)
        if world.get(f"{side}_closed"):
            flags = T.PENDING | (T.CLOSING_DEBIT if side == "debit" else T.CLOSING_CREDIT)
            made.transfer(PAST, id=50 + account_id, flags=flags, **ends)
    if world.get("failed"):
        made.transfer(PAST, TransferStatus.DEBIT_ACCOUNT_NOT_FOUND, id=70, debit_account_id=66, credit_account_id=2)
    if world.get("exists"):
        made.transfer(PAST, **TRANSFER)
    event = {**TRANSFER, **changed}
    return made.last_status(*prefix(world, event), codec.pack_transfer(**event))


def pending_status(changed: Fields, world: Mapping[str, int]) -> int:
    """The same for a pending transfer."""
    return transfer_status({**changed, "flags": changed.get("flags", 0) | T.PENDING}, world)


def imported_transfer_status(changed: Fields, world: Mapping[str, int]) -> int:
    """The same for an imported pending transfer, older than anything the log stamped."""
    flags = changed.get("flags", 0) | T.IMPORTED | T.PENDING
    return transfer_status({"timestamp": PAST + 50, **changed, "flags": flags}, world)


T_ENVELOPE = {
    "LINKED_EVENT_FAILED": Cause(world={"in_failed_chain": 1}),
    "LINKED_EVENT_CHAIN_OPEN": Cause(flags=T.LINKED, needs=needs("in_failed_chain")),
    "RESERVED_FLAG": Cause(flags=1 << 15),
    "ID_MUST_NOT_BE_ZERO": Cause({"id": 0}),
    "ID_MUST_NOT_BE_INT_MAX": Cause({"id": MAX_U128}),
}
T_NOT_IMPORTED = {
    "IMPORTED_EVENT_EXPECTED": Cause(world={"first_imported": 1}, needs=needs("in_failed_chain")),
    "TIMESTAMP_MUST_BE_ZERO": Cause({"timestamp": 5}),
}
T_FAILED = {"ID_ALREADY_FAILED": Cause(world={"failed": 1}, needs=needs("id", "missing_2", "ledger_2"))}
T_FIELDS = {
    "DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO": Cause({"debit_account_id": 0}),
    "DEBIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX": Cause({"debit_account_id": MAX_U128}),
    "CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO": Cause({"credit_account_id": 0}),
    "CREDIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX": Cause({"credit_account_id": MAX_U128}),
    "ACCOUNTS_MUST_BE_DIFFERENT": Cause({"credit_account_id": 1}, needs=needs("debit_account_id")),
    "PENDING_ID_MUST_BE_ZERO": Cause({"pending_id": 5}),
    "LEDGER_MUST_NOT_BE_ZERO": Cause({"ledger": 0}),
    "CODE_MUST_NOT_BE_ZERO": Cause({"code": 0}),
}
T_ORDINARY = {
    "TIMEOUT_RESERVED_FOR_PENDING_TRANSFER": Cause({"timeout": 1}),
    "CLOSING_TRANSFER_MUST_BE_PENDING": Cause(flags=T.CLOSING_CREDIT),
}
_DEBIT, _CREDIT = needs("debit_account_id", "missing_1"), needs("credit_account_id", "missing_2")
_BOTH = _DEBIT | _CREDIT
T_ACCOUNTS = {
    "DEBIT_ACCOUNT_NOT_FOUND": Cause(world={"missing_1": 1}, needs=needs("debit_account_id", "exists")),
    "CREDIT_ACCOUNT_NOT_FOUND": Cause(world={"missing_2": 1}, needs=needs("credit_account_id", "exists")),
    "ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER": Cause(world={"ledger_2": 2}, needs=_BOTH),
    "TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS": Cause({"ledger": 3}, needs=_BOTH | {"ledger_2"}),
}
_TIMES = needs("timestamp", "debit_posted", "debit_pending", "credit_posted", "credit_pending", "debit_closed", "credit_closed")
T_IMPORTED = {
    "IMPORTED_EVENT_NOT_EXPECTED": Cause(world={"first_imported": 0}, needs=needs("in_failed_chain")),
    "IMPORTED_EVENT_TIMESTAMP_OUT_OF_RANGE": Cause({"timestamp": 0}),
    "IMPORTED_EVENT_TIMESTAMP_MUST_NOT_ADVANCE": Cause({"timestamp": NOW}),
    "IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS": Cause(world={"other_at": PAST + 50}, needs=_BOTH | _TIMES | {"ledger_2", "ledger"}),
    "IMPORTED_EVENT_TIMESTAMP_MUST_POSTDATE_DEBIT_ACCOUNT": Cause(
        world={"debit_at": PAST + 60}, needs=_BOTH | _TIMES | {"ledger_2", "ledger"}
    ),
    "IMPORTED_EVENT_TIMESTAMP_MUST_POSTDATE_CREDIT_ACCOUNT": Cause(
        world={"credit_at": PAST + 70}, needs=_BOTH | _TIMES | {"ledger_2", "ledger"}
    ),
    "IMPORTED_EVENT_TIMEOUT_MUST_BE_ZERO": Cause({"timeout": 1}, needs=_BOTH | {"ledger_2", "ledger"}),
}
_D, _C = _DEBIT | {"ledger_2", "ledger", "amount"}, _CREDIT | {"ledger_2", "ledger", "amount"}
T_CLOSED = {
    "DEBIT_ACCOUNT_ALREADY_CLOSED": Cause(world={"debit_closed": 1}, needs=_D | _C | {"missing_1"}),
    "CREDIT_ACCOUNT_ALREADY_CLOSED": Cause(world={"credit_closed": 1}, needs=_D | _C | {"missing_2"}),
}
T_BALANCES = {
    "OVERFLOWS_DEBITS_POSTED": Cause(world={"debit_posted": FILL, "debit_pending": 0}, needs=_D | _C),
    "OVERFLOWS_CREDITS_POSTED": Cause(world={"credit_posted": FILL, "credit_pending": 0}, needs=_D | _C),
    "OVERFLOWS_DEBITS": Cause(world={"debit_posted": FILL - 20, "debit_pending": 20}, needs=_D | _C),
    "OVERFLOWS_CREDITS": Cause(world={"credit_posted": FILL - 20, "credit_pending": 20}, needs=_D | _C),
    "EXCEEDS_CREDITS": Cause(world={"debit_flags": int(A.DEBITS_MUST_NOT_EXCEED_CREDITS)}, needs=_D | _C | {"debit_closed"}),
    "EXCEEDS_DEBITS": Cause(world={"credit_flags": int(A.CREDITS_MUST_NOT_EXCEED_DEBITS)}, needs=_D | _C | {"credit_closed"}),
}
T_PENDING_OVERFLOWS = {
    "OVERFLOWS_DEBITS_PENDING": Cause(world={"debit_pending": FILL, "debit_posted": 0}, needs=_D | _C),
    "OVERFLOWS_CREDITS_PENDING": Cause(world={"credit_pending": FILL, "credit_posted": 0}, needs=_D | _C),
}
_OLD = needs("exists", "id", "failed")
T_EXISTING = {
    "EXISTS_WITH_DIFFERENT_FLAGS": Cause(flags=T.BALANCING_DEBIT, world={"exists": 1}, needs=_OLD),
    "EXISTS_WITH_DIFFERENT_PENDING_ID": Cause({"pending_id": 8}, world={"exists": 1}, needs=_OLD),
    "EXISTS_WITH_DIFFERENT_TIMEOUT": Cause({"timeout": 8}, world={"exists": 1}, needs=_OLD),
    "EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID": Cause({"debit_account_id": 8}, world={"exists": 1}, needs=_OLD),
    "EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID": Cause({"credit_account_id": 8}, world={"exists": 1}, needs=_OLD),
    "EXISTS_WITH_DIFFERENT_AMOUNT": Cause({"amount": 8}, world={"exists": 1}, needs=_OLD),
    "EXISTS_WITH_DIFFERENT_USER_DATA_128": Cause({"user_data_128": 8}, world={"exists": 1}, needs=_OLD),
    "EXISTS_WITH_DIFFERENT_USER_DATA_64": Cause({"user_data_64": 8}, world={"exists": 1}, needs=_OLD),
    "EXISTS_WITH_DIFFERENT_USER_DATA_32": Cause({"user_data_32": 8}, world={"exists": 1}, needs=_OLD),
    "EXISTS_WITH_DIFFERENT_LEDGER": Cause({"ledger": 8}, world={"exists": 1}, needs=_OLD),
    "EXISTS_WITH_DIFFERENT_CODE": Cause({"code": 8}, world={"exists": 1}, needs=_OLD),
    "EXISTS": Cause(world={"exists": 1}, needs=_OLD | set(TRANSFER) | {"pending_id", "timeout", "flags"}),
}


# --- posts and voids -----------------------------------------------------------------------------------------------------------------


def resolving_status(kind: int, changed: Fields, world: Mapping[str, int]) -> int:
    """Post or void pending transfer 60 (10 from account 1 to account 2) and give the status."""
    made = build_accounts(world)
    pending: Fields = {**TRANSFER, "id": 60, "flags": int(T.PENDING), "timeout": world.get("timeout", 0)}
    if world.get("not_pending"):
        pending["flags"] = 0
    made.transfer(PAST, **pending)
    if "fate" in world:
        made.transfer(PAST, id=61, pending_id=60, amount=0, flags=world["fate"], ledger=0, code=0)
    for side, flag in (("debit", T.CLOSING_DEBIT), ("credit", T.CLOSING_CREDIT)):
        if world.get(f"{side}_closed"):
            ends = {"debit_account_id": 1, "credit_account_id": 9} if side == "debit" else {"debit_account_id": 9, "credit_account_id": 2}
            made.transfer(PAST, id=50 + flag, flags=T.PENDING | flag, **ends)
    if world.get("failed"):
        made.transfer(PAST, TransferStatus.DEBIT_ACCOUNT_NOT_FOUND, id=70, debit_account_id=66, credit_account_id=2)
    if world.get("exists"):
        made.transfer(PAST, id=70, pending_id=60, amount=10, flags=kind, user_data_128=1, user_data_64=2, user_data_32=3)
    event: Fields = {"id": 70, "pending_id": 60, "amount": 10, **changed, "flags": kind | changed.get("flags", 0)}
    return made.last_status(*prefix(world, event), codec.pack_transfer(**event))


def post_status(changed: Fields, world: Mapping[str, int]) -> int:
    """A post."""
    return resolving_status(T.POST_PENDING_TRANSFER, changed, world)


def void_status(changed: Fields, world: Mapping[str, int]) -> int:
    """A void."""
    return resolving_status(T.VOID_PENDING_TRANSFER, changed, world)


_FOUND = needs("pending_id", "not_pending")
R_COMMON = {
    "ID_ALREADY_FAILED": Cause(world={"failed": 1}, needs=needs("id")),
    "FLAGS_ARE_MUTUALLY_EXCLUSIVE": Cause(flags=T.CLOSING_DEBIT),
    "PENDING_ID_MUST_NOT_BE_ZERO": Cause({"pending_id": 0}),
    "PENDING_ID_MUST_NOT_BE_INT_MAX": Cause({"pending_id": MAX_U128}),
    "PENDING_ID_MUST_BE_DIFFERENT": Cause({"pending_id": 70}, needs=needs("id")),
    "TIMEOUT_RESERVED_FOR_PENDING_TRANSFER": Cause({"timeout_": 1}),
    "PENDING_TRANSFER_NOT_FOUND": Cause({"pending_id": 5}),
    "PENDING_TRANSFER_NOT_PENDING": Cause(world={"not_pending": 1}, needs=needs("pending_id", "fate")),
    "PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID": Cause({"debit_account_id": 8}, needs=_FOUND),
    "PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT_ID": Cause({"credit_account_id": 8}, needs=_FOUND),
    "PENDING_TRANSFER_HAS_DIFFERENT_LEDGER": Cause({"ledger": 8}, needs=_FOUND),
    "PENDING_TRANSFER_HAS_DIFFERENT_CODE": Cause({"code": 8}, needs=_FOUND),
    "PENDING_TRANSFER_ALREADY_POSTED": Cause(world={"fate": int(T.POST_PENDING_TRANSFER)}, needs=_FOUND | {"timeout"}),
    "PENDING_TRANSFER_ALREADY_VOIDED": Cause(world={"fate": int(T.VOID_PENDING_TRANSFER)}, needs=_FOUND | {"timeout"}),
    "PENDING_TRANSFER_EXPIRED": Cause(world={"timeout": 1}, needs=_FOUND | {"fate"}),
}
R_POST = {
    "EXCEEDS_PENDING_TRANSFER_AMOUNT": Cause({"amount": 11}, needs=_FOUND),
    "DEBIT_ACCOUNT_ALREADY_CLOSED": Cause(world={"debit_closed": 1}, needs=_FOUND),
    "CREDIT_ACCOUNT_ALREADY_CLOSED": Cause(world={"credit_closed": 1}, needs=_FOUND),
}
R_VOID = {"PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT": Cause({"amount": 11}, needs=_FOUND)}
_R_OLD = needs("exists", "id", "failed", "not_pending", "fate", "timeout", "debit_closed", "credit_closed")
R_EXISTING = {
    "EXISTS_WITH_DIFFERENT_FLAGS": Cause(flags=T.BALANCING_DEBIT, world={"exists": 1}, needs=_R_OLD),
    "EXISTS_WITH_DIFFERENT_PENDING_ID": Cause({"pending_id": 8}, world={"exists": 1}, needs=_R_OLD),
    "EXISTS_WITH_DIFFERENT_TIMEOUT": Cause({"timeout_": 8}, world={"exists": 1}, needs=_R_OLD),
    "EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID": Cause({"debit_account_id": 8}, world={"exists": 1}, needs=_R_OLD),
    "EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID": Cause({"credit_account_id": 8}, world={"exists": 1}, needs=_R_OLD),
    "EXISTS_WITH_DIFFERENT_AMOUNT": Cause({"amount": 8}, world={"exists": 1}, needs=_R_OLD),
    "EXISTS_WITH_DIFFERENT_USER_DATA_128": Cause({"user_data_128": 8}, world={"exists": 1}, needs=_R_OLD),
    "EXISTS_WITH_DIFFERENT_USER_DATA_64": Cause({"user_data_64": 8}, world={"exists": 1}, needs=_R_OLD),
    "EXISTS_WITH_DIFFERENT_USER_DATA_32": Cause({"user_data_32": 8}, world={"exists": 1}, needs=_R_OLD),
    "EXISTS_WITH_DIFFERENT_LEDGER": Cause({"ledger": 8}, world={"exists": 1}, needs=_R_OLD),
    "EXISTS_WITH_DIFFERENT_CODE": Cause({"code": 8}, world={"exists": 1}, needs=_R_OLD),
    "EXISTS": Cause(world={"exists": 1}, needs=_R_OLD | set(TRANSFER) | {"pending_id", "timeout_", "flags"}),
}

LANES: dict[str, Lane] = {
    "new account": (A_ENVELOPE | A_NOT_IMPORTED | A_NEW, account_status),
    "existing account": (A_ENVELOPE | A_NOT_IMPORTED | A_EXISTING, account_status),
    "existing account, bad balances": (A_EXISTING | A_BALANCES, account_status),
    "imported account": (A_ENVELOPE | A_IMPORTED | A_NEW, imported_account_status),
    "ordinary transfer": (
        T_ENVELOPE | T_NOT_IMPORTED | T_FAILED | T_FIELDS | T_ORDINARY | T_ACCOUNTS | T_CLOSED | T_BALANCES,
        transfer_status,
    ),
    "pending transfer": (T_ENVELOPE | T_FAILED | T_FIELDS | T_ACCOUNTS | T_CLOSED | T_BALANCES | T_PENDING_OVERFLOWS, pending_status),
    "imported transfer": (T_ENVELOPE | T_IMPORTED | T_FIELDS | T_ACCOUNTS | T_CLOSED | T_BALANCES, imported_transfer_status),
    "existing transfer": (T_ENVELOPE | T_NOT_IMPORTED | T_EXISTING, transfer_status),
    "post": (T_ENVELOPE | T_NOT_IMPORTED | R_COMMON | R_POST, post_status),
    "void": (T_ENVELOPE | T_NOT_IMPORTED | R_COMMON | R_VOID, void_status),
    "existing post": (T_ENVELOPE | T_NOT_IMPORTED | R_EXISTING, post_status),
    "existing void": (T_ENVELOPE | T_NOT_IMPORTED | R_EXISTING, void_status),
}


def order_of(lane: str) -> list[str]:
    """All statuses of the lane's kind, in the documented order."""
    return [status.name for status in (AccountStatus if "account" in lane else TransferStatus)]


def run(lane: str, *causes: Cause) -> str:
    """The status that the causes give together."""
    fields: Fields = {}
    world: dict[str, int] = {}
    for cause in causes:
        fields |= cause.fields
        world |= cause.world
        fields["flags"] = fields.get("flags", 0) | cause.flags
    if "timeout_" in fields:
        fields["timeout"] = fields.pop("timeout_")
    status = LANES[lane][1](fields, world)
    return (AccountStatus if "account" in lane else TransferStatus)(status).name


@pytest.mark.parametrize(("lane", "status"), [(lane, status) for lane, (causes, _) in LANES.items() for status in causes])
def test_each_cause_alone_gives_its_status(lane: str, status: str) -> None:
    """Statuses: each condition of the specification, alone, gives the status that it names."""
    assert run(lane, LANES[lane][0][status]) == status


@pytest.mark.parametrize("lane", LANES)
def test_of_two_refusals_the_first_listed_is_given(lane: str) -> None:
    """Statuses, "highest precedence first": two conditions that hold at once give the status that is listed first."""
    causes = LANES[lane][0]
    order = order_of(lane)
    tried = 0
    wrong = []
    for one, two in combinations(sorted(causes, key=order.index), 2):
        if together(causes[one], causes[two]):
            tried += 1
            given = run(lane, causes[one], causes[two])
            if given != one:
                wrong.append((one, two, given))
    assert not wrong
    assert tried > len(causes)


def test_every_status_has_a_cause() -> None:
    """Statuses: no status of the specification is left out of the table above, except those named here, which other tests cover."""
    caused = {("account" in lane, status) for lane, (causes, _) in LANES.items() for status in causes}
    elsewhere = {(True, "CREATED"), (False, "CREATED"), (False, "OVERFLOWS_TIMEOUT")}
    every = {(True, status.name) for status in AccountStatus} | {(False, status.name) for status in TransferStatus}
    assert every - caused == elsewhere


def test_overflow_of_the_timeout_comes_before_the_limits() -> None:
    """Transfer statuses, 8 and 9: `overflows_timeout`, when timestamp plus timeout passes 2**63, comes before `exceeds_credits`."""
    late = 2**63 - 10**9
    for debit_flags, timeout, expected in (
        (0, 1, TransferStatus.OVERFLOWS_TIMEOUT),
        (2, 1, TransferStatus.OVERFLOWS_TIMEOUT),
        (2, 0, TransferStatus.EXCEEDS_CREDITS),
        (0, 0, TransferStatus.CREATED),
    ):
        made = build_accounts({"debit_flags": debit_flags})
        packed = codec.pack_transfer(**{**TRANSFER, "flags": int(T.PENDING), "timeout": timeout})
        outcome = made.ledger.create_transfers(packed, log_time=late, index=9)
        assert codec.unpack_results(outcome.results)[0].status == expected


def test_the_last_event_of_an_open_chain_says_so_even_in_a_broken_chain() -> None:
    """A batch: a chain left open has `linked_event_chain_open` on its last event, whatever broke it before."""
    made = build_accounts({})
    bad = codec.pack_transfer(**{**TRANSFER, "code": 0, "flags": int(T.LINKED)})
    last = codec.pack_transfer(**{**TRANSFER, "id": 71, "flags": int(T.LINKED)})
    good = codec.pack_transfer(**{**TRANSFER, "id": 72, "flags": int(T.LINKED)})
    statuses = [
        result.status for result in codec.unpack_results(made.ledger.create_transfers(good + bad + last, log_time=NOW, index=9).results)
    ]
    assert statuses == [
        TransferStatus.LINKED_EVENT_FAILED,
        TransferStatus.CODE_MUST_NOT_BE_ZERO,
        TransferStatus.LINKED_EVENT_CHAIN_OPEN,
    ]
