"""Periodic schedules at the command line, and those that a worker's application declares."""

import itertools
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cli_process import APP, Cli
from terminal import at_terminal
from test_cli_use import NOWHERE, run

from facts import eventually

KEYS = {
    *("name", "timetable", "zone", "type", "payload", "priority", "entity", "tenant", "max_attempts", "duration"),
    *("timeout", "owner", "paused", "changed_at", "next"),
}
LONG_NAME = "a-schedule-with-a-name-as-long-as-a-schedules-name-may-be-012345"
DECLARES = '\n@jobs.handler("tick")\n@jobs.periodic({when}, payload={{"n": 1}})\nasync def tick(payload): ...\n'


async def data(cli: Cli, *arguments: str) -> Any:
    done = await cli.run(*arguments, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.out.count("\n") == 1
    return json.loads(done.out)


async def test_a_schedule_from_its_adding_to_its_removal(cli: Cli) -> None:
    (cli.folder / "payload.json").write_text('{"n": [1]}')
    options = ("--priority", "high", "--entity", "customer 1", "--tenant", "acme", "--max-attempts", "7")
    more = ("--duration", "long", "--timeout", "1h30m", "--cron", "0  3 * * *", "--tz", "Europe/Berlin")
    added = await data(cli, "schedule", "add", "nightly", "echo", "@payload.json", *options, *more)
    assert set(added) == KEYS
    told = {key: added[key] for key in KEYS - {"changed_at", "next"}}
    assert told == {
        "name": "nightly",
        "timetable": "0 3 * * *",
        "zone": "Europe/Berlin",
        "type": "echo",
        "payload": {"n": [1]},
        "priority": "high",
        "entity": "customer 1",
        "tenant": "acme",
        "max_attempts": 7,
        "duration": "long",
        "timeout": 5400,
        "owner": None,
        "paused": False,
    }
    moments = [datetime.fromisoformat(text) for text in added["next"]]
    assert len(moments) == 5
    assert moments[0] > datetime.now(UTC)
    assert {later - earlier for earlier, later in itertools.pairwise(moments)} <= {
        timedelta(hours=hours) for hours in (23, 24, 25)
    }

    shown = await cli.run("schedule", "show", "nightly")
    said = " ".join(shown.out.split())
    for text in (
        *("fires 0 3 * * * Europe/Berlin", "type echo", "priority high", "entity customer 1", "tenant acme"),
        *("attempts 7", "duration long", "timeout 1h30m", '{"n": [1]}', "this machine's clock in Europe/Berlin"),
    ):
        assert text in said
    assert shown.out.count(" 03:00:00 CE") == 5
    assert "declared by" not in shown.out
    again = await data(cli, "schedule", "show", "nightly")
    assert {key: again[key] for key in told} == told

    paused = await data(cli, "schedule", "pause", "nightly")
    assert (paused["paused"], paused["next"]) == (True, [])
    assert (await cli.run("schedule", "pause", "nightly")).err == "nightly: paused\n"
    assert "paused: it does not fire until it is resumed" in (await cli.run("schedule", "show", "nightly")).out
    assert "paused" in (await cli.run("schedule", "list")).out
    assert (await cli.run("schedule", "resume", "nightly")).err.startswith("nightly: next at 20")
    resumed = await data(cli, "schedule", "resume", "nightly")
    assert (resumed["paused"], len(resumed["next"])) == (False, 5)

    assert [one["name"] for one in await data(cli, "schedule", "list")] == ["nightly"]
    assert (await cli.run("schedule", "remove", "nightly")).err == "nightly: removed\n"
    assert await data(cli, "schedule", "list") == []
    nothing = await cli.run("schedule", "list")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "no schedules\n")
    for command in ("show", "remove", "pause", "resume", "run"):
        assert await cli.refusal("schedule", command, "nightly") == (1, "there is no schedule 'nightly'")


