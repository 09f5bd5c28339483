"""Hostile messages published to a real server, in front of a worker that is router and service too, among good jobs.

Everything a publisher, or a stranger without any restriction but the server's own, may send: queues, schedules, deliver
subjects, letters, advisories, requests to the service, to cancel, progress. Every good job must complete, the worker's
log must hold no traceback, and its memory must stay bounded.
"""

import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil
from hostile_messages import PRIORITIES, Hostile

from bare_environment import bare_environment
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.embedded.postgres import PostgresServer
from jsjobs.jetstream.api.messages import stored
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.lanes import QUEUES
from jsjobs.postgres.database import Database
from jsjobs.postgres.migrate import migrate
from stream_facts import messages_in

APP = """
from jsjobs import JobService

jobs = JobService()

@jobs.handler("good")
@jobs.handler("echo")
async def echo(payload):
    return payload

@jobs.handler("sum")
async def total(payload: dict[str, list[int]]) -> int:
    return sum(map(sum, payload.values()))

@jobs.handler("apart", run_in="process")
def apart(payload):
    return payload
"""
CHUNK = 500
"""Hostile messages between two looks whether the good jobs among them have ended."""
PATIENCE = 150
"""Seconds in which what is left is settled: what no shard takes is dead-lettered when it was seen twice, `ack_wait` apart."""
MOST_MEMORY = 400
"""MiB that the worker's process may take."""


@dataclass
class Report:
    """What became of a flood."""

    sent: Counter[str] = field(default_factory=Counter)
    good: int = 0
    complete: int = 0
    letters: int = 0
    memory: list[float] = field(default_factory=list)
    log: str = ""
    wrong: list[str] = field(default_factory=list)


