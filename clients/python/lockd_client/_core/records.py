"""The ledger's 128-byte records as values, in the order of fields that `ledger_codec` packs them in."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from lockd_client.ledger_model import Account, Transfer

if TYPE_CHECKING:
    from collections.abc import Sequence

_RECORD = struct.Struct("<13QIIIHHQ")


def accounts(packed: bytes) -> tuple[Account, ...]:
    """The accounts of records, back to back."""
    return tuple(
        [
            Account(
                id=id_high << 64 | id_low,
                ledger=ledger,
                code=code,
                flags=flags,
                user_data_128=user_high << 64 | user_low,
                user_data_64=user_64,
                user_data_32=user_32,
                debits_pending=dp_high << 64 | dp_low,
                debits_posted=do_high << 64 | do_low,
                credits_pending=cp_high << 64 | cp_low,
                credits_posted=co_high << 64 | co_low,
                timestamp=timestamp,
            )
            for (
                id_low, id_high, dp_low, dp_high, do_low, do_high, cp_low, cp_high, co_low, co_high,
                user_low, user_high, user_64, user_32, _, ledger, code, flags, timestamp,
            ) in _RECORD.iter_unpack(packed)
        ]
    )  # fmt: skip


def transfers(packed: bytes, metadata: Sequence[bytes]) -> tuple[Transfer, ...]:
    """The transfers of records, back to back, with an item of metadata for each or for none."""
    return tuple(
        [
            Transfer(
                id=id_high << 64 | id_low,
                debit_account_id=debit_high << 64 | debit_low,
                credit_account_id=credit_high << 64 | credit_low,
                amount=amount_high << 64 | amount_low,
                ledger=ledger,
                code=code,
                flags=flags,
                pending_id=pending_high << 64 | pending_low,
                timeout=timeout,
                user_data_128=user_high << 64 | user_low,
                user_data_64=user_64,
                user_data_32=user_32,
                timestamp=timestamp,
                metadata=metadata[i] if metadata else b"",
            )
            for i, (
                id_low, id_high, debit_low, debit_high, credit_low, credit_high, amount_low, amount_high, pending_low, pending_high,
                user_low, user_high, user_64, user_32, timeout, ledger, code, flags, timestamp,
            ) in enumerate(_RECORD.iter_unpack(packed))
        ]
    )  # fmt: skip
