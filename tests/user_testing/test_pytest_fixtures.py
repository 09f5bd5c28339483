"""An application's own test suite, run by pytest as its developers do."""

import re

import pytest

APP = """
from jsjobs import JobService

jobs = JobService()


@jobs.handler("count.letters", retry=JobService.Retry(initial=3600, max_backoff=1e6))
async def count_letters(payload: dict[str, str]) -> int:
    return len(payload["text"])
"""

TESTS = """
import app, pytest, pytest_asyncio

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def jobs(jsjobs_harness):
    async with jsjobs_harness.using(app.jobs) as jobs:
        yield jobs


@pytest.mark.parametrize("number", range(8))
async def test_it_counts(jobs, jsjobs_harness, jsjobs_server, number):
    assert await jsjobs_harness.queued() == []  # nobody else's
    await jobs.submit("count.letters", {"text": "x" * number})
    [status] = await jsjobs_harness.run_all()
    assert status.result == number
    print("server", jsjobs_server.pid)
"""

FAILING = """
import app


async def test_it_fails(jsjobs_harness):
    async with jsjobs_harness.using(app.jobs) as jobs:
        await jobs.submit("count.letters", {"txt": "abc"})
        await jsjobs_harness.run_all()


async def test_it_never_ends(jsjobs_harness):
    async with jsjobs_harness.using(app.jobs) as jobs:
        async with jsjobs_harness.service() as other:
            await jobs.submit("count.letters", {"text": "abc"})

            @other.handler("count.letters")
            async def waits(_payload):
                import asyncio
                await asyncio.sleep(60)

            await jsjobs_harness.run_all(other, timeout=0.3)
"""


def servers(said: str) -> set[str]:
    return {line.split()[1] for line in said.splitlines() if line.startswith("server ")}


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_the_fixtures_work_in_both_modes_of_pytest_asyncio(suite, mode: str) -> None:
    suite.write("app.py", APP)
    suite.write("test_app.py", TESTS)
    suite.configure(mode)
    said = suite.run("-m", "pytest", "-rP")
    assert "8 passed" in said
    assert len(servers(said)) == 1


@pytest.mark.long
def test_fixtures_of_one_loop_and_tests_of_another_do_not_matter(suite) -> None:
    suite.write("app.py", APP)
    suite.write(
        "test_app.py", TESTS.replace("@pytest_asyncio.fixture", '@pytest_asyncio.fixture(loop_scope="function")')
    )
    suite.configure(scope="session")
    assert "8 passed" in suite.run()


@pytest.mark.long
def test_each_process_of_xdist_has_its_own_server(suite) -> None:
    suite.write("app.py", APP)
    suite.write("test_app.py", TESTS)
    said = suite.run("-m", "pytest", "-rP", "-n", "2", "--dist", "load")
    assert "8 passed" in said
    assert len(servers(said)) == 2


def test_a_failing_test_shows_the_handlers_own_line_and_no_frame_of_ours(suite) -> None:
    suite.write("app.py", APP)
    suite.write("test_app.py", FAILING)
    said = suite.run("-m", "pytest", "--show-capture=no", expect=1)
    assert "2 failed" in said
    fails, never_ends = said.split("test_it_never_ends", 1)
    assert re.search(r"^> +await jsjobs_harness\.run_all\(\)$", fails, re.MULTILINE)
    assert re.search(r'^> +return len\(payload\["text"\]\)$', fails, re.MULTILINE)
    assert re.search(r"^E +KeyError: 'text'$", fails, re.MULTILINE)
    assert re.search(
        r"^E +dead: job normal-parallel-\d+ \(count.letters\), attempt 6 of 6: KeyError: 'text'$", fails, re.MULTILINE
    )
    assert re.search(r"^> +await jsjobs_harness\.run_all\(other, timeout=0.3\)$", never_ends, re.MULTILINE)
    assert "TimeoutError: 1 job had not ended after 0.3 s: normal-parallel-" in never_ends
    assert "jsjobs/testing/" not in said
    assert "jsjobs/worker/" not in said
    assert "INTERNALERROR" not in said


@pytest.mark.long
def test_a_handler_in_a_process_shows_its_line_too(suite) -> None:
    suite.write(
        "app.py",
        APP
        + """

@jobs.handler("divide", run_in="process")
def divide(payload: dict[str, int]) -> float:
    return 1 / payload["by"]
""",
    )
    suite.write(
        "test_app.py",
        """
import app, pytest


async def test_it_divides(jsjobs_harness):
    async with jsjobs_harness.using(app.jobs) as jobs:
        await jobs.submit("divide", {"by": 2})
        [status] = await jsjobs_harness.run_all()
        assert status.result == 0.5
        await jobs.submit("divide", {"by": 0}, max_attempts=1)
        await jsjobs_harness.run_all()
""",
    )
    said = suite.run("-m", "pytest", "--show-capture=no", expect=1)
    assert re.search(r'^E +return 1 / payload\["by"\]$', said, re.MULTILINE)
    assert re.search(r"^E +ZeroDivisionError: division by zero$", said, re.MULTILINE)
    assert "jsjobs/testing/" not in said


@pytest.mark.long
def test_another_server_and_other_settings_are_given_by_overriding(suite) -> None:
    suite.write("app.py", APP)
    suite.write(
        "test_app.py",
        TESTS
        + """

@pytest.fixture
def jsjobs_settings():
    return {"ack_wait": 3, "pools": {"normal": 5}}


async def test_settings(jobs):
    assert (jobs.config.ack_wait, jobs.config.shards("normal")) == (3, 5)
""",
    )
    assert "9 passed" in suite.run()


def test_without_pytest(suite) -> None:
    suite.write("app.py", APP)
    suite.write(
        "check.py",
        """
import asyncio, sys
import app
from jsjobs.testing import Harness

assert "pytest" not in sys.modules


async def main():
    async with Harness() as harness, harness.using(app.jobs) as jobs:
        await jobs.submit("count.letters", {"text": "abc"})
        print([status.result for status in await harness.run_all()])


asyncio.run(main())
""",
    )
    assert suite.run("check.py") == "[3]\n"
