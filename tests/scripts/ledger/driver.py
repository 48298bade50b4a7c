"""Runs a transcript against the ledger machine.

A transcript is blocks separated by blank lines: a command, its lines of input, `----`, and the whole output. Lines that start with
`#` tell the story and stay where they are. Times are nanoseconds, or seconds with an `s`; flags are names joined by `|`; `max` is
2**128 - 1.

    accounts t=T              each further line is an event: field=value ...
    transfers t=T             the same
    expire t=T limit=N
    show ID ...               accounts with their balances
    transfer ID ...           transfers as they are stored, and where the pending ones stand
    history ID                kept balances
    next-expiry
    restore                   continue from a snapshot of the present state
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, IntFlag

from ledger import codec
from ledger.machine.model import AccountFlags, AccountStatus, BatchOutcome, Fate, TransferFlags, TransferStatus
from ledger.machine.state import Ledger
from ledger.machine.values import AccountFilter, AccountValue, BalanceValue

MAX = 2**128 - 1
SECOND = 10**9


def run(text: str) -> str:
    """The transcript with the outputs that the machine gives now."""
    ledger = _Transcript()
    return "\n\n".join(ledger.block(block) for block in text.strip("\n").split("\n\n")) + "\n"


class _Transcript:
    def __init__(self) -> None:
        self.ledger = Ledger()
        self.index = 0

    def block(self, block: str) -> str:
        """One block with its output."""
        lines = block.split("\n")
        told = [line for line in lines[: lines.index("----")] if line] if "----" in lines else lines
        commands = [line for line in told if not line.startswith("#")]
        if not commands:
            return "\n".join(told)
        name, *words = commands[0].split()
        output = list(self._command(name, words, commands[1:]))
        self.ledger.check_invariants()
        return "\n".join([*told, "----", *output])

    def _command(self, name: str, words: list[str], events: list[str]) -> Iterator[str]:
        self.index += 1
        fields = {key: _number(value) for key, value in (word.split("=") for word in words if "=" in word)}
        ids = codec.pack_ids(_number(word) for word in words if "=" not in word)
        if name == "accounts":
            packed = b"".join(codec.pack_account(**_event(line, AccountFlags)) for line in events)
            yield from _results(self.ledger.create_accounts(packed, log_time=fields["t"], index=self.index), AccountStatus)
        elif name == "transfers":
            described = [_event(line, TransferFlags) for line in events]
            packed = b"".join(codec.pack_transfer(**event) for event in described)
            yield from _results(self.ledger.create_transfers(packed, log_time=fields["t"], index=self.index), TransferStatus)
        elif name == "expire":
            yield from _effects(self.ledger.expire(fields["t"], fields["limit"], index=self.index)) or ["nothing"]
        elif name == "show":
            yield from (_account(account) for account in codec.unpack_accounts(self.ledger.lookup_accounts(ids)))
        elif name == "transfer":
            yield from self._transfers(ids)
        elif name == "history":
            balances = codec.unpack_balances(self.ledger.get_account_balances(AccountFilter(account_id=_number(words[0]))))
            yield from (f"@{balance.timestamp} {_balances(balance)}" for balance in balances)
        elif name == "next-expiry":
            yield str(self.ledger.next_expiry())
        elif name == "restore":
            rows = list(self.ledger.export())
            self.ledger = Ledger.restore(rows)
            yield "identical" if list(self.ledger.export()) == rows else "DIFFERENT"
        else:
            raise ValueError(f"unknown command {name!r}")

    def _transfers(self, ids: bytes) -> Iterator[str]:
        for transfer in codec.unpack_transfers(self.ledger.lookup_transfers(ids)):
            fate = self.ledger.fate(codec.pack_id(transfer.id))
            fields = {name: getattr(transfer, name) for name in transfer.__slots__ if name not in ("flags", "timestamp")}
            shown = " ".join(f"{name}={_show(value)}" for name, value in fields.items() if value)
            flags = f" flags={_flags(TransferFlags(transfer.flags))}" if transfer.flags else ""
            yield f"@{transfer.timestamp} {shown}{flags}" + (f" ({fate.name.lower()})" if fate else "")


def _event(line: str, flags: type[IntFlag]) -> dict[str, int]:
    event: dict[str, int] = {}
    for word in line.split():
        key, value = word.split("=")
        if key == "flags" and not value.isdigit():
            event[key] = sum(int(flags[name.upper()]) for name in value.split("|"))
        else:
            event[key] = _number(value)
    return event


def _results(outcome: BatchOutcome, statuses: type[IntEnum]) -> Iterator[str]:
    if outcome.refusal is not None:
        yield f"refused: {outcome.refusal.value}"
    for position, result in enumerate(codec.unpack_results(outcome.results)):
        yield f"{position}: {statuses(result.status).name.lower()} @{result.timestamp}"
    yield from _effects(outcome)


def _effects(outcome: BatchOutcome) -> list[str]:
    lines = []
    for item in outcome.resolutions:
        pending = codec.unpack_transfer(item.pending)
        lines.append(f"pending {pending.id} {Fate(item.fate).name.lower()} @{item.timestamp}")
    for change in outcome.account_changes:
        account_id = int.from_bytes(change.account_id, "little")
        lines.append(f"account {account_id} {'closed' if change.closed else 'reopened'} @{change.timestamp}")
    if outcome.failed:
        lines.append("failed for ever: " + " ".join(str(int.from_bytes(transfer_id, "little")) for transfer_id in outcome.failed))
    return lines


def _account(account: AccountValue) -> str:
    flags = f" flags={_flags(AccountFlags(account.flags))}" if account.flags else ""
    return f"{account.id} {_balances(account)}{flags}"


def _balances(value: AccountValue | BalanceValue) -> str:
    debits, credits_ = (
        f"{_show(value.debits_pending)}+{_show(value.debits_posted)}",
        f"{_show(value.credits_pending)}+{_show(value.credits_posted)}",
    )
    return f"debits={debits} credits={credits_}"


def _flags(flags: IntFlag) -> str:
    return "|".join(flag.name.lower() for flag in type(flags) if flag in flags and flag.name)


def _number(word: str) -> int:
    if word.startswith("max"):
        return MAX + int(word[3:] or "0")
    return int(word[:-1]) * SECOND if word.endswith("s") else int(word)


def _show(value: int) -> str:
    if value > MAX - 1000:
        return f"max{value - MAX}" if value < MAX else "max"
    return str(value)
