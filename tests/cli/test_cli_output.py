"""What commands print: whole rows in a pipe, any encoding, readers that leave, and disks that are full."""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from cli_process import Cli
from terminal import at_terminal

from facts import eventually
from jsjobs import JobService
from jsjobs.postgres.dead_letters import NewDeadLetter

LONG_TYPE = "report." + "monthly." * 9 + "build"
LONG_ERROR = "ValueError: é… 😀 " + "no such customer, " * 20 + "and that is all"
COLOURS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture
async def jobs(cli: Cli, config: JobService.Config) -> AsyncIterator[JobService]:
    async with JobService(config) as service:
        yield service


async def dead_letter(jobs: JobService, job_type: str, error: str) -> str:
    """A dead letter; its id."""
    history = [{"attempt": 1, "timestamp": "2026-01-01T12:00:00Z", "error": error}]
    facts = {"type": job_type, "priority": "low", "payload": b'"\xc3\xa9"', "error_reason": "MaxRetries"}
    times = {"attempts": 1, "dead_at": datetime.now(UTC) - timedelta(hours=2)}
    new = NewDeadLetter(original_job_id=f"low-{len(job_type)}", app_id="acme", error_history=history, **facts, **times)
    await jobs.dlq.store(new)
    (letter,) = [one for one in await jobs.dlq.list() if one.type == job_type]
    return str(letter.id)


async def test_rows_are_whole_in_a_pipe_however_long_one_error_or_type_is(cli: Cli, jobs: JobService) -> None:
    ids = [await dead_letter(jobs, LONG_TYPE, LONG_ERROR), await dead_letter(jobs, "echo", "RuntimeError: no")]
    rows = [re.split(r"  +", row) for row in (await cli.run("dlq", "list")).out.splitlines()]
    assert rows[0] == ["id", "died", "type", "tenant", "reason", "last error"]
    assert sorted(rows[1:]) == sorted(
        [
            [ids[0], "2h ago", LONG_TYPE, "acme", "MaxRetries", LONG_ERROR],
            [ids[1], "2h ago", "echo", "acme", "MaxRetries", "RuntimeError: no"],
        ]
    )
    await cli.run("schedule", "add", "nightly", LONG_TYPE, "1", "--cron", "0 3 * * *")
    (_, row) = (await cli.run("schedule", "list")).out.splitlines()
    assert row.startswith("nightly  ")
    assert row.endswith(f"0 3 * * *  {LONG_TYPE}")


@pytest.mark.parametrize("columns", [120, 80, 50, 30])
async def test_a_narrow_terminal_leaves_ids_whole(cli: Cli, jobs: JobService, columns: int) -> None:
    letter = await dead_letter(jobs, LONG_TYPE, LONG_ERROR)
    async with at_terminal(cli, "dlq", "list", "--all", columns=columns, COLUMNS=str(columns)) as terminal:
        assert await terminal.ends() == 0
        await eventually(lambda: letter[:8] in COLOURS.sub("", terminal.said))
        lines = COLOURS.sub("", terminal.said).splitlines()
    assert max(map(len, lines)) <= columns


@pytest.mark.long
async def test_what_an_encoding_cannot_write_is_replaced(cli: Cli, jobs: JobService) -> None:
    letter = await dead_letter(jobs, "echo", LONG_ERROR)
    jobs.register_handler("echo", lambda payload: payload)
    async with jobs.worker():
        job_id = await jobs.submit("echo", "é… 😀", entity="kundé-😀")
        assert await jobs.result(job_id) == "é… 😀"
    for command in (
        ["dlq", "show", letter],
        ["dlq", "export"],
        ["status", job_id],
        ["progress", job_id],
        ["schedule", "add", "nightly", "echo", '"é… 😀"', "--every", "1h"],
        ["schedule", "list"],
        ["top", "--count", "1"],
        ["doctor"],
        ["streams", "plan", "--scale", "2"],
        ["submit", "--help"],
    ):
        ended = await cli.run(*command, PYTHONIOENCODING="ascii")
        assert (ended.code, "Unicode" in ended.err) == (0, False), ended.err
    for encoding, text in (("ascii", "\\xe9... \\U0001f600"), ("latin-1", "é... \\U0001f600")):
        shown = await cli.run("dlq", "list", PYTHONIOENCODING=encoding)
        assert f"ValueError: {text} no such customer" in shown.out
        result = await cli.run("result", job_id, PYTHONIOENCODING=encoding)
        assert json.loads(result.out) == "é… 😀", "JSON loses nothing"
    refused = await cli.run("status", "é-😀", PYTHONIOENCODING="ascii")
    assert (refused.code, refused.err.isascii()) == (1, True)


