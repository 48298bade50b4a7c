"""Accounts and transfers from a CSV file, line by line: what is good goes on, what is bad is named by line, field and reason.

The file is UTF-8 text with a header. Columns, in any order: `record` (account or transfer), `id`, `debit_account_id`,
`credit_account_id`, `amount`, `ledger`, `code`, `flags`; and, where wanted, `pending_id`, `timeout`, `user_data_128`,
`user_data_64`, `user_data_32`. Numbers are whole, decimal, in minor units; flags are names of the protocol joined by "|", such as
`linked|pending`. One record is one line: a quoted field cannot contain a line break.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from lockd_client.errors import FieldViolation, InvalidArgument
from lockd_client.ledger_model import MAX_BATCH, MAX_ID, Account, AccountFlags, Transfer, TransferFlags

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REQUIRED = ("id", "debit_account_id", "credit_account_id", "amount", "ledger", "code", "flags")
ACCOUNT_COLUMNS = frozenset({"id", "ledger", "code", "flags", "user_data_128", "user_data_64", "user_data_32"})
BITS = {
    "id": 128,
    "debit_account_id": 128,
    "credit_account_id": 128,
    "amount": 128,
    "ledger": 32,
    "code": 16,
    "pending_id": 128,
    "timeout": 32,
    "user_data_128": 128,
    "user_data_64": 64,
    "user_data_32": 32,
}
OPTIONAL = ("pending_id", "timeout", "user_data_128", "user_data_64", "user_data_32")
_SECOND_STEP = TransferFlags.POST_PENDING_TRANSFER | TransferFlags.VOID_PENDING_TRANSFER
_SHOWN = 40
"""Characters of a bad value that are shown."""


class Kind(StrEnum):
    """Which records of a file are wanted."""

    AUTO = "auto"
    """Both, as the column `record` says."""
    ACCOUNTS = "accounts"
    """Accounts only; the file may do without the column `record`."""
    TRANSFERS = "transfers"
    """Transfers only; the file may do without the column `record`."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a line is bad: the column (empty: the line as a whole) and the reason."""

    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the file: an account, a transfer, or a problem.

    Attributes:
        number: Counted from 1, the header included.
        value: What it says; None if it is bad.
        problem: Why it is bad; None if it is good.
    """

    number: int
    value: Account | Transfer | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Good lines that go in one call: accounts or transfers, never both, and never a part of a chain."""

    lines: tuple[Line, ...]

    @property
    def accounts(self) -> list[Account]:
        """The accounts, if it holds accounts."""
        return [line.value for line in self.lines if isinstance(line.value, Account)]

    @property
    def transfers(self) -> list[Transfer]:
        """The transfers, if it holds transfers."""
        return [line.value for line in self.lines if isinstance(line.value, Transfer)]


