"""With telemetry off, nothing of it is on any job's way, and OpenTelemetry is not even imported."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from otlp_receiver import Receiver
from telemetry_processes import TelemetryApps

from bare_environment import bare_environment
from jsjobs import JobService

UNTOUCHED = Path(__file__).with_name("untouched_app.py")
BARE = bare_environment()


@pytest.mark.long
async def test_a_thousand_jobs_call_nothing_of_it(
    config: JobService.Config, deploy: Callable[[JobService.Config], Awaitable[None]]
) -> None:
    await deploy(config)
    env = TelemetryApps(config).environment
    command = [sys.executable, "-W", "error", str(UNTOUCHED)]
    child = await asyncio.create_subprocess_exec(*command, env=env, stdout=subprocess.PIPE)
    async with asyncio.timeout(60):
        out, _ = await child.communicate()
    told = json.loads(out)
    assert told["ran"] == 1000
    assert told["at_start"] > 0  # what counts the calls does see them
    assert told["on_the_way"] == []
    assert not told["imported"]


@pytest.mark.parametrize("command", ["import jsjobs", "from jsjobs.cli.app import main; main(['--help'])"])
def test_nothing_is_imported_before_it_is_asked_for(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", command],
        env=BARE,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert "jsjobs" in done.stderr
    assert "opentelemetry" not in done.stderr


@pytest.mark.parametrize(
    "switched",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_SDK_DISABLED": " TRUE "},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
    ],
)
async def test_it_can_be_switched_off(
    telemetry_apps: TelemetryApps, receiver: Receiver, switched: dict[str, str]
) -> None:
    telemetry_apps.environment |= switched
    worker = await telemetry_apps.start("watcher")
    assert not (await worker.says("ready"))["imported"]
    await worker.stop()
    assert receiver.requests == []


async def test_one_signal_can_be_switched_off(telemetry_apps: TelemetryApps, receiver: Receiver) -> None:
    telemetry_apps.environment["OTEL_TRACES_EXPORTER"] = "none"
    await telemetry_apps.submit("note", 1)
    assert receiver.value("jobs.submitted") == 1
    assert receiver.spans == []
    del telemetry_apps.environment["OTEL_EXPORTER_OTLP_ENDPOINT"]
    telemetry_apps.environment["OTEL_TRACES_EXPORTER"] = ""
    telemetry_apps.environment["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = f"{receiver.url}/v1/traces"
    await telemetry_apps.submit("note", 2)
    assert receiver.value("jobs.submitted") == 1
    assert len(receiver.named("job.submit")) == 1


async def test_an_unknown_exporter_is_named_and_costs_no_job(telemetry_apps: TelemetryApps) -> None:
    telemetry_apps.environment["OTEL_TRACES_EXPORTER"] = "carrier-pigeon"
    worker = await telemetry_apps.worker("watcher")
    assert "OTEL_TRACES_EXPORTER=carrier-pigeon" in await worker.stop()
