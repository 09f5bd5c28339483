"""Every command and snippet of the README and the docs, run as a reader would: in one folder, from top to bottom."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bare_environment import bare_environment
from doc_pages import BLOCK, FILE, PAGES, ROOT, name_of, save_files
from jsjobs.embedded.home import LocalServers

AT_ONCE = {"README.md"}
"""The page that everybody starts with; the others are run with the long tests."""
STOPPED = -signal.SIGTERM
"""What an exit code says of a server that ends itself by the signal, once it has stopped."""
SERVING = {
    "jsjobs dev": ("ready", 0),
    "jsjobs worker": ("ready", 0),
    "jsjobs router": ("ready", 0),
    "jsjobs rpc": ("ready", 0),
    "uvicorn": ("running on http", STOPPED),
    "flask": ("Running on http", STOPPED),
    "python customer.py": ("ready", STOPPED),
    "python django_shop.py runserver": ("Starting development server", STOPPED),
}
"""What runs until it is told to stop: what it says when it is ready, and its exit code."""
PORT = re.compile(r"\b80\d\d\b")

READERS_APP = """
from jsjobs import JobService

jobs = JobService()

@jobs.handler("email.send")
@jobs.handler("report.build")
@jobs.handler("mail.send")
async def echo(payload: dict[str, object]) -> dict[str, object]:
    return payload

@jobs.handler("temperature.record")
async def record(degrees: float) -> float:
    return degrees

@jobs.handler("always.fails")
async def fails(payload: object) -> None:
    raise JobService.Error("Validation", "never")
"""


class Reader:
    """A folder with servers and a worker in it, where the lines of a page are typed."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.env = bare_environment(counted=False)
        self.env["PATH"] = f"{Path(sys.executable).parent}:{self.env['PATH']}"
        self.env["PYTHONUNBUFFERED"] = "1"  # what says that it is ready says so at once
        self.ports: dict[str, str] = {}
        for name in ("benchmarks", "streams"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "readers_app.py").write_text(READERS_APP)
        # As root the database's data are outside of the folder.
        stack.callback(LocalServers(folder).remove)

    def run_script(self, name: str) -> None:
        """Run a page's script; one of plain nats-py needs the address of `jsjobs dev`, whose port is any here."""
        plain = "nats.connect(" in (self.folder / name).read_text()
        url = json.loads((self.folder / ".jsjobs" / "servers.json").read_text())["nats_url"] if plain else ""
        self.run(f"NATS_URL={url} python {name}" if plain else f"python {name}")

    def run(self, line: str) -> str:
        for placeholder, find in (
            ("JOB_ID", self._job_id),
            ("BATCH_ID", self._batch_id),
            ("LETTER_ID", self._letter_id),
            ("DELAYED_ID", self._delayed_id),
        ):
            if placeholder in line:
                line = line.replace(placeholder, find())
        line = PORT.sub(self._free_port, line)
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def serve(self, line: str) -> None:
        """Start what runs until it is told to stop; at the end it must stop in good order."""
        said_when_ready, code = next(told for words, told in SERVING.items() if line.startswith(words))
        line = PORT.sub(self._free_port, line)
        if line.startswith("jsjobs dev"):
            line += " --nats-port 0"  # other tests have a `jsjobs dev` of their own
        log = (self.folder / f"{len(list(self.folder.glob('*.log')))}.log").open("w+")
        process = subprocess.Popen(line.split(), cwd=self.folder, env=self.env, stdout=log, stderr=subprocess.STDOUT)
        self.stack.callback(self._stop, process, line, log, code)
        for _ in range(600):
            said = Path(log.name).read_text()
            assert process.poll() is None, said
            if said_when_ready in said:
                return
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        raise AssertionError(f"{line} does not become ready:\n{said}")

    @staticmethod
    def _stop(process: subprocess.Popen, line: str, log, expected: int) -> None:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        said = Path(log.name).read_text()
        log.close()
        assert code == expected, f"{line} ended with {code}:\n{said}"
        assert "Traceback" not in said, said

    def _free_port(self, named: re.Match[str]) -> str:
        """A free port in the place of the one that a page names: other tests may have that."""
        if named[0] not in self.ports:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.ports[named[0]] = str(free.getsockname()[1])
        return self.ports[named[0]]

    def _job_id(self) -> str:
        payload = '{"to": "x@example.org", "subject": "y"}'
        self.run(f"jsjobs submit email.send '{payload}' --wait")
        return json.loads(self.run(f"jsjobs submit email.send '{payload}' --json"))["job_id"]

    def _delayed_id(self) -> str:
        return self.run("""jsjobs submit email.send '{"to": "x@example.org", "subject": "y"}' --delay 1h""").strip()

    def _batch_id(self) -> str:
        return json.loads(self.run("""seq -f '{"n": %g}' 5 | jsjobs submit mail.send - --json"""))[0]["batch_id"]

    def _letter_id(self) -> str:
        job_id = json.loads(self.run("jsjobs submit always.fails 1 --json"))["job_id"]
        for _ in range(100):
            for letter in json.loads(self.run("jsjobs dlq list --json")):
                if letter["original_job_id"] == job_id:
                    return letter["id"]
        raise AssertionError(f"no letter of {job_id}")


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with ExitStack() as stack:
        yield Reader(tmp_path, stack)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[] if name_of(page) in AT_ONCE else pytest.mark.long, id=name_of(page))
        for page in PAGES
        if BLOCK.search(page.read_text())
    ],
)
def test_a_page_does_what_it_says(page: Path, reader: Reader) -> None:
    text = page.read_text()
    if "jsjobs dev" not in "".join(body for language, body in BLOCK.findall(text) if language == "sh"):
        reader.serve("jsjobs dev readers_app.py:jobs")
    ran = 0
    # Scripts first: a reader has saved them when the commands come.
    save_files(page, reader.folder)
    for language, body in BLOCK.findall(text):
        if language == "python" and "asyncio.run(main())\n" in body and '"__main__"' not in body:
            reader.run_script(FILE.match(body)[1])
            ran += 1
        elif language == "sh":
            for line in body.strip().splitlines():
                ran += type_line(line, reader)
        else:
            # JavaScript is run by tests/node, or beside its recipe.
            assert language in {"python", "toml", "", "text", "yaml", "js"}, language
    assert ran
    assert "\n# test_" not in text or "```sh\npytest" in text, "the page's tests are not run"


