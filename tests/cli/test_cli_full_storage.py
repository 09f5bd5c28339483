"""Commands on a server whose storage is full: each says so, and none does half of what it was asked."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_process import Cli, environment_of
from http_probe import health_of

from facts import eventually
from full_storage import NAMED, LimitedServer, fill, make_room
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.lanes import ORDERED, PARALLEL

REFUSED = [
    ("submit", "echo", "1"),
    ("submit", "echo", "1", "--dedupe-key", "k"),
    ("submit", "echo", "1", "--delay", "1h"),
    ("submit", "echo", "1", "--delay", "1h", "--debounce-key", "k"),
    ("cancel", "WAITING"),
    ("cancel", "DELAYED"),
    ("reschedule", "DELAYED", "--delay", "2h"),
    ("reschedule", "DELAYED", "--now"),
    ("schedule", "add", "other", "echo", "1", "--every", "1h"),
    ("schedule", "pause", "hourly"),
    ("schedule", "run", "hourly"),
    ("schedule", "remove", "hourly"),
    ("pause", "low"),
]
READ = [("status", "WAITING"), ("status", "DELAYED"), ("queues",), ("schedule", "list"), ("top", "--count", "1")]


@pytest.fixture(params=list(NAMED))
def limit(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def limited(limit: str, tmp_path: Path) -> Iterator[LimitedServer]:
    with LimitedServer(tmp_path / "nats", limit) as server:
        yield server


@pytest.mark.long
async def test_each_command_names_what_is_full_and_goes_on_when_there_is_room(
    limit: str, limited: LimitedServer, bare_cli: Cli, settings_of: Callable[..., JobService.Config]
) -> None:
    config = settings_of(nats_url=limited.url)
    await limited.prepare(config)
    await limited.lower()
    cli = bare_cli
    cli.env.update(environment_of(config))
    ids = {
        "WAITING": (await cli.run("submit", "echo", "1")).out.strip(),
        "DELAYED": (await cli.run("submit", "echo", "1", "--delay", "1h")).out.strip(),
    }
    assert (await cli.run("schedule", "add", "hourly", "echo", "1", "--every", "1h")).code == 0

    def filled_in(command: tuple[str, ...]) -> list[str]:
        return [ids.get(word, word) for word in command]

    async with connected(config) as connection:
        await fill(connection)
        worker = await cli.start("worker", "app:jobs", JSJOBS_HEALTH_PORT="0")
        health = await health_of(worker)
        await eventually(lambda: health.says("/ready", 503, NAMED[limit]))
        answers = await asyncio.gather(*(cli.run(*filled_in(command)) for command in REFUSED))
        for command, answer in zip(REFUSED, answers, strict=True):
            assert NAMED[limit] in answer.err, command
            assert answer.err.count("\n") == 1, command
            assert (answer.code, answer.out) == (1, ""), command
        for command in READ:
            assert (await cli.run(*filled_in(command))).code == 0, command
        doctor = await cli.run("doctor", "--json")
        assert doctor.code == 1
        found = json.loads(doctor.out)["findings"]
        problems = {finding["check"] for finding in found if finding["severity"] == "problem"}
        assert problems == {"server": {"storage"}, "account": {"storage", "limits"}}[limit]
        await make_room(connection)
        await eventually(lambda: health.says("/ready", 200))
        assert json.loads((await cli.run("status", ids["WAITING"], "--json")).out)["status"] == "complete"
        assert json.loads((await cli.run("status", ids["DELAYED"], "--json")).out)["status"] == "queued"
        worker.interrupt()
        ended = await worker.ends()
    assert ended.err.count("nothing can be stored, jobs wait") == 1
    assert ended.err.count("jobs can be stored again") == 1


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ("max_streams: 3", "the account has reached its limit of streams: raise its `max_streams`"),
        ("max_consumers: 1", "the account has reached its limit of consumers: raise its `max_consumers`"),
        (
            "max_file: 100MB",
            "too little file storage left to reserve for it: raise `max_file`, or lower JSJOBS_QUEUE_BYTES",
        ),
    ],
)
async def test_streams_apply_names_the_limit_that_is_in_its_way(
    limits: str, says: str, bare_cli: Cli, tmp_path: Path, settings_of: Callable[..., JobService.Config]
) -> None:
    users = 'users: [{user: "jobs", password: "jobs"}]'
    accounts = f"accounts {{ JOBS {{ jetstream {{ {limits} }}, {users} }} }}\nno_auth_user: jobs"
    with NatsServer(tmp_path / "nats", config=accounts) as server:
        bare_cli.env.update(environment_of(settings_of(nats_url=server.url)))
        done = await bare_cli.run("streams", "apply")
    assert done.code == 1
    assert says in done.err
    if "storage" in says:  # eight streams reserve it
        names, told = Names(settings_of().namespace), " ".join(done.err.split())
        ordered, lanes = (", ".join(map(names.queue, queues)) for queues in (ORDERED, PARALLEL))
        assert f"{ordered} reserve 67,108,864 bytes each (JSJOBS_QUEUE_BYTES)" in told
        assert f"and {lanes} 67,108,864 bytes each (JSJOBS_LANE_BYTES)" in told
