"""Planted secrets are in nothing that is printed, logged, exported or shown, whether it works or fails."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from commands import commands
from secured import environment, password, serving

from facts import eventually
from jsjobs import JobService

PLANTED = "s3cret"
APP = """
import logging
from jsjobs import JobService

logging.basicConfig(level=logging.DEBUG)
jobs = JobService()

@jobs.handler("echo")
async def echo(payload):
    logging.getLogger("app").info("%r", jobs.config)
    return payload

@jobs.handler("dies")
async def dies(payload):
    raise ValueError("it shall die")
"""
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """What takes spans and metrics: its address, and the bytes that came."""
    came: list[bytes] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Take)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", came
    server.shutdown()
    server.server_close()
    thread.join()


def url_of(config: JobService.Config, user: str) -> str:
    return config.nats_url.replace("//", f"//{user}:{password(user)}@")


@pytest.mark.long
async def test_nothing_that_works_shows_one(
    as_user: Callable[..., JobService.Config], tmp_path: Path, collector: tuple[str, list[bytes]]
) -> None:
    folder, (endpoint, came) = tmp_path / "app", collector
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    database = as_user("worker").database_url.get_secret_value().replace("//postgres@", f"//postgres:db-{PLANTED}@")
    exports = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    # One with its password in the URL, one beside it.
    worker = as_user(
        "worker",
        database_url=database,
        nats_url=url_of(as_user("worker"), "worker"),
        nats_user=None,
        nats_password=None,
    )
    operator, router = (environment(as_user(user, database_url=database), **exports) for user in ("operator", "router"))
    async with (
        serving(environment(worker, **exports), "worker", "app:jobs", "--no-router", "-v", cwd=folder) as log,
        serving(router, "router", "-v", cwd=folder) as router_log,
    ):
        submitted = await commands(
            *((operator, ("submit", kind, "1", "--json", "-v", "--max-attempts", "1")) for kind in ("echo", "dies"))
        )
        echo, dead = (json.loads(end.out)["job_id"] for end in submitted)
        shown = await commands((operator, ("result", echo, "-v")), (operator, ("result", dead, "-v")))
        assert [end.code for end in shown] == [0, 1]
        shown += submitted
        shown += await commands(
            *((operator, (*words.split(), "-v")) for words in (
                f"status {echo} --json", "queues --json", "top --count 1 --json", "streams show --json", "streams plan --json",
                "dlq list --json", "db migrate --json", "schedule list --json",
            ))
        )  # fmt: skip
        assert [end.code for end in shown[4:]] == [0] * 8
        await eventually(lambda: any(b"job.process" in body for body in came))
    everything = [log.read_text(), router_log.read_text(), *(end.out + end.err for end in shown)]
    assert "DEBUG" in everything[0]
    assert "Config(" in everything[0]
    assert [text for text in everything if PLANTED in text] == []
    assert [body for body in came if PLANTED.encode() in body] == []


@pytest.mark.long
async def test_nothing_that_fails_shows_one(as_user: Callable[..., JobService.Config], tmp_path: Path) -> None:
    config = as_user("operator")
    fine = environment(config)
    broken = tmp_path / f"broken-{'x' * 4}.creds"
    broken.write_text(f"-----BEGIN NATS USER JWT-----\n{PLANTED}\n-----BEGIN USER NKEY SEED-----\n{PLANTED}\n")
    bare = {name: value for name, value in fine.items() if not name.startswith("JSJOBS_NATS_")}
    bad_nats = [
        f"nats://u:{PLANTED}@{NOWHERE}", f"nats://u:{PLANTED}/x@{NOWHERE}", f"nats://u:{PLANTED}@:x", f"u:{PLANTED}@{NOWHERE}",
        f"nats://{PLANTED}@{NOWHERE}", f"nats://u:{PLANTED}#?@{NOWHERE}", config.nats_url.replace("//", f"//u:{PLANTED}@"), f"tls://u:{PLANTED}@{NOWHERE}",
        f"nats://u:{PLANTED}@[::1", f"nats://{NOWHERE},nats://u:{PLANTED}@127.0.0.1:2",
    ]  # fmt: skip
    bad_databases = [
        f"postgresql://u:{PLANTED}@{NOWHERE}/db", f"postgresql://u:{PLANTED}/x@{NOWHERE}/db", f"postgresql://u:{PLANTED}@@{NOWHERE}/db",
        f"postgresql://u:{PLANTED}#@{NOWHERE}/db", f"mysql://u:{PLANTED}@{NOWHERE}/db", f"postgresql://u@{NOWHERE}/db?password={PLANTED}",
        f"postgresql://u:{PLANTED}@127.0.0.1:{PLANTED}/db", f"postgresql://u:{PLANTED}@[::1/db",
    ]  # fmt: skip
    calls = [({**bare, "JSJOBS_NATS_URL": url}, ("queues", "-v")) for url in bad_nats]
    calls += [(bare, ("queues", "-v", "--nats-url", url)) for url in bad_nats[:2]]
    calls += [({**fine, "JSJOBS_DATABASE_URL": url}, ("dlq", "list", "-v")) for url in bad_databases]
    calls += [({**fine, **given}, ("queues", "-v")) for given in (
        {"JSJOBS_NATS_PASSWORD": f"wrong-{PLANTED}"}, {"JSJOBS_NATS_TOKEN": PLANTED, "JSJOBS_NATS_USER": ""},
        {"JSJOBS_NATS_CREDS": str(broken)}, {"JSJOBS_NATS_NKEY": str(broken)}, {"JSJOBS_NATS_TLS_CA": str(broken)},
        {"JSJOBS_NATS_PASSWORD": PLANTED, "JSJOBS_REPLICAS": "99"},
    )]  # fmt: skip
    ended = await commands(*calls)
    for (_, words), end in zip(calls, ended, strict=True):
        assert end.code in {1, 2}, words
        assert end.err
        assert PLANTED not in end.out + end.err, end.err


async def test_no_error_of_the_library_shows_one() -> None:
    for url in (f"nats://u:{PLANTED}@{NOWHERE}", f"nats://u:{PLANTED}/x@{NOWHERE}", f"nats://u:{PLANTED}@h:x"):
        config = JobService.Config(
            nats_url=url, nats_user="u", nats_password=PLANTED, nats_token=PLANTED, timeout=1,
            database_url=f"postgresql://u:{PLANTED}@{NOWHERE}/db",
        )  # fmt: skip
        assert PLANTED not in f"{config!r} {config} {config.model_dump_json(exclude={'nats_url'})}"
        with pytest.raises(JobService.Error) as raised:
            await JobService(config).connect()
        assert PLANTED not in f"{raised.value!r} {raised.value}"
    with pytest.raises(ValueError, match="validation error") as invalid:
        JobService.Config(nats_password=[PLANTED], nats_token=7, nats_url=[f"nats://u:{PLANTED}@h"])
    assert PLANTED not in str(invalid.value)
