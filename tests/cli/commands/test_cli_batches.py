"""Lists of jobs at the command line: submitted, counted, waited for; and progress bars at a terminal."""

import json

import pytest
from cli_process import Cli
from terminal import at_terminal

from facts import eventually


async def test_a_batch_from_its_submit_to_its_end(cli: Cli) -> None:
    submitted = await cli.run("submit", "echo", "-", stdin="1\n2\n\n3\n")
    ids = submitted.out.split()
    assert len(ids) == 3
    word, batch_id, *rest = submitted.err.split()
    assert (submitted.code, word, rest) == (0, "batch", ["3", "jobs"])
    batch_id = batch_id.rstrip(":")
    as_json = json.loads((await cli.run("batch", batch_id, "--json")).out)
    assert (as_json["batch_id"], as_json["total"], as_json["ids"], as_json["expired"]) == (batch_id, 3, ids, 0)
    assert as_json["counts"] == {"queued": 3, "processing": 0, "complete": 0, "failed": 0, "cancelled": 0}
    watching = await cli.start("batch", batch_id, "--watch", "--json")
    assert watching.child.stdout is not None
    await watching.child.stdout.readline()
    await cli.worker()
    ended = await watching.ends()
    assert ended.code == 0
    assert json.loads(ended.out.splitlines()[-1])["counts"]["complete"] == 3
    shown = await cli.run("batch", batch_id)
    for said in (batch_id, "complete", "3"):
        assert said in shown.out
    assert "expired" not in shown.out
    receipts = json.loads((await cli.run("submit", "echo", "-", "--json", stdin="4\n5")).out)
    assert {frozenset(receipt) for receipt in receipts} == {frozenset({"job_id", "duplicate", "batch_id"})}
    assert len({receipt["batch_id"] for receipt in receipts}) == 1


@pytest.mark.parametrize("batch_id", ["unknown", "a.b", "*", ""])
async def test_an_unknown_batch_is_one_clear_line(cli: Cli, batch_id: str) -> None:
    for arguments in ((), ("--json",), ("--watch",)):
        ended = await cli.run("batch", batch_id, *arguments)
        assert (ended.code, ended.out) == (1, "")
        assert ended.err.startswith("error: ")
        assert ended.err.count("\n") == 1


async def test_every_line_that_cannot_be_a_job_is_listed_and_nothing_is_queued(cli: Cli) -> None:
    lines = ["1", "{", "2", '"\\ud800"', "NaN", "", f'"{"x" * 917_600}"', *["nonsense"] * 30, "3"]
    refused = await cli.run("submit", "echo", "-", stdin="\n".join(lines))
    assert (refused.code, refused.out) == (2, "")
    first, *problems = refused.err.splitlines()
    assert first == "error: nothing was queued:"
    numbers = [int(problem.split()[1].rstrip(":")) for problem in problems]
    assert numbers == [2, 4, 5, 7, *range(8, 38)]
    assert "too large for its queue" in problems[3]
    # What is too large with its headers alone is known only when it is about to be sent.
    refused = await cli.run("submit", "echo", "-", stdin="\n".join(["1", "", f'"{"x" * 917_490}"', "2"]))
    assert (refused.code, refused.out) == (2, "")
    assert "line 3: it is too large for its queue" in refused.err
    queued = json.loads((await cli.run("submit", "echo", "-", "--json", stdin="1")).out)
    sequence = int(queued[0]["job_id"].rpartition("-")[2])
    shown = json.loads((await cli.run("batch", queued[0]["batch_id"], "--json")).out)
    assert shown["total"] == 1
    before = await cli.run("status", f"normal-parallel-{sequence - 1}")
    assert "is not known" in before.err, "nothing was queued before"


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_a_hundred_thousand_lines(cli: Cli) -> None:
    cli.env["JSJOBS_TIMEOUT"] = "30"
    file = cli.folder / "many.jsonl"
    file.write_text("".join(f'{{"n": {number}}}\n' for number in range(100_000)))
    with file.open() as lines:
        submitting = await cli.start("submit", "echo", "-", "--priority", "low", stdin=lines.fileno())
        ended = await submitting.ends(within=120)
    ids = ended.out.split()
    assert (ended.code, len(ids), len(set(ids))) == (0, 100_000, 100_000)
    assert ended.err.endswith(": 100,000 jobs\n")
    batch_id = ended.err.split()[1].rstrip(":")
    watching = await cli.start("batch", batch_id, "--json")
    counted = json.loads((await watching.ends(within=60)).out)
    assert counted["counts"]["queued"] == 100_000
    assert counted["ids"] == ids


async def test_a_bar_while_lines_are_queued_is_on_the_terminal_alone(cli: Cli) -> None:
    (cli.folder / "lines").write_text("1\n" * 3000)
    shell = f"{cli.executable} submit echo - < lines > ids"
    async with at_terminal(cli, "-c", shell, executable="sh") as terminal:
        await terminal.shows("3,000 of 3,000 jobs queued")
        assert await terminal.ends() == 0
        await terminal.shows("batch ")
    ids = (cli.folder / "ids").read_text().splitlines()
    assert len(ids) == 3000
    assert all(line.startswith("normal-") for line in ids)


async def test_progress_is_a_bar_at_a_terminal(cli: Cli) -> None:
    await cli.worker()
    job_id = (await cli.run("submit", "steps", "20", "--duration", "long")).out.strip()
    async with at_terminal(cli, "progress", job_id, columns=100) as terminal:
        await terminal.shows("━")
        await terminal.shows("100%")
        await terminal.shows("step 20")
        await terminal.shows("complete")
        assert await terminal.ends() == 0
    ended = await cli.run("progress", job_id)
    *_, last_report, end = ended.out.splitlines()
    assert last_report.endswith("100%  step 20")
    assert f"{job_id}  complete" in end
    assert ended.err == ""


async def test_progress_of_a_job_that_reports_in_several_lines_and_colours_is_one_line(cli: Cli) -> None:
    (cli.folder / "app.py").write_text(
        (cli.folder / "app.py").read_text()
        + """
@jobs.handler("hostile")
async def hostile(payload, ctx: JobService.Context):
    ctx.report_progress(50, "[red]one\\n\\x1b[2Jtwo" + " long" * 100)
"""
    )
    await cli.worker()
    job_id = (await cli.run("submit", "hostile", "1")).out.strip()
    async with at_terminal(cli, "progress", job_id, columns=80) as terminal:
        await terminal.shows("[red]one")
        await terminal.shows("complete")
        assert await terminal.ends() == 0
    assert "\x1b[2J" not in terminal.said


async def test_waiting_for_a_batch_shows_a_bar_and_then_every_result(cli: Cli) -> None:
    await cli.worker()
    (cli.folder / "lines").write_text("0.3\n" * 5)
    shell = f"{cli.executable} submit sleep - --wait < lines"
    async with at_terminal(cli, "-c", shell, executable="sh", columns=100) as terminal:
        await terminal.shows("0 of 5 jobs")
        await terminal.shows("5 of 5 jobs")
        await eventually(lambda: five_results(terminal.said))
        assert await terminal.ends() == 0


async def five_results(said: str) -> bool:
    return said.count('"slept"') == 5


@pytest.mark.parametrize("job_id", ["normal-17", "nonsense", ""])
async def test_progress_of_an_unknown_job_is_one_clear_line(cli: Cli, job_id: str) -> None:
    for arguments in ((), ("--json",)):
        ended = await cli.run("progress", job_id, *arguments)
        assert (ended.code, ended.out) == (1, "")
        assert ended.err.startswith("error: ")
        assert ended.err.count("\n") == 1
