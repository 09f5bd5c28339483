"""Runs tests on a copy of the tree, with a fault in it or without."""

import importlib.util
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bare_environment import bare_environment
from mutants.faults import ROOT, Fault

FOLDERS = ("src", "tests", "streams", "examples", "deploy", "docs")
COPIED = (*FOLDERS, "README.md", "pyproject.toml", "docker-compose.yml", "Dockerfile")
MOST_SECONDS = 60
"""Of one test; those that are named beside faults take a few."""
_MOST_OF_ALL = 1800
"""Seconds of one run of pytest, should it hang where no test runs."""
_BROKEN = ("NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError", "SyntaxError", "IndentationError")
"""A fault that ends so is no wrong code, but none at all."""


@dataclass(frozen=True)
class Ran:
    """What became of the tests, by their node ids."""

    passed: frozenset[str]
    failed: dict[str, str]
    """With the first line of what they said."""
    odd: dict[str, str]
    """Neither: it was not collected, ran out of time, or broke before it began."""
    said: str
    """All that was printed."""


class Copy:
    """The tree, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, source: Path = ROOT) -> None:
        """Copy the tree, with what Python compiled of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in (source / name for name in COPIED):
            if path.is_dir():
                ignored = shutil.ignore_patterns("node_modules", ".hypothesis")
                shutil.copytree(path, self.folder / path.name, ignore=ignored)
            elif path.is_file():
                shutil.copy2(path, self.folder / path.name)

    def put(self, fault: Fault) -> None:
        """Put the fault into it."""
        path = fault.path(self.folder)
        path.write_text(fault.text(self.folder))
        # Python takes what it compiled for the file's by size and second.
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)

    def run(self, tests: Sequence[str], *, until_first: bool = False, most_seconds: float = MOST_SECONDS) -> Ran:
        """Run these tests, of the code in the copy.

        Args:
            tests: Their node ids.
            until_first: Whether to stop at the first failure.
            most_seconds: Of one test.

        Raises:
            RuntimeError: If Python would import the package from elsewhere.
        """
        report = self.folder / "report.xml"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-n", "0", "-m", "", "-p", "no:cacheprovider", "-rN", "--tb=short"]
        command += [f"--timeout={most_seconds}", f"--junitxml={report}", "-o", "junit_family=xunit1"]
        command += ["--maxfail=1"] if until_first else []
        paths = os.pathsep.join(str(self.folder / name) for name in ("src", "tests"))
        environment = {**bare_environment(counted=False), "PYTHONPATH": paths}
        self._is_what_runs(environment)
        said = self.folder / "said.txt"  # not a pipe: what a test left running would hold it open
        with said.open("wb") as output, suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [*command, *tests],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=_MOST_OF_ALL,
            )
        text = said.read_text(errors="replace")
        if not report.exists():
            return Ran(frozenset(), {}, dict.fromkeys(tests, "pytest ended without a report"), text)
        return _read(report, text)

    def _is_what_runs(self, environment: dict[str, str]) -> None:
        """Make sure that Python, and what it starts, imports the package from the copy."""
        code = "import importlib.util; print(importlib.util.find_spec('jsjobs').origin)"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=self.folder)
        found = Path(done.stdout.strip()).resolve()
        if not found.is_relative_to((self.folder / "src").resolve()):
            raise RuntimeError(f"the tests would run {found}, not the copy in {self.folder}")


def _read(report: Path, said: str) -> Ran:
    passed, failed, odd = set(), {}, {}
    for case in ET.parse(report).getroot().iter("testcase"):
        path = str(case.get("file"))
        # `tests.a.test_b.TestC`: the module, then the class, if there is one.
        within = str(case.get("classname")).removeprefix(path.removesuffix(".py").replace("/", ".")).strip(".")
        name = "::".join(filter(None, (path, within, case.get("name"))))
        found = [child for child in case if child.tag in {"failure", "error", "skipped"}]
        if not found:
            passed.add(name)
        for child in found:
            message = (child.get("message") or "").strip()
            text = f"{message}\n{child.text or ''}"
            is_late = "from pytest-timeout" in text or "Timeout >" in text
            if child.tag == "failure" and not is_late and not message.startswith(_BROKEN):
                failed[name] = " ".join(message.split())
            else:
                odd[name] = f"{child.tag}: {' '.join(message.split())}"
    return Ran(frozenset(passed), failed, odd, said)
