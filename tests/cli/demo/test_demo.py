"""`jsjobs demo` as a user sees it: the real command, on real servers, in its own process."""

import os
import pty
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

import psutil
import pytest
from performance import JSJOBS, PLACE, Performance

from jsjobs.cli.demo.screen import Screen
from jsjobs.cli.demo.summary import next_steps
from jsjobs.embedded.home import LocalServers

Perform = Callable[..., Performance]

VERIFIED = [
    "jobs ended, each exactly as expected",
    "each with the sha256 of the original",
    "their files kept their order",
    "of 50 ran at the same time",
    "the flaky job failed twice and succeeded at attempt 3",
    "the poison job has one row in job_dlq with its 3 errors, and its replay succeeded",
    "the delayed job and 2 firings of the periodic one: none before it was due",
    "nothing is left in any queue",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my files"
    (folder / "a b" / "ü [x]").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "__pycache__").mkdir()
    (folder / ".hidden" / "secret").write_text("no")
    (folder / ".env").write_text("no")
    (folder / "__pycache__" / "cached.pyc").write_text("no")
    (folder / "empty").touch()
    (folder / "a b" / "größe 1 [bold].txt").write_text("ü" * 5000)
    (folder / "a b" / "line\nbreak").write_text("two lines")
    for number in range(3):
        (folder / "a b" / "ü [x]" / f"{number}").write_bytes(os.urandom(100))
    (folder / "link").symlink_to("/etc/passwd")
    return folder


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.long
def test_without_a_folder_it_packs_its_own_sources(perform: Perform) -> None:
    demo = perform(CI="true", HOME="/nonexistent")
    assert demo.end() == 0, demo.out + demo.err
    for text in (*VERIFIED, "src/jsjobs, one job each", "jsjobs dev ", "jsjobs submit ", "is complete: "):
        assert text in demo.out
    assert demo.err == ""


@pytest.mark.long
def test_every_visible_file_of_a_folder_is_packed_and_nothing_in_it_changes(perform: Perform, folder: Path) -> None:
    before = snapshot(folder)
    # What a user has set for other servers is not meant for these.
    mine = {"JSJOBS_NATS_URL": "nats://127.0.0.1:1", "JSJOBS_NAMESPACE": "other", "JSJOBS_POOLS": "nonsense"}
    demo = perform(folder, DATABASE_URL="postgresql://nobody@nowhere/none", PYTHONIOENCODING="ascii", **mine)
    assert demo.end() == 0, demo.out + demo.err
    for text in (*VERIFIED, "6 files of", "the archive was unpacked: 6 files"):
        assert text in demo.out
    assert snapshot(folder) == before


def test_a_folder_that_cannot_be_used_is_one_line(perform: Perform, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "nothing here").mkdir()
    for wrong in (tmp_path / "missing", folder / "empty", tmp_path / "nothing here"):
        demo = perform(wrong)
        assert demo.end() == 2
        assert demo.out == ""
        assert demo.err.count("\n") == 1
        assert str(wrong) in demo.err


@pytest.mark.long
@pytest.mark.parametrize("victim", ["worker", "router"])
def test_it_goes_on_when_a_process_is_killed(perform: Perform, folder: Path, victim: str) -> None:
    demo = perform(folder)
    demo.until("one job each")
    assert len(demo.left_behind()) > 4  # what is looked for after each test is there now
    os.kill(demo.pid(victim), signal.SIGKILL)
    assert demo.end() == 0, demo.out + demo.err
    assert f"the {victim} process {demo.pid(victim)} died: started another" in demo.out
    for text in VERIFIED:
        assert text in demo.out


@pytest.mark.long
@pytest.mark.parametrize("victim", ["nats-server", "postgres"])
def test_it_says_so_when_a_server_is_killed(perform: Perform, folder: Path, victim: str) -> None:
    demo = perform(folder)
    demo.until("one job each")
    os.kill(demo.pid(victim), signal.SIGKILL)
    assert demo.end() == 1
    assert f"error: the demo did not end as it should: the {victim} of the demo has ended" in demo.err


