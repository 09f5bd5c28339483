"""How long a worker waits before it says that something is missing: what passes by itself makes none unready."""

from collections.abc import Callable
from typing import Any

import pytest

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.errors import IncompleteList
from jsjobs.worker import shard_monitor
from jsjobs.worker.worker import Worker

Shards = dict[Any, dict[str, Any]]


class Cluster:
    """What the shard monitor is told of the shards, look by look, and whether its worker was ready before each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tells: list[Callable[[Shards], Shards]] = []
        """Of the next looks; those after them are told all."""
        self.looks = 0
        self.was_ready: list[bool] = []
        self.worker: Worker | None = None
        self._live = shard_monitor.live_shards
        monkeypatch.setattr(shard_monitor, "live_shards", self._look)
        monkeypatch.setattr(shard_monitor, "INTERVAL", 0.02)
        monkeypatch.setattr(shard_monitor, "FAST", 0.02)

    async def _look(self, *arguments: Any) -> Shards:
        shards = await self._live(*arguments)
        self.looks += 1
        if self.worker is not None:
            self.was_ready.append(self.worker.ready)
        return self.tells.pop(0)(shards) if self.tells else shards

    async def looked(self) -> None:
        """All that it was to tell is told, and more looks were taken."""
        await eventually(lambda: not self.tells)
        before = self.looks
        await eventually(lambda: self.looks > before + 2)


def a_part(_: Shards) -> Shards:
    raise IncompleteList("the cluster did not report 1 consumers in time")


def all_of_it(shards: Shards) -> Shards:
    return shards


def without_one(shards: Shards) -> Shards:
    return dict(list(shards.items())[1:])


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


async def watched(cluster: Cluster, worker: Worker) -> None:
    await eventually(lambda: worker.ready)
    cluster.worker = worker


@pytest.mark.parametrize(
    ("tells", "is_ready"),
    [
        ([a_part] * 3, True),
        ([a_part] * 4, False),
        ([*[a_part] * 3, all_of_it, *[a_part] * 3], True),
        ([without_one], True),
        ([without_one] * 2, False),
        ([without_one, all_of_it, without_one], True),
    ],
    ids=["a part", "a part for long", "a part, and again", "one less", "one less for long", "one less, and again"],
)
async def test_a_worker_is_ready_until_something_is_missing_for_long(
    jobs: JobService, cluster: Cluster, tells: list[Callable[[Shards], Shards]], *, is_ready: bool
) -> None:
    async with jobs.worker() as worker:
        await watched(cluster, worker)
        cluster.tells += tells
        await cluster.looked()
        assert all(cluster.was_ready) is is_ready
        await eventually(lambda: worker.ready)


async def test_a_cluster_that_tells_a_part_takes_no_shard_from_a_worker(jobs: JobService, cluster: Cluster) -> None:
    jobs.register_handler("echo", lambda payload: payload)
    async with jobs.worker() as worker:
        await watched(cluster, worker)
        taken = worker.taken
        cluster.tells += [a_part] * 10_000
        await eventually(lambda: not worker.ready)
        assert "did not report" in worker.why_not_ready
        assert worker.taken == taken
        assert await jobs.result(await jobs.submit("echo", 1)) == 1
        cluster.tells.clear()
        await eventually(lambda: worker.ready)