READ = [
    ["queues"],
    ["top", "--interval", "100ms"],
    ["dlq", "list"],
    ["dlq", "show", "LETTER"],
    ["status", "JOB"],
    ["status", "JOB", "--watch"],
    ["result", "JOB"],
    ["progress", "JOB"],
    ["schedule", "list"],
    ["schedule", "show", "nightly"],
    ["streams", "show"],
    ["streams", "plan"],
    ["doctor"],
    ["submit", "echo", "1"],
    ["dlq", "export"],
    ["--help"],
    ["submit", "--help"],
    ["--version"],
]
NO_JSON = ("dlq export", "--help", "submit --help", "--version")


@pytest.fixture
async def ids(cli: Cli, jobs: JobService) -> dict[str, str]:
    """A letter, and a job that has ended."""
    letter = await dead_letter(jobs, "echo", LONG_ERROR)
    await jobs.schedules.add("nightly", "echo", 1, every=3600)
    jobs.register_handler("echo", lambda payload: payload)
    async with jobs.worker():
        job_id = await jobs.submit("echo", 1)
        await jobs.result(job_id)
    return {"LETTER": letter, "JOB": job_id}


async def into(cli: Cli, output: int, *command: str) -> tuple[int, str]:
    """Exit code, and what was said on standard error, of a command whose output goes there."""
    child = await cli.fork_server.start(*command, cwd=cli.folder, env=cli.env, stdout=output)
    assert child.stderr is not None
    async with asyncio.timeout(20):
        said = await child.stderr.read()
        return await child.wait(), said.decode()


@pytest.mark.long
async def test_a_reader_that_leaves_is_no_error_of_any_command(cli: Cli, ids: dict[str, str]) -> None:
    for words in READ:
        for more in [[]] if " ".join(words) in NO_JSON else [[], ["--json"]]:
            command = [ids.get(word, word) for word in (*words, *more)]
            reader, writer = os.pipe()
            os.close(reader)
            try:
                code, said = await into(cli, writer, *command)
            finally:
                os.close(writer)
            assert code in {0, 141}, command
            assert said == ("" if words != ["streams", "plan"] or more else "51 of 51 are up to date\n"), command


@pytest.mark.long
async def test_a_full_disk_is_called_that(cli: Cli, ids: dict[str, str]) -> None:
    for words in READ:
        if words[0] == "progress" or words == ["streams", "plan"]:
            continue  # they may have nothing to print
        output = os.open("/dev/full", os.O_WRONLY)
        try:
            code, said = await into(cli, output, *[ids.get(word, word) for word in words])
        finally:
            os.close(output)
        assert code == 1, words
        assert said.endswith("error: the output cannot be written: No space left on device\n"), (words, said)


@pytest.mark.long
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
async def test_closed_streams_are_no_error(cli: Cli, jobs: JobService, closed: str) -> None:
    for command in (
        "submit echo 1",
        "submit echo - </dev/null",
        "queues",
        "queues --json",
        "top --count 1",
        "dlq list",
    ):
        shell = await asyncio.create_subprocess_shell(
            f"{cli.executable} {command} {closed}",
            cwd=cli.folder,
            env=cli.env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            _, err = await shell.communicate()
        assert shell.returncode == 0, (command, err)
        assert b"Traceback" not in err
        assert b"error" not in err


@pytest.mark.parametrize("number", ["-5", "-1.5e3", "-0", "-0.25"])
async def test_a_negative_number_is_a_payload(cli: Cli, jobs: JobService, number: str) -> None:
    letter = await dead_letter(jobs, "echo", "ValueError: no")
    job_id = (await cli.run("submit", "echo", number, "--entity", "-7", "--priority", "high")).out.strip()
    status = json.loads((await cli.run("status", job_id, "--json")).out)
    assert (status["entity"], status["priority"]) == ("-7", "high")
    added = await cli.run("schedule", "add", "negative", "echo", number, "--every", "1h", "--json")
    assert json.loads(added.out)["payload"] == json.loads(number)
    assert (await cli.run("dlq", "edit", "--no-replay", letter, number)).code == 0
    found = await jobs.dlq.find(letter)
    assert found.payload == number.encode()
    jobs.register_handler("echo", lambda payload: payload)
    async with jobs.worker():
        assert await jobs.result(job_id) == json.loads(number)


async def test_an_option_that_does_not_exist_is_still_refused_beside_a_negative_number(cli: Cli) -> None:
    for command in (["submit", "echo", "-5", "--prioritty", "high"], ["submit", "echo", "-x"], ["cancel", "-5"]):
        refused = await cli.run(*command)
        assert (refused.code, refused.out) == (2, "")
        assert "No such option" in refused.err
    wrong = await cli.run("submit", "echo", "-5x")
    assert wrong.err.startswith("error: the payload is not JSON: trailing characters at column 3\n")
