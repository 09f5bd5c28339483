"""What is imported when: a start pays for what it uses, and every module can be the first one that is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

import jsjobs
from bare_environment import bare_environment

SOURCES = Path(jsjobs.__file__).parent
OUTSIDE = ["asyncio", "asyncpg", "nats.js.client", "opentelemetry.sdk.trace", "pydantic", "pydantic_settings", "pytest"]


def imported(code: str) -> set[str]:
    """The modules that a new process has after this."""
    tell = f"import sys\ntry:\n    {code}\nexcept SystemExit: pass\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", tell], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stderr.split("\n"))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_what_lists_the_commands_imports_none(arguments: list[str]) -> None:
    found = imported(f"from jsjobs.cli.app import main; main({arguments})")
    assert "typer" in found
    assert not found & {"nats", "pydantic.main", "asyncpg", "asyncio", "jsjobs.service", "jsjobs.settings"}


def test_a_service_imports_what_it_does_when_it_does_it() -> None:
    found = imported("from jsjobs import JobService; JobService()")
    assert "jsjobs.service.job_service" in found
    assert not found & {
        "nats",
        "asyncpg",
        "nkeys",
        "jsjobs.worker.worker",
        "jsjobs.operations.submit",
        "jsjobs.dead_letters",
    }


def test_a_status_does_without_workers_letters_and_bars() -> None:
    found = imported(
        "from jsjobs.cli.app import main; main(['status', 'normal-1', '--nats-url', 'nats://127.0.0.1:9'])"
    )
    assert {"nats", "jsjobs.jetstream.client.connection"} <= found
    assert not found & {
        "asyncpg",
        "nkeys",
        "jsjobs.worker.worker",
        "jsjobs.operations.submit",
        "rich.progress",
        "jsjobs.cli.dev.command",
    }


@pytest.mark.long
def test_every_module_can_be_imported_first() -> None:
    names = [
        ".".join(file.relative_to(SOURCES.parent).with_suffix("").parts).removesuffix(".__init__")
        for file in sorted(SOURCES.rglob("*.py"))
        if "_shipped" not in file.parts
    ]
    assert len(names) > 200
    # Each in a fork of one process that has what is not ours already.
    code = f"""
import importlib, os, sys, traceback
for name in {OUTSIDE}: importlib.import_module(name)
assert not any(name.startswith("jsjobs") for name in sys.modules)
for name in {names}:
    child = os.fork()
    if not child:
        try: importlib.import_module(name)
        except BaseException: print(name); traceback.print_exc(); os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]: print("cannot be imported first:", name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=110,
        env=bare_environment(counted=False),
    )
    assert (done.stdout, done.stderr) == ("", "")
