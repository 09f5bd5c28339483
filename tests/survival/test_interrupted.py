import asyncio
import os
import signal

import pytest

from survival.interrupted import run_until_told


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_end_ends_what_it_began(told: signal.Signals) -> None:
    ended: list[str] = []

    async def work() -> str:
        try:
            os.kill(os.getpid(), told)
            await asyncio.sleep(30)
        finally:
            ended.append("what was started")
        return "done"

    assert run_until_told(work()) is None
    assert ended == ["what was started"]


def test_a_run_that_nobody_ends_gives_its_result() -> None:
    assert run_until_told(asyncio.sleep(0, "done")) == "done"