async def test_its_firings_are_jobs_and_run_submits_one_more(cli: Cli) -> None:
    await cli.worker("--no-router")
    added = await data(cli, "schedule", "add", "beat", "echo", '"tick"', "--every", "1s", "--priority", "low")
    assert added["timetable"] == "every 1s"
    run_by_hand = await data(cli, "schedule", "run", "beat")
    assert set(run_by_hand) == {"job_id"}
    assert run_by_hand["job_id"].startswith("low-")
    plain = await cli.run("schedule", "run", "beat")
    assert plain.err == ""
    for job_id in (run_by_hand["job_id"], plain.out.strip()):
        assert json.loads((await cli.run("result", job_id)).out) == "tick"
    due = datetime.fromisoformat(added["next"][1])
    fired = f"at-beat-{due:%Y%m%dT%H%M%SZ}"

    async def ended() -> bool:
        return (await cli.run("result", fired)).out == '"tick"\n'

    await eventually(ended)
    assert (await data(cli, "schedule", "remove", "beat")) == {"name": "beat", "removed": True}
    assert (await cli.run("schedule", "list")).err == "no schedules\n"


async def test_a_name_is_one_schedule_until_it_is_replaced(cli: Cli) -> None:
    add = ("schedule", "add", "beat", "echo", "1")
    first = await data(cli, *add, "--every", "1h")
    again = await data(cli, *add, "--every", "60m")
    assert again["changed_at"][:19] == first["changed_at"][:19]
    assert await cli.refusal(*add, "--every", "30m") == (
        2,
        "there is a different schedule 'beat': give --replace to replace it",
    )
    replaced = await cli.run(*add, "--every", "30m", "--replace")
    assert (replaced.code, "every 30m" in replaced.out) == (0, True)
    [only] = await data(cli, "schedule", "list")
    assert only["timetable"] == "every 1800s"


async def test_what_only_the_server_can_refuse_is_one_line_too(cli: Cli) -> None:
    add = ("schedule", "add", "beat", "echo", "1", "--every", "1h")
    assert await cli.refusal("schedule", "show", "a.b") == (
        2,
        "a schedule's name must be 1 to 64 of A-Z, a-z, 0-9, '_' and '-', not 'a.b'",
    )
    for more, told in (
        (("--entity", ""), "entity: "),
        (("--tenant", " x"), "tenant: must be printable"),
    ):
        code, said = await cli.refusal(*add, *more)
        assert code == 2
        assert told in said
    too_large = await cli.run("schedule", "add", "beat", "echo", "@large.json", "--every", "1h")
    assert (too_large.code, "No such file" in too_large.err) == (2, True)
    (cli.folder / "large.json").write_text(f'"{"x" * 900_000}"')
    (cli.folder / "larger.json").write_text(f'"{"x" * 1_100_000}"')
    for name, told in (("large", ""), ("larger", "too large")):
        done = await cli.run("schedule", "add", name, "echo", f"@{name}.json", "--every", "1h", "--json")
        assert (done.code, told in done.err) == ((2, True) if told else (0, True))
    assert [one["name"] for one in await data(cli, "schedule", "list")] == ["large"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--cron", "0 3 * *"], "not 4: '0 3 * *'"),
        (["--cron", "0 25 * * *"], "cron, hour: "),
        (["--cron", "@reboot"], "@reboot"),
        (["--cron", "every day"], "'every day' is an interval, which --every takes, such as --every 30s or --every 1d"),
        (["--cron", "@every 5m"], "'@every 5m' is an interval, which --every takes"),
        (
            ["--cron", "0 3 * * *", "--every", "30s"],
            "give either --cron, such as '0 9 * * 1-5', or --every, such as 30s",
        ),
        ([], "give either --cron, such as '0 9 * * 1-5', or --every, such as 30s"),
        (["--every", "30s", "--tz", "Europe/Berlin"], "a time zone goes with a cron"),
        (["--cron", "@daily", "--tz", "europe/berlin"], "one is Europe/Berlin"),
        (["--cron", "@daily", "--tz", "Mars/Base"], "'Mars/Base' is not an IANA time zone"),
        (["--every", "500ms"], "an interval must be whole seconds, not 0.5"),
        (["--every", "30"], "invalid duration '30'"),
        (["--every", "9999d"], "315,360,000"),
        (["--cron", "@daily", "--priority", "urgent"], "critical"),
    ],
)
def test_wrong_use_needs_no_server(
    alone: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    code, out, err = run(capsys, "schedule", "add", "beat", "echo", "1", *arguments)
    assert (code, out) == (2, "")
    assert told in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [["add", "beat", "echo", "1", "--every", "30s"], ["list"], ["show", "x"], ["run", "x"], ["remove", "x"]],
)
def test_without_a_server_it_says_so_in_one_line(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("JSJOBS_TIMEOUT", "0.3")
    code, out, err = run(capsys, "schedule", *arguments, "--nats-url", NOWHERE)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: cannot reach NATS at nats://127.0.0.1:9: ")


async def test_before_streams_apply_it_says_what_is_missing(new_cli: Cli) -> None:
    for arguments in (("list",), ("add", "beat", "echo", "1", "--every", "30s"), ("run", "beat")):
        code, said = await new_cli.refusal("schedule", *arguments)
        assert code == 1
        assert "jsjobs streams apply" in said


async def test_in_a_narrow_terminal_nothing_is_cut(cli: Cli) -> None:
    cron = ("--cron", "0,5,10,15,20,25 0-6/2 1-15 jan-jun *", "--tz", "America/Argentina/ComodRivadavia")
    job_type = "reports.of.the.whole.company.build"
    await data(cli, "schedule", "add", LONG_NAME, job_type, f'"{"x" * 200}"', *cron)
    [moment] = {one["next"][0] for one in await data(cli, "schedule", "list")}
    async with at_terminal(cli, "schedule", "list", columns=80) as terminal:
        assert await terminal.ends() == 0
        await eventually(lambda: "Rivadavia" in terminal.said.replace("\r\n", ""))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.said).splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M:%S}" in terminal.said
    starts = [lines[0].index(heading) for heading in ("name", "next", "fires", "type")]
    spans = zip(starts, [*starts[1:], 80], strict=True)
    name, _, fires, the_type = ("".join(line[start:end].strip() for line in lines[1:]) for start, end in spans)
    assert (name, the_type) == (LONG_NAME, job_type)
    assert fires.replace(" ", "") == "".join(cron[1::2]).replace(" ", "")
    async with at_terminal(cli, "schedule", "show", LONG_NAME, columns=80) as terminal:
        assert await terminal.ends() == 0
        await eventually(lambda: "in America/Argentina/ComodRivadavia" in terminal.said)
    assert LONG_NAME in terminal.said
    assert "x" * 200 in terminal.said.replace("\r\n", "")


