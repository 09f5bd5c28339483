"""Every `jsjobs` command line and every setting that is deployed is one that exists."""

from collections.abc import Iterator

import pytest
import typer
from deployed import MANIFESTS, SERVICES, commands, environment, pods, seconds
from pydantic import AliasChoices
from typer.core import TyperCommand, TyperGroup

from jsjobs.cli.app import app
from jsjobs.cli.command_table import CommandTable
from jsjobs.settings import Config

COMMAND = typer.main.get_command(app)
WrongUse = typer.BadParameter.__base__  # typer has no public name for what an unknown option raises


def check(
    command: TyperGroup | TyperCommand, name: str, arguments: list[str], parent: typer.Context | None = None
) -> None:
    """Parse as the command line would, and run nothing."""
    with command.make_context(name, list(arguments), parent=parent) as context:
        if isinstance(command, TyperGroup):
            sub_name, sub, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            check(sub, sub_name, rest, context)


@pytest.mark.parametrize("where", commands())
def test_a_command_line_is_one_that_jsjobs_takes(where: str) -> None:
    arguments = commands()[where]
    if arguments == ["--help"]:
        with pytest.raises(typer.Exit):
            check(COMMAND, "jsjobs", arguments)
    else:
        check(COMMAND, "jsjobs", arguments)


@pytest.mark.parametrize(
    "arguments", [["workers"], ["router", "--no-router"], ["streams", "apply", "--shard"], ["worker"]]
)
def test_this_test_can_fail(arguments: list[str]) -> None:
    with pytest.raises(WrongUse):
        check(COMMAND, "jsjobs", arguments)


def flags(command: TyperGroup | TyperCommand) -> Iterator[str]:
    """Environment variables that stand for a flag."""
    for parameter in command.params:
        names = parameter.envvar or ()
        yield from [names] if isinstance(names, str) else names
    below = command.each_command() if isinstance(command, CommandTable) else getattr(command, "commands", {}).items()
    for _, sub in below:
        yield from flags(sub)


def settings() -> set[str]:
    found = set()
    for name, field in Config.model_fields.items():
        found.add(f"JSJOBS_{name.upper()}")
        if isinstance(field.validation_alias, AliasChoices):
            found |= {str(choice) for choice in field.validation_alias.choices}
    return found


@pytest.mark.parametrize("where", environment())
def test_a_variable_is_a_setting_or_a_flag(where: str) -> None:
    known = settings() | set(flags(COMMAND)) | set(SERVICES["nats-1"]["environment"])
    ours = {name for name in environment()[where] if not name.startswith("OTEL_")}
    assert ours <= known


def test_the_settings_of_the_compose_file_can_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in (SERVICES["worker"]["environment"], MANIFESTS["config.yaml"]["data"]):
        with monkeypatch.context() as patch:
            for name, value in given.items():
                assert isinstance(value, str), name
                patch.setenv(name, value)
            config = Config()
        assert config.replicas == 3
        assert config.nats_url == given["NATS_URL"]


def test_whoever_stops_a_process_waits_longer_than_its_grace_time() -> None:
    leaves_within = 5  # its last writes, and its threads
    for name in ("worker", "router", "service"):
        grace = float(SERVICES[name]["environment"]["JSJOBS_GRACE"])
        assert seconds(SERVICES[name]["stop_grace_period"]) > grace + leaves_within
        grace = float(MANIFESTS["config.yaml"]["data"]["JSJOBS_GRACE"])
        assert pods()[f"{name}.yaml"]["terminationGracePeriodSeconds"] > grace + leaves_within


def test_telemetry_goes_where_the_collector_listens() -> None:
    for given in (
        SERVICES["worker"]["environment"],
        SERVICES["router"]["environment"],
        MANIFESTS["config.yaml"]["data"],
    ):
        assert given["OTEL_EXPORTER_OTLP_ENDPOINT"].endswith(":4318")
        assert given["OTEL_EXPORTER_OTLP_PROTOCOL"] == "http/protobuf"
