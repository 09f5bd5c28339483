"""The processes that are hurt: started, ended, frozen, and started again, each change written down when it is one."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bare_environment import bare_environment
from facts import eventually
from survival.journal import Journal

TESTS = Path(__file__).parents[1]
JSJOBS = str(Path(sys.executable).with_name("jsjobs"))
LOOKS_EVERY = 0.05
RESTARTS_AFTER = 0.5
CLOCKS_JUMP = ("worker", "publisher")
"""The kinds of processes whose clocks are ours to set; a server is a static binary, which no library can be put before."""
CLOCK_LAG = 1
"""Seconds until a process finds its clock set anew."""
ENDS_WITHIN = 30.0


@dataclass
class Role:
    """What a process is, and how it is started."""

    name: str
    kind: str
    """`worker`, `router`, `publisher` or `canceller`."""
    command: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    lives: int = 0

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def arguments(self) -> list[str]:
        """Its command; a publisher that starts again has another name, and goes on with other jobs."""
        return [word.replace("{life}", str(self.lives)) for word in self.command]


class Processes:
    """All of them; what ends by itself is started again, as a supervisor would."""

    def __init__(self, folder: Path, journal: Journal, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._journal = journal
        self._environment = {**bare_environment(), **environment, "PYTHONPATH": str(TESTS), "PYTHONUNBUFFERED": "1"}
        self.roles: list[Role] = []
        self._hurt: set[str] = set()
        self._over: set[str] = set()
        self.ended_by_themselves = 0

    def of(self, kind: str) -> list[Role]:
        return [role for role in self.roles if role.kind == kind]

    def add(self, name: str, kind: str, command: list[str], environment: Mapping[str, str]) -> Role:
        """Have it run from now on."""
        role = Role(name, kind, command, {**self._environment, **environment})
        if kind in CLOCKS_JUMP:
            self.set_clock(role, 0)
            role.environment |= {
                "LD_PRELOAD": _faketime(),
                "FAKETIME_TIMESTAMP_FILE": str(self._clock(role)),
                "FAKETIME_CACHE_DURATION": str(CLOCK_LAG),
                "DONT_FAKE_MONOTONIC": "1",
            }
        self.roles.append(role)
        self.start(role)
        return role

    def set_clock(self, role: Role, seconds: float) -> None:
        """Let its clock be so far ahead of, or behind, the machine's: what measures durations goes on as it was."""
        self._clock(role).write_text(f"{seconds:+.3f}\n")

    def _clock(self, role: Role) -> Path:
        return self._folder / f"clock-{role.name}"

    def start(self, role: Role) -> None:
        """Start it, unless it runs: what ended by itself may have been started again meanwhile."""
        if role.is_running:
            return
        role.lives += 1
        with (self._folder / f"{role.name}.log").open("ab") as log:
            role.process = subprocess.Popen(
                role.arguments, env=role.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=TESTS
            )
        self._hurt.discard(role.name)
        self._journal.note("started", name=role.name, pid=role.process.pid)

    async def end(self, role: Role, how: signal.Signals) -> None:
        """End it, and return when it has ended; it is not started again by itself."""
        process = role.process
        assert process is not None
        self._hurt.add(role.name)
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
        try:
            await asyncio.to_thread(process.wait, ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self._journal.note("stuck", name=role.name, pid=process.pid)
            process.kill()
            await asyncio.to_thread(process.wait)
        self._journal.note("ended", name=role.name, pid=process.pid, code=process.returncode)

    @asynccontextmanager
    async def frozen(self, role: Role) -> AsyncIterator[None]:
        """Stop it for the length of a block."""
        process = role.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        await eventually(lambda: _is_stopped(process.pid))
        self._journal.note("frozen", name=role.name, pid=process.pid)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)
            self._journal.note("woken", name=role.name, pid=process.pid)

    async def keep(self) -> None:
        """Start again what ended by itself, until cancelled."""
        while True:
            for role in self.roles:
                process = role.process
                if process is not None and role.name not in self._hurt and process.poll() is not None:
                    self._journal.note("ended", name=role.name, pid=process.pid, code=process.returncode)
                    self.ended_by_themselves += 1
                    self._hurt.add(role.name)
                    await asyncio.sleep(RESTARTS_AFTER)
                    if role.kind not in self._over:
                        self.start(role)
            await asyncio.sleep(LOOKS_EVERY)

    async def stop(self, kind: str) -> None:
        """End those of a kind in good order, for good."""
        self._over.add(kind)
        await asyncio.gather(*(self.end(role, signal.SIGTERM) for role in self.of(kind) if role.name not in self._hurt))

    def kill(self) -> None:
        """End whatever still runs."""
        for role in self.roles:
            if role.process is not None and role.is_running:
                role.process.kill()
                role.process.wait()


def _is_stopped(pid: int) -> bool:
    """Whether the kernel says so: the signal alone is no fault yet."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TZX"


def _faketime() -> str:
    """The library that sets a process's clock."""
    import libfaketime  # noqa: PLC0415 - of the extra `long`

    return str(Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1")
