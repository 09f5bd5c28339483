"""When a follower reads: at once, after hints, now and then, never twice at a time, and not once it is closed."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from facts import eventually, subscriptions
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionClosed, ConnectionLost, NoResponders
from jsjobs.jetstream.tracking.follower import Follower
from jsjobs.model.errors import JobError


class Thing:
    """What is followed: counts its reads, and fails as it is told."""

    def __init__(self) -> None:
        self.reads = 0
        self.due = 0
        self.error: JobError | None = None
        self.during: Callable[[], Any] = lambda: None

    async def read(self) -> int:
        self.reads += 1
        self.during()
        if self.error is not None:
            raise self.error
        return self.reads

    def on_due(self) -> None:
        self.due += 1


@pytest.fixture
def thing() -> Thing:
    return Thing()


async def test_a_hint_is_followed_by_five_reads(connection: Connection, thing: Thing) -> None:
    follower = Follower(connection, thing.read, thing.on_due)
    follower.hint()
    assert follower.is_hinted
    while follower.is_hinted:
        await eventually(lambda: follower.is_due)
        await follower.read()
    await eventually(lambda: follower.is_due)
    assert await follower.read() == 5
    assert not follower.is_due


async def test_what_is_hinted_while_it_is_read_is_read_once_more(connection: Connection, thing: Thing) -> None:
    follower = Follower(connection, thing.read, thing.on_due)
    follower.read_soon()
    follower.read_soon()
    assert thing.due == 1
    thing.during = lambda: (follower.read_soon(), follower.read_soon())
    await follower.read()
    assert (follower.is_due, thing.due) == (True, 2)
    thing.during = lambda: None
    await follower.read()
    assert (follower.is_due, thing.due) == (False, 2)


async def test_pauses_grow_and_begin_anew(
    connection: Connection, thing: Thing, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda pause, wake: pauses.append(pause) or loop.call_soon(wake))
    follower = Follower(connection, thing.read, thing.on_due, pauses=(1, 2, 3))
    follower.read_soon()
    for _ in range(4):
        await follower.read()
    follower.read_soon()
    await follower.read()
    monkeypatch.undo()
    assert pauses == [1, 2, 3, 3, 1]
    await follower.close()


async def test_a_closed_one_is_never_due(connection: Connection, thing: Thing) -> None:
    follower = Follower(connection, thing.read, thing.on_due, pauses=(0,))
    await follower.listen(b"hints")
    await follower.listen(b"hints")
    assert subscriptions(connection) == 2
    connection.post(b"hints", b"")
    await eventually(lambda: follower.is_due)
    thing.during = lambda: asyncio.ensure_future(follower.close())
    await follower.read()
    await eventually(lambda: subscriptions(connection) == 1)
    follower.hint()
    follower.read_soon()
    assert (follower.is_due, thing.due) == (False, 1)


async def test_only_hints_that_may_tell_something_are_read(connection: Connection, thing: Thing) -> None:
    follower = Follower(connection, thing.read, thing.on_due)
    heard: list[bytes] = []

    def may_tell(data: bytes) -> bool:
        heard.append(data)
        return data == b"yes"

    await follower.listen(b"hints", may_tell)
    connection.post(b"hints", b"no")
    await eventually(lambda: heard)
    assert not follower.is_due
    connection.post(b"hints", b"yes")
    await eventually(lambda: follower.is_due)
    await follower.close()


LOST, CLOSED, NOBODY = ConnectionLost("no answer"), ConnectionClosed(), NoResponders("no streams")
UNKNOWN = JobError.from_not_found("no such job")


@pytest.mark.parametrize(
    ("error", "options", "at_first", "later"),
    [
        (LOST, {}, False, True),
        (LOST, {"waits_for_server": True}, True, True),
        (LOST, {"waits_for_server": True, "deadline": 0.0}, False, False),
        (NOBODY, {"waits_for_server": True}, False, True),
        (CLOSED, {"waits_for_server": True}, False, False),
        (UNKNOWN, {"waits_for_server": True}, False, False),
    ],
)
async def test_which_failures_are_waited_out(
    connection: Connection, thing: Thing, error: JobError, options: dict[str, Any], at_first: bool, later: bool
) -> None:
    async def is_waited_out() -> bool:
        thing.error = error
        try:
            return await follower.read() is None
        except JobError:
            return False
        finally:
            thing.error = None

    follower = Follower(connection, thing.read, thing.on_due, **options)
    assert await is_waited_out() is at_first
    assert await follower.read()
    assert await is_waited_out() is later
