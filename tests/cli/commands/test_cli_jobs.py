"""Submitting jobs and asking about them, beside a real worker."""

import asyncio
import json

from cli_process import Cli


async def test_a_job_from_its_submit_to_its_result(cli: Cli) -> None:
    submitted = await cli.run("submit", "echo", '{"n": 1}', "--entity", "customer-1", "--priority", "high", "--json")
    receipt = json.loads(submitted.out)
    assert receipt == {"job_id": receipt["job_id"], "duplicate": False}
    assert receipt["job_id"].startswith("high-")
    waiting = await cli.run("status", receipt["job_id"], "--json")
    assert json.loads(waiting.out)["status"] == "queued"
    await cli.worker()
    result = await cli.run("result", receipt["job_id"], "--timeout", "10s")
    assert (result.code, json.loads(result.out)) == (0, {"n": 1})
    status = await cli.run("status", receipt["job_id"])
    assert status.code == 0
    for said in (receipt["job_id"], "complete", "customer-1", "echo", "1 of 3", '{"n": 1}'):
        assert said in status.out
    changes = await cli.run("status", receipt["job_id"], "--watch", "--json")
    assert [json.loads(line)["status"] for line in changes.out.splitlines()] == ["complete"]


async def test_a_list_on_the_command_line_or_in_a_file_is_one_job(cli: Cli) -> None:
    await cli.worker()
    argument = await cli.run("submit", "echo", "[1, [2]]", "--wait")
    assert (argument.code, json.loads(argument.out)) == (0, [1, [2]])
    (cli.folder / "payload.json").write_text("\ufeff[\n 3\n]\n")
    file = await cli.run("submit", "echo", "@payload.json", "--wait", "--json")
    status = json.loads(file.out)
    assert (file.code, status["status"], status["result"], status["batch_id"]) == (0, "complete", [3], None)


async def test_lines_on_standard_input_are_a_batch(cli: Cli) -> None:
    await cli.worker()
    batch = await cli.run("submit", "echo", "-", "--json", stdin='{"n": 1}\r\n\n["a"]\nnull')
    ids = [receipt["job_id"] for receipt in json.loads(batch.out)]
    assert len(ids) == 3
    results = await asyncio.gather(*(cli.run("result", job_id) for job_id in ids))
    assert [json.loads(result.out) for result in results] == [{"n": 1}, ["a"], None]
    mixed = await cli.run("submit", "fail", "-", "--max-attempts", "1", "--wait", "--json", stdin="1\n2")
    assert mixed.code == 1
    assert [status["last_error"] for status in json.loads(mixed.out)] == [
        "ValueError: no good: 1",
        "ValueError: no good: 2",
    ]
    assert mixed.err == "error: 2 of 2 jobs failed\n"
    nothing = await cli.run("submit", "echo", "-", "--json", stdin="\n\n")
    assert (nothing.code, nothing.out) == (0, "[]\n")


async def test_a_job_that_expires(cli: Cli) -> None:
    late = await cli.run("submit", "echo", "1", "--expires", "1ms")
    dropped = await cli.run("submit", "echo", "1", "--expires", "1ms", "--drop-expired")
    in_time = await cli.run("submit", "echo", "1", "--expires", "1h", "--drop-expired")
    assert late.code == dropped.code == in_time.code == 0
    await cli.worker()
    for submitted in (late, dropped):
        result = await cli.run("result", submitted.out.strip())
        assert result.code == 1
        assert "Timeout: the job expired at " in result.err
    assert (await cli.run("result", in_time.out.strip())).out == "1\n"
    wrong = await cli.run("submit", "echo", "1", "--drop-expired")
    assert wrong.code == 2
    assert "it needs --expires" in wrong.err


async def test_a_long_timeout_makes_a_job_long_and_a_short_job_has_none(cli: Cli) -> None:
    await cli.worker()
    done = await cli.run("submit", "echo", "1", "--timeout", "60s", "--wait")
    assert (done.code, done.out) == (0, "1\n")
    refused = await cli.run("submit", "echo", "1", "--timeout", "60s", "--duration", "short")
    assert (refused.code, refused.out) == (2, "")
    assert "a timeout of 60 s is longer than a short job may run" in refused.err
    assert "leave the duration out, or make it long" in " ".join(refused.err.split())


async def test_the_same_dedupe_key_is_the_same_job(cli: Cli) -> None:
    first = await cli.run("submit", "echo", "[1]", "--dedupe-key", "order-7", "--tenant", "acme")
    again = await cli.run("submit", "echo", "[1]", "--dedupe-key", "order-7", "--tenant", "acme", "--json")
    assert json.loads(again.out) == {"job_id": first.out.strip(), "duplicate": True}
    other = await cli.run("submit", "echo", "[1]", "--dedupe-key", "order-7", "--tenant", "umbrella", "--json")
    assert json.loads(other.out)["duplicate"] is False
    status = await cli.run("status", first.out.strip(), "--json")
    assert json.loads(status.out)["tenant"] == "acme"


