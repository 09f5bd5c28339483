"""What a handler reports: joined to at most 20 updates a second, the last one never lost."""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from facts import eventually
from jsjobs.handlers.context import JobContext
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.progress import INTERVAL, ProgressSender, Reporter
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.tracking.lookup import Lookup
from jsjobs.model.errors import MAX_ERROR_BYTES
from jsjobs.model.job import JobStatusResponse, Priority, Status, utc_now

ENDED = JobStatusResponse(job_id="high-7", status=Status.QUEUED, type="t").started(utc_now(), "w").completed(utc_now())


@pytest.fixture
async def sender(connection: Connection, names: Names) -> ProgressSender:
    return ProgressSender(connection, names)


async def kept(connection: Connection, names: Names, state: StateStore) -> list[str | None]:
    await connection.flush()
    await state.write(ENDED, expected=0)
    return [update.message async for update in Lookup(connection, names, state).progress("high-7")]


async def test_a_chatty_handler_is_joined_and_its_last_report_kept(
    sender: ProgressSender, connection: Connection, names: Names, state: StateStore
) -> None:
    reporter = Reporter(sender, "high-7")
    for number in range(1001):
        reporter.report(number / 10, f"{number}")
    await asyncio.to_thread(reporter.report, 100, "from a thread")
    await asyncio.sleep(0)
    reporter.close()
    reporter.report(0, "after the end")
    messages = await kept(connection, names, state)
    assert messages[0] == "0"
    assert messages[-1] == "from a thread"
    assert len(messages) <= 6


@pytest.mark.parametrize("in_thread", [False, True])
async def test_reports_wake_the_loop_at_most_20_times_a_second(
    sender: ProgressSender,
    connection: Connection,
    names: Names,
    state: StateStore,
    monkeypatch: pytest.MonkeyPatch,
    in_thread: bool,
) -> None:
    reporter, woken, wake = Reporter(sender, "high-7"), [], sender.wake
    monkeypatch.setattr(sender, "wake", lambda reporter: (woken.append(time.monotonic()), wake(reporter)))

    def report_for_half_a_second() -> int:
        end, number = time.monotonic() + 0.5, 0
        while time.monotonic() < end:
            number += 1
            reporter.report(50, f"{number}")
        return number

    begun = time.monotonic()
    if in_thread:
        count = await asyncio.to_thread(report_for_half_a_second)
    else:
        count = 0
        for _ in range(10):
            end = time.monotonic() + 0.05
            while time.monotonic() < end:
                count += 1
                reporter.report(50, f"{count}")
            await asyncio.sleep(0)
    took = time.monotonic() - begun
    reporter.close()
    messages = await kept(connection, names, state)
    assert count > 10 * len(messages), "or nothing was joined"
    assert messages[-1] == f"{count}"
    assert 2 <= len(messages) <= took / INTERVAL + 3
    assert len(woken) <= took / INTERVAL + 3


class Interrupted(Reporter):
    """A thread reports in the very moment in which the loop finds that nothing was reported."""

    __slots__ = ("between",)

    def __init__(self, sender: ProgressSender, job_id: str) -> None:
        self.between: Callable[[], None] | None = None
        super().__init__(sender, job_id)

    @property
    def latest(self) -> Any:
        found = Reporter.latest.__get__(self)
        between = self.between
        if found is None and between is not None:
            self.between = None
            between()
        return found

    @latest.setter
    def latest(self, value: Any) -> None:
        Reporter.latest.__set__(self, value)


async def test_a_report_in_the_moment_of_the_loops_last_look_is_sent(
    sender: ProgressSender, connection: Connection, names: Names, state: StateStore
) -> None:
    reporter = Interrupted(sender, "high-7")
    reporter.report(1, "first")

    def report() -> None:
        thread = threading.Thread(target=reporter.report, args=(2, "in between"))
        thread.start()
        thread.join()

    reporter.between = report
    await eventually(lambda: reporter.between is None and not reporter.is_awake)
    assert await kept(connection, names, state) == ["first", "in between"]


async def test_a_report_made_while_the_loop_looks_is_not_left_behind(
    sender: ProgressSender, connection: Connection, names: Names, state: StateStore
) -> None:
    reporter = Reporter(sender, "high-7")
    for number in range(3):
        await asyncio.to_thread(reporter.report, number, f"{number}")
        # Sent without a close.
        await eventually(lambda: not reporter.is_awake)
    assert await kept(connection, names, state) == ["0", "1", "2"]


async def test_a_message_is_clipped_and_cleaned(
    sender: ProgressSender, connection: Connection, names: Names, state: StateStore
) -> None:
    reporter = Reporter(sender, "high-7")
    reporter.report(1, "\ud800\x00" + "x" * 10_000)
    reporter.close()
    [message] = await kept(connection, names, state)
    assert message is not None
    assert message.startswith("??xxx")
    assert len(message.encode()) <= MAX_ERROR_BYTES


def context(reports: list[float]) -> JobContext:
    made = JobContext(job_id="high-7", type="t", priority=Priority.HIGH, shard=0, attempt=1, fence=1)
    made.reporter = lambda pct, _: reports.append(pct)
    return made


@pytest.mark.parametrize(
    "pct", [math.nan, math.inf, -math.inf, -0.001, 100.001, 10**400, Decimal("NaN")], ids=lambda pct: f"{pct!s:.9}"
)
def test_a_percentage_that_is_none_is_a_value_error(pct: float) -> None:
    reports: list[float] = []
    with pytest.raises(ValueError, match="0 to 100 percent"):
        context(reports).report_progress(pct)
    assert reports == []


@pytest.mark.parametrize("pct", ["50", b"50", None, [50], object(), 1j])
def test_what_is_no_number_is_a_type_error(pct: object) -> None:
    with pytest.raises(TypeError, match=f"a number from 0 to 100, not {type(pct).__name__}"):
        context([]).report_progress(pct)


@pytest.mark.parametrize("message", [b"x", 5, ["x"]])
def test_a_message_that_is_no_text_is_a_type_error(message: object) -> None:
    with pytest.raises(TypeError, match=f"must be a string, not {type(message).__name__}"):
        context([]).report_progress(5, message)


async def test_any_real_number_is_taken_and_a_report_may_be_awaited_or_not() -> None:
    reports: list[float] = []
    made = context(reports)
    for pct in (0, 100, 0.5, Decimal("12.5"), Fraction(1, 4)):
        made.report_progress(pct)
    await made.report_progress(7, "seven")
    assert reports == [0.0, 100.0, 0.5, 12.5, 0.25, 7.0]
