"""What passes between workers and their server, watched and touched on the way."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.parser import Receiver
from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.jetstream.protocol.names import Names, Shard
from jsjobs.worker.job_run import JobRun
from jsjobs.worker.runner import JobRunner

RENEWAL = b"+WPI"


class Answer(NamedTuple):
    """An acknowledgement, a NAK or a TERM, as it is about to be sent."""

    connection: Connection
    attempt: int
    """How often the message had been delivered."""
    data: bytes


def watch_answers(monkeypatch: pytest.MonkeyPatch, look: Callable[[Answer], object]) -> None:
    """Call `look` with each answer; where it returns False, the answer is lost."""
    send = Delivery.answer

    def answering(delivery: Delivery, data: bytes) -> None:
        # One that is lost is not sent anyway.
        if delivery.lost or look(Answer(delivery.connection, delivery.attempt, data)) is not False:
            send(delivery, data)

    monkeypatch.setattr(Delivery, "answer", answering)


def recorded_answers(monkeypatch: pytest.MonkeyPatch) -> list[Answer]:
    """Whatever is answered from now on."""
    answers: list[Answer] = []
    watch_answers(monkeypatch, answers.append)
    return answers


def begun_runs(monkeypatch: pytest.MonkeyPatch) -> list[JobRun]:
    """The runs that workers begin from now on, in that order; one that snoozed comes again."""
    begun: list[JobRun] = []
    run = JobRunner.run

    async def noted(self: JobRunner, one: JobRun) -> None:
        begun.append(one)
        await run(self, one)

    monkeypatch.setattr(JobRunner, "run", noted)
    return begun


class Ear:
    """What a connection calls with the messages on one subject; something else can hear them in its place."""

    def __init__(self, connection: Connection, subject: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        """Begin before somebody listens there."""
        self.instead: Receiver | None = None
        receive = connection.receive

        async def receiving(about: bytes, receiver: Receiver, *, queue: str = "") -> int:
            def hear(*message: bytes) -> None:
                (self.instead or receiver)(*message)

            return await receive(about, hear if about == subject else receiver, queue=queue)

        monkeypatch.setattr(connection, "receive", receiving)


class Deliveries:
    """What a worker listens to: a shard can be taken from it, and a delivery given to it once more."""

    def __init__(self, connection: Connection, names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
        """Begin before the worker does."""
        self._connection = connection
        self._names = names
        self._heard: dict[bytes, tuple[int, Receiver]] = {}
        self._ended: set[int] = set()
        receive, listen, stop_receiving = connection.receive, connection.listen, connection.stop_receiving

        async def receiving(subject: bytes, receiver: Receiver, *, queue: str = "") -> int:
            sid = await receive(subject, receiver, queue=queue)
            self._heard[subject] = sid, receiver
            return sid

        def listening(subject: bytes, receiver: Receiver, *, queue: str = "") -> int:
            sid = listen(subject, receiver, queue=queue)
            self._heard[subject] = sid, receiver
            return sid

        async def stopping(sid: int, **how: bool) -> None:
            self._ended.add(sid)
            await stop_receiving(sid, **how)

        monkeypatch.setattr(connection, "receive", receiving)
        monkeypatch.setattr(connection, "listen", listening)
        monkeypatch.setattr(connection, "stop_receiving", stopping)

    async def end(self, consumer: str) -> None:
        """Let no delivery of the shard reach the worker any more, which does not know."""
        await self._connection.stop_receiving(self._of(consumer)[0])

    def have_ended(self, consumer: str) -> bool:
        """Whether the worker listens to the shard no more."""
        return self._of(consumer)[0] in self._ended

    def give(self, consumer: str, subject: bytes, reply: bytes, header: bytes, data: bytes) -> None:
        """Give the worker a delivery of the shard, as if the server had sent it."""
        self._of(consumer)[1](subject, reply, header, data)

    def repeat(self, delivery: Delivery, reply: bytes | None = None) -> None:
        """Give the worker what it was delivered once more, with the same number or another."""
        consumer = delivery.reply.split(b".")[3].decode()
        self.give(consumer, delivery.subject, reply or delivery.reply, delivery.header, delivery.data)

    def _of(self, consumer: str) -> tuple[int, Receiver]:
        shard = Shard.of(consumer)
        assert shard is not None, consumer
        return self._heard[self._names.deliver(shard).encode()]