class _BadError(Exception):
    """A line is bad."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.problem = Problem(field, reason)


def read_csv(path: str | Path, *, kind: Kind = Kind.AUTO, other_accounts: bool = False) -> Iterator[Line]:
    """Read a file line by line; nothing is sent anywhere.

    A chain of linked records is handed out when it is complete: if one of its lines is bad, so are all others of it, because
    what is left would be another chain. A file that declares accounts must declare every account before a transfer names it.
    The same id twice is a retry if the lines say the same, else bad.

    Args:
        path: The file.
        kind: Which records are wanted; lines of the other kind are passed over.
        other_accounts: Transfers may name accounts that this file does not declare.

    Raises:
        OSError: The file cannot be read.
        InvalidArgument: It is not UTF-8 (the line is named), or its header is not usable.
    """
    return _Reader(Path(path), kind, other_accounts=other_accounts).lines()


def batches(lines: Iterable[Line], size: int = MAX_BATCH) -> Iterator[Batch | Line]:
    """Gather good lines into batches of at most `size`, in the order of the file; bad lines come through as they are.

    Raises:
        InvalidArgument: A chain is longer than a batch can be.
    """
    gathered: list[Line] = []
    chain: list[Line] = []
    for line in lines:
        if line.value is None:
            yield line
            continue
        chain.append(line)
        if line.value.flags & 1:
            if len(chain) > MAX_BATCH:
                raise InvalidArgument(f"Line {chain[0].number} begins a chain of more than {MAX_BATCH} records; a batch takes no more.")
            continue
        other_kind = bool(gathered) and type(gathered[0].value) is not type(line.value)
        if gathered and (other_kind or len(gathered) + len(chain) > size):
            yield Batch(tuple(gathered))
            gathered = []
        gathered += chain
        chain = []
    if gathered:
        yield Batch(tuple(gathered))


class _Reader:
    """One pass over one file."""

    def __init__(self, path: Path, kind: Kind, *, other_accounts: bool) -> None:
        self._path = path
        self._kind = kind
        self._other_accounts = other_accounts
        self._columns: list[str] = []
        self._accounts: dict[int, tuple[int, Account]] = {}
        self._transfers: dict[int, tuple[int, Transfer]] = {}

    def lines(self) -> Iterator[Line]:
        """All lines, with chains held together."""
        chain: list[Line] = []
        for number, text in self._decoded():
            if not self._columns:
                self._columns = self._header(number, text)
                continue
            try:
                value = self._parse(number, text)
            except _BadError as bad:
                yield from _spoil(chain, number)
                chain = []
                yield Line(number, problem=bad.problem)
                continue
            if value is None:
                continue
            if chain and type(chain[0].value) is not type(value):
                yield from _spoil(chain, number)
                chain = []
            chain.append(Line(number, value))
            if not value.flags & 1:
                yield from chain
                chain = []
        if not self._columns:
            raise self._unusable("it is empty")
        for line in chain:
            yield Line(line.number, problem=Problem("flags", "the file ends inside its chain: the last record of a chain is not linked"))

    def _decoded(self) -> Iterator[tuple[int, str]]:
        """Non-empty lines with their numbers.

        Raises:
            InvalidArgument: A line is not UTF-8.
        """
        with self._path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    message = f"{self._path}: line {number} is not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start + 1})."
                    violation = FieldViolation(f"line {number}", "not UTF-8")
                    raise InvalidArgument(message, violations=[violation], advice="Save the file as UTF-8.") from None
                if text.strip():
                    yield number, text

    def _header(self, number: int, text: str) -> list[str]:
        try:
            columns = [name.strip() for name in _split(text)]
        except _BadError as bad:
            raise self._unusable(f"line {number}: {bad.problem.reason}") from None
        wanted: tuple[str, ...] = ("record", *REQUIRED) if self._kind is Kind.AUTO else REQUIRED
        if self._kind is Kind.ACCOUNTS:
            wanted = ("id", "ledger", "code", "flags")
        known = {"record", *REQUIRED, *OPTIONAL}
        if missing := [name for name in wanted if name not in columns]:
            raise self._unusable(f"its header lacks {', '.join(missing)}")
        if unknown := [name for name in columns if name not in known]:
            raise self._unusable(f"its header names {', '.join(repr(name) for name in unknown)}, which is no column")
        if len(set(columns)) < len(columns):
            raise self._unusable("its header names a column twice")
        return columns

    def _unusable(self, why: str) -> InvalidArgument:
        header = ",".join(("record", *REQUIRED))
        violation = FieldViolation("line 1", why)
        return InvalidArgument(f"{self._path}: {why}.", violations=[violation], advice=f"The first line must be: {header}")

    def _parse(self, number: int, text: str) -> Account | Transfer | None:
        """The record of a line; None if its kind is not wanted."""
        cells = _split(text)
        if len(cells) != len(self._columns):
            field = self._columns[len(cells)] if len(cells) < len(self._columns) else ""
            raise _BadError(field, f"{len(cells)} columns instead of {len(self._columns)}")
        row = {name: cell.strip() for name, cell in zip(self._columns, cells, strict=True)}
        record = row.pop("record", "account" if self._kind is Kind.ACCOUNTS else "transfer")
        if record not in ("account", "transfer"):
            raise _BadError("record", f"{_show(record)} is neither account nor transfer")
        if self._kind is not Kind.AUTO and self._kind.value != record + "s":
            return None
        return self._account(number, row) if record == "account" else self._transfer(number, row)

    def _account(self, number: int, row: dict[str, str]) -> Account:
        for name, cell in row.items():
            if name not in ACCOUNT_COLUMNS and cell not in ("", "0"):
                raise _BadError(name, "an account has none")
        flags = _flags(row["flags"], AccountFlags)
        account = Account(
            id=_id(row),
            ledger=_needed(row, "ledger"),
            code=_needed(row, "code"),
            flags=int(flags),
            user_data_128=_number_or_zero(row, "user_data_128"),
            user_data_64=_number_or_zero(row, "user_data_64"),
            user_data_32=_number_or_zero(row, "user_data_32"),
        )
        earlier = self._accounts.setdefault(account.id, (number, account))
        _must_agree(earlier, account, ("flags", "ledger", "code", "user_data_128", "user_data_64", "user_data_32"))
        return account

    def _transfer(self, number: int, row: dict[str, str]) -> Transfer:
        flags = _flags(row["flags"], TransferFlags)
        # A post or void may leave out what its pending transfer says.
        take = _number_or_zero if flags & _SECOND_STEP else _needed
        transfer = Transfer(
            id=_id(row),
            debit_account_id=take(row, "debit_account_id"),
            credit_account_id=take(row, "credit_account_id"),
            amount=_number("amount", row["amount"]),
            ledger=take(row, "ledger"),
            code=take(row, "code"),
            flags=int(flags),
            pending_id=_number_or_zero(row, "pending_id"),
            timeout=_number_or_zero(row, "timeout"),
            user_data_128=_number_or_zero(row, "user_data_128"),
            user_data_64=_number_or_zero(row, "user_data_64"),
            user_data_32=_number_or_zero(row, "user_data_32"),
        )
        if self._accounts and not self._other_accounts:
            for name, account in (("debit_account_id", transfer.debit_account_id), ("credit_account_id", transfer.credit_account_id)):
                if account and account not in self._accounts:
                    raise _BadError(name, f"account {account} is not declared on an earlier line")
        earlier = self._transfers.setdefault(transfer.id, (number, transfer))
        _must_agree(earlier, transfer, ("amount", "debit_account_id", "credit_account_id", "ledger", "code", "flags", *OPTIONAL))
        return transfer


def _spoil(chain: list[Line], number: int) -> Iterator[Line]:
    """The lines of a chain that a bad line has broken."""
    for line in chain:
        yield Line(line.number, problem=Problem("flags", f"it is linked to line {number}, which is bad or of another kind"))


def _split(text: str) -> list[str]:
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise _BadError("", f"a quote is out of place ({error})") from None
    return rows[0] if rows else []


def _show(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _number(name: str, text: str) -> int:
    """A whole decimal number that fits its field."""
    if not text:
        raise _BadError(name, "it is empty")
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()):
        raise _BadError(name, f"{_show(text)} is not a whole number")
    if text.startswith("-"):
        raise _BadError(name, f"{_show(text)} is negative")
    bits = BITS[name]
    if len(digits) > 40 or int(digits) >= 1 << bits:
        raise _BadError(name, f"{_show(text)} is more than 2^{bits}-1")
    return int(digits)


def _number_or_zero(row: dict[str, str], name: str) -> int:
    return _number(name, row[name]) if row.get(name) else 0


def _needed(row: dict[str, str], name: str) -> int:
    value = _number(name, row[name])
    if not value:
        raise _BadError(name, "it must not be 0")
    return value


def _id(row: dict[str, str]) -> int:
    value = _needed(row, "id")
    if value == MAX_ID:
        raise _BadError("id", "2^128-1 is not usable as an id")
    return value


def _flags(text: str, kind: type[AccountFlags | TransferFlags]) -> AccountFlags | TransferFlags:
    flags = kind(0)
    for part in filter(None, (p.strip() for p in text.split("|"))):
        if part.upper() not in kind.__members__ or part != part.lower():
            raise _BadError("flags", f"{_show(part)} is not the name of a flag")
        flags |= kind[part.upper()]
    return flags


def _must_agree(earlier: tuple[int, object], now: object, fields: tuple[str, ...]) -> None:
    """The same id twice is a retry only if the lines say the same."""
    number, first = earlier
    if first == now:
        return
    for name in fields:
        if getattr(first, name, None) != getattr(now, name, None):
            raise _BadError(name, f"line {number} has the same id with another {name} ({getattr(first, name)})")
