"""What `jsjobs dlq` leaves out of a letter, or of a list of them, it says."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from cli_process import Cli

from jsjobs import JobService
from jsjobs.postgres.dead_letters import NewDeadLetter

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
async def jobs(cli: Cli, config: JobService.Config) -> AsyncIterator[JobService]:
    async with JobService(config) as service:
        for job_id, dropped in (("low-1", 0), ("low-2", 1236)):
            letter = NewDeadLetter(
                original_job_id=job_id,
                type="echo",
                priority="low",
                payload=b"1",
                error_reason="MaxRetries",
                error_history=[{"attempt": 1, "error": "boom", "timestamp": "2026-01-01T11:00:00Z"}],
                errors_dropped=dropped,
                attempts=dropped + 1,
                dead_at=NOON,
            )
            await service.dlq.store(letter)
        yield service


@pytest.mark.usefixtures("jobs")
async def test_failures_that_had_no_room_are_told_of(cli: Cli) -> None:
    assert "1,236 more are left out" in (await cli.run("dlq", "show", "low-2")).out
    assert "left out" not in (await cli.run("dlq", "show", "low-1")).out
    for job_id, dropped in (("low-1", 0), ("low-2", 1236)):
        letter = json.loads((await cli.run("dlq", "show", job_id, "--json")).out)
        assert (letter["errors_dropped"], len(letter["error_history"])) == (dropped, 1)


@pytest.mark.usefixtures("jobs")
@pytest.mark.parametrize("form", [[], ["--json"]])
async def test_a_list_that_is_cut_short_says_so(cli: Cli, form: list[str]) -> None:
    cut = await cli.run("dlq", "list", "--limit", "1", *form)
    assert cut.err == "these are the newest 1; --limit shows more\n"
    assert (await cli.run("dlq", "list", *form)).err == ""
