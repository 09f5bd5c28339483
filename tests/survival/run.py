"""One run: servers and processes started, hurt while jobs flow, healed, drained, and all of it recorded in a folder."""

import asyncio
import random
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import JobError
from jsjobs.model.lanes import QUEUES
from jsjobs.model.retry import Retry
from jsjobs.settings import Config
from survival.gathering import gather
from survival.journal import Journal, Tail
from survival.nemesis import Nemesis, Stage, kill_at_once
from survival.network import Network
from survival.plan import plan
from survival.processes import JSJOBS, Processes
from survival.recording import record_letters, record_versions
from survival.register import Register
from survival.servers import Servers, declare, leftovers
from survival.turns import Turns

NAMESPACE = "survival"
PUBLISHERS = 2
EMPTY_LOOKS = 2
SLOTS = {"worker-0": 10, "worker-1": 30, "worker-2": 60}
"""Of each worker: the first one is often full."""
_WOKEN = re.compile(r"(\S+): messages waited and none was delivered; it was woken")
LONGER = 2.0
"""How often its planned time a run may take until all faults are done and all jobs accepted."""


@dataclass(frozen=True)
class Settings:
    """What a run is to be; the same settings plan the same run."""

    seed: int = 1
    servers: int = 1
    seconds: float = 180
    jobs: int = 20_000
    faults: int = 30
    ack_wait: float = 4.0
    patience: float = 60
    """Seconds after the last fault in which something must get less until nothing is left."""
    quick: bool = False
    """Whether all jobs are such that they end soon."""


@dataclass
class Outcome:
    """What came of it, besides the record."""

    faults: dict[str, int]
    accepted: int
    seconds: float
    drained_within: float
    """Seconds from the end of the load until nothing was left; as long as it was waited for, where something was."""
    ended_by_themselves: int
    woken: dict[str, int]
    """How often each consumer was woken that had messages and delivered none."""


def config_of(settings: Settings, servers: Servers) -> Config:
    """The settings of the streams and of all processes."""
    return Config(
        nats_url=servers.url,
        database_url=servers.postgres.url,  # type: ignore[arg-type]
        namespace=NAMESPACE,
        replicas=settings.servers,
        scale=2,
        ack_wait=settings.ack_wait,
        queue_bytes=256 * 2**20,
        lane_bytes=128 * 2**20,
        grace=2,
        retry=Retry(initial=0.02),
    )


def environment_of(config: Config, folder: Path, register: Register) -> dict[str, str]:
    """What every process is told."""
    assert config.database_url is not None
    return {
        "JSJOBS_NATS_URL": config.nats_url,
        "JSJOBS_DATABASE_URL": config.database_url.get_secret_value(),
        "JSJOBS_NAMESPACE": config.namespace,
        "JSJOBS_SCALE": str(config.scale),
        "JSJOBS_ACK_WAIT": str(config.ack_wait),
        "JSJOBS_GRACE": str(config.grace),
        "JSJOBS_RETRY": config.retry.model_dump_json(),
        "SURVIVAL_FOLDER": str(folder),
        "SURVIVAL_EPOCH": repr(time.time() - time.monotonic()),
        "SURVIVAL_REGISTER": str(register.port),
    }


@asynccontextmanager
async def staged(settings: Settings, folder: Path) -> AsyncIterator[Stage]:
    """Everything started; what still runs at the end is ended."""
    journal = Journal(folder, "run")
    journal.note("settings", **asdict(settings))
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(
            Servers(folder / "servers", settings.servers, own_disks=not settings.quick)
        )
        config = config_of(settings, servers)
        connection = await declare(config, servers)
        stack.push_async_callback(connection.close)
        register = await stack.enter_async_context(Register(folder))
        urls = [node.url for node in servers.nodes]
        networks = [await stack.enter_async_context(Network(name, urls)) for name in ("of workers", "of publishers")]
        processes = Processes(folder, journal, environment_of(config, folder, register))
        stack.callback(processes.kill)
        stage = Stage(servers, processes, networks, connection, Names(NAMESPACE), journal, folder)
        _start_processes(stage, settings)
        keeping = asyncio.create_task(processes.keep())
        stack.callback(keeping.cancel)
        yield stage


def _start_processes(stage: Stage, settings: Settings) -> None:
    of_workers, of_publishers = ({"JSJOBS_NATS_URL": network.url} for network in stage.networks)
    worker, add = [JSJOBS, "worker", "survival.app:jobs"], stage.processes.add
    commands = {"worker-0": worker, "worker-1": [*worker, "--no-router"], "worker-2": worker}
    more = {"worker-2": {**of_workers, "SURVIVAL_RAISING_LOGS": "1"}}
    for name, command in commands.items():
        add(name, "worker", command, {**more.get(name, {}), "JSJOBS_CONCURRENCY": str(SLOTS[name])})
    add("router-0", "router", [JSJOBS, "router"], of_workers)
    rate = str(settings.jobs / settings.seconds / PUBLISHERS * 1.03)
    for number in range(PUBLISHERS):
        command = [sys.executable, "-m", "survival.publisher", f"p{number}-{{life}}", rate, str(settings.seed)]
        command += ["quick"] if settings.quick else []
        add(f"publisher-{number}", "publisher", command, of_publishers if number else {})
    if not settings.quick:
        add("canceller-0", "canceller", [sys.executable, "-m", "survival.canceller"], of_publishers)


