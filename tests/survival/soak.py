"""`just soak`: steady load without faults, and whether memory, tasks, subscriptions, connections or files grow.

Exit code 1 if something grew by more than is allowed, or jobs were left.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from survival.interrupted import CODE, run_until_told
from survival.journal import Journal, read_all
from survival.processes import JSJOBS, Processes
from survival.register import Register
from survival.run import NAMESPACE, Accepted, Settings, config_of, drained, environment_of
from survival.servers import Servers, declare
from survival.trend import Trend, trend_of

EVERY = 15.0
MIB = 2**20
PROCESS_GROWTH = 3 * MIB
"""Of a worker or router. One object of 64 bytes that stays from each job of a worker is more within an hour."""
SERVER_GROWTH = 32 * MIB
"""Of the server, besides what it needs for what it is told to remember: its runtime collects when memory doubled."""
REMEMBERED = 600
"""Bytes that the server may need for each ended job, which it remembers for `result_ttl`: 250 to 560 were measured."""
COUNT_GROWTH = {"tasks": 3, "subscriptions": 2, "files": 3, "connections": 0, "consumers": 0}
"""Tasks and files of jobs that happen to run at the moment of a look come and go."""


@dataclass
class Soak:
    """What runs, and what was measured of it: by name, values with their times."""

    servers: Servers
    processes: Processes
    connection: Connection
    names: Names
    samples: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    async def look(self) -> None:
        """Measure all that can be seen from outside."""
        now = time.monotonic()
        server = self.servers.nodes[0]
        for name, pid in [(role.name, role.process.pid) for role in self.processes.roles if role.process] + [
            ("server", server.pid)
        ]:
            process = psutil.Process(pid)
            self.samples[f"{name} rss"].append((now, process.memory_info().rss))
            self.samples[f"{name} files"].append((now, process.num_fds()))
        varz = await asyncio.to_thread(_asked, f"{self.servers.monitor}/varz")
        jsz = await asyncio.to_thread(_asked, f"{self.servers.monitor}/jsz")
        self.samples["server connections"].append((now, varz["connections"]))
        self.samples["server subscriptions"].append((now, varz["subscriptions"]))
        self.samples["server consumers"].append((now, jsz["consumers"]))
        state = (await call(self.connection, f"STREAM.INFO.{self.names.state_stream}"))["state"]
        self.samples["remembered"].append((now, state["messages"]))

    def add_what_workers_saw(self, folder: Path) -> None:
        """Their own tasks and subscriptions."""
        names = {role.process.pid: role.name for role in self.processes.roles if role.process}
        for path in folder.glob("handlers-*.jsonl"):
            name = names[int(path.stem.rpartition("-")[2])]
            for line in read_all(folder, path.stem):
                if line["event"] == "sample":
                    self.samples[f"{name} tasks"].append((line["at"], line["tasks"]))
                    self.samples[f"{name} subscriptions"].append((line["at"], line["subscriptions"]))

    def trends(self) -> list[Trend]:
        """Of everything but the harness's own processes."""
        remembered = trend_of("remembered", self.samples["remembered"], 0)
        more = max(0.0, remembered.last - remembered.first)
        found = []
        for name, samples in sorted(self.samples.items()):
            who, _, what = name.partition(" ")
            if who.startswith(("worker", "router", "server")):
                allowed = SERVER_GROWTH + REMEMBERED * more if who == "server" else PROCESS_GROWTH
                found.append(trend_of(name, samples, COUNT_GROWTH.get(what, allowed)))
        return found


def _asked(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())


@asynccontextmanager
async def staged(folder: Path, rate: float, seed: int) -> AsyncIterator[Soak]:
    settings = Settings(seed=seed, ack_wait=30)
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(Servers(folder / "servers", 1))
        config = config_of(settings, servers)
        connection = await declare(config, servers, kept_versions=1)
        stack.push_async_callback(connection.close)
        register = await stack.enter_async_context(Register(folder))
        environment = environment_of(config, folder, register) | {"SURVIVAL_SAMPLES": str(EVERY)}
        processes = Processes(folder, Journal(folder, "run"), environment)
        stack.callback(processes.kill)
        processes.add("worker-0", "worker", [JSJOBS, "worker", "survival.app:jobs"], {})
        processes.add("worker-1", "worker", [JSJOBS, "worker", "survival.app:jobs", "--no-router"], {})
        processes.add("router-0", "router", [JSJOBS, "router"], {})
        publisher = [sys.executable, "-m", "survival.publisher", "p0", str(rate), str(seed)]
        processes.add("publisher-0", "publisher", publisher, {})
        processes.add("canceller-0", "canceller", [sys.executable, "-m", "survival.canceller"], {})
        yield Soak(servers, processes, connection, Names(NAMESPACE))


async def soak(folder: Path, *, seconds: float, rate: float, seed: int) -> dict[str, Any]:
    """Do it; what was found."""
    async with staged(folder, rate, seed) as stage:
        accepted = Accepted(folder)
        began = time.monotonic()
        while (left := began + seconds - time.monotonic()) > 0:
            await asyncio.sleep(min(EVERY, left))
            await stage.look()
            say(f"{time.monotonic() - began:.0f} s: {accepted.count()} jobs, {_shown(stage)}")
        await stage.processes.stop("publisher")
        stayed = {role.name: role.lives == 1 and role.process.poll() is None for role in stage.processes.of("worker")}
        left_over = await drained(stage.connection, stage.names, 60)
        for kind in ("canceller", "worker", "router"):
            await stage.processes.stop(kind)
        stage.add_what_workers_saw(folder)
        trends = stage.trends()
        whole = not any(left_over.values()) and all(stayed.values())
        return {
            "seconds": seconds,
            "jobs": accepted.count(),
            "jobs_remembered": stage.samples["remembered"][-1][1],
            "left": {where: count for where, count in left_over.items() if count},
            "trends": [asdict(trend) | {"grew": trend.grew} for trend in trends],
            "verdict": "flat" if whole and not any(trend.grew for trend in trends) else "grew",
        }


def _shown(stage: Soak) -> str:
    last = {name: values[-1][1] for name, values in stage.samples.items()}
    sizes = [f"{name} {value / MIB:.1f} MiB" for name, value in sorted(last.items()) if name.endswith(" rss")]
    return ", ".join(sizes)


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="just soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=40, help="jobs a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, help="for the record; a new one in the system's temporary folder if not given"
    )
    given = parser.parse_args()
    folder = (given.folder or Path(tempfile.mkdtemp(prefix="soak-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    say(f"the record is in {folder}")
    told = run_until_told(soak(folder, seconds=given.minutes * 60, rate=given.rate, seed=given.seed))
    if told is None:
        return CODE
    text = json.dumps(told, indent=2)
    (folder / "soak.json").write_text(text)
    sys.stdout.write(f"{text}\n")
    return int(told["verdict"] != "flat")


if __name__ == "__main__":
    sys.exit(main())
