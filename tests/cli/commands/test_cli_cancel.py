"""`jsjobs cancel`, beside a real worker."""

import asyncio
import json

from cli_process import Cli

from facts import eventually


async def submitted(cli: Cli, *arguments: str) -> str:
    return (await cli.run("submit", *arguments)).out.strip()


async def is_running(cli: Cli, job_id: str) -> bool:
    return json.loads((await cli.run("status", job_id, "--json")).out)["status"] == "processing"


async def test_a_queued_a_running_and_an_ended_job(cli: Cli) -> None:
    waiting = await submitted(cli, "echo", "1")
    cancelled = await cli.run("cancel", waiting)
    assert (cancelled.code, cancelled.out) == (0, "")
    assert cancelled.err == f"{waiting}: cancelled, it never ran\n"
    await cli.worker()
    running = await submitted(cli, "sleep", "60", "--duration", "long")
    done = await submitted(cli, "echo", "1", "--priority", "high", "--wait", "--json")
    await eventually(lambda: is_running(cli, running))
    both = await cli.run("cancel", running, json.loads(done)["job_id"], "--json")
    stopped, refused = json.loads(both.out)
    assert both.code == 1
    assert (stopped["job_id"], stopped["status"]) == (running, "cancelled")
    assert refused["reason"] == "Validation"
    assert "it is already complete" in refused["error"]
    assert both.err == f"error: {refused['error']}\n"
    again = await cli.run("cancel", running)
    assert (again.code, again.err) == (1, f"error: job {running} is already cancelled\n")
    result = await cli.run("result", running)
    assert (result.code, result.err) == (1, f"error: AlreadyCancelled: job {running} was cancelled\n")


async def test_bad_input(cli: Cli) -> None:
    job_id = await submitted(cli, "echo", "1")
    unknown, malformed, foreign, negative = await asyncio.gather(
        cli.run("cancel", "normal-1"),
        cli.run("cancel", "no id", "--json"),
        cli.run("cancel", job_id, "--namespace", "elsewhere"),
        cli.run("cancel", job_id, "--timeout", "soon"),
    )
    assert (unknown.code, unknown.err) == (1, "error: job normal-1 is not known\n")
    assert malformed.code == 1
    assert json.loads(malformed.out)["reason"] == "NotFound"
    assert "is not a job id" in malformed.err
    assert foreign.code == 1
    assert "run `jsjobs streams apply`" in foreign.err
    assert negative.code == 2
    assert "invalid duration" in negative.err
    assert (await cli.run("cancel")).code == 2
    assert json.loads((await cli.run("status", job_id, "--json")).out)["status"] == "queued"
