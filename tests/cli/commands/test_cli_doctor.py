"""`jsjobs doctor`: what it prints, and its exit codes."""

import json

import pytest
from cli_process import Cli
from terminal import at_terminal

from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names

SECRET = "the-secret"


async def test_a_deployment_in_order_ends_with_0(cli: Cli, config: JobService.Config) -> None:
    await cli.worker()
    told = await cli.run("doctor")
    assert told.code == 0, told.out
    lines = told.out.splitlines()
    assert {line.split()[0] for line in lines if line[0] != " "} == {"note", "ok"}
    assert "ok    streams and consumers are as declared" in [line.rstrip() for line in lines]
    assert told.err == f"namespace {config.namespace}: no problems and no warnings\n"


async def test_what_is_wrong_stands_first_with_its_remedy_below(
    cli: Cli, config: JobService.Config, connection: Connection
) -> None:
    await call(connection, f"CONSUMER.DELETE.{Names(config.namespace).stream('low')}.low-1x1-0")
    told = await cli.run("doctor", JSJOBS_CAPACTIY="5")
    assert told.code == 1
    lines = [line.rstrip() for line in told.out.splitlines()]
    assert lines[:4] == [
        "problem  consumer low-1x1-0: it is missing",
        "         → jsjobs streams apply",
        "warning  JSJOBS_CAPACTIY: no setting has this name",
        "         → did you mean JSJOBS_CAPACITY?",
    ]
    assert told.err == f"namespace {config.namespace}: 1 problem and 1 warning\n"


async def test_as_json_it_is_one_object(cli: Cli, config: JobService.Config) -> None:
    # What options of other commands read is known too.
    known = {
        "JSJOBS_HEALTH_PORT": "1",
        "JSJOBS_ONE_COPY": "1",
        "JSJOBS_LOG_FORMAT": "text",
        "JSJOBS_QUEUE_METRICS": "1",
    }
    told = await cli.run("doctor", "--json", **known, JSJOBS_DATABASE_URL=f"postgresql://u:{SECRET}@127.0.0.1:9/x")
    assert told.code == 1
    assert told.err == ""
    assert SECRET not in told.out
    found = json.loads(told.out)
    assert (found["namespace"], found["problems"], found["warnings"]) == (config.namespace, 1, 0)
    assert found["notes"] == sum(finding["severity"] == "note" for finding in found["findings"])
    assert all(set(finding) == {"check", "severity", "what", "where", "remedy"} for finding in found["findings"])
    (problem,) = [finding for finding in found["findings"] if finding["severity"] == "problem"]
    assert (problem["check"], problem["where"]) == ("database", "127.0.0.1:9/x")
    assert "set DATABASE_URL" in problem["remedy"]


async def test_a_server_that_cannot_be_reached(bare_cli: Cli) -> None:
    url = f"nats://u:{SECRET}@127.0.0.1:9"
    told = await bare_cli.run("doctor", "--nats-url", url, JSJOBS_TIMEOUT="0.5")
    assert told.code == 1
    first, remedy, *_ = told.out.splitlines()
    assert first.startswith("problem  nats://127.0.0.1:9: cannot reach NATS at nats://127.0.0.1:9: ")
    assert "`jsjobs dev`" in remedy
    assert "NATS_URL" in remedy
    assert SECRET not in told.out + told.err
    assert "Traceback" not in told.out + told.err
    as_json = await bare_cli.run("doctor", "--nats-url", url, "--json", JSJOBS_TIMEOUT="0.5")
    assert (as_json.code, json.loads(as_json.out)["problems"]) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "env", "says"),
    [
        (["--jason"], {}, "No such option"),
        (["everything"], {}, "unexpected extra argument"),
        ([], {"JSJOBS_ACK_WAIT": "soon"}, "JSJOBS_<NAME>"),
        (
            [],
            {"JSJOBS_DATABASE_URL": f"mysql://u:{SECRET}@h/x", "NATS_URL": "nats://127.0.0.1:9"},
            "must begin with postgres",
        ),
        ([], {"JSJOBS_NAMESPACE": "Not.One"}, "namespace 'Not.One' must be"),
    ],
)
async def test_wrong_use(bare_cli: Cli, arguments: list[str], env: dict[str, str], says: str) -> None:
    told = await bare_cli.run("doctor", *arguments, JSJOBS_TIMEOUT="0.5", **env)
    assert told.code == 2
    assert told.out == ""
    assert says in " ".join(told.err.replace("│", " ").split())
    assert SECRET not in told.err


async def test_at_a_narrow_terminal_nothing_is_cut(cli: Cli) -> None:
    async with at_terminal(cli, "doctor", columns=50) as terminal:
        assert await terminal.ends() == 0
        await terminal.shows("sync_interval")
        assert "…" not in terminal.said
