"""Who waits for an answer is told something, whatever becomes of its connection."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from facts import eventually
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionClosed, ConnectionLost, TooLarge, Unanswered
from jsjobs.jetstream.client.requests import Answers


@pytest.fixture
async def answers() -> AsyncIterator[Answers]:
    answers = Answers()
    sweeping = asyncio.ensure_future(answers.sweep())
    yield answers
    sweeping.cancel()


async def test_a_question_that_cannot_be_asked_again_costs_nobody_elses_time_limit(answers: Answers) -> None:
    asked: list[bytes] = []

    def again(reply: bytes) -> None:
        asked.append(reply)
        raise TooLarge(2000, 1000)  # as by a server that takes less than the one before

    _, large = answers.expect(b"a", 3, once=False, again=again)
    await eventually(lambda: asked)
    _, other = answers.expect(b"b", 0.1, once=False)
    async with asyncio.timeout(10):
        for waiting in (other, large):
            with pytest.raises(Unanswered):
                await waiting


async def test_whoever_cancels_all_tasks_leaves_nobody_waiting(connection: Connection, namespace: str) -> None:
    await connection.receive(namespace.encode(), lambda *_: None)
    waiting = connection.ask_soon(namespace.encode(), timeout=3600)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        if task.get_coro().__qualname__.startswith("Answers."):
            task.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionLost):
            await waiting
        for ask in (connection.ask, connection.ask_soon):
            with pytest.raises(ConnectionClosed):
                await ask(namespace.encode())
