"""What a process saw, in a file of its own that outlives its death."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

Line = dict[str, Any]


class Journal:
    """One JSON object a line, each with one write to a file opened for appending: SIGKILL takes nothing back."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = os.open(folder / f"{name}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(self, event: str, **facts: Any) -> None:
        """Write it down with the time: `at` is the machine's monotonic clock, which all its processes share."""
        line = {"event": event, "at": time.monotonic(), **facts}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def read_all(folder: Path, names: str) -> Iterator[Line]:
    """The lines of all journals whose names match the pattern, file by file."""
    for path in sorted(folder.glob(f"{names}.jsonl")):
        with path.open("rb") as lines:
            for line in lines:
                yield json.loads(line)


class Tail:
    """The lines that others add to their journals meanwhile, each told once, and none before it is whole."""

    def __init__(self, folder: Path, names: str, *, from_now: bool = False) -> None:
        self._folder = folder
        self._names = names
        self._files: dict[Path, BinaryIO] = {}
        self._torn: dict[Path, bytes] = {}
        if from_now:
            for path in folder.glob(f"{names}.jsonl"):
                self._files[path] = path.open("rb")
                self._files[path].seek(0, os.SEEK_END)

    def new_lines(self) -> Iterator[bytes]:
        for path in self._folder.glob(f"{self._names}.jsonl"):
            if path not in self._files:
                self._files[path] = path.open("rb")
            whole, _, self._torn[path] = (self._torn.get(path, b"") + self._files[path].read()).rpartition(b"\n")
            yield from whole.splitlines()

    def close(self) -> None:
        for file in self._files.values():
            file.close()
