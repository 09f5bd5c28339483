from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import psutil
import pytest
from server_probes import all_ended, family

from jsjobs.embedded.errors import EmbeddedError
from jsjobs.embedded.processes import Child, birth, is_alive

if TYPE_CHECKING:
    from pathlib import Path

STUBBORN = "trap '' TERM; sleep 60 & echo ready; wait; wait"


@pytest.fixture
def stubborn(tmp_path: Path) -> Child:
    child = Child(["/bin/sh", "-c", STUBBORN], log=tmp_path / "log", cwd=tmp_path)
    child.wait_for(lambda: "ready" in (tmp_path / "log").read_text() or None)
    return child


def test_what_does_not_stop_in_time_is_ended_by_force(stubborn: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = family(stubborn.pid)
    assert len(processes) == 2
    with monkeypatch.context() as patch:
        patch.setattr("jsjobs.embedded.processes.STOP_S", 0.5)
        stubborn.stop(signal.SIGTERM)
    assert not stubborn.running
    assert all_ended(processes)


def test_what_is_not_ready_in_time_is_ended(stubborn: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jsjobs.embedded.processes.READY_S", 0.05)
    with pytest.raises(EmbeddedError, match=r"(?s)sh was not ready within 0.05 s; the end of .*log:\nready"):
        stubborn.wait_for(lambda: None)
    assert not stubborn.running


def test_a_command_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="/no/such/command could not be started"):
        Child(["/no/such/command"], log=tmp_path / "log", cwd=tmp_path)


def test_a_process_is_known_by_its_birth() -> None:
    born = birth(os.getpid())
    assert born is not None
    assert is_alive(os.getpid(), born)
    assert not is_alive(os.getpid(), born - 60)
    assert birth(max(psutil.pids()) + 100_000_000) is None
