"""The parent of the processes of `jsjobs worker --processes N`. It imports nothing of the application.

The first process is started alone, so that an error of the application or a server is reported only once. Once it runs
jobs, the others follow. From then on each is restarted when it dies, for whatever reason.
"""

import asyncio

from jsjobs.cli.errors import Failed
from jsjobs.cli.exit_codes import BROKEN, FAILED
from jsjobs.cli.options import announce
from jsjobs.cli.run.health import HealthPlace, health_endpoints
from jsjobs.cli.run.serving import Stop
from jsjobs.cli.run.supervised import Supervised, pause
from jsjobs.cli.run.worker_child import FIRST
from jsjobs.health import Readiness
from jsjobs.model.words import things

_TRIES = 3
"""Deaths of the first process, before it has run any job, after which it is given up."""
_BETWEEN = 1.0
_LOOK = 0.05


class Supervisor:
    """Run an application in several processes.

    Args:
        target: The application.
        count: The number of processes.
        flags: The flags of each process, see `worker_child`.
        health: Where the health endpoints of all processes listen.
    """

    def __init__(self, target: str, count: int, flags: list[str], health: HealthPlace) -> None:
        self._children = [
            Supervised(number, target, [*flags, *([FIRST] if number == 1 else [])]) for number in range(1, count + 1)
        ]
        self._health = health
        self._stop: Stop | None = None
        self.code = 0
        """The exit code, once `run` has returned."""

    async def run(self) -> None:
        """Run the processes until a signal asks to stop.

        Raises:
            Failed: If the first process dies again and again, or the health endpoints cannot listen.
        """
        stop = self._stop = Stop()
        with health_endpoints(self._health, self._readiness, self._trouble):
            first, others = self._children[0], self._children[1:]
            keeping = [asyncio.ensure_future(self._begin(first, stop))]
            while not (first.is_up or keeping[0].done()):  # noqa: ASYNC110 - another thing that comes and goes
                await asyncio.sleep(_LOOK)
            if first.is_up:
                keeping += [asyncio.ensure_future(child.keep(stop)) for child in others]
                keeping.append(asyncio.ensure_future(self._announce(stop)))
            await asyncio.gather(*keeping)

    async def _begin(self, first: Supervised, stop: Stop) -> None:
        """Run the first process, which may turn out to be unable to run at all."""
        for left in reversed(range(_TRIES)):
            ended = await first.once(stop)
            if stop.asked.is_set():
                return
            if first.has_been_up:
                await first.keep(stop, ended)
                return
            if ended.code > 0:  # it has reported why
                self.code = FAILED if ended.code == BROKEN else ended.code
                return
            if not left:
                break
            await pause(stop, _BETWEEN)
        raise Failed(f"no process could be started: {_TRIES} times in a row it {ended}")

    async def _announce(self, stop: Stop) -> None:
        while not (stop.asked.is_set() or all(child.is_up for child in self._children)):  # noqa: ASYNC110 - see below
            await asyncio.sleep(_LOOK)  # a process reports when it can, and may report otherwise later
        if not stop.asked.is_set():
            announce(f"{things(len(self._children), 'process')} running; SIGTERM and Ctrl-C stop them all", style="dim")

    def _readiness(self) -> Readiness:
        if self._stop is None or self._stop.asked.is_set():
            return Readiness(["stopping"], [])
        reasons = [reason for child in self._children for reason in child.reasons]
        return Readiness(reasons, [note for child in self._children for note in child.notes])

    def _trouble(self) -> list[str]:
        return [trouble for child in self._children for trouble in child.trouble]
