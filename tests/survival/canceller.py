"""Cancels the jobs that publishers want cancelled, some time after each was acknowledged, and records every answer.

python -m survival.canceller
"""

import asyncio
import json
import os
import signal
from pathlib import Path

from jsjobs import JobService
from jsjobs.model.errors import AlreadyEnded
from survival.journal import Journal, Tail, read_all

LOOKS_EVERY = 0.05
WITHIN = 10.0
"""Seconds until a cancel that is not decided says so."""
AT_ONCE = 20


class Canceller:
    """Asks once for each job."""

    def __init__(self, service: JobService, folder: Path, journal: Journal) -> None:
        self._service = service
        self._tail = Tail(folder, "publisher-*")
        self._journal = journal
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._wanted: dict[str, float] = {}
        self._asked = {line["job"] for line in read_all(folder, "canceller-*") if line["event"] == "asked"}

    async def run(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as cancels:
            while not stop.is_set():
                for line in map(json.loads, self._tail.new_lines()):
                    if line["event"] == "try" and line["cancel_after"] is not None:
                        self._wanted[line["uid"]] = line["cancel_after"]
                    elif line["event"] == "ack" and line["uid"] in self._wanted and line["job"] not in self._asked:
                        self._asked.add(line["job"])
                        cancels.create_task(self._cancel(line["job"], self._wanted[line["uid"]]))
                await asyncio.sleep(LOOKS_EVERY)

    async def _cancel(self, job: str, after: float) -> None:
        await asyncio.sleep(after)
        async with self._gate:
            self._journal.note("asked", job=job)
            try:
                answer = str((await self._service.cancel(job, timeout=WITHIN)).status)
            except AlreadyEnded:
                answer = "ended"
            except JobService.Error as error:
                answer = str(error.reason)
            self._journal.note("answered", job=job, answer=answer)


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    folder = Path(os.environ["SURVIVAL_FOLDER"])
    journal = Journal(folder, f"canceller-{os.getpid()}")
    async with JobService() as service:
        await Canceller(service, folder, journal).run(stop)


if __name__ == "__main__":
    asyncio.run(main())
