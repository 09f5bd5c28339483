"""Serve the micro service from this process."""

from __future__ import annotations

import asyncio
import re
from importlib.metadata import version
from typing import Self

from jsjobs.jetstream.client.connect import connect
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.micro.service import MicroService
from jsjobs.rpc.endpoints import endpoints
from jsjobs.service import JobService

_INTAKES = 8
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?\.?([0-9A-Za-z.]*)(\+[0-9A-Za-z.]+)?")


class Rpc:
    """The micro service of a connected JobService, named after its namespace; use it as an async context manager.

        async with jobs, Rpc(jobs):
            ...

    Any number of processes may serve it; each request goes to one of them. At the end of the block it takes no more
    requests, and requests under way have the grace time (`JSJOBS_GRACE`, 10 s) to be answered.

    Args:
        service: The service whose jobs it serves; it must be connected when the block is entered. Payloads of job types
            that have a handler in it are checked when they are submitted.
    """

    def __init__(self, service: JobService) -> None:
        self._service = service
        self._micro: MicroService | None = None
        self._intake: list[Connection] = []

    async def __aenter__(self) -> Self:
        """Begin to take requests.

        Raises:
            JobError: `RunnerUnavailable`, if the service is not connected, or its further connections cannot be made.
        """
        config, connection = self._service.config, self._service.connection
        # A flood of jobs may be too much for a connection, which the server then closes. So these connections serve
        # nothing but submits. There are several because the server bounds what it holds for each until it is read.
        try:
            for _ in range(_INTAKES):
                self._intake.append(await connect(config, name="jsjobs-submits"))
            await self._serve(connection, self._intake)
        except BaseException:
            await self._close_intake()
            raise
        return self

    async def _close_intake(self) -> None:
        await asyncio.gather(*(each.close() for each in self._intake))

    async def _serve(self, connection: Connection, intake: list[Connection]) -> None:
        config = self._service.config
        micro = MicroService(
            connection,
            intake=intake,
            name=config.namespace,
            version=semantic(version("jsjobs")),
            description="Submits jobs, follows, cancels and replays them (jsjobs)",
            endpoints=endpoints(self._service),
            grace=config.grace,
        )
        self._micro = await micro.__aenter__()

    async def __aexit__(self, *_: object) -> None:
        """Take no more requests, and answer those under way within the grace time."""
        try:
            if self._micro is not None:
                await self._micro.__aexit__()
        finally:
            await self._close_intake()

    def stop_taking(self) -> None:
        """Take no more requests from now on; the grace time of those under way begins."""
        if self._micro is not None:
            self._micro.stop_taking()

    def stop_now(self) -> None:
        """Interrupt the requests under way; the requesters are told so."""
        if self._micro is not None:
            self._micro.stop_now()

    @property
    def requests(self) -> int:
        """Return the number of requests under way."""
        return 0 if self._micro is None else self._micro.requests

    @property
    def why_not_ready(self) -> str:
        """Return why requests do not reach this process; empty while they do. Any thread may read it."""
        if self._micro is None:
            return "the service has not started"
        is_up = all(connection.is_connected for connection in (self._service.connection, *self._intake))
        return "" if is_up else "there is no connection to NATS"


def semantic(text: str) -> str:
    """Convert a Python version to a semantic one, as NATS requires: `0.2rc1` becomes `0.2.0-rc1`.

    Raises:
        ValueError: If the text is not a version.
    """
    match = _VERSION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a version")
    major, minor, patch, stage, local = match.groups()
    return f"{major}.{minor}.{patch or 0}{f'-{stage}' if stage else ''}{local or ''}"
