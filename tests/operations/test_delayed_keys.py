"""What a delayed job's dedupe key leaves on the server: itself, for its time, and nothing of a duplicate."""

from collections.abc import Awaitable, Callable

import pytest
from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.protocol.names import Names


@pytest.fixture
async def jobs(settings_of: Callable[..., JobService.Config], deploy: Callable[..., Awaitable[None]]) -> JobService:
    config = settings_of(duplicate_window=1.5)
    await deploy(config)
    async with JobService(config) as service:
        yield service


async def entries(jobs: JobService) -> set[str]:
    """The ids of all delayed jobs of which there is an entry."""
    names = Names(jobs.config.namespace)
    prefix = f"$KV.{names.bucket}."
    request = {"subjects_filter": f"{prefix}>"}
    info = await call(jobs.connection, f"STREAM.INFO.{names.state_stream}", request)
    keys = {subject.removeprefix(prefix) for subject in info["state"].get("subjects") or {}}
    return {key for key in keys if key.startswith("at-")}


async def keys(jobs: JobService, plain: Client) -> set[str]:
    """The subjects of all dedupe keys that the server remembers."""
    names = Names(jobs.config.namespace)
    every = names.schedule_key("*").decode()
    info = await plain.jetstream().stream_info(names.schedule_stream, subjects_filter=every)
    return set(info.state.subjects or {})


@pytest.mark.parametrize("payloads", [1, [1, 2]], ids=["one", "list"])
async def test_a_key_expires_when_its_window_is_over(
    jobs: JobService, plain: Client, payloads: int | list[int]
) -> None:
    stream = Names(jobs.config.namespace).schedule_stream
    await jobs.submit("note", payloads, delay=600, dedupe_key="k")
    stored = [await plain.jetstream().get_last_msg(stream, key) for key in await keys(jobs, plain)]
    assert len(stored) == (2 if isinstance(payloads, list) else 1)
    for key in stored:
        assert (key.headers or {}).get("Nats-TTL") == "2s", "in whole seconds, and none too few"

    async def are_gone() -> bool:
        return not await keys(jobs, plain)

    await eventually(are_gone)
    again = await jobs.submit("note", payloads, delay=600, dedupe_key="k")
    assert not any(one.duplicate for one in (again if isinstance(again, list) else [again]))


async def test_a_duplicate_of_a_delayed_job_leaves_no_entry(jobs: JobService) -> None:
    first = await jobs.submit("note", 1, delay=600, dedupe_key="k")
    again = await jobs.submit("note", 2, delay=600, dedupe_key="k")
    assert (again, again.duplicate) == (first, True)
    assert await entries(jobs) == {first}


async def test_a_list_with_duplicates_of_delayed_jobs_leaves_entries_of_the_others_alone(jobs: JobService) -> None:
    first = await jobs.submit("note", [1, 2], delay=600, dedupe_key="k")
    again = await jobs.submit("note", [1, 2, 3], delay=600, dedupe_key="k")
    assert [one.duplicate for one in again] == [True, True, False]
    assert await entries(jobs) == {*first, again[2]}


async def test_a_debounced_job_keeps_the_one_entry_of_those_before(jobs: JobService) -> None:
    first = await jobs.submit("note", 1, delay=600, debounce_key="k")
    assert await jobs.submit("note", 2, delay=600, debounce_key="k") == first
    assert await entries(jobs) == {first}
