"""A service works in the event loop that it was connected in; elsewhere it says so before anything is sent."""

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bare_environment import bare_environment
from jsjobs import JobService
from jsjobs.rpc import Rpc

Use = Callable[[JobService], Awaitable[Any]]


async def first(updates: Any) -> Any:
    return await anext(updates)


async def entered(thing: Any) -> None:
    async with thing:
        raise AssertionError("it was entered")


def payload() -> JobService.Payload:
    return JobService.Payload(type="mail", payload=1)


USES: dict[str, Use] = {
    "submit": lambda jobs: jobs.submit("mail", 1),
    "submit a list": lambda jobs: jobs.submit("mail", [1, 2, 3]),
    "submit with a key": lambda jobs: jobs.submit("mail", 1, dedupe_key="one"),
    "submit later": lambda jobs: jobs.submit("mail", 1, delay=60),
    "submit a list later": lambda jobs: jobs.submit("mail", [1, 2], delay=60),
    "submit debounced": lambda jobs: jobs.submit("mail", 1, delay=60, debounce_key="one"),
    "submit_payloads": lambda jobs: jobs.submit_payloads([payload(), payload()]),
    "enqueue": lambda jobs: jobs.enqueue("mail", 1),
    "status": lambda jobs: jobs.status("normal-1"),
    "watch": lambda jobs: first(jobs.watch("normal-1")),
    "result": lambda jobs: jobs.result("normal-1", timeout=5),
    "results": lambda jobs: jobs.results(["normal-1"], timeout=5),
    "as_ended": lambda jobs: first(jobs.as_ended(["normal-1"])),
    "progress": lambda jobs: first(jobs.progress("normal-1")),
    "batch": lambda jobs: jobs.batch("0123456789abcdef"),
    "cancel": lambda jobs: jobs.cancel("normal-1", timeout=5),
    "reschedule": lambda jobs: jobs.reschedule(f"at-{uuid.uuid4().hex}", delay=5),
    "run_now": lambda jobs: jobs.run_now(f"at-{uuid.uuid4().hex}"),
    "pause": lambda jobs: jobs.pause("low"),
    "resume": lambda jobs: jobs.resume("low"),
    "replay": lambda jobs: jobs.replay(str(uuid.uuid4())),
    "schedules, add": lambda jobs: jobs.schedules.add("nightly", "mail", cron="@daily"),
    "schedules, list": lambda jobs: jobs.schedules.list(),
    "schedules, run": lambda jobs: jobs.schedules.run("nightly"),
    "worker": lambda jobs: entered(jobs.worker()),
    "micro service": lambda jobs: entered(Rpc(jobs)),
    "connect": lambda jobs: jobs.connect(),
    "close": lambda jobs: jobs.close(),
}


async def elsewhere(use: Callable[[], Awaitable[Any]]) -> Any:
    """Run it in an event loop of another thread."""

    async def used() -> Any:
        return await use()

    return await asyncio.to_thread(lambda: asyncio.run(used()))


async def stored(jobs: JobService) -> int:
    """Messages in all streams of the namespace: jobs, schedules, entries and letters."""
    listed = json.loads((await jobs.connection.ask(b"$JS.API.STREAM.LIST", b'{"offset":0}')).data)
    names = f"{jobs.config.namespace.upper()}_", f"KV_{jobs.config.namespace}"
    return sum(one["state"]["messages"] for one in listed["streams"] or [] if one["config"]["name"].startswith(names))


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_no_call_from_another_loop_sends_anything(jobs: JobService, use: Use) -> None:
    before = await stored(jobs)
    with pytest.raises(JobService.Error, match="connected in another event loop") as caught:
        await elsewhere(lambda: use(jobs))
    assert caught.value.reason == "Validation"
    assert "run_coroutine_threadsafe" in caught.value.message
    assert "Nothing was sent" in caught.value.message
    assert await stored(jobs) == before
    assert await jobs.submit("mail", 1)  # and in its own loop all goes on


async def test_what_was_made_in_its_loop_is_refused_in_another_too(jobs: JobService) -> None:
    schedules, letters, worker, router = jobs.schedules, jobs.dlq, jobs.worker(), jobs.router()
    metrics, job_id = jobs.queue_metrics(), await jobs.submit("mail", 1)
    watched, ended = jobs.watch(job_id), jobs.as_ended([job_id])
    assert (await first(watched)).status == "queued"
    await letters.count()
    async with worker, router, metrics:
        for use in (
            lambda: schedules.add("nightly", "mail", every=60),
            letters.count,
            lambda: first(watched),
            lambda: first(ended),
            worker.stop,
            router.stop,
        ):
            with pytest.raises(JobService.Error, match="connected in another event loop"):
                await elsewhere(use)
        assert worker.ready
    assert await schedules.list() == []
    await watched.aclose()


