"""Choose the files of a folder that the demo packs; they are read once, and never written to."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from jsjobs.cli.errors import WrongUse
from jsjobs.model.job import Priority

MAX_FILES = 2000
MAX_BYTES = 16 * 2**20
"""This much is hashed, compressed, archived and verified in well under a minute on two slow cores."""
MAX_LOOKED_AT = 20_000
MAX_NAME_BYTES = 200
"""The longest name of a file: a packed file's name is a little longer, and file systems take 255 bytes."""
MAX_ENTITY = 200
SIZES = ((2 * 2**10, Priority.CRITICAL), (4 * 2**10, Priority.HIGH), (8 * 2**10, Priority.NORMAL))
"""Sizes in bytes, and the priority of files below each; all larger files are low."""


@dataclass(frozen=True)
class Source:
    """One file to pack."""

    path: Path
    name: str
    """The path relative to the folder."""
    size: int
    sha256: str
    entity: str
    """The file's subfolder: jobs of one entity stay in order."""

    @property
    def priority(self) -> Priority:
        """Return the priority of the file's job: the smaller the file, the more urgent the job."""
        return next((priority for size, priority in SIZES if self.size < size), Priority.LOW)


@dataclass(frozen=True)
class DemoFiles:
    """The files that were chosen in a folder."""

    folder: Path
    files: tuple[Source, ...]
    left_out: tuple[str, ...]
    """Descriptions of what was left out though one might expect it."""

    @property
    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(file.size for file in self.files)


def choose_files(folder: Path) -> DemoFiles:
    """Find and hash the files of a folder; hidden files, caches and links are skipped.

    Raises:
        WrongUse: If there is no such folder, or it holds no file that can be used.
    """
    folder = _checked(folder)
    files: list[Source] = []
    left_out: Counter[str] = Counter()
    room = MAX_BYTES
    for number, path in enumerate(islice(_walk(folder), MAX_LOOKED_AT + 1)):
        if number == MAX_LOOKED_AT or len(files) == MAX_FILES:
            left_out[f"or more file(s) after the first {number:,}"] += 1
            break
        found = _read(folder, path, room)
        if isinstance(found, Source):
            files.append(found)
            room -= found.size
        else:
            left_out[found] += 1
    reasons = tuple(f"{count:,} {what}" for what, count in left_out.items())
    if not files:
        why = f": left out {', '.join(reasons)}" if reasons else " (hidden files, caches and links do not count)"
        raise WrongUse(f"{str(folder)!r} holds no file to pack{why}")
    return DemoFiles(folder, tuple(files), reasons)


def _checked(folder: Path) -> Path:
    try:
        folder = folder.expanduser().resolve(strict=True)
        if not folder.is_dir():
            raise WrongUse(f"{str(folder)!r} is not a folder")
        next(folder.iterdir(), None)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~nobody; ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise WrongUse(f"{str(folder)!r} cannot be read: {reason}") from None
    return folder


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for name in sorted(names):
            path = Path(parent, name)
            # Links may lead anywhere, and a read of a pipe or a device may never end.
            if not name.startswith(".") and not path.is_symlink() and path.is_file():
                yield path


def _read(folder: Path, path: Path, room: int) -> Source | str:
    """Return the file, or the reason to leave it out."""
    name = path.relative_to(folder).as_posix()
    try:
        if len(os.fsencode(path.name)) > MAX_NAME_BYTES:
            return f"file(s) with a name longer than {MAX_NAME_BYTES} bytes"
        name.encode()
        if path.with_name(f"{path.name}.gz").is_dir():
            return "file(s) whose packed name is a folder's"
        size, data = _contents(path, room)
    except UnicodeEncodeError:
        return "file(s) whose name is not UTF-8"
    except OSError:
        return "file(s) that may not be read"
    if size > room:
        return f"file(s) that go beyond {MAX_BYTES >> 20} MB in all"
    if len(data) != size:
        return "file(s) that are being written, or that the system makes up"
    return Source(path, name, len(data), hashlib.sha256(data).hexdigest(), _entity(folder, path))


def _contents(path: Path, room: int) -> tuple[int, bytes]:
    """Return the file's size, and its content if there is room for it."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # some files of /proc would block forever
    try:
        size = os.fstat(file).st_size
        return size, os.read(file, size + 1) if size <= room else b""
    finally:
        os.close(file)


def _entity(folder: Path, path: Path) -> str:
    name = path.parent.relative_to(folder.parent).as_posix()
    if name.isprintable() and name == name.strip() and 0 < len(quote(name, safe="")) <= MAX_ENTITY:
        return name
    return f"folder-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
