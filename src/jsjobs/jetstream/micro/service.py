"""A NATS micro service on our connection, which the tools of every NATS client can find, query and count.

The protocol's types are nats-py's. Its own service is not used: it awaits one request after the other, drops deliveries
not yet begun when it stops, and answers on whatever subject a stranger names, which may be that of a queue.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple, Self

from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionLost, TooLarge
from jsjobs.jetstream.client.interface import Receiver
from jsjobs.jetstream.client.micro_forms import (
    DEFAULT_QUEUE_GROUP,
    ERROR_CODE_HEADER,
    ERROR_HEADER,
    NUID,
    EndpointInfo,
    EndpointStats,
    ServiceConfig,
    ServiceInfo,
    ServicePing,
    ServiceStats,
    ServiceVerb,
    control_subject,
)
from jsjobs.jetstream.micro.admission import Admission
from jsjobs.jetstream.protocol.headers import header_block
from jsjobs.jetstream.protocol.names import may_be_answered
from jsjobs.model.checks import shortened
from jsjobs.model.errors import JobError, Reason
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.service")

LONGEST = 3600
"""Maximum seconds to serve a request: its requester may be gone, which nobody reports."""
_MOST_TEXT = 1000
_FLUSH_WITHIN = 2
_LAST_WORDS = 1.0
"""Seconds for requests that were cut short to say so."""


class Discovery:
    """One service instance, its endpoints and their counts.

    Args:
        name: The name of the service, which all its instances share.
        version: A semantic version.
        description: A description for people.

    Raises:
        ValueError: If NATS does not take the name or version.
    """

    def __init__(self, name: str, version: str, description: str) -> None:
        self._about = ServiceConfig(name=name, version=version, description=description)
        self._id = NUID().next().decode()
        self._infos: list[EndpointInfo] = []
        self._stats: list[EndpointStats] = []
        self._started = datetime.now(UTC)

    def add(self, name: str, subject: str, metadata: dict[str, str]) -> EndpointStats:
        """Add an endpoint, and return the counts that whoever serves it must update."""
        self._infos.append(EndpointInfo(name, subject, DEFAULT_QUEUE_GROUP, metadata))
        self._stats.append(EndpointStats(name, subject, DEFAULT_QUEUE_GROUP, 0, 0, 0, 0))
        return self._stats[-1]

    @property
    def subjects(self) -> Iterator[tuple[str, ServiceVerb]]:
        """Yield the subjects for discovery with their verbs: for all services, for this name, and for this instance."""
        for verb in ServiceVerb:
            for name, instance in ((None, None), (self._about.name, None), (self._about.name, self._id)):
                yield control_subject(verb, name, instance), verb

    def told(self, verb: ServiceVerb) -> bytes:
        """Return the answer to a discovery request."""
        name, version, metadata = self._about.name, self._about.version, dict[str, str]()
        told: ServicePing | ServiceInfo | ServiceStats
        if verb is ServiceVerb.PING:
            told = ServicePing(self._id, name, version, metadata)
        elif verb is ServiceVerb.INFO:
            told = ServiceInfo(name, self._id, version, self._about.description, self._infos, metadata)
        else:
            told = ServiceStats(self._id, name, version, self._started, self._stats, metadata)
        return json.dumps(told.to_dict()).encode()


class ServiceRequest(NamedTuple):
    """A request as it arrived; none of it is validated."""

    subject: str
    header: bytes
    """The raw header block; empty if there is none."""
    body: bytes


class Refused(Exception):  # noqa: N818 - reads as what happened
    """The refusal of a request, sent instead of an answer.

    Args:
        code: 400, 404, 409, 429 or 503.
        reason: One of the reasons of jsjobs.
        message: The problem, in words.
    """

    def __init__(self, code: int, reason: Reason, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint of a service."""

    name: str
    subject: str
    serve: Callable[[ServiceRequest], AsyncGenerator[bytes, None]]
    """Yields the answers; raises `Refused`."""
    most_bytes: int
    """Size limit for a request, headers included."""
    metadata: dict[str, str] = field(default_factory=dict)
    is_intake: bool = False
    """Whether its requests may be many and large: they then arrive on a separate connection, if there is one."""


