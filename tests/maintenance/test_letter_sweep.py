"""A dead letter that the server keeps though it was acknowledged is removed, and is in Postgres."""

import pytest

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from stream_facts import messages_in


@pytest.fixture
def names(config: JobService.Config) -> Names:
    return Names(config.namespace)


@pytest.mark.parametrize("entity", ["e", None])
async def test_a_letter_that_counts_as_acknowledged_is_stored_and_removed(
    jobs: JobService, connection: Connection, names: Names, entity: str | None
) -> None:
    # A letter's lease is half a minute.
    consumer = (await call(connection, f"CONSUMER.INFO.{names.dead_stream}.{names.router}"))["config"]
    changed = {"stream_name": names.dead_stream, "config": {**consumer, "ack_wait": 10**9}, "action": "update"}
    await call(connection, f"CONSUMER.CREATE.{names.dead_stream}.{names.router}", changed)
    async with jobs.worker():
        job_id = await jobs.submit("unknown", 1, entity=entity)
        await eventually(lambda: _has_letter(connection, names))
    last = (await call(connection, f"STREAM.INFO.{names.dead_stream}"))["state"]["last_seq"]
    await call(connection, f"CONSUMER.RESET.{names.dead_stream}.{names.router}", {"seq": last + 1})
    async with jobs.router() as router:

        async def is_gone() -> bool:
            await router.sweep()
            return await messages_in(connection, names.dead_stream) == 0

        await eventually(is_gone)
        [letter] = await jobs.dlq.list()
    assert letter.original_job_id == job_id


async def _has_letter(connection: Connection, names: Names) -> bool:
    return await messages_in(connection, names.dead_stream) == 1