def test_a_plain_script_says_in_one_line_that_no_server_answers(tmp_path: Path) -> None:
    bodies = [body for page in PAGES for kind, body in BLOCK.findall(page.read_text()) if kind == "python"]
    scripts = [body for body in bodies if "nats.connect(" in body]
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"nats://127.0.0.1:{closed.getsockname()[1]}"
    env = bare_environment(counted=False) | {"NATS_URL": url}
    running = [
        subprocess.Popen([sys.executable, "-c", body], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
        for body in scripts
    ]
    for process in running:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 1
        assert said == "NATS failed with NoServersError(): is `jsjobs dev` running, and NATS_URL right?\n"


def type_line(line: str, reader: Reader) -> bool:
    if line.startswith("python3 -m venv"):
        # The README's two commands: `.ci/run` runs the second as it stands, tests/demo what the first comes to.
        assert line.endswith("&& .venv/bin/jsjobs demo") or line in (ROOT / ".ci" / "run").read_text()
    elif line.startswith("export "):
        assert "127.0.0.1" in line  # a reader's own servers; here the folder's are found
    elif line.startswith(tuple(SERVING)):
        reader.serve(line)
    else:
        reader.run(line)
    return True


def test_just_recipes_files_and_headings_that_pages_name_exist() -> None:
    recipes = set(re.findall(r"^(\w+)[^:=\n]*:(?!=)", (ROOT / "justfile").read_text(), re.MULTILINE))
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        text = page.read_text()
        assert set(re.findall(r"\bjust (\w+)`", text)) <= recipes, page
        for link, heading in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", text):
            target = page.parent / link if link else page
            assert target.exists(), f"{name_of(page)} links to {link}"
            assert not heading or heading in anchors_of(target), f"{name_of(page)} links to {link}#{heading}"


def test_the_index_names_every_page_with_its_question() -> None:
    index = ROOT / "docs" / "README.md"
    lines = [line for line in index.read_text().splitlines() if line.startswith("- ")]
    named = {index.parent / re.search(r"\]\(([^)#]+)", line)[1] for line in lines}
    assert named == {page for page in PAGES if page.name != "README.md"}
    assert [line for line in lines if not line.endswith("?")] == []


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
