"""What commands that stay print: nobody is held up by its reader, and nothing else is done to it."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from bare_environment import bare_environment

START = "from jsjobs.cli.standard_streams import flush_output, relay_output\n"
MANY = "for number in range(2000):\n    print(f'line {number:04} ' + 60 * '.')\n"
LINES = [f"line {number:04} {60 * '.'}" for number in range(2000)]


def run(code: str, output: int) -> "subprocess.Popen[bytes]":
    environment = bare_environment()
    return subprocess.Popen([sys.executable, "-c", START + code], stdout=output, stderr=output, env=environment)


def read_all(reader: int) -> list[str]:
    with os.fdopen(reader) as lines:
        return lines.read().splitlines()


def test_who_prints_in_the_midst_of_printing_stops_nobody() -> None:
    """As a finalizer may at any moment, or a signal handler."""
    code = (
        "import signal\nrelay_output()\n"
        "signal.signal(signal.SIGALRM, lambda *_: print('in between'))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)\n" + MANY + "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "flush_output()\n"
    )
    reader, writer = os.pipe()
    process = run(code, writer)
    os.close(writer)
    said: list[str] = []
    reading = threading.Thread(target=lambda: said.extend(read_all(reader)))
    reading.start()
    try:
        assert process.wait(60) == 0
    finally:
        process.kill()
        reading.join()
    assert list(filter(None, "\n".join(said).replace("in between", "").splitlines())) == LINES


def test_a_pipe_that_does_not_wait_loses_nothing() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = run("relay_output()\n" + MANY + "import time; time.sleep(1); flush_output()\n", writer)
    os.close(writer)
    time.sleep(0.3)  # the pipe is full by then, or soon
    assert read_all(reader) == LINES
    assert process.wait(20) == 0


def test_after_a_full_disk_output_goes_on(tmp_path: Path) -> None:
    """A limit on the size of files fails writes, as a full disk does."""
    code = (
        "import resource, time\nrelay_output()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))\n"
        "print('0123456789 is lost')\nflush_output()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        # One write: a `print` is two, and what was dropped may be told between them.
        "import sys\nsys.stdout.write('there is room\\n')\nflush_output()\n"
    )
    out = tmp_path / "out"
    with out.open("wb") as file:
        assert run(code, file.fileno()).wait(20) == 0
    said = out.read_text()
    assert said.startswith("0123456789")
    assert "there is room\n" in said


def test_what_the_application_put_in_their_place_stays() -> None:
    code = (
        "import sys\n"
        "class Shouting:\n"
        "    def __init__(self, stream): self.stream = stream\n"
        "    def write(self, text): return self.stream.write(text.upper())\n"
        "    def __getattr__(self, name): return getattr(self.stream, name)\n"
        "sys.stdout = Shouting(sys.stdout)\nrelay_output()\nprint('quiet')\nsys.stdout.flush()\n"
    )
    reader, writer = os.pipe()
    process = run(code, writer)
    os.close(writer)
    assert read_all(reader) == ["QUIET"]
    assert process.wait(20) == 0
