from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from server_probes import all_ended, ask, crash_owner, family, store, stored

from jsjobs.embedded.discovery import discover, share_settings
from jsjobs.embedded.errors import EmbeddedError, ServersAlreadyRunning
from jsjobs.embedded.home import LocalServers
from jsjobs.embedded.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OWNER = "from jsjobs.embedded.home import LocalServers; LocalServers(home).start()"


_others: set[psutil.Process] = set()
"""What the test process had started before: servers that other tests share, and their processes."""


@pytest.fixture(autouse=True)
def _know_others() -> None:
    _others.update(psutil.Process().children(recursive=True))


def ours() -> list[psutil.Process]:
    # A shared Postgres may start further processes of its own at any time.
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # gone since the list was made
            if child not in _others and not _others & set(child.parents()):
                found.append(child)
    return found


async def test_starts_both_and_leaves_nothing_running(local_servers: LocalServers) -> None:
    found = local_servers.start()
    assert found.nats_url is not None
    assert found.database_url is not None
    await store(found.nats_url, "x")
    assert await ask(found.database_url, "SELECT 1") == 1
    processes = ours()
    local_servers.stop()
    assert all_ended(processes)
    local_servers.stop()


async def test_data_stay_for_the_next_start(local_servers: LocalServers) -> None:
    first = local_servers.start()
    await store(first.nats_url or "", "still here")
    await ask(first.database_url or "", "CREATE TABLE kept AS SELECT 'still here' AS word")
    local_servers.stop()
    second = LocalServers(local_servers.folder)
    assert second.start() == first
    assert await stored(first.nats_url or "") == "still here"
    assert await ask(first.database_url or "", "SELECT word FROM kept") == "still here"
    second.stop()


def test_starts_what_is_asked_for_alone(local_servers: LocalServers) -> None:
    found = local_servers.start(postgres=False)
    assert found.database_url is None
    assert not local_servers.postgres.running
    assert discover(local_servers.folder) == found


def test_its_folder_is_private_and_out_of_version_control(local_servers: LocalServers, tmp_path: Path) -> None:
    local_servers.start(postgres=False)
    assert stat.S_IMODE((tmp_path / ".jsjobs").stat().st_mode) == 0o700
    assert (tmp_path / ".jsjobs" / ".gitignore").read_text() == "*\n"


def test_other_commands_find_them_from_below(local_servers: LocalServers, tmp_path: Path) -> None:
    assert discover(tmp_path) is None
    found = local_servers.start(postgres=False)
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert discover(tmp_path) == found
    assert discover(tmp_path / "a" / "b") == found
    assert discover(tmp_path.parent) is None
    local_servers.stop()
    assert discover(tmp_path) is None


def test_other_commands_find_the_settings_of_what_runs_on_them(local_servers: LocalServers, tmp_path: Path) -> None:
    found = local_servers.start(postgres=False)
    assert found.settings == {}
    for settings in ({"scale": 2}, {"namespace": "shop"}):
        share_settings(tmp_path, settings)
        told = discover(tmp_path)
        assert told is not None
        assert (told.nats_url, told.settings) == (found.nats_url, settings)


def test_servers_that_died_are_not_found(local_servers: LocalServers, tmp_path: Path) -> None:
    local_servers.start(postgres=False)
    local_servers.nats.kill()
    assert discover(tmp_path) is None


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "[]", "{}", '{"nats_url": "x", "database_url": null, "processes": [{"pid": -1, "born": 0}]}'],
)
def test_an_unreadable_file_is_no_find(tmp_path: Path, text: str) -> None:
    (tmp_path / ".jsjobs").mkdir()
    (tmp_path / ".jsjobs" / "servers.json").write_text(text)
    assert discover(tmp_path) is None


def test_a_process_with_the_id_of_a_dead_one_is_not_taken_for_it(local_servers: LocalServers, tmp_path: Path) -> None:
    local_servers.start(postgres=False)
    file = tmp_path / ".jsjobs" / "servers.json"
    state = json.loads(file.read_text())
    assert state["processes"][0]["pid"] == os.getpid()
    state["processes"][0]["born"] -= 3600
    file.write_text(json.dumps(state))
    assert discover(tmp_path) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_file_is_not_believed(local_servers: LocalServers, tmp_path: Path) -> None:
    local_servers.start(postgres=False)
    os.chown(tmp_path / ".jsjobs" / "servers.json", 65534, -1)
    assert discover(tmp_path) is None


