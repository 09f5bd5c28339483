"""Which sides can take part on this machine; a peer that is not installed is left out, and said to be."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from harness.catalogue import side
from harness.servers import missing


@cache
def why_not(name: str) -> str:
    """Why a side cannot take part; empty if it can."""
    try:
        side(name)
    except ImportError as error:
        return f"{name} is left out: {error} (the extra `bench` installs it)"
    server = missing(side(name).broker)
    return f"{name} is left out: {server}" if server else ""


def installed(names: tuple[str, ...]) -> list[str]:
    """Those of the sides that can take part; each other one is told once."""
    found = [name for name in names if not why_not(name)]
    for name in names:
        if name not in found and name not in _told:
            _told.add(name)
            print(why_not(name), file=sys.stderr, flush=True)
    return found


_told: set[str] = set()


def versions(names: list[str]) -> dict[str, str]:
    """The versions of the packages that these sides need."""
    found = {}
    for package in sorted({package for name in names for package in side(name).packages}):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
