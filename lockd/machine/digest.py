"""A canonical encoding of plain values, and digests over it.

Each value is a tag, its length where that is not fixed, and its content: equal values give equal bytes, different values different ones,
whatever the interpreter, its hash seed or the order in which anything was built.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable

from lockd.machine.plain import COMMANDS, Plain, to_plain

_SIZED = struct.Struct("<cQ")
_TUPLE, _INT, _NEGATIVE, _STR, _BYTES = b"(", b"+", b"-", b"s", b"b"
_CONSTANTS = {None: b"0", False: b"F", True: b"T"}


def encode(value: Plain) -> bytes:
    """The canonical bytes of a plain value. Raises TypeError for a value that is not plain."""
    out: list[bytes] = []
    _encode(value, out)
    return b"".join(out)


def _encode(value: Plain, out: list[bytes]) -> None:
    if value is None or value is True or value is False:
        out.append(_CONSTANTS[value])
    elif isinstance(value, int):
        size = (value.bit_length() + 7) // 8
        out += (_SIZED.pack(_NEGATIVE if value < 0 else _INT, size), abs(value).to_bytes(size, "little"))
    elif isinstance(value, str):
        # Text that no path or label may hold still has one encoding: nothing here may fail on what a command carried.
        content = value.encode("utf-8", "surrogatepass")
        out += (_SIZED.pack(_STR, len(content)), content)
    elif isinstance(value, bytes):
        out += (_SIZED.pack(_BYTES, len(value)), value)
    elif isinstance(value, tuple):
        out.append(_SIZED.pack(_TUPLE, len(value)))
        for item in value:
            _encode(item, out)
    else:
        raise TypeError(f"{type(value).__name__} is not a plain value")


def digest_rows(rows: Iterable[tuple[Plain, ...]]) -> bytes:
    """SHA-256 over the canonical bytes of all rows, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(encode(row))
    return digest.digest()


def fingerprint(command: object) -> int:
    """A number of a command, equal for equal commands: tells a retry from another command under the same id.

    The lowest four bits are the command's place in `COMMANDS`, the rest is a checksum: it guards a client against its own mistakes only.
    """
    return zlib.crc32(encode(to_plain(command))) << 4 | COMMANDS.index(type(command))
