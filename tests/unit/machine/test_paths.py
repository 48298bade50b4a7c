"""Resource paths (types.Resource; Limits)."""

from __future__ import annotations

import pytest

from lockd.machine.paths import PathError, parse_path
from lockd.machine.types import Limits


@pytest.mark.parametrize(
    ("path", "lineage"),
    [
        ("a", ("a",)),
        ("table/row", ("table", "table/row")),
        ("a/b/c", ("a", "a/b", "a/b/c")),
        (" ", (" ",)),
        ("a/...", ("a", "a/...")),
        ("é/ü", ("é", "é/ü")),
        ("\U0001f600", ("\U0001f600",)),
        ("x" * 512, ("x" * 512,)),
        ("é" * 256, ("é" * 256,)),
    ],
)
def test_a_path_comes_with_its_ancestors_outermost_first(path: str, lineage: tuple[str, ...]) -> None:
    """A valid path parses to itself and every path above it; the second look gives the same."""
    assert parse_path(path) == lineage
    assert parse_path(path) == lineage


def test_sixteen_parts_are_the_most() -> None:
    """16 parts are allowed, 17 are not."""
    assert len(parse_path("/".join("abcdefghijklmnop"))) == 16
    with pytest.raises(PathError, match="17 parts"):
        parse_path("/".join("abcdefghijklmnopq"))


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "empty"),
        ("/", "part 1 of the path is empty"),
        ("a/", "part 2 of the path is empty"),
        ("/a", "part 1 of the path is empty"),
        ("a//b", "part 2 of the path is empty"),
        (".", "'.'"),
        ("a/../b", "'..'"),
        ("a\x00", r"U\+0000 at position 1"),
        ("a\nb", r"U\+000A"),
        ("\x7f", r"U\+007F"),
        ("\x9f", r"U\+009F"),
        ("\ud800", r"U\+D800"),
        ("x" * 513, "more than 512 bytes"),
        ("é" * 257, "more than 512 bytes"),
        ("/".join(["a"] * 10_000), "more than 512 bytes"),
    ],
)
def test_what_is_no_path_is_refused_with_a_sentence(path: str, why: str) -> None:
    """Empty parts, dots, control characters, lone surrogates, and what is too long or too deep raise PathError, a ValueError."""
    with pytest.raises(PathError, match=why):
        parse_path(path)
    assert issubclass(PathError, ValueError)


def test_other_limits_hold_for_what_was_parsed_under_the_usual_ones() -> None:
    """The memory of parsed paths belongs to the usual limits: under narrower ones the same path is refused."""
    assert len(parse_path("p/q/r")) == 3
    with pytest.raises(PathError, match="3 parts"):
        parse_path("p/q/r", Limits(path_parts=2))


def test_two_spellings_are_two_paths() -> None:
    """Paths are compared code point by code point: a precomposed letter is not the composed one."""
    assert parse_path("\u00e9") != parse_path("e\u0301")
