"""Whatever a handler raises to end a program, or does to its own task, fails its attempt and costs nobody else's."""

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from facts import eventually, is_processing
from jsjobs import JobService


class Final(BaseException):
    pass


def own_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def raise_later(error: BaseException) -> None:
    await asyncio.sleep(0.01)
    raise error


async def cancels_itself() -> None:
    own_task().cancel()
    await asyncio.sleep(60)


async def cancels_itself_and_fails() -> None:
    own_task().cancel()
    raise ValueError("and failed")


async def cancels_itself_soon_and_fails() -> None:
    task, loop = own_task(), asyncio.get_running_loop()
    loop.call_soon(task.cancel)  # comes while the failure is settled
    loop.call_later(0.001, task.cancel)
    raise ValueError("and failed")


ASYNC = {
    "KeyboardInterrupt": (lambda: raise_later(KeyboardInterrupt("stop")), "KeyboardInterrupt: stop"),
    "SystemExit": (lambda: raise_later(SystemExit(3)), "SystemExit: 3"),
    "GeneratorExit": (lambda: raise_later(GeneratorExit()), "GeneratorExit"),
    "another": (lambda: raise_later(Final("over")), "Final: over"),
    "CancelledError": (lambda: raise_later(asyncio.CancelledError()), "cancelled by its own code"),
    "cancels itself": (cancels_itself, "cancelled by its own code"),
    "cancels itself and fails": (cancels_itself_and_fails, "ValueError: and failed"),
    "cancels itself soon": (cancels_itself_soon_and_fails, "ValueError: and failed"),
}
PLAIN = {
    "KeyboardInterrupt": (KeyboardInterrupt("stop"), "KeyboardInterrupt: stop"),
    "SystemExit": (SystemExit(3), "SystemExit: 3"),
    "GeneratorExit": (GeneratorExit(), "GeneratorExit"),
    "StopIteration": (StopIteration(), "StopIteration"),
    "another": (Final("over"), "Final: over"),
    "CancelledError": (asyncio.CancelledError(), "CancelledError"),
}


def raises_keyboard_interrupt(payload: object) -> None:
    raise KeyboardInterrupt("stop")


def raises_system_exit(payload: object) -> None:
    sys.exit(3)


def raises_generator_exit(payload: object) -> None:
    raise GeneratorExit


def raises_another(payload: object) -> None:
    raise Final("over")


PROCESS = {
    "KeyboardInterrupt": (raises_keyboard_interrupt, "KeyboardInterrupt: stop"),
    "SystemExit": (raises_system_exit, "exit code 3"),
    "GeneratorExit": (raises_generator_exit, "GeneratorExit"),
    "another": (raises_another, "Final: over"),
}


async def check_it_costs_its_own_attempt_alone(jobs: JobService, error: str, *, within: float = 5) -> None:
    """With an innocent job under way, run `exits` twice: as a last attempt, and with one more."""

    @jobs.handler("innocent")
    async def innocent(payload: object) -> str:
        await done.wait()
        return "done"

    done = asyncio.Event()
    async with jobs.worker() as worker:
        other = await jobs.submit("innocent", 1, priority="high", max_attempts=1, duration="long")
        await eventually(lambda: is_processing(jobs, other))
        begin = time.monotonic()
        dead, flaky = [await jobs.submit("exits", 1, max_attempts=most, duration="long") for most in (1, 2)]
        for job_id, attempts in ((dead, 1), (flaky, 2)):
            with pytest.raises(JobService.Error, match=error):
                await jobs.result(job_id, timeout=20)
            status = await jobs.status(job_id)
            assert (status.status, status.attempts) == ("failed", attempts)
            assert [error in item.error for item in status.history if item.error] == [True] * attempts
        assert time.monotonic() - begin < within, "it was not the server that brought it back"
        await eventually(lambda: worker.running == 1)
        done.set()
        assert await jobs.result(other, timeout=20) == "done"
        assert (await jobs.status(other)).attempts == 1


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    """With an `ack_wait` that nobody would wait for."""
    return settings_of(ack_wait=30)


@pytest.mark.parametrize(("function", "error"), ASYNC.values(), ids=ASYNC)
async def test_an_async_handler(jobs: JobService, function: Callable[[], Any], error: str) -> None:
    @jobs.handler("exits")
    async def exits(payload: object) -> None:
        await function()

    await check_it_costs_its_own_attempt_alone(jobs, error)


@pytest.mark.parametrize(("raised", "error"), PLAIN.values(), ids=PLAIN)
async def test_a_plain_handler(jobs: JobService, raised: BaseException, error: str) -> None:
    @jobs.handler("exits")
    def exits(payload: object) -> None:
        raise raised

    await check_it_costs_its_own_attempt_alone(jobs, error)


@pytest.mark.parametrize(("function", "error"), PROCESS.values(), ids=PROCESS)
async def test_a_handler_in_a_process(jobs: JobService, function: Callable[[object], None], error: str) -> None:
    jobs.register_handler("exits", function, run_in="process")
    await check_it_costs_its_own_attempt_alone(jobs, error, within=20)


@pytest.mark.parametrize("value", ["returned", "caught"])
async def test_who_cancels_its_own_task_and_returns_all_the_same_is_complete(jobs: JobService, value: str) -> None:
    @jobs.handler("returns")
    async def returns(payload: str) -> str:
        own_task().cancel()
        if payload == "caught":
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return payload
        asyncio.get_running_loop().call_soon(own_task().cancel)
        return payload

    async with jobs.worker():
        assert await jobs.result(await jobs.submit("returns", value), timeout=5) == value


async def test_what_ends_the_whole_loop_ends_a_running_handler_too(jobs: JobService, config: JobService.Config) -> None:
    async def run() -> None:
        async with JobService(config) as own:

            @own.handler("sleep")
            async def sleep(payload: object) -> None:
                await asyncio.sleep(60)

            worker = own.worker()
            await worker.start()
            job_id = await own.submit("sleep", 1)
            await eventually(lambda: is_processing(own, job_id))
            raise SystemExit(5)  # nobody stops the worker

    def thread() -> None:
        with pytest.raises(SystemExit):
            asyncio.run(run())

    async with asyncio.timeout(20):
        await asyncio.to_thread(thread)


@pytest.mark.parametrize("dies", [False, True])
async def test_who_cancels_its_own_task_at_every_turn_is_settled(jobs: JobService, dies: bool) -> None:
    """As a cancel scope does that was entered and never left."""

    @jobs.handler("scoped")
    async def scoped(payload: object) -> str:
        loop, task = asyncio.get_running_loop(), own_task()

        def cancel() -> None:
            if not task.done():
                task.cancel()
                loop.call_soon(cancel)

        loop.call_soon(cancel)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(60)
        if dies:
            raise JobService.Error.from_validation("it shall die")
        return "done"

    async with jobs.worker() as worker, jobs.router():
        job_id = await jobs.submit("scoped", 1, entity="a")
        if dies:
            await eventually(lambda: jobs.dlq.find(job_id))
        else:
            assert await jobs.result(job_id, timeout=20) == "done"
        await eventually(lambda: worker.running == 0)
    assert [item.status for item in (await jobs.status(job_id)).history] == [
        "processing",
        "failed" if dies else "complete",
    ]
