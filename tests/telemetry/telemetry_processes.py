"""Starting `telemetry_app.py`."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

from bare_environment import bare_environment
from jsjobs import JobService

APP = Path(__file__).with_name("telemetry_app.py")


class Process:
    """One that stays."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child

    async def says(self, event: str) -> dict[str, Any]:
        assert self.child.stdout is not None
        async with asyncio.timeout(20):
            while line := await self.child.stdout.readline():
                if (said := json.loads(line))["event"] == event:
                    return said
        raise AssertionError(f"it ended without {event}: {await self.errors()}")

    async def errors(self) -> str:
        assert self.child.stderr is not None
        return (await self.child.stderr.read()).decode()

    async def stop(self) -> str:
        """Stop it gracefully; what it logged."""
        self.child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            _, errors = await self.child.communicate()
        assert self.child.returncode == 0, errors.decode()
        return errors.decode()


class TelemetryApps:
    """Processes of one test."""

    def __init__(self, config: JobService.Config, **environment: str) -> None:
        assert config.database_url is not None
        self.environment = {
            **bare_environment(),
            "JSJOBS_NATS_URL": config.nats_url,
            "JSJOBS_DATABASE_URL": config.database_url.get_secret_value(),
            "JSJOBS_NAMESPACE": config.namespace,
            "JSJOBS_GRACE": "0.2",
            **environment,
        }
        self._children: list[asyncio.subprocess.Process] = []

    async def start(self, *arguments: str, **environment: str) -> Process:
        command = [sys.executable, "-W", "error", str(APP), *arguments]
        pipe = asyncio.subprocess.PIPE
        env = {**self.environment, **environment}
        child = await asyncio.create_subprocess_exec(*command, env=env, stdout=pipe, stderr=pipe)
        self._children.append(child)
        return Process(child)

    async def worker(self, role: str = "worker", **environment: str) -> Process:
        """Start one that stays; it is ready when this returns."""
        process = await self.start(role, **environment)
        await process.says("ready")
        return process

    async def submit(self, job_type: str, payload: object, **options: object) -> list[str] | str:
        """Submit from a process of its own, which ends."""
        process = await self.start("submit", job_type, json.dumps(payload), json.dumps(options))
        said = await process.says("submitted")
        errors = await process.errors()
        assert await process.child.wait() == 0, errors
        return said["ids"]

    async def close(self) -> None:
        for child in self._children:
            if child.returncode is None:
                child.kill()
            await child.communicate()
