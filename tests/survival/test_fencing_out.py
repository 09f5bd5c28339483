"""A worker that stood still for longer than `ack_wait` cannot end its job; without fences it does, and the checker says so."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.protocol.names import Names
from survival.checker import check
from survival.history import History, read_history
from survival.journal import Journal, read_all
from survival.network import Network
from survival.processes import JSJOBS, Processes, Role
from survival.recording import record_letters, record_versions
from survival.register import Register
from survival.run import NAMESPACE, Settings, config_of, environment_of
from survival.servers import Servers, declare, leftovers

pytestmark = pytest.mark.long

SETTINGS = Settings(ack_wait=1)
ENTITY = "one"


class Scene:
    """One server, and workers of which one is to stand still."""

    def __init__(self, folder: Path, network: Network, processes: Processes, service: JobService) -> None:
        self.folder = folder
        self.network = network
        self.processes = processes
        self.service = service
        self._publisher = Journal(folder, "publisher-p")

    async def submit(self, uid: str, kind: str) -> str:
        payload = {"uid": uid, "kind": kind, "lane": ENTITY, "seconds": 0.5}
        facts = {"kind": kind, "door": "submit", "priority": "low", "entity": ENTITY, "key": None}
        self._publisher.note("try", uid=uid, publisher="p", **facts)
        job = await self.service.submit("survival.work", payload, priority="low", entity=ENTITY, duration="long")
        self._publisher.note("ack", uid=uid, job=str(job), duplicate=False)
        return job

    def add_worker(self, name: str, environment: dict[str, str]) -> Role:
        return self.processes.add(name, "worker", [JSJOBS, "worker", "survival.app:jobs", "--no-router"], environment)

    async def seen(self, role: Role, event: str) -> None:
        """Wait until this worker's handlers wrote that down."""
        assert role.process is not None
        name = f"handlers-{role.process.pid}"
        await eventually(lambda: any(line["event"] == event for line in read_all(self.folder, name)))


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    journal = Journal(folder, "run")
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(Servers(folder / "servers", 1))
        config = config_of(SETTINGS, servers)
        connection = await declare(config, servers)
        stack.push_async_callback(connection.close)
        network = await stack.enter_async_context(Network("of the sleeper", [servers.url]))
        register = await stack.enter_async_context(Register(folder))
        processes = Processes(folder, journal, environment_of(config, folder, register))
        stack.callback(processes.kill)
        service = await stack.enter_async_context(JobService(config))
        yield Scene(folder, network, processes, service)
        await processes.stop("worker")
        journal.note("leftovers", left=await leftovers(connection, Names(NAMESPACE), []))
        await record_versions(servers.url, Names(NAMESPACE), folder)
        await record_letters(servers.postgres.url, Names(NAMESPACE), folder)


async def stopped_and_woken(folder: Path, environment: dict[str, str]) -> History:
    """A worker stands still in the middle of a job until another has completed it, and the next one of its entity."""
    async with scene(folder) as stage:
        sleeper = stage.add_worker("sleeper", {"JSJOBS_NATS_URL": stage.network.url, **environment})
        job = await stage.submit("p.1", "careless")
        await eventually(lambda: list(read_all(folder, "register")))  # its handler is in the middle
        async with stage.processes.frozen(sleeper):
            stage.network.cut()  # else the server goes on delivering to it
            stage.add_worker("other", {})
            await stage.service.result(job, timeout=30)
            await stage.service.result(await stage.submit("p.2", "ok"), timeout=30)
        await stage.seen(sleeper, "end")
    return read_history(folder)


def results(history: History, job: str) -> list[Any]:
    """The fences of all results that the job ever had."""
    return [version.result["fence"] for version in history.versions[job] if version.status == "complete"]


async def test_a_worker_that_stood_still_for_longer_than_ack_wait_ends_nothing(tmp_path: Path) -> None:
    history = await stopped_and_woken(tmp_path, {})
    assert {rule: found for rule, found in check(history).items() if found} == {}
    first, second = [run for run in history.runs if run.uid == "p.1"]
    assert first.ended > second.ended  # it woke up, and its handler went on to its end
    assert first.outcome == "done"
    assert results(history, first.job) == [second.fence]
    assert [effect.accepted for effect in history.effects if effect.fence == first.fence] == [True, False]


async def test_without_fences_it_overwrites_the_end_and_the_checker_says_so(tmp_path: Path) -> None:
    history = await stopped_and_woken(tmp_path, {"SURVIVAL_UNFENCED": "1"})
    first, second = [run for run in history.runs if run.uid == "p.1"]
    assert results(history, first.job) == [second.fence, first.fence]
    [violation] = check(history)["ends_never_change"]
    assert violation.job == first.job
