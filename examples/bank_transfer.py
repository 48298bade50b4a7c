"""A bank transfer: two accounts, a limit, a chain that succeeds or fails as one, and a retry that posts once.

Start a node (`lockd dev --memory`), then `python examples/bank_transfer.py [ENDPOINTS]`.
"""

from __future__ import annotations

import asyncio
import secrets
import sys

import lockd_client
from lockd_client import Account, AccountFlags, CreateTransferStatus, Transfer, TransferFlags

EUR = 978
CUSTOMER, BANK, DEPOSIT, PAYMENT = 1, 2, 10, 11


def new_id() -> int:
    """An id that nobody else makes: 127 random bits (0 and 2^128-1 are not allowed)."""
    return secrets.randbits(127) | 1


async def main(endpoints: str) -> None:
    """Open accounts, deposit, pay, and show what is refused."""
    async with lockd_client.connect(endpoints, owner="bank") as client:
        bank, alice, bob = new_id(), new_id(), new_id()
        no_debt = AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS
        opened = await client.ledger.create_accounts(
            [
                Account(id=bank, ledger=EUR, code=BANK),
                Account(id=alice, ledger=EUR, code=CUSTOMER, flags=no_debt),
                Account(id=bob, ledger=EUR, code=CUSTOMER, flags=no_debt),
            ]
        )
        assert all(result.ok for result in opened), opened

        # Amounts are integers in minor units: 100.00 EUR.
        deposit = Transfer(id=new_id(), debit_account_id=bank, credit_account_id=alice, amount=100_00, ledger=EUR, code=DEPOSIT)
        (posted,) = await client.ledger.create_transfers([deposit])
        (again,) = await client.ledger.create_transfers([deposit])
        print("deposit:", posted.status.name, "- the same again:", again.status.name)
        assert (posted.status, again.status) == (CreateTransferStatus.CREATED, CreateTransferStatus.EXISTS)

        # A chain: rent to Bob and a fee to the bank, both or neither. The fee is too much, so neither happens.
        rent = Transfer(
            id=new_id(), debit_account_id=alice, credit_account_id=bob, amount=60_00, ledger=EUR, code=PAYMENT, flags=TransferFlags.LINKED
        )
        fee = Transfer(id=new_id(), debit_account_id=alice, credit_account_id=bank, amount=50_00, ledger=EUR, code=PAYMENT)
        results = await client.ledger.create_transfers([rent, fee])
        print("rent and fee:", [result.status.name for result in results])
        assert [r.status for r in results] == [CreateTransferStatus.LINKED_EVENT_FAILED, CreateTransferStatus.EXCEEDS_CREDITS]

        # The payment is made under a lock: the batch carries its token, and is refused if somebody else has the lock by then.
        async with client.lock(f"customers/{alice:x}", wait=5.0) as grant:
            payment = Transfer(id=new_id(), debit_account_id=alice, credit_account_id=bob, amount=60_00, ledger=EUR, code=PAYMENT)
            (paid,) = await client.ledger.create_transfers([payment], guards=[grant.guard()])
        print("payment under a lock:", paid.status.name)

        for name, account in zip(("bank", "alice", "bob"), await client.ledger.lookup_accounts([bank, alice, bob]), strict=True):
            balance = account.credits_posted - account.debits_posted
            sign, (units, cents) = "-" if balance < 0 else " ", divmod(abs(balance), 100)
            print(f"{name:>6}: {sign}{units}.{cents:02d} EUR")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7601"))
