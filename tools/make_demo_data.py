"""Write examples/data/transfers.csv: a bank's day in a small town, the same on every run, with a few bad lines to be found.

`python tools/make_demo_data.py [--check]`. 1,000 accounts, 10,000 transfers (some of them retries, some linked), 25 bad lines.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

PATH = Path(__file__).resolve().parent.parent / "examples" / "data" / "transfers.csv"
HEADER = "record,id,debit_account_id,credit_account_id,amount,ledger,code,flags"
ACCOUNTS = 1_000
TRANSFERS = 10_000
LEDGER = 1

BANK, TAX_OFFICE = 1, 2
EMPLOYERS = range(3, 13)
LANDLORDS = range(13, 33)
SHOPS = range(33, 93)
CUSTOMERS = range(93, ACCOUNTS + 1)
CODES = {"bank": 1, "tax": 2, "employer": 3, "landlord": 4, "shop": 5, "customer": 6}
FUNDING, SALARY, RENT, PURCHASE, SALES_TAX, REFUND = 100, 200, 300, 400, 410, 420
FIRST_ID = 20_260_001

# Each stands alone, at a place that is no part of a chain; what is wrong with it is in its last column, which is not written.
BAD = [
    ("transfer,,105,40,1250,1,400,", "empty id"),
    ("transfer,90000001,105,40,1250,1,400", "missing column"),
    ("transfer,90000002,105,40", "missing columns"),
    ("transfer,90000003,105,40,1250,1,400,,extra", "too many columns"),
    ("transfer,90000004,105,40,twelve,1,400,", "amount is not a number"),
    ("transfer,90000005,105,40,12.50,1,400,", "amount is not whole"),
    ("transfer,90000006,105,40,-1250,1,400,", "negative amount"),
    ("transfer,90000007,105,40,340282366920938463463374607431768211456,1,400,", "2^128"),
    ("transfer,90000008,105,40,,1,400,", "empty amount"),
    ("transfer,90000009,105,999999,1250,1,400,", "unknown credit account"),
    ("transfer,90000010,424242,40,1250,1,400,", "unknown debit account"),
    ("transfer,90000011,105,40,1250,1,400,urgent", "unknown flag"),
    ("transfer,90000012,105,40,1250,1,400,linked|urgent", "unknown flag in a list"),
    ("transfer,90000013,105,40,1250,1,400,verknüpft", "flag beyond ASCII"),
    ("transfer,90000014,105,40,\uff11\uff12\uff15\uff10,1,400,", "digits beyond ASCII"),
    ("transfer,90000015,105,40,12€,1,400,", "currency sign"),
    ('transfer,90000016,105,40,"1250,1,400,', "stray quote"),
    ('transfer,"90000017"x,105,40,1250,1,400,', "text behind a quote"),
    ("transfer,90000018,105,40,1250,1,65536,", "code is more than 2^16-1"),
    ("transfer,90000019,105,40,1250,0,400,", "ledger 0"),
    ("transfer,0,105,40,1250,1,400,", "id 0"),
    ("Überweisung,90000021,105,40,1250,1,400,", "unknown record"),
    ("account,90000022,,,,1,6,frozen", "unknown flag of an account"),
    ("account,90000023,,,500,1,6,", "an account with an amount"),
]


class Town:
    """Accounts, what they hold, and the lines so far."""

    def __init__(self) -> None:
        self.random = random.Random(7_601)  # noqa: S311 - the same data on every run
        self.balance: dict[int, int] = dict.fromkeys(range(1, ACCOUNTS + 1), 0)
        self.lines: list[list[str]] = []
        """Groups of lines that belong together: a chain, or a single line."""
        self.count = 0
        self.next_id = FIRST_ID

    def account(self, number: int) -> str:
        """The line that opens an account."""
        if number in CUSTOMERS:
            return f"account,{number},,,,{LEDGER},{CODES['customer']},debits_must_not_exceed_credits"
        for name, numbers in (("employer", EMPLOYERS), ("landlord", LANDLORDS), ("shop", SHOPS)):
            if number in numbers:
                flags = "debits_must_not_exceed_credits|history" if name == "employer" else ""
                return f"account,{number},,,,{LEDGER},{CODES[name]},{flags}"
        return f"account,{number},,,,{LEDGER},{CODES['bank' if number == BANK else 'tax']},history"

    def transfer(self, debit: int, credit: int, amount: int, code: int, flags: str = "") -> str:
        """One line, which is counted."""
        line = f"transfer,{self.next_id},{debit},{credit},{amount},{LEDGER},{code},{flags}"
        self.next_id += 1
        self.count += 1
        return line

    def pay(self, debit: int, credit: int, amount: int, code: int) -> None:
        """A transfer of its own."""
        self.lines.append([self.transfer(debit, credit, amount, code)])
        self.balance[debit] -= amount
        self.balance[credit] += amount

    def refused(self, debit: int, credit: int, code: int) -> None:
        """A customer tries to spend more than there is; the ledger refuses it."""
        amount = self.balance[debit] + self.random.randrange(100, 50_000)
        self.lines.append([self.transfer(debit, credit, amount, code)])

    def purchase_with_tax(self, customer: int, shop: int, amount: int) -> None:
        """A chain: the customer pays the shop, the shop pays the tax on it; both or neither."""
        tax = amount * 19 // 119
        self.lines.append([self.transfer(customer, shop, amount, PURCHASE, "linked"), self.transfer(shop, TAX_OFFICE, tax, SALES_TAX)])
        self.balance[customer] -= amount
        self.balance[shop] += amount - tax
        self.balance[TAX_OFFICE] += tax

    def retry(self) -> None:
        """A line that is sent a second time, as after a lost answer."""
        group = self.random.choice(self.lines[-200:])
        if len(group) == 1:
            self.lines.append(list(group))
            self.count += 1


def transfers(town: Town) -> None:
    """Ten thousand transfers: first money comes into being, then it moves."""
    choose = town.random
    for employer in EMPLOYERS:
        town.pay(BANK, employer, 60_000_000, FUNDING)
    for customer in CUSTOMERS:
        town.pay(BANK, customer, choose.randrange(20_000, 400_000), FUNDING)
    for customer in CUSTOMERS:
        town.pay(choose.choice(EMPLOYERS), customer, choose.randrange(180_000, 520_000, 500), SALARY)
    for customer in CUSTOMERS:
        rent = choose.randrange(60_000, 180_000, 1_000)
        if town.balance[customer] >= rent:
            town.pay(customer, choose.choice(LANDLORDS), rent, RENT)
    while town.count < TRANSFERS:
        customer, shop = choose.choice(CUSTOMERS), choose.choice(SHOPS)
        amount = choose.choice((350, 499, 1_299, 2_450, 4_999, 7_980, 12_900)) + choose.randrange(100)
        what = choose.random()
        if what < 0.01:
            town.refused(customer, shop, PURCHASE)
        elif what < 0.02:
            town.retry()
        elif town.balance[customer] < amount:
            continue
        elif what < 0.12 and town.count + 2 <= TRANSFERS:
            town.purchase_with_tax(customer, shop, amount)
        elif what < 0.14 and town.balance[shop] >= amount:
            town.pay(shop, customer, amount, REFUND)
        else:
            town.pay(customer, shop, amount, PURCHASE)


def content() -> str:
    """The whole file."""
    town = Town()
    transfers(town)
    groups = town.lines
    # The same id with another amount: a mistake that looks like a retry.
    first = groups[500][0].split(",")
    first[4] = str(int(first[4]) + 1)
    bad = [line for line, _ in BAD] + [",".join(first)]
    places = sorted(town.random.sample(range(1_000, len(groups)), len(bad)))
    out = [HEADER, *(town.account(number) for number in range(1, ACCOUNTS + 1))]
    waiting = dict(zip(places, bad, strict=True))
    for i, group in enumerate(groups):
        if i in waiting:
            out.append(waiting[i])
        out += group
    return "\n".join(out) + "\n"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the committed file is not current")
    made = content()
    if parser.parse_args().check:
        if not PATH.exists() or PATH.read_text(encoding="utf-8") != made:
            sys.exit("examples/data/transfers.csv is not current: run `python tools/make_demo_data.py`")
        print("examples/data/transfers.csv is current")
        return
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(made, encoding="utf-8")
    print(f"{PATH.name}: {made.count(chr(10))} lines, {len(made.encode()):,} bytes")


if __name__ == "__main__":
    main()
