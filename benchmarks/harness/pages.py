"""Writes what was found into a page, between markers: all around them is written by hand."""

from __future__ import annotations

import re


class NoMarker(ValueError):  # noqa: N818 - it says what is the case
    """The page has no place for this."""


def begin(name: str) -> str:
    """The line before a section."""
    return f"<!-- {name}: written by `just bench` -->"


def end(name: str) -> str:
    """The line behind it."""
    return f"<!-- {name}: end -->"


def put(text: str, name: str, lines: list[str]) -> str:
    """The page with other lines between a section's markers.

    Raises:
        NoMarker: If it does not have them.
    """
    pattern = re.compile(f"({re.escape(begin(name))}\n).*?({re.escape(end(name))})", re.DOTALL)
    body = "\n".join(lines).strip("\n")
    new, count = pattern.subn(lambda found: f"{found[1]}\n{body}\n\n{found[2]}", text)
    if count != 1:
        raise NoMarker(f"the page needs one pair of lines {begin(name)} and {end(name)}, it has {count}")
    return new
