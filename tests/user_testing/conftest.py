"""A harness on the tests' own server, and an application whose suite is run by pytest."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bare_environment import bare_environment
from jsjobs.embedded.nats import NatsServer
from jsjobs.testing import Harness

CONFIG = """
[pytest]
asyncio_mode = {mode}
asyncio_default_fixture_loop_scope = {scope}
filterwarnings = error
"""


@pytest.fixture
async def harness(nats_server: NatsServer) -> AsyncIterator[Harness]:
    async with Harness(nats_url=nats_server.url) as harness:
        yield harness


class Suite:
    """A folder with an application's tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = bare_environment()
        self.write("conftest.py", 'pytest_plugins = ["jsjobs.testing.fixtures"]\n')
        self.configure()

    def configure(self, mode: str = "auto", scope: str = "function") -> None:
        self.write("pytest.ini", CONFIG.format(mode=mode, scope=scope))

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def run(self, *argv: str, expect: int = 0) -> str:
        argv = argv or ("-m", "pytest", "-p", "no:cacheprovider")
        done = subprocess.run(
            [sys.executable, *argv],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == expect, said
        return said


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)
