"""What the server acknowledges and no shard takes ends in the dead-letter table, not in its queue for ever."""

from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.client.connection import Connection

STRANDED = {
    b"normal.*.echo": "echo",
    b"normal.e.>": ">",
    b"normal.e.*.x": "*.x",
    b"normal.e.a\x7fb": "a\x7fb",
    b"due.normal.e.*": "*",
    b"due.normal.*.sent.x": "sent.x",
}


async def test_stranded_messages_are_buried_and_jobs_that_wait_are_not(
    jobs: JobService, connection: Connection, plain: Client
) -> None:
    @jobs.handler("echo")
    async def echo(payload: int) -> int:
        return payload

    namespace, stream = jobs.config.namespace, f"{jobs.config.namespace.upper()}_NORMAL"
    waiting = await jobs.submit("echo", 1, entity="e")

    async def left() -> int:
        return (await plain.jetstream().stream_info(stream)).state.messages

    for subject in STRANDED:
        await connection.ask(b"%b.%b" % (namespace.encode(), subject), b"7")
    await eventually(lambda: _is(left, len(STRANDED) + 1))
    async with jobs.router() as router:
        # The shard with a job that waits has not passed what came behind it.
        for _ in range(2):
            await router.sweep()
        assert await left() == len(STRANDED) + 1
        async with jobs.worker():
            assert await jobs.result(waiting) == 1

            async def only_good_jobs_are_gone() -> bool:
                await router.sweep()
                return await left() == 0

            await eventually(only_good_jobs_are_gone)
            later = await jobs.submit("echo", 2, entity="e")
            assert await jobs.result(later) == 2
        letters = await jobs.dlq.list(limit=100)
    assert sorted(letter.type for letter in letters) == sorted(STRANDED.values())
    assert {letter.error_reason for letter in letters} == {"Validation"}
    assert {letter.payload for letter in letters} == {b"7"}
    status = await jobs.status(letters[0].original_job_id)
    assert status.status == "failed"
    assert "no shard takes" in (status.last_error or "")


async def _is(look, value) -> bool:
    return await look() == value
