"""A cancellation that comes just before a time limit begins ends what waits, though the time is over first."""

import asyncio
import time
from collections.abc import Callable

import pytest
import uvloop

from jsjobs.cancellation import at_most


async def on_a_busy_machine() -> None:
    """Wait for ever, and get no time from the machine before that."""
    time.sleep(0.01)  # noqa: ASYNC251 - that is the point
    await asyncio.Event().wait()


async def waits() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()  # as Ctrl-C does between two waits
    while True:
        await at_most(0.001, on_a_busy_machine())


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_loop_of_short_waits_ends(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def bounded() -> None:
        working = asyncio.ensure_future(waits())
        _, late = await asyncio.wait([working], timeout=5)
        working.cancel()
        assert not late, "it went on"
        assert working.cancelled()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(bounded())