def test_a_second_owner_is_refused(local_servers: LocalServers, tmp_path: Path) -> None:
    found = local_servers.start(postgres=False)
    with pytest.raises(ServersAlreadyRunning, match=rf"{tmp_path} are already running: process {os.getpid()} ") as told:
        LocalServers(tmp_path).start()
    assert (told.value.pid, told.value.folder) == (os.getpid(), tmp_path)
    with pytest.raises(ServersAlreadyRunning):
        local_servers.start()
    with pytest.raises(ServersAlreadyRunning):
        LocalServers(tmp_path).remove()
    assert discover(tmp_path) == found
    script = f"import sys, pathlib; home = pathlib.Path(sys.argv[1]); {OWNER}"
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, capture_output=True, text=True)
    assert f"process {os.getpid()} owns them" in run.stderr


def test_a_refused_owner_stops_nothing(local_servers: LocalServers, tmp_path: Path) -> None:
    local_servers.start(postgres=False)
    second = LocalServers(tmp_path)
    with pytest.raises(ServersAlreadyRunning):
        second.start()
    second.stop()
    assert local_servers.nats.running
    assert discover(tmp_path) is not None


def test_a_crashed_owner_blocks_nobody_and_its_servers_are_ended(local_servers: LocalServers, tmp_path: Path) -> None:
    crash_owner(OWNER, tmp_path)
    state = json.loads((tmp_path / ".jsjobs" / "servers.json").read_text())
    left_over = [process for entry in state["processes"][1:] for process in family(entry["pid"])]
    assert not any(all_ended([process]) for process in left_over)
    assert discover(tmp_path) is None
    found = local_servers.start()
    assert all_ended(left_over)
    assert discover(tmp_path) == found
    assert found.nats_url == state["nats_url"]
    assert found.database_url == state["database_url"]


@pytest.mark.parametrize("act", [lambda servers: servers.start(postgres=False), LocalServers.remove])
def test_what_a_crashed_owner_left_over_is_ended_also_when_it_is_not_started_again(
    local_servers: LocalServers, tmp_path: Path, act: Callable[[LocalServers], object]
) -> None:
    crash_owner(OWNER, tmp_path)
    state = json.loads((tmp_path / ".jsjobs" / "servers.json").read_text())
    left_over = [process for entry in state["processes"][1:] for process in family(entry["pid"])]
    act(local_servers)
    assert all_ended(left_over)


def test_a_folder_that_cannot_hold_them_is_named(tmp_path: Path) -> None:
    (tmp_path / ".jsjobs").write_text("in the way")
    with pytest.raises(EmbeddedError, match=r"\.jsjobs cannot hold the local servers"):
        LocalServers(tmp_path).start()


def test_when_one_does_not_start_the_other_is_stopped(
    local_servers: LocalServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: PostgresServer) -> None:
        raise EmbeddedError("no luck")

    with monkeypatch.context() as patch:
        patch.setattr(PostgresServer, "start", fail)
        with pytest.raises(EmbeddedError, match="no luck"):
            local_servers.start()
    assert ours() == []
    assert discover(tmp_path) is None
    local_servers.start(postgres=False)
    assert local_servers.nats.running


def test_when_one_does_not_stop_the_other_is_stopped(
    local_servers: LocalServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise EmbeddedError("no luck")

    local_servers.start(postgres=False)
    with monkeypatch.context() as patch:
        patch.setattr(local_servers.postgres, "stop", fail)
        with pytest.raises(EmbeddedError, match="no luck"):
            local_servers.stop()
    assert not local_servers.nats.running
    assert discover(tmp_path) is None
    local_servers.start(postgres=False)


def test_remove_deletes_everything(local_servers: LocalServers, tmp_path: Path) -> None:
    local_servers.start()
    processes = ours()
    local_servers.remove()
    assert all_ended(processes)
    assert list(tmp_path.iterdir()) == []
    local_servers.remove()


def test_looking_for_nothing_needs_no_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert discover(tmp_path) is None
    (tmp_path / ".jsjobs").mkdir()
    (tmp_path / ".jsjobs" / "servers.json").write_text(
        '{"nats_url": "x", "database_url": null, "processes": [{"pid": 1, "born": 0}]}'
    )
    with pytest.raises(EmbeddedError, match=r'psutil is not installed: .* pip install "jsjobs\[embedded\]"'):
        discover(tmp_path)
