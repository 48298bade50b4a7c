"""Why bytes are not the message that they should be: names the field, which the protobuf runtime does not."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_DEPTH_MAX = 32


class _TruncatedError(ValueError):
    """The bytes end in the middle of a field."""


def explain(descriptor: Descriptor, data: bytes) -> tuple[str, str]:
    """The path of the first field of `data` that cannot be read as a `descriptor` message, and what is wrong with it."""
    try:
        problem = _find(descriptor, memoryview(data), "", 0)
    except _TruncatedError as error:
        return "message", str(error)
    return problem or ("message", f"not a {descriptor.full_name}")


def _find(descriptor: Descriptor, data: memoryview, path: str, depth: int) -> tuple[str, str] | None:
    """The first bad field below `path`, or None."""
    if depth > _DEPTH_MAX:
        return path or "message", "nested too deeply"
    counts: dict[int, int] = {}
    for number, wire_type, content in _fields(data):
        field = descriptor.fields_by_number.get(number)
        if field is None or wire_type != _BYTES:
            continue
        position = counts.get(number, 0)
        counts[number] = position + 1
        name = f"{path}{'.' if path else ''}{field.name}" + (f"[{position}]" if field.is_repeated else "")
        if field.type == FieldDescriptor.TYPE_STRING:
            try:
                bytes(content).decode()
            except UnicodeDecodeError as error:
                return name, f"not valid UTF-8 at byte {error.start}"
        elif field.message_type is not None:
            found = _find(field.message_type, content, name, depth + 1)
            if found is not None:
                return found
    return None


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Number, wire type and content of each field. Raises _TruncatedError."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire_type = tag & 7
        if wire_type == _VARINT:
            start = at
            _, at = _varint(data, at)
        elif wire_type == _BYTES:
            length, start = _varint(data, at)
            at = start + length
        elif wire_type in _FIXED_SIZES:
            start, at = at, at + _FIXED_SIZES[wire_type]
        else:
            raise _TruncatedError(f"wire type {wire_type} at byte {at} is not one of protobuf's")
        if at > len(data):
            raise _TruncatedError(f"cut short: a field needs {at - len(data)} bytes more")
        yield tag >> 3, wire_type, data[start:at]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A base-128 number and where it ends."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _TruncatedError("cut short in a number")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
