"""Running `jsjobs demo` as a user does, and looking for what it left behind."""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

import psutil

JSJOBS = Path(sys.executable).with_name("jsjobs")
PLACE = re.compile(r"everything is in (\S+)")
PIDS = re.compile(r"nats-server (\d+), postgres (\d+), worker (\d+), router (\d+)")


class Performance:
    """One run of the demo, in a temporary folder of its own."""

    def __init__(self, temporary: Path, *arguments: object, **environment: str) -> None:
        self.temporary = temporary
        temporary.mkdir()
        self.process = subprocess.Popen(
            [JSJOBS, "demo", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary), "COLUMNS": "200", **environment},
        )
        self.out = self.err = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # it ends its own processes
        self.process.communicate(timeout=30)

    def until(self, text: str) -> None:
        """Read up to the line with this text."""
        while text not in self.out:
            line = self.process.stdout.readline()
            assert line, f"it ended before it said {text!r}:\n{self.out}\n{self.process.stderr.read()}"
            self.out += line

    def end(self) -> int:
        """Wait for its end; its exit code."""
        out, self.err = self.process.communicate(timeout=90)
        self.out += out
        assert "Traceback" not in self.out + self.err, self.out + self.err
        assert "\x1b" not in self.out + self.err, self.out + self.err
        return self.process.returncode

    def pid(self, name: str) -> int:
        names = ("nats-server", "postgres", "worker", "router")
        return int(PIDS.search(self.out)[names.index(name) + 1])

    def left_behind(self) -> list[str]:
        """Files and processes that should not be there any more."""
        places = [str(self.temporary)]
        if found := PLACE.search(self.out):
            # Postgres' folder, where it cannot be in the demo's own: see embedded/postgres_place.py.
            home = Path(found[1]) / ".jsjobs"
            places.append(f"jsjobs-pg-{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}-")
        files = [*self.temporary.iterdir()]
        for folder in {Path("/tmp"), Path("/var/tmp"), Path(tempfile.gettempdir())}:
            files += [path for path in folder.glob("jsjobs-pg-*") if any(place in str(path) for place in places)]
        return [*map(str, files), *_processes(places)]


def _processes(places: list[str]) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            text = " ".join([*process.cmdline(), process.cwd()])
            if process.status() != psutil.STATUS_ZOMBIE and any(place in text for place in places):
                found.append(f"{process.pid}: {text}")
        except psutil.Error:
            continue
    return found