async def test_a_failed_job_says_why_and_exits_1(cli: Cli) -> None:
    await cli.worker("--no-router")
    failed = await cli.run("submit", "fail", '"x"', "--max-attempts", "1", "--wait")
    assert (failed.code, failed.out) == (1, "")
    job_id, error = failed.err.splitlines()
    assert error == "error: MaxRetries: ValueError: no good: x"
    result = await cli.run("result", job_id)
    assert (result.code, result.err) == (1, f"{error}\n")
    refused = await cli.run("submit", "sleep", '"x"', "--wait")
    assert refused.code == 1, "the job's own Validation is no wrong use of the command"
    assert "error: Validation: the payload of sleep is invalid" in refused.err


async def test_progress_is_streamed(cli: Cli) -> None:
    await cli.worker()
    job_id = (await cli.run("submit", "steps", "4")).out.strip()
    streamed = await cli.run("progress", job_id, "--json")
    updates = [json.loads(line) for line in streamed.out.splitlines()]
    assert [(update["pct"], update["message"]) for update in updates] == [(25 * n, f"step {n}") for n in range(1, 5)]
    assert " 75%  step 3" in (await cli.run("progress", job_id)).out


async def test_progress_of_a_job_that_does_not_complete_says_so(cli: Cli) -> None:
    cancelled = (await cli.run("submit", "steps", "4")).out.strip()
    await cli.run("cancel", cancelled)
    await cli.worker()
    dead = (await cli.run("submit", "fail", '"x"', "--max-attempts", "1")).out.strip()
    ended = await cli.run("progress", dead)
    assert (ended.code, ended.err) == (1, "error: MaxRetries: ValueError: no good: x\n")
    assert f"{dead}  failed" in ended.out
    for arguments in ((), ("--json",)):
        ended = await cli.run("progress", cancelled, *arguments)
        assert (ended.code, ended.err) == (1, f"error: AlreadyCancelled: job {cancelled} was cancelled\n")
    assert ended.out == ""


async def test_waiting_has_an_end(cli: Cli) -> None:
    job_id = (await cli.run("submit", "echo", "1")).out.strip()
    late = await cli.run("result", job_id, "--timeout", "200ms")
    assert late.code == 1
    assert late.err == f"error: Timeout: job {job_id} is queued after 0.2 s\n"
    unknown = await cli.run("status", "normal-17")
    assert (unknown.code, unknown.err) == (1, "error: job normal-17 is not known\n")


async def test_ctrl_c_is_quiet(cli: Cli) -> None:
    job_id = (await cli.run("submit", "echo", "1")).out.strip()
    waiting = await cli.start("status", job_id, "--watch")
    assert waiting.child.stdout is not None
    await waiting.child.stdout.readline()
    waiting.interrupt()
    ended = await waiting.ends()
    assert (ended.code, ended.err) == (130, "")


async def test_a_reader_that_goes_away_is_no_error(cli: Cli) -> None:
    shell = await asyncio.create_subprocess_shell(
        f"{cli.executable} streams show | head -1 ; {cli.executable} streams show --json | true",
        cwd=cli.folder,
        env=cli.env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await shell.communicate()
    assert out.startswith(b"name")
    assert err == b""


async def test_a_batch_is_named_on_the_command_line(cli: Cli) -> None:
    lines = await cli.run("submit", "echo", "-", "--batch", "import-7", stdin="1\n2")
    assert "batch import-7: 2 jobs" in lines.err
    single = await cli.run("submit", "echo", "1", "--batch", "import-7", "--json")
    assert json.loads(single.out)["batch_id"] == "import-7"
    batch = json.loads((await cli.run("batch", "import-7", "--json")).out)
    assert batch["total"] == 2
    assert json.loads((await cli.run("status", lines.out.split()[1], "--json")).out)["batch_id"] == "import-7"
    wrong = await cli.run("submit", "echo", "1", "--batch", "no name")
    assert wrong.code == 2
    assert "batch_id" in wrong.err


async def test_a_number_too_large_is_called_that(cli: Cli) -> None:
    for payload, stdin in (("1E400", ""), ("-", '1\n{"a": 1E400}')):
        wrong = await cli.run("submit", "echo", payload, stdin=stdin)
        assert wrong.code == 2
        assert "holds 1E400, a number too large for a float: write it as a string" in wrong.err
