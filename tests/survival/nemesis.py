"""Does the planned faults, each in its lane, and writes each down once it took effect."""

import asyncio
import json
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path

from facts import eventually
from jsjobs.embedded.nats import NatsServer
from jsjobs.embedded.postgres import PostgresServer
from jsjobs.jetstream.api.errors import ApiError
from jsjobs.jetstream.api.requests import call, find
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names, Partition, Shard
from jsjobs.model.errors import JobError
from jsjobs.model.lanes import QUEUES
from survival.journal import Journal, Tail
from survival.network import Network
from survival.plan import Fault
from survival.processes import CLOCK_LAG, CLOCKS_JUMP, Processes, Role
from survival.servers import Servers

IN_SYNC_WITHIN = 90.0
LOOKS_EVERY = 0.01
ENTRIES = 5
"""Entries that are deleted at once, at most."""
RESTORED_WITHIN = 60.0
JUMPS = (-7 * 86400, -3600, -30, -2, 2, 30, 3600, 7 * 86400)
"""Seconds that a clock jumps by: also further than a result is kept."""
ACROSS = 2
"""How far ahead a publisher's clock may be."""
SLOW = 0.15
"""Seconds that a slow network adds, each way."""


@dataclass
class Stage:
    """All that can be hurt."""

    servers: Servers
    processes: Processes
    networks: list[Network]
    connection: Connection
    """To look at the servers with, past every proxy."""
    names: Names
    journal: Journal
    folder: Path
    """Where everybody's journals are."""
    done: Counter[str] = field(default_factory=Counter)
    """Faults that took effect, by kind."""


