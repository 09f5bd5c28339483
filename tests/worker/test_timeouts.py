import asyncio
import time

from facts import eventually
from jsjobs.worker.timeouts import TimeLimits


class Handler:
    def __init__(self, told: list[tuple[str, float]], name: str) -> None:
        self.told, self.name = told, name

    def time_is_up(self) -> None:
        self.told.append((self.name, time.monotonic()))


async def test_each_is_told_once_when_its_time_is_up_and_not_before() -> None:
    limits, told = TimeLimits(), list[tuple[str, float]]()
    begun = time.monotonic()
    for name, seconds in (("long", 60), ("third", 0.3), ("first", 0.1), ("second", 0.2)):
        limits.begin(Handler(told, name), seconds)
    await eventually(lambda: len(told) == 3)
    assert [name for name, _ in told] == ["first", "second", "third"]
    for (_, at), seconds in zip(told, (0.1, 0.2, 0.3), strict=True):
        assert at - begun >= seconds - 0.01
    limits.close()


async def test_who_has_ended_is_not_told_and_a_later_one_is() -> None:
    limits, told = TimeLimits(), list[tuple[str, float]]()
    ended = Handler(told, "ended")
    limits.begin(ended, 0.05)
    limits.end(ended)
    limits.end(ended)
    limits.begin(Handler(told, "later"), 0.1)
    await eventually(lambda: told)
    limits.begin(Handler(told, "after all were told"), 0.01)
    await eventually(lambda: len(told) == 2)
    assert [name for name, _ in told] == ["later", "after all were told"]


async def test_a_closed_one_tells_nobody() -> None:
    limits, told = TimeLimits(), list[tuple[str, float]]()
    limits.begin(Handler(told, "x"), 0.01)
    limits.close()
    await asyncio.sleep(0.05)
    assert told == []
