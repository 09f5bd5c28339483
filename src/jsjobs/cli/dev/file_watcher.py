"""Watch Python files for changes."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from jsjobs.cli.output import talk

_LOOK = 0.1
"""Seconds after which the caller gets to look at other things."""
_TOGETHER_MS = 50
"""Milliseconds; changes that are closer together are reported together."""
_AT_LATEST_MS = 400
_NO_SOURCES = {"__pycache__", "node_modules", "site-packages"}


def changes(folders: list[Path]) -> Iterator[set[Path]]:
    """Yield, again and again, the Python files below these folders that changed since the last look.

    The set is empty, after a moment, if no file changed. Hidden folders (.git, .venv, .jsjobs) hold no sources. Where
    changes cannot be noticed, this says so once, and the set is always empty.
    """
    try:
        yield from _watched(folders)
    except ModuleNotFoundError:
        why = 'watchfiles is not installed, pip install "jsjobs[embedded]"'
    except (OSError, RuntimeError) as error:  # such as too few watches left to this user
        why = str(error)
    talk(f"files cannot be watched, so restart `jsjobs dev` after each change: {why}", style="yellow")
    while True:
        time.sleep(_LOOK)
        yield set()


def forget_bytecode(files: set[Path]) -> None:
    """Remove the bytecode of these sources: Python misses a change within a second that keeps the length."""
    for file in files:
        with suppress(OSError):
            Path(cache_from_source(str(file))).unlink(missing_ok=True)


def _watched(folders: list[Path]) -> Iterator[set[Path]]:
    known, looks, found = _begin(folders)
    while True:
        if any(path.suffix != ".py" for path in found):
            # A folder was added. The new watch begins before the old one ends, so that no change is missed in between.
            before, older = known, looks
            known, looks, first = _begin(folders)
            found |= first | next(older) | {file for folder in known - before for file in folder.glob("[!.]*.py")}
        yield {path for path in found if path.suffix == ".py"}
        found = next(looks)


def _begin(folders: list[Path]) -> tuple[set[Path], Iterator[set[Path]], set[Path]]:
    """Begin to watch, and return the folders that are watched, the looks at them, and the first look."""
    while True:
        known = _folders_below(folders)
        looks = _watch(known)
        try:
            return known, looks, next(looks)
        except FileNotFoundError:
            if all(folder.exists() for folder in known):
                raise  # otherwise one was removed just now: jobs may create and remove folders


def _watch(folders: set[Path]) -> Iterator[set[Path]]:
    # It belongs to an extra, which those with servers of their own do not need.
    from watchfiles import watch

    # Its own recursion is not used: it watches hidden folders too, where servers write all the time, and a folder that
    # may not be read would end it half-way.
    looks = watch(
        *folders,
        recursive=False,
        watch_filter=_counts,
        debounce=_AT_LATEST_MS,
        step=_TOGETHER_MS,
        rust_timeout=int(_LOOK * 1000),
        yield_on_timeout=True,
    )
    return ({Path(path) for _, path in found} for found in looks)


def _counts(_: Any, path: str) -> bool:
    return _may_matter(Path(path).name) and (path.endswith(".py") or Path(path).is_dir())


def _may_matter(name: str) -> bool:
    return not name.startswith(".") and name not in _NO_SOURCES  # editors keep their locks in hidden files


def _folders_below(folders: list[Path]) -> set[Path]:
    found = set()
    for start in folders:
        for folder, names, _ in os.walk(start):
            names[:] = filter(_may_matter, names)
            found.add(Path(folder))
    if not found:
        raise FileNotFoundError(f"{folders[0]} cannot be read")
    return found