class Nemesis:
    """Hurts the stage as planned."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._processes = asyncio.Lock()
        """One process is hurt at a time, by whichever lane."""

    async def run(self, faults: list[Fault]) -> None:
        """Do all of them; what was hurt is whole again when this returns."""
        began = asyncio.get_running_loop().time()
        lanes = groupby(sorted(faults, key=lambda fault: (fault.lane, fault.at)), key=lambda fault: fault.lane)
        async with asyncio.TaskGroup() as group:
            for _, lane in [(name, list(some)) for name, some in lanes]:
                group.create_task(self._lane(lane, began))

    async def _lane(self, faults: list[Fault], began: float) -> None:
        for fault in faults:
            await asyncio.sleep(max(0.0, began + fault.at - asyncio.get_running_loop().time()))
            what, _, how = fault.kind.partition(".")
            await getattr(self, f"_{what}")(fault, how)

    def _took_effect(self, fault: Fault, on: str) -> None:
        self._stage.done[fault.kind] += 1
        self._stage.journal.note("fault", kind=fault.kind, on=on, planned=fault.at, seconds=fault.seconds)

    def _is_over(self, fault: Fault, on: str) -> None:
        self._stage.journal.note("healed", kind=fault.kind, on=on)

    # -- processes

    async def _worker(self, fault: Fault, how: str) -> None:
        await self._hurt_process(fault, how, self._stage.processes.of("worker"))

    async def _router(self, fault: Fault, how: str) -> None:
        await self._hurt_process(fault, how, self._stage.processes.of("router"))

    async def _publisher(self, fault: Fault, how: str) -> None:
        await self._hurt_process(fault, how, self._stage.processes.of("publisher"))

    async def _canceller(self, fault: Fault, how: str) -> None:
        await self._hurt_process(fault, how, self._stage.processes.of("canceller"))

    async def _hurt_process(self, fault: Fault, how: str, roles: list[Role]) -> None:
        async with self._processes:
            await self._hurt_one(fault, how, roles[fault.target % len(roles)])

    async def _hurt_one(self, fault: Fault, how: str, role: Role) -> None:
        processes = self._stage.processes
        await eventually(lambda: role.is_running)  # one that ended by itself is just being started again
        if how in {"freeze", "nap"}:
            async with processes.frozen(role):
                self._took_effect(fault, role.name)
                await asyncio.sleep(fault.seconds)
        else:
            await processes.end(role, signal.SIGKILL if how == "kill" else signal.SIGTERM)
            self._took_effect(fault, role.name)
            await asyncio.sleep(fault.seconds)
            processes.start(role)
        self._is_over(fault, role.name)

    async def _clock(self, fault: Fault, how: str) -> None:
        """A process's clock jumps ahead, or back, and after a while to where it was."""
        processes = self._stage.processes
        roles = [role for kind in CLOCKS_JUMP for role in processes.of(kind)]
        role = roles[fault.target % len(roles)]
        # A delay counts by its publisher's clock: of one that is far ahead no job would be due before the end of the run.
        jumps = [jump for jump in JUMPS if role.kind == "worker" or jump <= ACROSS]
        processes.set_clock(role, jumps[fault.target // len(roles) % len(jumps)])
        await asyncio.sleep(CLOCK_LAG)
        self._took_effect(fault, role.name)
        await asyncio.sleep(fault.seconds)
        processes.set_clock(role, 0)
        self._is_over(fault, role.name)

    # -- network

    async def _net(self, fault: Fault, how: str) -> None:
        network = self._stage.networks[fault.target % len(self._stage.networks)]
        await eventually(lambda: network.connections, within=60)
        match how:
            case "slow":
                network.slow_down(SLOW)
            case "half-open":
                network.swallow([{"request"}, {"answer"}, {"request", "answer"}][fault.target % 3])
            case "refuse":
                network.refuse(True)
                network.cut()
            case _:
                network.cut()
        self._took_effect(fault, network.name)
        await asyncio.sleep(fault.seconds)
        if how == "half-open":
            network.cut()
        network.swallow(set())
        network.slow_down(0)
        network.refuse(False)
        self._is_over(fault, network.name)

    # -- servers

    async def _server(self, fault: Fault, how: str) -> None:
        await self._hurt_server(fault, how, self._stage.servers.nodes[fault.target % len(self._stage.servers.nodes)])

    async def _hurt_server(self, fault: Fault, how: str, node: NatsServer) -> None:
        if how == "freeze":
            node.suspend()
            self._took_effect(fault, node.home.name)
            await asyncio.sleep(fault.seconds)
            node.resume()
        else:
            await asyncio.to_thread(node.kill if how == "kill" else node.stop)
            self._took_effect(fault, node.home.name)
            await asyncio.sleep(fault.seconds)
            await asyncio.to_thread(node.start)
        await self._until_in_sync()
        self._is_over(fault, node.home.name)

    async def _early(self, fault: Fault, how: str) -> None:
        """A worker is started while the server is away."""
        stage = self._stage
        node = stage.servers.nodes[fault.target % len(stage.servers.nodes)]
        workers = stage.processes.of(how)
        role = workers[fault.target % len(workers)]
        await asyncio.to_thread(node.kill)
        async with self._processes:
            await stage.processes.end(role, signal.SIGKILL)
            stage.processes.start(role)
        self._took_effect(fault, role.name)
        await asyncio.sleep(fault.seconds + 1)
        await asyncio.to_thread(node.start)
        await self._until_in_sync()
        self._is_over(fault, role.name)

    async def _consumer(self, fault: Fault, how: str) -> None:
        """The consumer of a shard or a partition is deleted; the routers are to bring it back."""
        queue = QUEUES[fault.target % len(QUEUES)]
        stream = self._stage.names.queue(queue)
        found = await self._insist(f"CONSUMER.NAMES.{stream}")
        consumers = [name for name in found["consumers"] if Shard.of(name) or Partition.of(name)]
        consumer = consumers[fault.target // len(QUEUES) % len(consumers)]
        with suppress(ApiError):  # deleted, and the answer was lost
            await self._insist(f"CONSUMER.{how.upper()}.{stream}.{consumer}")
        self._took_effect(fault, consumer)

        async def is_back() -> bool:
            return await find(self._stage.connection, f"CONSUMER.INFO.{stream}.{consumer}", timeout=2) is not None

        await eventually(is_back, within=RESTORED_WITHIN)
        self._is_over(fault, consumer)

    async def _entry(self, fault: Fault, how: str) -> None:
        """The entries of jobs that have just begun are deleted, as by an operator: their workers lose them."""
        stage, hit = self._stage, list[str]()
        begun = Tail(stage.folder, "handlers-*", from_now=True)
        async with asyncio.timeout(RESTORED_WITHIN):
            while len(hit) <= fault.target % ENTRIES:
                for line in map(json.loads, begun.new_lines()):
                    # By its revision: what ended meanwhile keeps its end.
                    if line["event"] == "start" and await self._delete(line["job"], line["fence"]):
                        hit.append(line["job"])
                await asyncio.sleep(LOOKS_EVERY)
        begun.close()
        self._took_effect(fault, ", ".join(hit))

    async def _delete(self, job: str, revision: int) -> bool:
        """Whether that was still the entry's revision, as far as an answer told."""
        header = f"NATS/1.0\r\nKV-Operation: DEL\r\nNats-Expected-Last-Subject-Sequence: {revision}\r\n\r\n"
        with suppress(JobError):
            reply = await self._stage.connection.ask(self._stage.names.state(job), header=header.encode(), timeout=1)
            return "seq" in json.loads(reply.data) and "error" not in json.loads(reply.data)
        return False

    async def _until_in_sync(self) -> None:
        await eventually(partial(self._stage.servers.is_in_sync, self._stage.connection), within=IN_SYNC_WITHIN)

    async def _leader(self, fault: Fault, how: str) -> None:
        stage = self._stage
        streams = [*map(stage.names.queue, QUEUES), stage.names.state_stream]
        streams += [stage.names.dead_stream, stage.names.schedule_stream]
        stream = streams[fault.target % len(streams)]
        if how == "kill":
            leader = await self._insist(f"STREAM.INFO.{stream}")
            name = leader["cluster"]["leader"]
            [node] = [node for node in stage.servers.nodes if node.home.name == name]
            await self._hurt_server(fault, "kill", node)
            return
        await self._insist(f"STREAM.LEADER.STEPDOWN.{stream}")
        self._took_effect(fault, stream)
        await self._until_in_sync()
        self._is_over(fault, stream)

    # -- storage

    async def _full(self, fault: Fault, how: str) -> None:
        """A stream takes nothing more, as where the disk is full: its limit is below what it holds."""
        names = self._stage.names
        queue = names.queue(QUEUES[fault.target % len(QUEUES)])
        stream = {"queue": queue, "state": names.state_stream, "dead": names.dead_stream}[how]
        before = (await self._insist(f"STREAM.INFO.{stream}"))["config"]
        await self._insist(f"STREAM.UPDATE.{stream}", {**before, "max_bytes": 1})
        self._took_effect(fault, stream)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            await self._insist(f"STREAM.UPDATE.{stream}", before)
        self._is_over(fault, stream)

    async def _disk(self, fault: Fault, how: str) -> None:
        """A node's disk is full; what its server gave up for that it takes up again when it is restarted with room."""
        stage = self._stage
        node = stage.servers.nodes[fault.target % len(stage.servers.nodes)]
        disk = stage.servers.disks.get(node.home.name)
        if disk is None or not disk.is_mounted:
            await self._full(fault, "state")  # the next best, where no disk can be mounted
            return
        await asyncio.to_thread(getattr(disk, how))
        self._took_effect(fault, node.home.name)
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(disk.make_room)
        await asyncio.to_thread(node.stop)
        await asyncio.to_thread(node.start)
        await self._until_in_sync()
        self._is_over(fault, node.home.name)

    async def _insist(self, endpoint: str, body: dict[str, object] | None = None) -> dict[str, object]:
        """Ask until there is an answer: other faults go on meanwhile."""
        until = time.monotonic() + RESTORED_WITHIN
        while True:
            try:
                return await call(self._stage.connection, endpoint, body, timeout=3)
            except JobError as error:
                if (isinstance(error, ApiError) and not error.is_transient) or time.monotonic() > until:
                    raise
            await asyncio.sleep(0.2)

    # -- Postgres

    async def _postgres(self, fault: Fault, how: str) -> None:
        postgres: PostgresServer = self._stage.servers.postgres
        await asyncio.to_thread(postgres.kill if how == "kill" else postgres.stop)
        self._took_effect(fault, "postgres")
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(postgres.start)
        self._is_over(fault, "postgres")


async def kill_at_once(stage: Stage, draw: random.Random) -> None:
    """Kill a server and some workers at once, and start them again."""
    workers = stage.processes.of("worker")
    hurt = draw.sample(workers, draw.randint(1, len(workers)))
    node = draw.choice(stage.servers.nodes)
    kills = [stage.processes.end(role, signal.SIGKILL) for role in hurt]
    await asyncio.gather(asyncio.to_thread(node.kill), *kills)
    stage.journal.note("fault", kind="server.kill", on=node.home.name, planned=0, seconds=0)
    await asyncio.sleep(draw.uniform(0.1, 0.6))
    await asyncio.to_thread(node.start)
    for role in hurt:
        stage.processes.start(role)
    await eventually(partial(stage.servers.is_in_sync, stage.connection), within=IN_SYNC_WITHIN)
    stage.journal.note("healed", kind="server.kill", on=node.home.name)
