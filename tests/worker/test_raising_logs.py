"""What an application's logging does, no job waits for."""

import io
import logging
import sys
from collections.abc import Iterator

import pytest

from jsjobs import JobService
from jsjobs.safe_log import get_logger


class RaisingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("the collector is away")


class ExitingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise SystemExit(1)


class RaisingFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise KeyError("request")


@pytest.fixture(params=["handler", "exits", "filter", "closed"])
def raising(request: pytest.FixtureRequest) -> Iterator[logging.Logger]:
    logger = logging.getLogger("jsjobs")
    before = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    closed = io.StringIO()
    closed.close()
    handlers = {"handler": RaisingHandler, "exits": ExitingHandler}
    handler = handlers.get(request.param, lambda: logging.StreamHandler(closed))()
    if request.param == "filter":
        handler.addFilter(RaisingFilter())
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)
    logger.level, logger.propagate = before


async def test_jobs_are_settled_all_the_same(
    raising: logging.Logger, jobs: JobService, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)  # logging tells of its own failures there
    with pytest.raises((OSError, KeyError, ValueError, SystemExit)):
        raising.warning("this test can fail")

    @jobs.handler("flaky")
    async def flaky(payload: object, ctx: JobService.Context) -> int:
        if ctx.attempt == 1:
            raise RuntimeError("once")
        return ctx.attempt

    @jobs.handler("dies")
    async def dies(payload: object) -> None:
        raise JobService.Error.from_validation("never")

    async with jobs.worker():
        flaky_id, dead_id = await jobs.submit("flaky", 1), await jobs.submit("dies", 1)
        assert await jobs.result(flaky_id, timeout=20) == 2
        with pytest.raises(JobService.Error, match="never"):
            await jobs.result(dead_id, timeout=20)


def test_a_record_names_the_line_that_logged(caplog: pytest.LogCaptureFixture) -> None:
    logger = get_logger("jsjobs.test")
    logger.warning("one %s", "two")
    try:
        raise ValueError("three")
    except ValueError:
        logger.exception("four")
    assert [(record.filename, record.message) for record in caplog.records] == [
        ("test_raising_logs.py", "one two"),
        ("test_raising_logs.py", "four"),
    ]
    assert caplog.records[1].exc_info is not None


class UnheardError(Exception):
    """Of a kind that nothing has raised before in this process."""


class UnheardHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise UnheardError


def test_the_first_error_of_a_kind_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    logger, handler = logging.getLogger("jsjobs.test"), UnheardHandler()
    logger.addHandler(handler)
    try:
        for _ in range(3):
            get_logger("jsjobs.test").warning("lost")
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr().err.count("a log handler raised UnheardError: lines are lost") == 1
