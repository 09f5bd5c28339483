"""A queue that nobody leads for a moment, as while its replicas choose, and one that does not exist."""

import asyncio
import time

import pytest

from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.queue import JobQueue
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority


async def listen(connection: Connection, names: Names, subject: str) -> None:
    """Let the queue of `high` listen on this subject alone."""
    stream = names.stream(Priority.HIGH)
    settings = (await call(connection, f"STREAM.INFO.{stream}"))["config"]
    await call(connection, f"STREAM.UPDATE.{stream}", {**settings, "subjects": [subject]})


@pytest.mark.parametrize("count", [1, 3])
async def test_a_queue_that_is_away_for_a_moment_is_waited_for(
    queue: JobQueue, connection: Connection, names: Names, count: int
) -> None:
    await listen(connection, names, f"{names.namespace}.elsewhere")
    jobs = [queue.job(Priority.HIGH, "e", "t", b"%d" % number) for number in range(count)]
    publishing = asyncio.ensure_future(queue.publish_batch(jobs) if count > 1 else queue.publish(jobs[0]))
    await asyncio.sleep(0.3)
    assert not publishing.done()
    await listen(connection, names, f"{names.namespace}.high.*.>")
    await asyncio.wait_for(publishing, 5)
    assert (await call(connection, f"STREAM.INFO.{names.stream(Priority.HIGH)}"))["state"]["messages"] == count


async def test_one_that_stays_away_is_an_error_in_time(connection: Connection, queue: JobQueue, names: Names) -> None:
    await listen(connection, names, f"{names.namespace}.elsewhere")
    impatient = JobQueue(connection, names, timeout=0.4)
    with pytest.raises(JobError, match=r"no stream takes jobs of namespace .* or wait if its replicas have no"):
        await impatient.publish(queue.job(Priority.HIGH, "e", "t", b"1"))


async def test_one_that_does_not_exist_is_an_error_at_once(connection: Connection, namespace: str) -> None:
    patient = JobQueue(connection, Names(namespace), timeout=60)
    began = time.monotonic()
    for publish in (patient.publish, lambda job: patient.publish_batch([job, job])):
        with pytest.raises(JobError, match="run `jsjobs streams apply`"):
            await publish(patient.job(Priority.HIGH, "e", "t", b"1"))
    assert time.monotonic() - began < 20
