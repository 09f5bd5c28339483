"""The other system that handlers write to: it refuses a job's older fence once it saw a newer one."""

import asyncio
import itertools
import json
import socket
from collections import defaultdict
from pathlib import Path
from typing import Any, Self

from survival.journal import Journal


class Register:
    """Listens on loopback; its own order of what it accepted is the order of effects."""

    def __init__(self, folder: Path) -> None:
        self._journal = Journal(folder, "register")
        self._highest: dict[str, int] = defaultdict(int)
        self._snoozes: dict[str, int] = defaultdict(int)
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._journal.close()

    @property
    def port(self) -> int:
        assert self._server is not None
        return self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(self._take(json.loads(line))).encode() + b"\n")
        except (ConnectionError, json.JSONDecodeError):  # its process was killed, in the middle of a line perhaps
            pass
        finally:
            writer.close()

    def _take(self, asked: dict[str, Any]) -> dict[str, Any]:
        job, fence, what = asked["job"], asked["fence"], asked["what"]
        accepted = fence >= self._highest[job]
        if accepted:
            self._highest[job] = fence
            self._snoozes[job] += what == "snooze"
        self._journal.note("effect", job=job, fence=fence, what=what, accepted=accepted)
        return {"id": asked["id"], "accepted": accepted, "snoozes": self._snoozes[job]}


class StaleFenceError(Exception):
    """The register has seen a newer attempt of the job."""


class RegisterClient:
    """A worker process's connection to the register, made when it is first needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ids = itertools.count()
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._connecting = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None

    async def effect(self, job: str, fence: int, what: str) -> int:
        """Have an effect, or raise; how often the job snoozed so far."""
        async with self._connecting:
            if self._writer is None:
                reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
                self._reading = asyncio.create_task(self._read(reader))
        asked = next(self._ids)
        answer = self._asked[asked] = asyncio.get_running_loop().create_future()
        self._writer.write(_line(asked, job, fence, what))
        try:
            return _judged(await answer)
        finally:
            del self._asked[asked]

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            answer = json.loads(line)
            waiting = self._asked.get(answer["id"])
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)

    def effect_from_thread(self, job: str, fence: int, what: str) -> int:
        """As `effect`, over a connection of its own."""
        with socket.create_connection(("127.0.0.1", self._port)) as connection, connection.makefile("rb") as answers:
            connection.sendall(_line(0, job, fence, what))
            return _judged(json.loads(answers.readline()))


def _line(number: int, job: str, fence: int, what: str) -> bytes:
    return json.dumps({"id": number, "job": job, "fence": fence, "what": what}).encode() + b"\n"


def _judged(answer: dict[str, Any]) -> int:
    if not answer["accepted"]:
        raise StaleFenceError
    return answer["snoozes"]