# -- declared by an application


async def test_a_worker_adds_what_its_application_declares(cli: Cli) -> None:
    (cli.folder / "app.py").write_text(APP + DECLARES.format(when='"0 3 * * *", zone="Europe/Berlin"'))
    await cli.worker("--no-router", JSJOBS_APP="reports")

    async def declared() -> Any:
        return await data(cli, "schedule", "list")

    [one] = await eventually(declared)
    assert (one["name"], one["timetable"], one["owner"], one["payload"]) == ("tick", "0 3 * * *", "reports", {"n": 1})
    assert "declared by  reports" in (await cli.run("schedule", "show", "tick")).out
    table = (await cli.run("schedule", "list")).out
    assert table.splitlines()[0].split()[-2:] == ["declared", "by"]
    assert table.splitlines()[1].split()[-1] == "reports"
    removed = await cli.run("schedule", "remove", "tick")
    assert removed.err == "tick: removed; a worker of 'reports' whose code declares it will create it again\n"


async def test_a_declaration_that_cannot_be_used_ends_the_worker(cli: Cli) -> None:
    (cli.folder / "app.py").write_text(APP + DECLARES.format(when='every=60, name="a.b"'))
    ended = await cli.run("worker", "app:jobs")
    assert ended.code == 2
    assert "a schedule's name must be 1 to 64 of" in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err


@pytest.mark.long
async def test_a_reload_of_dev_changes_and_removes_them(cli: Cli) -> None:
    file = cli.folder / "app.py"

    async def timetables() -> dict[str, str]:
        return {one["name"]: one["timetable"] for one in await data(cli, "schedule", "list")}

    async def become(expected: dict[str, str]) -> None:
        async def is_so() -> bool:
            return await timetables() == expected

        await eventually(is_so)

    file.write_text(APP + DECLARES.format(when="every=60"))
    dev = await cli.start("dev", "app:jobs")
    await dev.says("worker and router ready: namespace")
    await become({"tick": "every 60s"})
    await data(cli, "schedule", "pause", "tick")
    file.write_text(APP + DECLARES.format(when='"0 3 * * *"'))
    await become({"tick": "0 3 * * *"})
    assert (await data(cli, "schedule", "show", "tick"))["paused"] is True
    file.write_text(APP)
    await become({})
    dev.interrupt()
    ended = await dev.ends()
    assert (ended.code, "Traceback" in ended.err) == (0, False)
