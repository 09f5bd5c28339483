"""Rounds in which all sides take turns, so that a machine's moods meet each of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness import catalogue, processes
from harness.servers import Running, Servers
from harness.side import Place


@dataclass(frozen=True)
class Plan:
    """How much is measured, and of whom."""

    servers: Servers
    rounds: int = 5
    factor: float = 1.0
    """Of the usual numbers of jobs."""
    peers: tuple[str, ...] = catalogue.PEERS

    def jobs(self, usual: int, least: int = 50) -> int:
        """How many in this plan."""
        return max(least, int(usual * self.factor))

    def some_rounds(self, most: int) -> int:
        """Fewer rounds, where each takes long."""
        return min(self.rounds, most)


def take_turns(
    names: Sequence[str], rounds: int, measure: Callable[[str], dict[str, Any]], *, what: str
) -> dict[str, list[dict[str, Any]]]:
    """Measure each in each round, in an order that changes; a peer that fails is left out from there on, and says so."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in [*names[number % len(names) :], *names[: number % len(names)]]:
            if len(found[name]) < number:
                continue
            try:
                figures = measure(name)
            except (processes.ChildFailed, TimeoutError) as error:
                if name.split(" ")[0] not in catalogue.PEERS:
                    raise
                print(f"{what}: {error}: left out from round {number + 1} on", file=sys.stderr, flush=True)
                continue
            found[name].append(figures)
            shown = ", ".join(f"{key} {_short(value)}" for key, value in figures.items() if isinstance(value, float))
            print(f"{what}, round {number + 1}: {name:22} {shown}", flush=True)
    return {name: rounds_found for name, rounds_found in found.items() if rounds_found}


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def place_at(running: Running, jobs: int, **more: Any) -> Place:
    """For the processes of one measurement."""
    return Place(running.url, str(running.home), jobs, **more)


def one_drain(plan: Plan, name: str, jobs: int, *, workers: int = 1, **more: Any) -> dict[str, Any]:
    """Fill a fresh server's queue and work it off; rate, CPU, memory of worker and server, bytes kept for each job."""
    env = more.pop("env", None)
    with plan.servers.fresh(catalogue.side(name).broker) as running:
        place = place_at(running, jobs, **more)
        processes.run(name, "prepare", place)
        before, disk = running.memory(), running.disk()
        processes.run(name, "fill", place)
        found = processes.drain(name, place, processes=workers, env=env)
        found["server"] = float(running.memory())
        found["kept"] = (running.memory() - before) / jobs
        found["stored"] = (running.disk() - disk) / jobs
        found["jobs"] = jobs
    return found
