"""A worker that dies at a chosen point between two writes, sending nothing more, as a killed process would."""

import asyncio

from jsjobs import JobService
from jsjobs.jetstream import delivery as delivery_module
from jsjobs.jetstream.delivery import Delivery
from jsjobs.worker import settle
from jsjobs.worker.worker import Worker


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
        state, write = self.worker._state, self.worker._state.write
        send_letter = settle.send_letter

        async def writing(*args, **kwargs) -> int:
            self._writes += 1
            number = self._writes
            self._die_at(f"before write {number}")
            revision = await write(*args, **kwargs)
            self._die_at(f"after write {number}")
            return revision

        async def sending(connection, *args, **kwargs) -> None:
            if connection is mine:
                self._die_at("before letter")
            await send_letter(connection, *args, **kwargs)
            if connection is mine:
                self._die_at("after letter")

        answer = Delivery._answer

        def answering(delivery: Delivery, data: bytes) -> None:
            if delivery._connection is mine:
                self._die_at(f"before {data.split()[0].decode().lstrip('+-').lower()}")
            answer(delivery, data)

        monkeypatch.setattr(state, "write", writing)
        monkeypatch.setattr(settle, "send_letter", sending)
        monkeypatch.setattr(delivery_module.Delivery, "_answer", answering)

    async def run_until_crash(self) -> None:
        """Work until the point is reached; then the connection is gone, like the process."""
        await self.worker.start()
        async with asyncio.timeout(20):
            await self.crashed.wait()
        await self.service.close()


def another_worker(service: JobService) -> Worker:
    """The worker that finds what the dead one left."""
    return service.worker()
