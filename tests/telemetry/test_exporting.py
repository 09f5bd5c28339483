"""What is recorded arrives, and a collector that does not answer costs nobody anything."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from otlp_receiver import Receiver
from telemetry_processes import TelemetryApps

from facts import eventually

JSJOBS = str(Path(sys.executable).with_name("jsjobs"))


def submit(env: dict[str, str], *arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    started = time.monotonic()
    command = [JSJOBS, "submit", "note", "1", "--json", *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    return done, time.monotonic() - started


@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_a_command_exports_before_it_ends(
    telemetry_apps: TelemetryApps, receiver: Receiver, compression: str
) -> None:
    telemetry_apps.environment |= {
        "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
        "OTEL_METRIC_EXPORT_INTERVAL": "60000",
    }
    done, _ = submit(telemetry_apps.environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (span,) = receiver.named("job.submit")
    assert span.attributes["job.id"] == json.loads(done.stdout)["job_id"]
    assert span.resource["service.name"] == "shop"
    assert span.resource["deployment.environment.name"] == "test"
    assert receiver.value("jobs.submitted", type="note", operation="submit", priority="normal") == 1
    assert {encoding for _, encoding in receiver.requests} == {"" if compression == "none" else "gzip"}


@pytest.mark.long
async def test_a_collector_that_is_away_costs_two_seconds_and_one_line(telemetry_apps: TelemetryApps) -> None:
    env = telemetry_apps.environment
    _, usual = submit(env)
    with socket.socket() as silent, socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, and nobody listens
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections, and never answers
        for port in (free.getsockname()[1], silent.getsockname()[1]):
            env["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://user:hidden@127.0.0.1:{port}/?key=secret"
            done, took = submit(env)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["job_id"]
            assert took < 2 * usual + 4  # the SDK's own patience is 10 s and more
            (line,) = done.stderr.splitlines()
            assert f"the collector at 127.0.0.1:{port}" in line
            assert "hidden" not in line
            assert "secret" not in line


async def test_an_endpoint_that_is_none_is_one_line_too(telemetry_apps: TelemetryApps) -> None:
    telemetry_apps.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://[what"
    done, _ = submit(telemetry_apps.environment)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_CERTIFICATE"])
async def test_a_variable_that_cannot_be_used_is_one_line(telemetry_apps: TelemetryApps, name: str) -> None:
    telemetry_apps.environment[name] = "/no/such/thing"
    done, _ = submit(telemetry_apps.environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["job_id"]
    assert len(done.stderr.splitlines()) <= 1
    assert "Traceback" not in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("at", ["start", "end"])
async def test_a_broken_processor_of_the_application_costs_no_job(
    telemetry_apps: TelemetryApps, receiver: Receiver, at: str
) -> None:
    telemetry_apps.environment |= {"HOST_ENDPOINT": receiver.url, "HOST_IS_BROKEN": at}
    worker = await telemetry_apps.worker()

    async def have_completed() -> bool:
        return receiver.value("jobs.completions", type="note") == 2 and not receiver.value("jobs.running")

    await telemetry_apps.submit("note", [1, 2])
    await eventually(have_completed)
    assert "it is broken" in await worker.stop()
    assert receiver.value("jobs.submitted", type="note") == 2


async def test_a_header_that_cannot_be_read_is_not_repeated(telemetry_apps: TelemetryApps) -> None:
    telemetry_apps.environment["OTEL_EXPORTER_OTLP_HEADERS"] = "authorization: Bearer secret"
    done, _ = submit(telemetry_apps.environment)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert "OTEL_EXPORTER_OTLP_HEADERS" in line
    assert "secret" not in line


@pytest.mark.long
async def test_the_console_exporter_is_known(telemetry_apps: TelemetryApps) -> None:
    del telemetry_apps.environment["OTEL_EXPORTER_OTLP_ENDPOINT"]
    telemetry_apps.environment["OTEL_TRACES_EXPORTER"] = "console"
    done, _ = submit(telemetry_apps.environment)
    assert '"name": "job.submit"' in done.stdout
    assert done.stderr == ""


async def test_providers_of_the_application_are_used(telemetry_apps: TelemetryApps, receiver: Receiver) -> None:
    del telemetry_apps.environment["OTEL_EXPORTER_OTLP_ENDPOINT"]
    telemetry_apps.environment["HOST_ENDPOINT"] = receiver.url
    await telemetry_apps.submit("note", 1)
    (span,) = receiver.named("job.submit")
    assert span.resource["service.name"] == "the host"
    assert receiver.value("jobs.submitted") == 1
    assert {instance for instance, _, _ in receiver.points} == {"host"}


@pytest.mark.long
async def test_where_the_application_has_providers_the_environment_sets_up_none(
    telemetry_apps: TelemetryApps, receiver: Receiver
) -> None:
    telemetry_apps.environment["HOST_ENDPOINT"] = receiver.url
    await telemetry_apps.submit("note", 1)
    (span,) = receiver.named("job.submit")
    assert span.resource["service.name"] == "the host"
