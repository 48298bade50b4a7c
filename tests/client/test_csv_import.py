"""Reading accounts and transfers from CSV: every bad line is named by line, field and reason, and nothing bad comes through."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lockd_client import Account, AccountFlags, InvalidArgument, Transfer, TransferFlags
from lockd_client.csv_import import Batch, Kind, Line, Problem, batches, read_csv

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO = ROOT / "examples" / "data" / "transfers.csv"
HEADER = "record,id,debit_account_id,credit_account_id,amount,ledger,code,flags"
TWO_ACCOUNTS = "account,1,,,,1,10,\naccount,2,,,,1,10,history\n"


def read(tmp_path: Path, text: str, *, kind: Kind = Kind.AUTO, other_accounts: bool = False, header: str = HEADER) -> list[Line]:
    """Lines of a file with this content."""
    path = tmp_path / "f.csv"
    path.write_text(f"{header}\n{text}", encoding="utf-8")
    return list(read_csv(path, kind=kind, other_accounts=other_accounts))


def problem(tmp_path: Path, line: str) -> Problem:
    """What is wrong with one line."""
    *_, last = read(tmp_path, TWO_ACCOUNTS + line + "\n")
    assert last.number == 4
    assert last.problem is not None
    return last.problem


def test_good_lines_become_values(tmp_path: Path) -> None:
    """Accounts and transfers with their numbers and flags, with the line they stand on."""
    lines = read(
        tmp_path, TWO_ACCOUNTS + "\ntransfer,7,1,2,340282366920938463463374607431768211455,1,99,linked|pending\ntransfer,8,1,2,0,1,9,\n"
    )
    assert lines == [
        Line(2, Account(1, 1, 10)),
        Line(3, Account(2, 1, 10, AccountFlags.HISTORY)),
        Line(5, Transfer(7, 1, 2, (1 << 128) - 1, 1, 99, TransferFlags.LINKED | TransferFlags.PENDING)),
        Line(6, Transfer(8, 1, 2, 0, 1, 9)),
    ]


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        ("transfer,,1,2,5,1,9,", "id", "empty"),
        ("transfer,7,1,2,5,1,9", "flags", "7 columns"),
        ("transfer,7", "debit_account_id", "2 columns"),
        ("transfer,7,1,2,5,1,9,,", "", "9 columns"),
        ("transfer,7,1,2,five,1,9,", "amount", "'five' is not a whole number"),
        ("transfer,7,1,2,1.5,1,9,", "amount", "not a whole number"),
        ("transfer,7,1,2,1e3,1,9,", "amount", "not a whole number"),
        ("transfer,7,1,2,1_000,1,9,", "amount", "not a whole number"),
        ("transfer,7,1,2,-5,1,9,", "amount", "negative"),
        ("transfer,7,1,2,\uff15,1,9,", "amount", "not a whole number"),
        (f"transfer,7,1,2,{1 << 128},1,9,", "amount", "2^128-1"),
        (f"transfer,7,1,2,{'9' * 5000},1,9,", "amount", "2^128-1"),
        ("transfer,7,1,2,,1,9,", "amount", "empty"),
        ("transfer,7,3,2,5,1,9,", "debit_account_id", "not declared"),
        ("transfer,7,1,3,5,1,9,", "credit_account_id", "not declared"),
        ("transfer,7,,2,5,1,9,", "debit_account_id", "empty"),
        ("transfer,7,1,2,5,0,9,", "ledger", "must not be 0"),
        ("transfer,7,1,2,5,1,65536,", "code", "2^16-1"),
        ("transfer,7,1,2,5,1,9,urgent", "flags", "'urgent'"),
        ("transfer,7,1,2,5,1,9,history", "flags", "'history'"),
        ("transfer,7,1,2,5,1,9,LINKED", "flags", "'LINKED'"),
        ("transfer,0,1,2,5,1,9,", "id", "must not be 0"),
        (f"transfer,{(1 << 128) - 1},1,2,5,1,9,", "id", "2^128-1"),
        ('transfer,"7,1,2,5,1,9,', "", "quote"),
        ('transfer,"7"x,1,2,5,1,9,', "", "quote"),
        ("Überweisung,7,1,2,5,1,9,", "record", "neither account nor transfer"),
        ("account,9,1,,,1,9,", "debit_account_id", "an account has none"),
        ("account,2,,,,1,11,history", "code", "line 3 has the same id with another code (10)"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, field: str, reason: str) -> None:
    """Line, field and reason; and the reader goes on."""
    found = problem(tmp_path, line)
    assert found.field == field
    assert reason in found.reason


def test_a_retry_is_good_and_a_contradiction_is_not(tmp_path: Path) -> None:
    """The same id with the same content comes through again; with another amount it is bad."""
    lines = read(tmp_path, TWO_ACCOUNTS + "transfer,7,1,2,5,1,9,\ntransfer,7,1,2,5,1,9,\ntransfer,7,1,2,6,1,9,\n")
    assert [bool(line.value) for line in lines] == [True, True, True, True, False]
    assert lines[4].problem == Problem("amount", "line 4 has the same id with another amount (5)")


def test_a_broken_chain_is_bad_as_a_whole(tmp_path: Path) -> None:
    """One bad line spoils the chain before it: what is left would be another chain."""
    text = TWO_ACCOUNTS + "transfer,7,1,2,5,1,9,linked\ntransfer,8,1,2,5,1,9,linked\ntransfer,9,1,2,bad,1,9,\ntransfer,10,1,2,5,1,9,\n"
    lines = read(tmp_path, text)
    assert [(line.number, bool(line.value)) for line in lines[2:]] == [(4, False), (5, False), (6, False), (7, True)]
    assert lines[2].problem is not None
    assert "line 6" in lines[2].problem.reason


def test_a_chain_must_be_closed(tmp_path: Path) -> None:
    """A file that ends inside a chain names its lines."""
    lines = read(tmp_path, TWO_ACCOUNTS + "transfer,7,1,2,5,1,9,linked\n")
    assert lines[-1].problem is not None
    assert "ends inside" in lines[-1].problem.reason


def test_a_second_step_may_leave_fields_out(tmp_path: Path) -> None:
    """A post or void takes accounts, ledger and code from its pending transfer."""
    header = HEADER + ",pending_id,timeout,user_data_64"
    text = "transfer,7,1,2,5,1,9,pending,,3600,4\ntransfer,8,,,0,,,post_pending_transfer,7,,\n"
    lines = read(tmp_path, text, header=header)
    assert lines[0].value == Transfer(7, 1, 2, 5, 1, 9, TransferFlags.PENDING, timeout=3600, user_data_64=4)
    assert lines[1].value == Transfer(8, amount=0, flags=TransferFlags.POST_PENDING_TRANSFER, pending_id=7)


def test_kinds_and_other_accounts(tmp_path: Path) -> None:
    """Only the wanted kind comes through, such files need no record column, and accounts may be declared elsewhere."""
    text = TWO_ACCOUNTS + "transfer,7,1,99,5,1,9,\n"
    assert [line.number for line in read(tmp_path, text, kind=Kind.ACCOUNTS)] == [2, 3]
    assert [line.number for line in read(tmp_path, text, kind=Kind.TRANSFERS)] == [4]
    assert read(tmp_path, text, other_accounts=True)[-1].value is not None
    assert read(tmp_path, "1,2,3,\n", kind=Kind.ACCOUNTS, header="id,ledger,code,flags") == [Line(2, Account(1, 2, 3))]


def test_a_file_that_is_not_utf8_is_refused_by_line(tmp_path: Path) -> None:
    """The first line that cannot be read is named; lines before it have come through."""
    path = tmp_path / "latin.csv"
    path.write_bytes(f"{HEADER}\naccount,1,,,,1,10,\n".encode() + "account,2,,,,1,10,frühling\n".encode("latin-1"))
    lines = read_csv(path)
    assert next(lines).number == 2
    with pytest.raises(InvalidArgument, match="line 3 is not UTF-8"):
        next(lines)


@pytest.mark.parametrize(
    ("header", "why"),
    [("", "empty"), ("id,amount", "lacks record"), (HEADER + ",colour", "'colour'"), (HEADER + ",id", "twice"), ('record,"id', "quote")],
)
def test_an_unusable_header_is_refused(tmp_path: Path, header: str, why: str) -> None:
    """What the header lacks or does not know is told, with the header that is expected."""
    with pytest.raises(InvalidArgument, match=why) as caught:
        read(tmp_path, "", header=header)
    assert HEADER in caught.value.advice


def test_a_byte_order_mark_and_crlf_are_understood(tmp_path: Path) -> None:
    """Spreadsheets write both."""
    path = tmp_path / "f.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\naccount,1,,,,1,10,\r\n".encode())
    assert list(read_csv(path)) == [Line(2, Account(1, 1, 10))]


def test_batches_keep_order_kind_and_chains() -> None:
    """Accounts and transfers go apart, in order; a chain is never cut; bad lines pass through."""
    lines = [Line(2, Account(1, 1, 1)), Line(3, problem=Problem("id", "x"))]
    lines += [Line(i, Transfer(i, 1, 2, 1, 1, 1, flags=1 if i in (6, 7) else 0)) for i in range(4, 10)]
    made = list(batches(lines, size=4))
    assert made[0] == lines[1]
    assert [[line.number for line in b.lines] for b in made if isinstance(b, Batch)] == [[2], [4, 5], [6, 7, 8, 9]]


def test_a_chain_longer_than_a_batch_is_refused() -> None:
    """More than 8,190 linked records cannot be sent."""
    with pytest.raises(InvalidArgument, match="Line 2 begins a chain"):
        list(batches(Line(i + 2, Transfer(i + 1, 1, 2, 1, 1, 1, flags=1)) for i in range(8_191)))


def test_the_demo_file_is_as_described() -> None:
    """1,000 accounts, 10,000 transfers with chains and retries, 25 bad lines that are all found and nothing else."""
    lines = list(read_csv(DEMO))
    kinds = Counter(type(line.value).__name__ for line in lines)
    assert kinds == {"Account": 1_000, "Transfer": 10_000, "NoneType": 25}
    fields = Counter(line.problem.field for line in lines if line.problem)
    assert set(fields) == {"id", "record", "debit_account_id", "credit_account_id", "amount", "ledger", "code", "flags", ""}
    transfers = [line.value for line in lines if isinstance(line.value, Transfer)]
    assert 20 < len(transfers) - len({t.id for t in transfers}) < 200
    assert sum(t.flags & TransferFlags.LINKED for t in transfers) > 300


def test_the_demo_file_is_current() -> None:
    """It is what tools/make_demo_data.py makes, on every machine."""
    done = subprocess.run([sys.executable, "tools/make_demo_data.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
