"""A publisher's trace is one trace, through every attempt and into what the handlers submit."""

from otlp_receiver import Receiver
from telemetry_processes import TelemetryApps

from facts import eventually
from jsjobs import JobService


async def test_submit_two_failures_success_and_a_job_of_the_handler_are_one_trace(
    telemetry_apps: TelemetryApps, receiver: Receiver, namespace: str
) -> None:
    worker = await telemetry_apps.worker()
    job_id = await telemetry_apps.submit("flaky", {"fails": 2}, priority="high", entity="customer-42", tenant="acme")

    async def is_whole() -> bool:
        return len(receiver.named("job.process")) == 4 and bool(receiver.named("own work"))

    await eventually(is_whole)
    await worker.stop()

    (submit,) = receiver.named("job.submit", job_type="flaky")
    assert {span.trace_id for span in receiver.spans} == {submit.trace_id}
    stream = f"{namespace.upper()}_HIGH"
    common = {
        "job.type": "flaky",
        "job.priority": "high",
        "job.entity": "customer-42",
        "job.tenant": "acme",
        "job.id": job_id,
        "entity.service": namespace,
        "entity.version": submit.resource["service.version"],
        "messaging.system": "nats",
        "messaging.destination.name": stream,
        "messaging.message.id": job_id,
    }
    assert (submit.kind, submit.parent_id, submit.is_error) == ("PRODUCER", "", False)
    sent = {"messaging.operation.name": "submit", "messaging.operation.type": "send"}
    assert submit.attributes == common | sent

    attempts = receiver.named("job.process", job_type="flaky")
    assert {(span.kind, span.parent_id) for span in attempts} == {("CONSUMER", submit.span_id)}
    outcomes = [(span.attributes["job.attempt"], span.attributes["job.outcome"]) for span in attempts]
    assert outcomes == [(1, "retry"), (2, "retry"), (3, "complete")]
    shard = attempts[0].attributes["job.shard"]
    done = {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.partition.id": str(shard),
        "job.lane": "ordered",
        "job.shard": shard,
    }
    failed = {"job.attempt": 1, "job.outcome": "retry", "error.type": "ValueError"}
    assert attempts[0].attributes == common | done | failed
    assert attempts[2].attributes == common | done | {"job.attempt": 3, "job.outcome": "complete"}
    for number, span in enumerate(attempts[:2], 1):
        text = f"ValueError: attempt {number} fails"
        assert (span.is_error, span.status_text) == (True, text)
        assert span.exceptions == [{"exception.type": "ValueError", "exception.message": text}]
    assert not attempts[2].is_error

    (inner,) = receiver.named("job.submit", job_type="child")
    assert inner.parent_id == attempts[2].span_id
    (process,) = receiver.named("job.process", job_type="child")
    assert process.parent_id == inner.span_id
    assert process.attributes["job.tenant"] == "acme"
    # It has no entity, so it is in no shard.
    assert process.attributes["job.lane"] == "parallel"
    assert process.attributes["messaging.destination.name"] == inner.attributes["messaging.destination.name"]
    assert process.attributes["messaging.destination.name"].endswith("_PARALLEL")
    assert not {"job.shard", "messaging.destination.partition.id"} & set(process.attributes)
    (own,) = receiver.named("own work")
    assert own.parent_id == process.span_id  # in a thread too
    assert process.started <= own.started <= own.ended <= process.ended
    assert {span.resource["service.name"] for span in receiver.spans} == {"jsjobs"}


async def test_a_list_is_one_span(telemetry_apps: TelemetryApps, receiver: Receiver) -> None:
    worker = await telemetry_apps.worker()
    await telemetry_apps.submit("note", [1, 2, 3])

    async def are_all_done() -> bool:
        return len(receiver.named("job.process")) == 3

    await eventually(are_all_done)
    await worker.stop()
    (submit,) = receiver.named("job.submit")
    assert submit.attributes["messaging.batch.message_count"] == 3
    assert {span.parent_id for span in receiver.named("job.process")} == {submit.span_id}


async def test_outcomes_are_what_was_settled(telemetry_apps: TelemetryApps, receiver: Receiver) -> None:
    worker = await telemetry_apps.worker()
    await telemetry_apps.submit("huge", 2_000_000)
    await telemetry_apps.submit("dies", None)

    async def have_ended() -> bool:
        return len(receiver.named("job.process")) == 2

    await eventually(have_ended)
    (huge,) = receiver.named("job.process", job_type="huge")
    (dies,) = receiver.named("job.process", job_type="dies")
    assert {huge.attributes["job.outcome"], dies.attributes["job.outcome"]} == {"dead"}
    assert huge.is_error
    assert (dies.attributes["error.type"], dies.status_text) == ("Validation", "Validation: it shall die")
    await telemetry_apps.submit("sleep", 60, duration="long")

    async def is_running() -> bool:
        return receiver.value("jobs.running", type="sleep") == 1

    await eventually(is_running)
    await worker.stop()
    (sleep,) = receiver.named("job.process", job_type="sleep")
    assert sleep.attributes["job.outcome"] == "released"
    assert not sleep.is_error
    assert receiver.value("jobs.running", type="sleep") == 0


async def test_a_refused_submit_is_an_error_span(
    telemetry_apps: TelemetryApps, receiver: Receiver, config: JobService.Config
) -> None:
    process = await telemetry_apps.start("submit", "note", '"no number"')
    assert await process.child.wait() == 1
    (span,) = receiver.named("job.submit")
    assert span.is_error
    assert span.attributes["error.type"] == "Validation"
    assert receiver.value("jobs.submitted") is None
