"""A NATS micro service on our connection: found, asked and counted by the tools that every NATS client has.

The protocol's forms are nats-py's. Its own service is not used: it awaits one request after the other, drops at its
stop what was delivered and not begun, and answers on whatever subject a stranger names, which may be that of a queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Self

from nats.errors import Error as NatsError
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER
from nats.micro.service import DEFAULT_QUEUE_GROUP, EndpointStats, ServiceVerb

from jsjobs.jetstream.admission import Admission
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.discovery import Discovery
from jsjobs.jetstream.errors import TooLarge
from jsjobs.jetstream.parser import Receiver
from jsjobs.jetstream.subjects import may_be_answered
from jsjobs.jetstream.wire import header_block
from jsjobs.model.checks import shortened
from jsjobs.model.errors import JobError, Reason
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.service")

LONGEST = 3600
"""Seconds that a request is served, at most: its requester may have gone, which nobody tells."""
_MOST_TEXT = 1000
_FLUSH_WITHIN = 2
_LAST_WORDS = 1.0
"""Seconds for requests that were cut short to say so."""


class ServiceRequest(NamedTuple):
    """A request as it came; all of it may be anything."""

    subject: str
    header: bytes
    """The raw header block, empty where there is none."""
    body: bytes


class Refused(Exception):  # noqa: N818 - reads as what happened
    """What a request ends in instead of an answer.

    Args:
        code: 400, 404, 409, 429 or 503.
        reason: Why, as one of the reasons of jsjobs.
        message: What was wrong.
    """

    def __init__(self, code: int, reason: Reason, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What can be asked."""

    name: str
    subject: str
    serve: Callable[[ServiceRequest], AsyncGenerator[bytes, None]]
    """Gives the answers; raises `Refused`."""
    most_bytes: int
    """The largest request, its headers included."""
    metadata: dict[str, str] = field(default_factory=dict)
    is_intake: bool = False
    """Whether its requests may be many and large: they come on a connection apart, where there is one."""


class MicroService:
    """One instance of a service; use it as an async context manager. Instances share the requests.

    Args:
        connection: One that stands.
        intake: Others, which share what comes for the endpoints whose requests may be too much for one; none: all come
            on the first.
        name: Of the service; what begins with it is its own, and never answered to.
        version: A semantic version.
        description: For people.
        endpoints: What can be asked.
        grace: Seconds that requests under way have at its end.
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
                with suppress(TimeoutError, NatsError, OSError):  # an outage: they stand once it is over
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
        """Take no more requests; those under way have the grace time from now on."""
        if self._leaving is None:
            self._until = time.monotonic() + self._grace
            self._leaving = asyncio.ensure_future(self._leave())

    def stop_now(self) -> None:
        """Cut short what is under way; the requesters are told so."""
        for task in self._under_way():
            task.cancel()

    @property
    def requests(self) -> int:
        """Requests under way."""
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
        # What the server had delivered by then is still taken.
        await asyncio.gather(*(connection.stop_receiving(number) for connection, number in self._subscriptions))
        self._subscriptions.clear()

    # -- requests

    def _take(self, endpoint: Endpoint, subject: bytes, reply: bytes, header: bytes, body: bytes) -> None:
        stats, tasks = self._stats[endpoint.name], self._tasks[endpoint.name]
        stats.num_requests += 1
        if not may_be_answered(reply, self._name):
            # Nobody could learn what became of it.
            self._count_error(stats, "no reply subject, or one that is not answered to")
            return
        size, at = len(header) + len(body), self._at(endpoint)
        if size > endpoint.most_bytes:
            text = f"the request is {size} bytes, {endpoint.name} takes {endpoint.most_bytes}"
            self._refuse(endpoint, reply, Refused(400, Reason.VALIDATION, text))
            return
        request = ServiceRequest(subject.decode("utf-8", "backslashreplace"), header, body)
        many = "*" in endpoint.subject
        busy = at.refusal(request.subject, size, under_way=len(tasks), is_one_of_many=many)
        if busy is not None:
            what = busy or f"{len(tasks)} requests to {endpoint.name}"
            text = f"busy: {what} are under way here, ask again"
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
            text = "this instance stops, ask again; what was asked for may yet have been done"
            self._refuse(endpoint, reply, Refused(503, Reason.RUNNER_UNAVAILABLE, text))
            raise
        except Exception:
            logger.exception("a request to %s failed in an unexpected way", endpoint.name)
            text = "the request failed in an unexpected way; the log of the service says more"
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
            raise Refused(503, Reason.TIMEOUT, f"not done within {LONGEST} s: ask again") from None

    async def _answer(self, reply: bytes, body: bytes) -> None:
        connection = self._first.connections[0]  # it stands also where a flood cut the one that the request came on
        try:
            await connection.when_up()
            await connection.room()
            connection.post(reply, body)
        except TooLarge:
            raise Refused(503, Reason.RUNNER_UNAVAILABLE, "the answer is too large for one message") from None
        except JobError as error:
            # An outage: the requester hears of it by itself.
            raise Refused(503, Reason.RUNNER_UNAVAILABLE, f"the answer could not be sent: {error.message}") from None

    def _refuse(self, endpoint: Endpoint, reply: bytes, refused: Refused) -> None:
        text = one_line(str(refused))
        # Anybody may ask for these counts: what went wrong in whose job is not for all of them.
        self._count_error(self._stats[endpoint.name], f"{refused.code}: {refused.reason}")
        header = header_block({ERROR_HEADER: text, ERROR_CODE_HEADER: str(refused.code)})
        try:
            self._first.connections[0].post(reply, header=header)
        except JobError as error:
            logger.debug("a requester could not be told: %s (%s)", text, error)

    @staticmethod
    def _count_error(stats: EndpointStats, text: str) -> None:
        stats.num_errors += 1
        stats.last_error = text

    def _tell(self, verb: ServiceVerb, _subject: bytes, reply: bytes, _header: bytes, _body: bytes) -> None:
        if may_be_answered(reply, self._name):
            try:
                self._first.connections[0].post(reply, self._discovery.told(verb))
            except JobError as error:
                logger.debug("a look for services was not answered: %s", error)


def one_line(text: str) -> str:
    """The text as the value of a header: one printable line of at most 1,000 characters."""
    line = "".join(char if char.isprintable() else " " for char in " ".join(text.split()))
    return shortened(line, _MOST_TEXT)
