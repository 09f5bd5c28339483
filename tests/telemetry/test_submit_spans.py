"""Each submit is a span of its own, which says what was submitted, and what of it was queued is counted."""

from otlp_receiver import Receiver
from telemetry_processes import TelemetryApps


async def test_submits_of_one_task_are_spans_side_by_side_that_say_what_they_sent(
    telemetry_apps: TelemetryApps, receiver: Receiver, namespace: str
) -> None:
    process = await telemetry_apps.start("submits")
    first, delayed = (await process.says("submitted"))["ids"]
    errors = await process.errors()
    assert await process.child.wait() == 0, errors

    spans = sorted(receiver.named("job.submit"), key=lambda span: span.started)
    assert {span.parent_id for span in spans} == {""}, "one is over when the next begins"
    assert len({span.trace_id for span in spans}) == len(spans) == 5
    one, refused, part, later, several = (span.attributes for span in spans)
    assert [span.is_error for span in spans] == [False, True, True, False, False]
    assert (refused["error.type"], part["error.type"]) == ("Validation", "RuntimeError")
    ids = [span.get("job.id") for span in (one, refused, part, later, several)]
    assert ids == [first, None, None, delayed, None], "of a list none is told"

    assert [span["job.tenant"] for span in (one, later)] == ["default", "acme"]
    queues = [span["messaging.destination.name"] for span in (one, part, later, several)]
    assert queues == [
        f"{namespace.upper()}_{name}" for name in ("NORMAL_PARALLEL", "LOW_PARALLEL", "SCHEDULE", "HIGH_PARALLEL")
    ]
    assert [span.get("messaging.batch.message_count") for span in (one, part, several)] == [None, 1001, 2]
    assert (several.get("job.type"), several["job.priority"]) == (None, "high")

    # Of the list with an error the first thousand are queued.
    assert receiver.value("jobs.submitted", type="note", priority="low") == 1000
    assert receiver.value("jobs.submitted", type="note", priority="normal") == 2
    assert receiver.value("jobs.submitted", priority="high") == 2