class MicroService:
    """One instance of a service, used as an async context manager. Instances share the requests.

    Args:
        connection: A connection that is up.
        intake: Further connections for the endpoints whose requests may be too much for one. They share those requests.
            Without any, all requests arrive on the first connection.
        name: The name of the service. Subjects that begin with it are its own, and are never answered to.
        version: A semantic version.
        description: A description for people.
        endpoints: The endpoints to serve.
        grace: Seconds that requests in progress have at the end.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        name: str,
        version: str,
        description: str,
        endpoints: list[Endpoint],
        grace: float,
        intake: Sequence[Connection] = (),
    ) -> None:
        self._first = Admission([connection])
        self._intake = Admission(intake) if intake else self._first
        self._endpoints = endpoints
        self._discovery = Discovery(name, version, description)
        self._stats = {each.name: self._discovery.add(each.name, each.subject, each.metadata) for each in endpoints}
        self._tasks: dict[str, set[asyncio.Task[None]]] = {each.name: set() for each in endpoints}
        self._name = name
        self._grace = grace
        self._subscriptions: list[tuple[Connection, int]] = []
        self._leaving: asyncio.Task[None] | None = None
        self._until = 0.0

    # -- start and stop

    async def __aenter__(self) -> Self:
        try:
            for endpoint in self._endpoints:
                take = partial(self._take, endpoint)
                await self._subscribe(self._at(endpoint), endpoint.subject, take, queue=DEFAULT_QUEUE_GROUP)
            for subject, verb in self._discovery.subjects:
                await self._subscribe(self._first, subject, partial(self._tell, verb))
            for each in {*self._first.connections, *self._intake.connections}:
                with suppress(ConnectionLost):  # an outage: they are restored once it is over
                    await each.flush(timeout=_FLUSH_WITHIN)
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop_taking()
        assert self._leaving is not None
        await self._leaving
        if tasks := self._under_way():
            await asyncio.wait(tasks, timeout=max(0.0, self._until - time.monotonic()))
        self.stop_now()
        if tasks := self._under_way():
            await asyncio.wait(tasks, timeout=_LAST_WORDS)

    def stop_taking(self) -> None:
        """Take no more requests; the grace time of those in progress begins now."""
        if self._leaving is None:
            self._until = time.monotonic() + self._grace
            self._leaving = asyncio.ensure_future(self._leave())

    def stop_now(self) -> None:
        """Cancel the requests in progress; the requesters are told."""
        for task in self._under_way():
            task.cancel()

    @property
    def requests(self) -> int:
        """Return the number of requests in progress."""
        return len(self._under_way())

    def _under_way(self) -> list[asyncio.Task[None]]:
        return [task for tasks in self._tasks.values() for task in tasks]

    def _at(self, endpoint: Endpoint) -> Admission:
        return self._intake if endpoint.is_intake else self._first

    async def _subscribe(self, at: Admission, subject: str, take: Receiver, queue: str = "") -> None:
        for connection in at.connections:
            number = await connection.receive(subject.encode(), take, queue=queue)
            self._subscriptions.append((connection, number))

    async def _leave(self) -> None:
        # Requests that the server delivered before are still taken.
        await asyncio.gather(*(connection.stop_receiving(number) for connection, number in self._subscriptions))
        self._subscriptions.clear()

    # -- requests

    def _take(self, endpoint: Endpoint, subject: bytes, reply: bytes, header: bytes, body: bytes) -> None:
        stats, tasks = self._stats[endpoint.name], self._tasks[endpoint.name]
        stats.num_requests += 1
        if not may_be_answered(reply, self._name):
            # Nobody could learn its outcome.
            self._count_error(stats, "no reply subject, or one that may not be answered")
            return
        size, at = len(header) + len(body), self._at(endpoint)
        if size > endpoint.most_bytes:
            text = f"the request is {size} bytes, the limit of {endpoint.name} is {endpoint.most_bytes}"
            self._refuse(endpoint, reply, Refused(400, Reason.VALIDATION, text))
            return
        request = ServiceRequest(subject.decode("utf-8", "backslashreplace"), header, body)
        many = "*" in endpoint.subject
        busy = at.refusal(request.subject, size, under_way=len(tasks), is_one_of_many=many)
        if busy is not None:
            what = busy or f"{len(tasks)} requests to {endpoint.name}"
            text = f"busy: {what} are in progress here, try again"
            self._refuse(endpoint, reply, Refused(503, Reason.RUNNER_UNAVAILABLE, text))
            return
        at.begin(request.subject, size)
        task = asyncio.ensure_future(self._serve(endpoint, request, reply))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _: at.end(request.subject, size))

    async def _serve(self, endpoint: Endpoint, request: ServiceRequest, reply: bytes) -> None:
        stats = self._stats[endpoint.name]
        began = time.perf_counter_ns()
        try:
            if endpoint.is_intake:
                await self._intake.turn(len(request.header) + len(request.body))
            await self._answer_all(endpoint.serve(request), reply)
        except Refused as refused:
            self._refuse(endpoint, reply, refused)
        except asyncio.CancelledError:
            text = "this instance is stopping, try again; the request may still have been carried out"
            self._refuse(endpoint, reply, Refused(503, Reason.RUNNER_UNAVAILABLE, text))
            raise
        except Exception:
            logger.exception("a request to %s failed unexpectedly", endpoint.name)
            text = "the request failed unexpectedly; the log of the service says why"
            self._refuse(endpoint, reply, Refused(503, Reason.RUNNER_UNAVAILABLE, text))
        finally:
            stats.processing_time += time.perf_counter_ns() - began
            stats.average_processing_time = stats.processing_time // stats.num_requests

    async def _answer_all(self, answers: AsyncGenerator[bytes, None], reply: bytes) -> None:
        bound = asyncio.timeout(LONGEST)
        try:
            async with bound, aclosing(answers):
                async for answer in answers:
                    await self._answer(reply, answer)
        except TimeoutError:
            if not bound.expired():
                raise
            raise Refused(503, Reason.TIMEOUT, f"not done within {LONGEST} s: try again") from None

    async def _answer(self, reply: bytes, body: bytes) -> None:
        connection = self._first.connections[0]  # it is up even if a flood cut the one that the request came on
        try:
            await connection.when_up()
            await connection.room()
            connection.post(reply, body)
        except TooLarge:
            raise Refused(503, Reason.RUNNER_UNAVAILABLE, "the answer is too large for one message") from None
        except JobError as error:
            # An outage: the requester notices it by itself.
            raise Refused(503, Reason.RUNNER_UNAVAILABLE, f"the answer could not be sent: {error.message}") from None

    def _refuse(self, endpoint: Endpoint, reply: bytes, refused: Refused) -> None:
        text = one_line(str(refused))
        # Anybody may ask for these counts, and not all of them may know what went wrong in whose job.
        self._count_error(self._stats[endpoint.name], f"{refused.code}: {refused.reason}")
        header = header_block({ERROR_HEADER: text, ERROR_CODE_HEADER: str(refused.code)})
        try:
            self._first.connections[0].post(reply, header=header)
        except JobError as error:
            logger.debug("a refusal could not be sent: %s (%s)", text, error)

    @staticmethod
    def _count_error(stats: EndpointStats, text: str) -> None:
        stats.num_errors += 1
        stats.last_error = text

    def _tell(self, verb: ServiceVerb, _subject: bytes, reply: bytes, _header: bytes, _body: bytes) -> None:
        if may_be_answered(reply, self._name):
            try:
                self._first.connections[0].post(reply, self._discovery.told(verb))
            except JobError as error:
                logger.debug("a request for discovery was not answered: %s", error)


def one_line(text: str) -> str:
    """Return the text as a header value: one printable line of at most 1,000 characters."""
    line = "".join(char if char.isprintable() else " " for char in " ".join(text.split()))
    return shortened(line, _MOST_TEXT)
