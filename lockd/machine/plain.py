"""Values of the machine <-> plain values (int, str, bytes, bool, None, nested tuples), for snapshots and digests."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from lockd.machine import commands as c
from lockd.machine import results as r
from lockd.machine.types import Code, LockMode

Plain: TypeAlias = Any
"""int < 2**64, str, bytes, bool, None, or a tuple of these."""

_RESULTS: Final[tuple[type, ...]] = (
    r.Refused,
    r.SessionOpened,
    r.KeptAlive,
    r.SessionClosed,
    r.Hold,
    r.Granted,
    r.Released,
    r.Cancelled,
    r.Row,
    r.RowPut,
    r.RowsDeleted,
    r.RowRead,
    r.BatchDone,
    r.Published,
    r.Transacted,
    r.Compacted,
)
COMMANDS: Final[tuple[type, ...]] = (
    c.OpenSession,
    c.KeepAlive,
    c.CloseSession,
    c.Acquire,
    c.Convert,
    c.CancelAcquire,
    c.Release,
    c.ForceRelease,
    c.Transact,
    c.CompactRows,
    c.CreateAccounts,
    c.CreateTransfers,
    c.Unknown,
)
"""All commands; their places are part of what snapshots hold, so new ones go to the end."""

_PARTS: Final[tuple[type, ...]] = (
    c.Claim,
    c.Guard,
    c.Compare,
    c.PutRow,
    c.DeleteRow,
    c.DeleteRange,
    c.GetRow,
    c.PostTransfers,
    c.TakeLocks,
    c.ReleaseLocks,
    c.Publish,
)
_TYPES: Final[dict[str, type]] = {kind.__name__: kind for kind in _RESULTS}
_FIELDS: Final[dict[type, tuple[str, ...]]] = {kind: tuple(kind.__dataclass_fields__) for kind in _RESULTS + COMMANDS + _PARTS}  # type: ignore[attr-defined]
_ENUMS: Final[dict[tuple[str, str], type]] = {("Hold", "mode"): LockMode, ("Refused", "code"): Code}


def to_plain(value: object) -> Plain:
    """A dataclass becomes (its name, its fields), a tuple ("", its items); everything else stays what it is."""
    fields = _FIELDS.get(type(value))
    if fields is not None:
        return (type(value).__name__, tuple([to_plain(getattr(value, name)) for name in fields]))
    if isinstance(value, tuple):
        return ("", tuple([to_plain(item) for item in value]))
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return value


def result_from_plain(value: Plain) -> Any:
    """The result that `to_plain` was given. Raises ValueError on anything else."""
    if not isinstance(value, tuple):
        return value
    if len(value) != 2 or not isinstance(value[1], tuple):
        raise ValueError(f"damaged value {value!r:.100}")
    name, items = value
    if name == "":
        return tuple([result_from_plain(item) for item in items])
    kind = _TYPES.get(name)
    if kind is None or len(items) != len(_FIELDS[kind]):
        raise ValueError(f"unknown or damaged value of kind {name!r}")
    return kind(*[_field(name, field, item) for field, item in zip(_FIELDS[kind], items, strict=True)])


def _field(kind: str, field: str, item: Plain) -> Any:
    enum = _ENUMS.get((kind, field))
    return enum(item) if enum is not None else result_from_plain(item)
