"""A publisher in a process of its own: submits what its seed says, at a steady rate, and records every answer.

    python -m survival.publisher NAME RATE SEED [quick]

A job whose answer never came may or may not be queued; what was refused must never run.
"""

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import nats
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from jsjobs import JobService
from jsjobs.jetstream.protocol.names import name_token
from survival.journal import Journal
from survival.workload import Order, orders

DESKS = 4
"""Tasks that submit side by side; each has entities of its own, and goes on when it has its answer."""
PAUSE = 0.2
"""Seconds after a refusal, and before a keyed job is submitted again."""
TRIES = 100
WAIT = 5.0


class Desk:
    """Submits one job after the other."""

    def __init__(self, name: str, journal: Journal, service: JobService, plain: nats.NATS, ack_wait: float) -> None:
        self._name = name
        self._journal = journal
        self._service = service
        self._stream = plain.jetstream(timeout=WAIT)
        self._ack_wait = ack_wait

    async def run(self, seed: int, rate: float, stop: asyncio.Event, *, quick: bool) -> None:
        """Submit so many jobs a second; after an outage, as fast as it goes until it has caught up."""
        began, done = time.monotonic(), 0
        for drawn in orders(seed, self._name, self._ack_wait, quick=quick):
            left = began + done / rate - time.monotonic()
            if left > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await stop.wait()
            if stop.is_set():
                return
            done += len(drawn)
            await self._submit(drawn)

    async def _submit(self, drawn: list[Order]) -> None:
        for order in drawn:
            facts = {name: value for name, value in asdict(order).items() if name not in {"payload", "options"}}
            self._journal.note("try", publisher=self._name, **facts)
        for _ in range(TRIES if drawn[0].key else 1):
            try:
                ids = await self._publish(drawn)
            except (JobService.Error, APIError) as error:
                # An answer of the server's own, and all that was too large or not even sent.
                text = str(error)
                is_refused = isinstance(error, APIError) or "nothing was queued" in text or "refused it" in text
                outcome = "refused" if is_refused else "maybe"
            except (NatsError, TimeoutError, OSError) as error:
                outcome, text = "maybe", repr(error)
            else:
                for order, job_id in zip(drawn, ids, strict=True):
                    duplicate = bool(getattr(job_id, "duplicate", False))
                    self._journal.note("ack", uid=order.uid, job=str(job_id), duplicate=duplicate)
                return
            for order in drawn:
                self._journal.note(outcome, uid=order.uid, why=text[:200])
            await asyncio.sleep(PAUSE)

    async def _publish(self, drawn: list[Order]) -> list[str]:
        order = drawn[0]
        if order.door == "raw":
            return [await self._publish_raw(order)]
        with self._service.request_context(tenant_id=order.tenant):
            return await self._submit_all(drawn, order)

    async def _submit_all(self, drawn: list[Order], order: Order) -> list[str]:
        options = {"priority": order.priority, "entity": order.entity, **order.options}
        if order.door == "list":
            return await self._service.submit(order.type, [one.payload for one in drawn], **options)
        options |= {"max_attempts": order.max_attempts, "dedupe_key": order.key, "delay": order.delay}
        return [await self._service.submit(order.type, order.payload, **options)]

    async def _publish_raw(self, order: Order) -> str:
        headers = {"Jsjobs-Max-Attempts": str(order.max_attempts)}
        for name, value in order.options.items():
            headers[f"Jsjobs-{name.capitalize()}"] = str(value)
        if order.tenant is not None:
            headers["Jsjobs-Tenant"] = order.tenant
        namespace, body = self._service.config.namespace, json.dumps(order.payload).encode()
        if order.entity is None:
            subject = f"{namespace}.parallel.{order.priority}.{order.tenant or '-'}.{order.type}"
            ack = await self._stream.publish(subject, body, headers=headers)
            return f"{order.priority}-parallel-{ack.seq}"
        headers["Jsjobs-Entity"] = order.entity
        subject = f"{namespace}.{order.priority}.{name_token(order.entity)}.{order.type}"
        ack = await self._stream.publish(subject, body, headers=headers)
        return f"{order.priority}-{ack.seq}"


async def main(name: str, rate: float, seed: int, *, quick: bool) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    journal = Journal(Path(os.environ["SURVIVAL_FOLDER"]), f"publisher-{name}")
    service = JobService()
    config = service.config
    plain = await nats.connect(config.nats_url.split(","), max_reconnect_attempts=-1, ping_interval=3)
    async with service:
        desks = [Desk(f"{name}.d{n}", journal, service, plain, config.ack_wait) for n in range(DESKS)]
        await asyncio.gather(*(desk.run(seed, rate / DESKS, stop, quick=quick) for desk in desks))
    await plain.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), quick="quick" in sys.argv[4:]))
