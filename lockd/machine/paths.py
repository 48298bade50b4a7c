"""Resource paths: which are valid, and their ancestors.

A path is compared code point by code point; no Unicode normalisation takes place, so two spellings that merely look alike are two
resources. Clients that take names from people should bring them to NFC first.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from lockd.machine.types import LIMITS, Limits, Resource

Lineage: TypeAlias = tuple[Resource, ...]
"""A path with its ancestors, outermost first: ("a", "a/b", "a/b/c"). The last one is the path itself."""

_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CACHE_SIZE = 65_536
_cache: dict[str, Lineage] = {}


class PathError(ValueError):
    """The string is not a resource path; the message is a sentence for people."""


def parse_path(value: str, limits: Limits = LIMITS) -> Lineage:
    """The path with its ancestors. Raises PathError.

    Valid are 1 to `limits.path_parts` parts joined by "/", at most `limits.path_bytes` bytes of UTF-8 in all; no part is empty, "." or
    "..", and none holds control characters (U+0000 to U+001F, U+007F to U+009F) or lone surrogates.
    """
    if limits is LIMITS:
        found = _cache.get(value)
        if found is not None:
            return found
    lineage = _parse(value, limits)
    if limits is LIMITS:
        if len(_cache) >= _CACHE_SIZE:
            _cache.clear()
        _cache[value] = lineage
    return lineage


def _parse(value: str, limits: Limits) -> Lineage:
    if not value:
        raise PathError("the path is empty")
    # A character takes at least a byte: what is too long in characters need not be encoded to be refused.
    if len(value) > limits.path_bytes:
        raise PathError(f"the path has more than {limits.path_bytes} bytes")
    bad = _FORBIDDEN.search(value)
    if bad is not None:
        raise PathError(f"the path holds the forbidden character U+{ord(bad.group()):04X} at position {bad.start()}")
    if not value.isascii() and len(value.encode()) > limits.path_bytes:
        raise PathError(f"the path has more than {limits.path_bytes} bytes")
    parts = value.split("/")
    if len(parts) > limits.path_parts:
        raise PathError(f"the path has {len(parts)} parts, at most {limits.path_parts} are allowed")
    for position, part in enumerate(parts):
        if part in {"", ".", ".."}:
            raise PathError(f"part {position + 1} of the path is {part!r}" if part else f"part {position + 1} of the path is empty")
    lineage: list[Resource] = []
    end = -1
    for part in parts:
        end += 1 + len(part)
        lineage.append(Resource(value[:end]))
    return tuple(lineage)
