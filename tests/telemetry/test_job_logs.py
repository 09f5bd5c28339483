"""Log records say which job they are about."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from nats.aio.client import Client
from otlp_receiver import Receiver
from telemetry_processes import TelemetryApps

from facts import eventually
from jsjobs import JobService
from jsjobs.logs import JobFields, JsonFormatter, TextFormatter
from jsjobs.model.context import RequestContext, enter_context
from jsjobs.model.trace import Trace

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
JSJOBS = str(Path(sys.executable).with_name("jsjobs"))


def lines_of(errors: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in errors.splitlines()]


async def test_each_line_made_while_a_job_is_in_hand_names_it(
    telemetry_apps: TelemetryApps, receiver: Receiver
) -> None:
    worker = await telemetry_apps.worker()
    job_id = await telemetry_apps.submit("flaky", {"fails": 1}, tenant="acme")

    async def are_done() -> bool:
        return len(receiver.named("job.process")) == 3

    await eventually(are_done)
    lines = lines_of(await worker.stop())
    (submit,) = receiver.named("job.submit", job_type="flaky")
    (child,) = receiver.named("job.process", job_type="child")
    mine = {"job_id": job_id, "job_type": "flaky", "tenant": "acme", "trace_id": submit.trace_id}
    own = [line for line in lines if line["message"] == "at work"]
    failed = [
        line for line in lines if line["logger"] == "jsjobs.worker" and "attempt 1 of 3 failed" in line["message"]
    ]
    threads = [line for line in lines if line["message"] == "in a thread"]
    assert (len(own), len(failed), len(threads)) == (2, 1, 1)
    for line in own + failed:
        assert line.items() >= mine.items()
    assert "ValueError: attempt 1 fails" in failed[0]["exception"]
    assert threads[0].items() >= {**mine, "job_id": child.attributes["job.id"], "job_type": "child"}.items()


async def test_with_telemetry_off_the_trace_id_is_the_publishers(
    telemetry_apps: TelemetryApps, plain: Client, namespace: str
) -> None:
    del telemetry_apps.environment["OTEL_EXPORTER_OTLP_ENDPOINT"]
    worker = await telemetry_apps.worker()
    headers = {"traceparent": PARENT}
    ack = await plain.jetstream().publish(f"{namespace}.low.e.child", b'{"of": "x"}', headers=headers)

    async with JobService(config_of(telemetry_apps)) as jobs:
        assert await jobs.result(f"low-{ack.seq}") == "x"
    (line,) = [line for line in lines_of(await worker.stop()) if line["logger"] == "shop"]
    expected = {"job_id": f"low-{ack.seq}", "job_type": "child", "tenant": "default", "trace_id": TRACE}
    assert line.items() >= expected.items()


def config_of(apps: TelemetryApps) -> JobService.Config:
    names = ("nats_url", "database_url", "namespace")
    return JobService.Config(**{name: apps.environment[f"JSJOBS_{name.upper()}"] for name in names})


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.getLogger("shop").makeRecord("shop", logging.INFO, "", 0, message, (), None, extra=extra)
    assert JobFields().filter(made)
    return made


def begin() -> None:
    enter_context(RequestContext(tenant_id="acme", entity_type="email", job_id="high-1", trace=Trace(PARENT)))


async def test_text_gets_only_what_the_message_does_not_say() -> None:
    begin()
    text = TextFormatter("%(levelname)s %(message)s")
    assert text.format(record("hello")) == f"INFO hello [job_id=high-1 job_type=email tenant=acme trace_id={TRACE}]"
    assert text.format(record("job high-1 (email) of acme")) == f"INFO job high-1 (email) of acme [trace_id={TRACE}]"


async def test_json_keeps_what_was_logged_beside_the_message() -> None:
    begin()
    line = json.loads(JsonFormatter().format(record("hello", order=7, job_id="their own", odd={1, 2})))
    assert (line["order"], line["job_id"], line["message"], line["level"]) == (7, "their own", "hello", "INFO")
    assert line["time"].endswith("Z")


async def test_a_strangers_name_cannot_forge_a_line() -> None:
    enter_context(RequestContext(entity_type="x\nERROR forged", job_id="high-1"))
    assert len(TextFormatter("%(message)s").format(record("hello")).splitlines()) == 1


def test_a_strangers_text_cannot_pass_for_a_line_or_command_a_terminal() -> None:
    text = TextFormatter("%(levelname)s %(message)s")
    first, *more = text.format(record("failed: x\nERROR forged\r\x1b[2J\u2028")).split("\n")
    assert (first, more) == ("INFO failed: x", ["  ERROR forged\\r\\x1b[2J\\u2028"])
    try:
        raise ValueError("x\nERROR forged")
    except ValueError:
        made = logging.getLogger("shop").makeRecord("shop", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    first, *more = text.format(made).split("\n")
    assert first == "ERROR failed"
    assert all(line.startswith("  ") for line in more)
    assert "  ERROR forged" in more


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_json_stays_json_whatever_is_logged() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    extra = {"order": 7, "nan": float("nan"), "deep": deep, "odd": Unspeakable(), "keys": {(1, 2): 3}}
    line = json.loads(JsonFormatter().format(record("hello", **extra)), parse_constant=int)
    expected = {"message": "hello", "order": 7, "nan": "nan", "odd": "(Unspeakable)", "keys": "{(1, 2): 3}"}
    assert line.items() >= expected.items()
    assert line["deep"] == "(list)"


def test_outside_of_jobs_nothing_is_added() -> None:
    assert TextFormatter("%(message)s").format(record("hello")) == "hello"
    assert set(json.loads(JsonFormatter().format(record("hello")))) == {"time", "level", "logger", "message"}


@pytest.mark.long
def test_commands_take_the_format(telemetry_apps: TelemetryApps) -> None:
    env = telemetry_apps.environment | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    for arguments, variables in ((["--log-format", "json"], {}), ([], {"JSJOBS_LOG_FORMAT": "json"})):
        command = [JSJOBS, "submit", "note", "1", *arguments]
        done = subprocess.run(command, env=env | variables, capture_output=True, text=True, check=True, timeout=30)
        assert json.loads(done.stderr)["logger"] == "jsjobs.telemetry"
    command = [JSJOBS, "submit", "note", "--log-format", "xml"]
    wrong = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=30)
    assert wrong.returncode == 2