async def test_one_who_waits_elsewhere_disturbs_nobody_who_waits_here(jobs: JobService) -> None:
    @jobs.handler("mail")
    async def mail(payload: int) -> int:
        return payload

    job_id = await jobs.submit("mail", 7)
    waiting = asyncio.ensure_future(jobs.result(job_id, timeout=20))
    await asyncio.sleep(0)
    with pytest.raises(JobService.Error, match="another event loop"):
        await elsewhere(lambda: jobs.result(job_id, timeout=20))
    async with jobs.worker():
        assert await waiting == 7


async def test_a_plain_handler_that_submits_in_a_loop_of_its_own_queues_nothing(jobs: JobService) -> None:
    @jobs.handler("parent", retry=JobService.Retry(max_retries=2, initial=0.01))
    def parent(payload: object) -> None:
        asyncio.run(jobs.submit("child", payload))

    job_id = await jobs.submit("parent", 1)
    async with jobs.worker():
        with pytest.raises(JobService.Error, match="make a plain handler async"):
            await jobs.result(job_id, timeout=20)
    queue = f"$JS.API.STREAM.INFO.{jobs.config.namespace.upper()}_NORMAL".encode()
    assert json.loads((await jobs.connection.ask(queue, b'{"subjects_filter":">"}')).data)["state"]["messages"] == 0


async def test_another_loop_has_a_service_of_its_own(jobs: JobService, config: JobService.Config) -> None:
    async def submit() -> str:
        async with JobService(config) as own:
            return await own.submit("mail", 1)

    job_id = await elsewhere(submit)
    assert (await jobs.status(job_id)).status == "queued"


SCRIPT = """
import asyncio, os, sys
from jsjobs import JobService

jobs = JobService()

async def refused(words, use):
    try:
        await use
    except JobService.Error as error:
        assert words in error.message and "async with jobs" in error.message, error
    else:
        raise AssertionError(words)

async def again(words):
    for use in (jobs.submit("mail", 1), jobs.submit("mail", [1, 2]), jobs.result("normal-1")):
        await refused(words, use)
    async with jobs:
        await jobs.submit("mail", 2)
        await jobs.dlq.count()
"""
ENDED = """
async def begin():
    await jobs.connect()
    await jobs.dlq.count()
    await jobs.submit("mail", 1)

asyncio.run(begin())
asyncio.run(again("has ended"))
asyncio.run(jobs.close())
asyncio.run(begin())
asyncio.run(jobs.close())  # there is nothing left to close
asyncio.run(begin())
jobs.configure(jobs.config)  # it is not connected any more
asyncio.run(again("not connected"))
"""
FORKED = """
reconnected = []

async def begin():
    await jobs.connect()
    jobs.connection.on_reconnect.append(lambda: reconnected.append(1))
    await jobs.dlq.count()
    return await jobs.submit("mail", 1)

async def go_on(first):
    assert (await jobs.status(first)).status == "queued"
    await jobs.submit("mail", 3)
    await jobs.dlq.count()
    assert not reconnected, "something of the child came into this connection, or ended it"
    await jobs.close()

loop = asyncio.new_event_loop()
first = loop.run_until_complete(begin())
if os.fork() == 0:
    loop.run_until_complete(refused("forked", jobs.submit("mail", 1)))
    asyncio.run(again("forked"))
    os._exit(0)
assert os.wait()[1] == 0
loop.run_until_complete(go_on(first))
loop.close()
"""


async def run_script(folder: Path, config: JobService.Config, script: str) -> tuple[int, str]:
    assert config.database_url is not None
    env = bare_environment() | {
        "JSJOBS_NATS_URL": config.nats_url,
        "JSJOBS_DATABASE_URL": config.database_url.get_secret_value(),
        "JSJOBS_NAMESPACE": config.namespace,
    }
    path = folder / "script.py"
    path.write_text(SCRIPT + script)
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, path], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(("script", "submitted"), [(ENDED, 5), (FORKED, 3)], ids=["ended", "forked"])
async def test_a_service_whose_loop_is_gone_says_so_and_can_be_connected_again(
    jobs: JobService, config: JobService.Config, tmp_path: Path, script: str, submitted: int
) -> None:
    before = await stored(jobs)
    code, errors = await run_script(tmp_path, config, script)
    assert (code, errors) == (0, "")
    assert await stored(jobs) == before + submitted
