"""Every public method of the service, called wrongly: the documented error, and nothing is queued or changed."""

import asyncio
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.errors import NoResponders
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority, random_token

NAN = float("nan")
LONG = "x" * 3000
UNKNOWN = "normal-1"
DEEP: list[Any] = []
for _ in range(3000):
    DEEP = [DEEP]


class Unknown:
    """Nothing that JSON knows."""


async def first(updates: Any) -> Any:
    return await anext(updates)


def takes_three(_one: Any, _two: Any, _three: Any) -> None:
    """No handler takes so much."""


def yields(_payload: Any) -> Any:
    """Nobody goes through it."""
    yield 1


Call = Callable[[JobService], Any]
VALIDATION: dict[str, Call] = {
    **{
        f"submit of type {str(v)[:9]!r}": (lambda jobs, v=v: jobs.submit(v, 1))
        for v in (None, 5, "", "a b", "a..b", b"t", LONG)
    },
    **{
        f"submit of {name}": (lambda jobs, v=v: jobs.submit("t", v))
        for name, v in {
            "an object": Unknown(),
            "nan": NAN,
            "a set of objects": {Unknown()},
            "half a character": "\ud800",
            "too deep a list": [DEEP],
            "bytes that are no text": b"\xff",
            "too much": "x" * 2**20,
            "too much in a list": ["x", "x" * 2**20],
        }.items()
    },
    **{
        f"submit with {name}={v!r}": (lambda jobs, name=name, v=v: jobs.submit("t", 1, **{name: v}))
        for name, v in {
            "priority": "urgent",
            "entity": "",
            "dedupe_key": 5,
            "max_attempts": 0,
            "duration": "eternal",
            "timeout": -1,
            "unknown": 1,
        }.items()
    },
    "submit with 1,001 attempts": lambda jobs: jobs.submit("t", 1, max_attempts=1001),
    "submit of a list with 1,001 attempts": lambda jobs: jobs.submit("t", [1, 2], max_attempts=1001),
    "a schedule with 1,001 attempts": lambda jobs: jobs.schedules.add("s", "t", every=60, max_attempts=1001),
    "submit with entity=5": lambda jobs: jobs.submit("t", 1, entity=5),
    "submit of a short job with a long timeout": lambda jobs: jobs.submit("t", 1, duration="short", timeout=60),
    "submit_payloads of a short job with a long timeout": lambda jobs: jobs.submit_payloads(
        [JobService.Payload(type="t", duration="short", timeout=60)]
    ),
    "submit with an async on_queued": lambda jobs: jobs.submit("t", [1], on_queued=first),
    "submit_payloads of a dict": lambda jobs: jobs.submit_payloads([{"type": "t"}]),  # type: ignore[list-item]
    "submit_payloads of a number": lambda jobs: jobs.submit_payloads(5),  # type: ignore[arg-type]
    "submit_payloads of a wrong type": lambda jobs: jobs.submit_payloads([JobService.Payload(type="a b")]),
    **{
        f"{method} of {v!r}": (lambda jobs, method=method, v=v: getattr(jobs, method)(v))
        for method in ("status", "result", "cancel", "batch", "replay")
        for v in (None, 5, b"normal-1", ["normal-1"])
    },
    **{
        f"{method} of {v!r}": (lambda jobs, method=method, v=v: first(getattr(jobs, method)(v)))
        for method in ("watch", "progress")
        for v in (None, 5, b"normal-1")
    },
    **{f"results of {v!r}": (lambda jobs, v=v: jobs.results(v)) for v in (5, None, [5], [UNKNOWN, None])},
    **{
        f"{method} for {v!r} seconds": (lambda jobs, method=method, ids=ids, v=v: getattr(jobs, method)(ids, timeout=v))
        for method, ids in (("result", UNKNOWN), ("results", [UNKNOWN]), ("cancel", UNKNOWN))
        for v in (-1, "soon", NAN, True)
    },
    **{
        f"{method} of {v!r}": (lambda jobs, method=method, v=v: getattr(jobs, method)(v))
        for method in ("pause", "resume")
        for v in (5, None, "urgent")
    },
    **{f"pause for {v!r}": (lambda jobs, v=v: jobs.pause("low", v)) for v in (-1, 0, "long", NAN)},
    "pause for ages": lambda jobs: jobs.pause("low", 10**400),
    "replay to no priority": lambda jobs: jobs.replay("3f2a9c", priority="urgent"),
    "validate_batch of a number": lambda jobs: jobs.validate_batch(5, int),  # type: ignore[arg-type]
    "validate_batch by a number": lambda jobs: jobs.validate_batch([1], 5),  # type: ignore[arg-type]
    "validate_batch by a generator": lambda jobs: jobs.validate_batch([1], yields),
    "validate_batch of what is wrong": lambda jobs: jobs.validate_batch(["x", "1"], int),
    **{f"a handler of {v!r}": (lambda jobs, v=v: jobs.register_handler(v, print)) for v in (5, None, "", "a b")},
    "a handler that is none": lambda jobs: jobs.register_handler("one", 5),  # type: ignore[arg-type]
    "a handler of three": lambda jobs: jobs.register_handler("two", takes_three),
    "a handler that yields": lambda jobs: jobs.register_handler("yields", yields),
    "a policy that is none": lambda jobs: jobs.register_handler("three", print, retry=5),  # type: ignore[arg-type]
    "a place that is none": lambda jobs: jobs.register_handler("four", len, run_in="moon"),  # type: ignore[arg-type]
    **{
        f"a context of {str(v)[:9]!r}": (lambda jobs, v=v: jobs.request_context(tenant_id=v).__enter__())
        for v in (5, "", "a\nb", LONG)
    },
}
NOT_FOUND: dict[str, Call] = {
    **{
        f"{method} of {str(v)[:30]!r}": (lambda jobs, method=method, v=v: getattr(jobs, method)(v))
        for method in ("status", "result", "cancel", "batch")
        for v in (
            "",
            "nope",
            UNKNOWN,
            "normal-1\n",
            "at-unknown",
            "replay-1-x",
            "normal-99999999999999999999",
            LONG,
            "topology.low",
            "*",
            ">",
        )
    },
    **{
        f"{method} of {v!r}": (lambda jobs, method=method, v=v: first(getattr(jobs, method)(v)))
        for method in ("watch", "progress")
        for v in ("", "nope", UNKNOWN)
    },
    **{
        f"replay of {str(v)[:9]!r}": (lambda jobs, v=v: jobs.replay(v))
        for v in ("", "nope", UNKNOWN, "3f2a9c", LONG, "a\x00b")
    },
    "results of one unknown": lambda jobs: jobs.results([UNKNOWN]),
    "cancel of one unknown within ages": lambda jobs: jobs.cancel(UNKNOWN, timeout=10**400),
    "result of one unknown within ages": lambda jobs: jobs.result(UNKNOWN, timeout=10**400),
}
CASES = [("Validation", name, bad) for name, bad in VALIDATION.items()] + [
    ("NotFound", name, bad) for name, bad in NOT_FOUND.items()
]