class Raw:
    """A connection that sends what no client library would, and hears nothing."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self.errors: list[bytes] = []

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        await self._reader.readline()
        self._writer.write(b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n')
        self._reading = asyncio.ensure_future(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        self._writer.close()

    async def _read(self) -> None:
        while line := await self._reader.readline():
            if line.startswith(b"PING"):
                self._writer.write(b"PONG\r\n")
            elif line.startswith(b"-ERR") and b"Publish with Reply of" not in line:
                self.errors.append(line)  # the server itself refuses a forged acknowledgement as a reply subject

    async def send(self, subject: bytes, reply: bytes, header: bytes, body: bytes) -> None:
        words = b" ".join((subject, reply)) if reply else subject
        if header:
            command = b"HPUB %b %d %d\r\n%b" % (words, len(header), len(header) + len(body), header)
        else:
            command = b"PUB %b %d\r\n" % (words, len(body))
        self._writer.write(command + body + b"\r\n")
        await self._writer.drain()


async def flood(config: JobService.Config, seed: int, messages: int, folder: Path) -> Report:
    """Send so many hostile messages, and a good job for every ten; the streams must exist."""
    report, hostile = Report(), Hostile(seed, config.namespace)
    async with JobService(config) as jobs, worker(config, folder, report) as process:
        raw = Raw(config.nats_url)
        async with raw:
            while sum(report.sent.values()) < messages:
                ids = []
                for number in range(min(CHUNK, messages)):
                    kind, *message = hostile.next()
                    await raw.send(*message)
                    report.sent[kind] += 1
                    if number % 10 == 0:
                        priority = PRIORITIES[number // 10 % 4].decode()
                        entity = f"e{number % 7}" if number % 20 else None
                        ids.append(await jobs.submit("good", number, entity=entity, priority=priority))
                        assert not raw.errors, raw.errors
                report.good += len(ids)
                async for job_id, outcome in _outcomes(jobs, ids):
                    if isinstance(outcome, Exception):
                        report.wrong.append(f"{job_id}: {outcome}")
                    else:
                        report.complete += 1
                report.memory.append(process.memory_info().rss / 2**20)
                if messages > 10 * CHUNK:
                    print(f"{sum(report.sent.values()):,} sent, {report.memory[-1]:.0f} MiB", flush=True)
        async with jobs.router() as router:
            await drained(jobs, router, report)
        report.letters = await jobs.dlq.count()
    return report


async def _outcomes(jobs: JobService, ids: list[str]) -> AsyncIterator[tuple[str, Any]]:
    for job_id in ids:
        try:
            yield job_id, await jobs.result(job_id, timeout=120)
        except JobService.Error as error:
            yield job_id, error


async def drained(jobs: JobService, router: Any, report: Report) -> None:
    """Sweep until nothing waits in a queue, or for a router."""
    names = Names(jobs.config.namespace)
    streams = [names.dead_stream, *map(names.queue, QUEUES)]
    deadline = time.monotonic() + PATIENCE
    while left := {each: n for each in streams if (n := await messages_in(jobs.connection, each))}:
        await router.sweep()
        if time.monotonic() > deadline:
            kept = [message.subject for each in left async for message in stored(jobs.connection, each)]
            report.wrong.append(f"messages are left: {left}, such as {kept[:5]}")
            return
        await asyncio.sleep(0.2)


@asynccontextmanager
async def worker(config: JobService.Config, folder: Path, report: Report) -> AsyncIterator[psutil.Process]:
    """`jsjobs worker`, which is router and service too; what it logs is looked through at its end."""
    (folder / "app.py").write_text(APP)
    assert config.database_url is not None
    environment = bare_environment(counted=False) | {
        "JSJOBS_NATS_URL": config.nats_url,
        "JSJOBS_DATABASE_URL": config.database_url.get_secret_value(),
        "JSJOBS_NAMESPACE": config.namespace,
    }
    command = [str(Path(sys.executable).with_name("jsjobs")), "worker", "app:jobs"]
    log = folder / "worker.log"
    with log.open("wb") as file:
        child = await asyncio.create_subprocess_exec(*command, cwd=folder, env=environment, stdout=file, stderr=file)
    try:
        while b"ready: namespace" not in log.read_bytes():
            assert child.returncode is None, log.read_text()
            await asyncio.sleep(0.05)
        yield psutil.Process(child.pid)
    finally:
        if child.returncode is not None:
            report.wrong.append(f"the worker ended with {child.returncode}")
        else:
            child.send_signal(signal.SIGTERM)
            if code := await child.wait():
                report.wrong.append(f"the worker ended with {code} when it was told to stop")
        report.log = log.read_text("utf-8", "backslashreplace")
    for sign in ("Traceback", "could not be handled", "unexpectedly", "\x1b", "\0"):
        if sign in report.log:
            report.wrong.append(f"{sign!r} stands in the log")
    if max(report.memory, default=0) > MOST_MEMORY:
        report.wrong.append(f"the worker took {max(report.memory):.0f} MiB")


def run(seed: int, messages: int) -> bool:
    """Flood servers of its own; whether all was well."""
    with tempfile.TemporaryDirectory() as place, NatsServer(Path(place) / "nats") as nats:
        postgres = PostgresServer(Path(place) / "postgres")
        postgres.start()
        try:
            config = JobService.Config(nats_url=nats.url, database_url=postgres.url, namespace="fuzzed")
            return asyncio.run(_run(config, seed, messages, Path(place)))
        finally:
            postgres.remove()


async def _run(config: JobService.Config, seed: int, messages: int, folder: Path) -> bool:
    async with connected(config) as connection:
        await TopologyReconciler(connection, Names(config.namespace), config).apply()
    assert config.database_url is not None
    async with Database(config.database_url.get_secret_value()) as database:
        await migrate(database)
    began = time.monotonic()
    report = await flood(config, seed, messages, folder)
    print(f"\nhostile messages, seed {seed}: {sum(report.sent.values()):,} in {time.monotonic() - began:.0f} s")
    for kind, count in sorted(report.sent.items()):
        print(f"  {kind:20}{count:10,}")
    print(f"good jobs: {report.good:,}, of them complete: {report.complete:,}; dead letters: {report.letters:,}")
    print(f"the worker's memory: {report.memory[0]:.0f} MiB after the first {CHUNK}, {max(report.memory):.0f} at most")
    print(f"lines in its log: {report.log.count(chr(10)):,}")
    for line in report.wrong:
        print(f"WRONG: {line}")
    if report.wrong:
        (kept := Path(tempfile.gettempdir()) / "jsjobs-fuzz-worker.log").write_text(report.log)
        print(f"the log is kept in {kept}")
    return not report.wrong
