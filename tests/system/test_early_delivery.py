"""A server that was started again delivers at once what had waited long before its delivery: nobody else's job is taken."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded import NatsServer
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.topology import Topology


async def test_a_long_job_that_runs_is_not_taken_over_when_it_is_delivered_early(
    settings_of: Callable[..., JobService.Config], tmp_path: Path
) -> None:
    with NatsServer(tmp_path) as server:
        config = settings_of(nats_url=server.url, ack_wait=2)
        holder, other = JobService(config), JobService(config)
        at_work, runs = asyncio.Event(), []

        async def slow(payload: object, ctx: JobService.Context) -> str:
            runs.append(ctx.attempt)
            at_work.set()
            await asyncio.sleep(config.ack_wait * 3)
            return "done"

        for service in (holder, other):
            service.register_handler("slow", slow)
        async with holder, other:
            await Topology(holder.connection, Names(config.namespace), config).apply()
            job_id = await holder.submit("slow", None, priority="low", duration="long")
            await asyncio.sleep(config.ack_wait * 1.1)  # the server keeps this time, not that of the delivery
            async with holder.worker() as worker:
                await at_work.wait()
                [shard] = [shard for shard in worker.taken if shard.priority == "low"]
                await worker._taking.drop(shard)
                async with other.worker() as taker:
                    server.kill()
                    server.start()

                    async def is_delivered_to_the_other() -> bool:
                        info = await holder.connection.ask(
                            f"$JS.API.CONSUMER.INFO.{config.namespace.upper()}_LOW.{shard.consumer}".encode()
                        )
                        return b'"num_redelivered":1' in info.data.replace(b" ", b"")

                    await eventually(is_delivered_to_the_other)
                    assert await holder.result(job_id, timeout=20) == "done"
                    assert taker.running == 0
        assert runs == [1]