async def ended(jobs: JobService, bad: Call) -> JobService.Error:
    async def calling() -> None:
        given = bad(jobs)
        if hasattr(given, "__await__"):
            await given

    with pytest.raises(JobService.Error) as caught:
        await asyncio.wait_for(calling(), 10)
    return caught.value


async def test_each_wrong_call_is_told(jobs: JobService) -> None:
    for reason, name, bad in CASES:
        try:
            error = await ended(jobs, bad)
        except BaseException as other:
            raise AssertionError(name) from other
        assert error.reason == reason, (name, error)
        assert 0 < len(error.message) < 2000, name
        assert "\n" not in error.message or "batch" in name, (name, error.message)
    for priority in Priority:
        info = await call(jobs.connection, f"STREAM.INFO.{Names(jobs.config.namespace).stream(priority)}")
        assert info["state"]["messages"] == 0


async def test_what_is_not_connected_says_so(config: JobService.Config) -> None:
    jobs = JobService(config)
    calls: list[Call] = [
        lambda jobs: jobs.submit("t", 1),
        lambda jobs: jobs.submit_payloads([]),
        lambda jobs: jobs.status(UNKNOWN),
        lambda jobs: jobs.result(UNKNOWN),
        lambda jobs: jobs.results([UNKNOWN]),
        lambda jobs: first(jobs.progress(UNKNOWN)),
        lambda jobs: first(jobs.watch(UNKNOWN)),
        lambda jobs: jobs.cancel(UNKNOWN),
        lambda jobs: jobs.batch("0123456789abcdef"),
        lambda jobs: jobs.pause("low"),
        lambda jobs: jobs.resume("low"),
        lambda jobs: jobs.worker(),
        lambda jobs: jobs.router(),
    ]
    for bad in calls:
        error = await ended(jobs, bad)
        assert error.reason == "RunnerUnavailable"
        assert "is not connected" in error.message


async def test_what_was_begun_before_a_close_says_so(jobs: JobService) -> None:
    begun = [jobs.watch(UNKNOWN), jobs.progress(UNKNOWN)]
    await jobs.close()
    for each in begun:
        with pytest.raises(JobService.Error, match="the connection to NATS was closed"):
            await anext(each)


def test_settings_that_are_none() -> None:
    with pytest.raises(JobService.Error, match="the settings must be a Config, not int"):
        JobService(5)  # type: ignore[arg-type]


async def test_what_lies_behind_a_refusal_is_its_cause(jobs: JobService) -> None:
    @jobs.handler("order")
    async def order(payload: dict[str, int]) -> None: ...

    secret = random_token()
    with pytest.raises(JobError, match="is invalid") as unfit:
        await jobs.submit("order", {"card": secret})
    assert isinstance(unfit.value.cause, ValidationError)
    assert secret not in "".join(traceback.format_exception(unfit.value))
    with pytest.raises(JobError) as options:
        await jobs.submit("order", {}, max_attempts=0)
    assert isinstance(options.value.cause, ValidationError)
    with pytest.raises(JobError) as priority:
        await jobs.pause("urgent")
    assert isinstance(priority.value.cause, ValueError)
    async with JobService(JobService.Config(nats_url=jobs.config.nats_url, namespace="nobodys")) as nobodys:
        with pytest.raises(JobError, match="no stream takes jobs") as nowhere:
            await nobodys.submit("order", {})
    assert isinstance(nowhere.value.cause, NoResponders)


async def test_what_a_handlers_error_was_raised_from_is_logged(
    jobs: JobService, caplog: pytest.LogCaptureFixture
) -> None:
    jobs.register_handler("charge", charge)
    async with jobs.worker():
        job_id = await jobs.submit("charge", {})
        with pytest.raises(JobError, match="cannot be charged"):
            await jobs.result(job_id, timeout=20)
    [record] = [record for record in caplog.records if "attempt 1 of 3 failed" in record.getMessage()]
    assert record.exc_info is not None
    assert "KeyError: 'card'" in "".join(traceback.format_exception(record.exc_info[1]))


def charge(payload: dict[str, str]) -> None:
    try:
        payload["card"]
    except KeyError as error:
        raise JobError.from_validation("it cannot be charged") from error