@pytest.mark.long
def test_killed_it_leaves_no_process_running(perform: Perform, folder: Path) -> None:
    demo = perform(folder)
    demo.until("one job each")
    demo.process.kill()
    demo.process.wait()
    place = Path(PLACE.search(demo.out)[1])
    deadline = time.monotonic() + 30
    while any(left.partition(":")[0].isdigit() for left in demo.left_behind()):
        assert time.monotonic() < deadline, demo.left_behind()
        time.sleep(0.05)
    LocalServers(place).remove()  # files, which nobody could take away
    shutil.rmtree(place)


@pytest.mark.long
def test_it_gives_up_on_a_worker_that_keeps_dying(perform: Perform, folder: Path) -> None:
    demo = perform(folder)
    demo.until("one job each")
    while demo.process.poll() is None:
        for process in psutil.Process(demo.process.pid).children():
            with suppress(psutil.Error):
                if "worker" in process.cmdline():
                    process.kill()
    assert demo.end() == 1
    assert "error: the demo did not end as it should: the worker process died 4 times" in demo.err


def test_what_it_says_to_type_next_exists(capsys: pytest.CaptureFixture[str]) -> None:
    next_steps(Screen(), Path("app.py"))
    commands = [line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.strip().startswith("jsjobs ")]
    assert len(commands) == 4
    for command in commands:
        words = list(takewhile(str.isalpha, command))
        help_text = subprocess.run([JSJOBS, *words, "--help"], check=True, capture_output=True, text=True).stdout
        assert f"jsjobs {' '.join(words)} " in help_text


@pytest.mark.long
@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("Servers and processes", signal.SIGINT),
        ("Servers and processes", signal.SIGHUP),
        ("one job each", signal.SIGINT),
        ("one job each", signal.SIGTERM),
    ],
)
def test_a_signal_ends_it_and_clears_up(perform: Perform, folder: Path, moment: str, number: signal.Signals) -> None:
    demo = perform(folder)
    demo.until(moment)
    demo.process.send_signal(number)
    demo.process.send_signal(number)  # impatience changes nothing
    assert demo.end() == 128 + number
    assert "nothing is left on disk" in demo.err


@pytest.mark.long
def test_a_file_that_changes_meanwhile_is_found_out(perform: Perform, folder: Path) -> None:
    demo = perform(folder)
    demo.until("Servers and processes")
    (folder / "empty").write_text("not empty any more")
    assert demo.end() == 1
    assert "empty is not what it was: was it changed while the demo ran?" in demo.err


@pytest.mark.long
def test_a_file_that_goes_meanwhile_is_found_out(perform: Perform, folder: Path) -> None:
    demo = perform(folder)
    demo.until("Servers and processes")
    (folder / "empty").unlink()
    assert demo.end() == 1
    assert "is failed: FileNotFoundError" in demo.err
    assert "job_dlq has rows for" in demo.err


@pytest.mark.long
def test_a_reader_that_goes_away_leaves_nothing_behind(perform: Perform, folder: Path) -> None:
    demo = perform(folder)
    demo.until("Servers and processes")
    demo.process.stdout.close()
    demo.process.wait(60)
    assert "Traceback" not in demo.process.stderr.read()


@pytest.mark.long
def test_in_a_terminal_it_is_drawn_live(tmp_path: Path, folder: Path) -> None:
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "50", "TMPDIR": str(tmp_path)}
    with subprocess.Popen([JSJOBS, "demo", folder], stdin=its, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        drawn = b""
        while data := _read(ours):
            drawn += data
    os.close(ours)
    assert process.returncode == 0
    assert b"\x1b[" in drawn
    assert b"done in" in drawn


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # how Linux says that nobody writes any more
        return b""
