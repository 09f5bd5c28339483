"""The last jobs of a run: as many as all workers have slots, each of which waits until all of them have begun.

Whatever was done to workers and servers before, no slot may be lost, and none may be kept for a job that is gone.
"""

import asyncio
import json
import time

from jsjobs import JobService
from jsjobs.settings import Config
from survival.journal import Journal, Tail
from survival.nemesis import Stage
from survival.workload import GATHERED

WITHIN = 30.0
"""Seconds in which all must have begun: a worker may just have been started again."""
LOOKS_EVERY = 0.1


async def gather(stage: Stage, config: Config, slots: int) -> None:
    """Submit them, wait until they have begun, and write down how many have."""
    journal, begun = Journal(stage.folder, "publisher-last"), Tail(stage.folder, "handlers-*", from_now=True)
    uids = [f"last.{number}" for number in range(slots)]
    facts = {"publisher": "last", "kind": "gather", "door": "list", "priority": "normal", "entity": None, "key": None}
    for uid in uids:
        journal.note("try", uid=uid, cancel_after=None, **facts)
    async with JobService(config) as service:
        payloads = [{"uid": uid, "kind": "gather", "lane": None} for uid in uids]
        jobs = await service.submit("survival.work", payloads, duration="long")
    for uid, job in zip(uids, jobs, strict=True):
        journal.note("ack", uid=uid, job=str(job), duplicate=False)
    journal.close()
    seen, until = set[str](), time.monotonic() + WITHIN
    while len(seen) < slots and time.monotonic() < until:
        lines = [json.loads(line) for line in begun.new_lines()]
        seen |= {line["uid"] for line in lines if line["event"] == "start" and line["uid"] in uids}
        await asyncio.sleep(LOOKS_EVERY)
    begun.close()
    stage.journal.note("gathered", slots=slots, begun=len(seen))
    (stage.folder / GATHERED).touch()
