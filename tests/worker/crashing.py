"""A worker that dies at a chosen point between two writes, sending nothing more, as a killed process would."""

import asyncio

from jsjobs import JobService
from jsjobs.jetstream.client.requests import Reply
from jsjobs.jetstream.protocol.names import Names
from jsjobs.worker import settlement
from jsjobs.worker.worker import Worker
from taps import Answer, watch_answers


class Crash(BaseException):
    """The end of the process, as far as the job's task can see."""


class Crasher:
    """Counts what a worker does and ends it at one point, e.g. `before write 2`, `after letter`, `before ack`."""

    def __init__(self, service: JobService, point: str, monkeypatch) -> None:
        self.service = service
        self.point = point
        self.crashed = asyncio.Event()
        self.worker = service.worker()
        self._writes = 0
        self._patch(monkeypatch)

    def _die_at(self, point: str) -> None:
        if self.point == point and not self.crashed.is_set():
            self.crashed.set()
            raise Crash(point)
        if self.crashed.is_set():
            raise Crash(f"dead already: {point}")

    def _patch(self, monkeypatch) -> None:
        mine = self.service.connection
        ask_soon, send_letter = mine.ask_soon, settlement.send_letter
        entries = Names(self.service.config.namespace).state("")

        async def writing(subject: bytes, *args, **kwargs) -> Reply:
            self._writes += 1
            number = self._writes
            self._die_at(f"before write {number}")
            reply = await ask_soon(subject, *args, **kwargs)
            if b'"error"' not in reply.data:
                self._die_at(f"after write {number}")
            return reply

        def asking(subject: bytes, *args, **kwargs):
            return (writing if subject.startswith(entries) else ask_soon)(subject, *args, **kwargs)

        async def sending(connection, *args, **kwargs) -> None:
            if connection is mine:
                self._die_at("before letter")
            await send_letter(connection, *args, **kwargs)
            if connection is mine:
                self._die_at("after letter")

        def answering(answer: Answer) -> None:
            if answer.connection is mine:
                self._die_at(f"before {answer.data.split()[0].decode().lstrip('+-').lower()}")

        monkeypatch.setattr(mine, "ask_soon", asking)
        monkeypatch.setattr(settlement, "send_letter", sending)
        watch_answers(monkeypatch, answering)

    async def run_until_crash(self) -> None:
        """Work until the point is reached; then the connection is gone, like the process."""
        await self.worker.start()
        async with asyncio.timeout(20):
            await self.crashed.wait()
        await self.service.close()


def another_worker(service: JobService) -> Worker:
    """The worker that finds what the dead one left."""
    return service.worker()