async def run(settings: Settings, folder: Path, say: Callable[[str], None]) -> Outcome:
    """Do it; the folder has the record then."""
    began = time.monotonic()
    faults = plan(
        settings.seed,
        seconds=settings.seconds * 0.95,
        faults=settings.faults,
        ack_wait=settings.ack_wait,
        nodes=settings.servers,
    )
    async with staged(settings, folder) as stage:
        accepted = Accepted(folder)
        telling = asyncio.create_task(_tell(stage, accepted, began, say))
        turns = Turns(stage)
        watching = asyncio.create_task(turns.watch())
        load_began = time.monotonic()
        async with asyncio.timeout(settings.seconds * LONGER + 120):
            await Nemesis(stage).run(faults)
            await asyncio.sleep(max(0.0, load_began + settings.seconds - time.monotonic()))
            while accepted.count() < settings.jobs:  # noqa: ASYNC110 - other processes count them
                await asyncio.sleep(0.5)
        say("the faults are done; draining")
        await stage.processes.stop("publisher")
        # The last fault comes when nobody publishes any more: what a publish would heal shows now.
        await kill_at_once(stage, random.Random(f"{settings.seed}/last"))
        turns.begin_silence()
        drain_began = time.monotonic()
        await drained(stage.connection, stage.names, settings.patience)
        drained_within = time.monotonic() - drain_began
        telling.cancel()
        await to_its_end(stage, turns, settings)
        watching.cancel()
        ended = stage.processes.ended_by_themselves
        jobs = accepted.count()
        accepted.close()
        return Outcome(dict(stage.done), jobs, time.monotonic() - began, drained_within, ended, woken(folder))


async def to_its_end(stage: Stage, turns: Turns, settings: Settings) -> None:
    """Once all is drained: see that all slots are there, end every process, and record what there is."""
    await gather(stage, config_of(settings, stage.servers), sum(SLOTS.values()))
    left = await drained(stage.connection, stage.names, settings.patience)
    turns.note()
    for kind in ("canceller", "worker", "router"):
        await stage.processes.stop(kind)
    stage.journal.note("leftovers", left=left)
    await record_versions(stage.servers.url, stage.names, stage.folder)
    await record_letters(stage.servers.postgres.url, stage.names, stage.folder)


def woken(folder: Path) -> dict[str, int]:
    """The consumers that workers and routers woke, by what their logs say."""
    logs = (log.read_text(errors="replace") for log in folder.glob("*.log"))
    return dict(Counter(name for log in logs for name in _WOKEN.findall(log)))


async def drained(
    connection: Connection, names: Names, patience: float, *, on_look: Callable[[dict[str, int]], None] | None = None
) -> dict[str, int]:
    """What is left once all jobs had time to end: nothing, twice in a row, as it should be."""
    queues = [names.queue(queue) for queue in QUEUES]
    left: dict[str, int] = {}
    fewest, since, empty = sys.maxsize, time.monotonic(), 0
    while empty < EMPTY_LOOKS and time.monotonic() - since < patience:
        with suppress(JobError):
            left = await leftovers(connection, names, queues)
            total = sum(left.values())
            if on_look is not None:
                on_look(left)
            empty = 0 if total else empty + 1
            if total < fewest:
                fewest, since = total, time.monotonic()
        await asyncio.sleep(0.5)
    return left


class Accepted:
    """Counts the acknowledged submits."""

    def __init__(self, folder: Path) -> None:
        self._tail = Tail(folder, "publisher-*")
        self._count = 0

    def count(self) -> int:
        """So far."""
        self._count += sum(b'"event": "ack"' in line for line in self._tail.new_lines())
        return self._count

    def close(self) -> None:
        self._tail.close()


async def _tell(stage: Stage, accepted: Accepted, began: float, say: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(10)
        waiting = await _waiting(stage.connection, stage.names)
        say(
            f"{time.monotonic() - began:.0f} s: {accepted.count()} jobs accepted, {waiting} wait, {stage.done.total()} faults"
        )


async def _waiting(connection: Connection, names: Names) -> Any:
    try:
        streams = [names.queue(queue) for queue in QUEUES]
        infos = [await call(connection, f"STREAM.INFO.{stream}", timeout=2) for stream in streams]
    except JobError:
        return "?"
    return sum(info["state"]["messages"] for info in infos)
