from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from jsjobs.model.job import Duration, Priority
from jsjobs.model.payload import JobPayload


def test_a_type_is_all_that_a_job_needs() -> None:
    form = JobPayload(type="email.send")
    assert form.model_dump() == {
        "type": "email.send",
        "payload": None,
        "priority": Priority.NORMAL,
        "entity": None,
        "dedupe_key": None,
        "max_attempts": None,
        "duration": None,
        "timeout": None,
        "delay": None,
        "at": None,
        "debounce_key": None,
        "expires": None,
        "expired": "dead_letter",
        "tenant": None,
        "batch_id": None,
    }


def test_a_line_of_json_is_a_form() -> None:
    line = (
        '{"type":"t","payload":{"a":[1,null]},"priority":"critical","duration":"long","timeout":0.5,"max_attempts":7}'
    )
    form = JobPayload.model_validate_json(line)
    assert (form.payload, form.priority, form.duration) == ({"a": [1, None]}, Priority.CRITICAL, Duration.LONG)
    assert (form.timeout, form.max_attempts) == (0.5, 7)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", "urgent"),
        ("entity", ""),
        ("entity", "a\nb"),
        ("entity", " a"),
        ("entity", "x" * 257),
        ("dedupe_key", ""),
        ("dedupe_key", "k\r\nNats-Rollup: all"),
        ("tenant", "\ud800"),
        ("max_attempts", 0),
        ("max_attempts", 1001),
        ("max_attempts", 1.5),
        ("duration", "medium"),
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", 1e9),
        ("timeout", float("nan")),
        ("timeout", float("inf")),
        ("expires", 0),
        ("expires", -1),
        ("expires", True),
        ("expires", 1e10),
        ("expires", 10**400),
        ("expires", float("nan")),
        ("expires", timedelta(0)),
        ("expires", datetime(2026, 11, 22)),  # noqa: DTZ001 - this is the point
        ("expires", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))),
        ("expires", "30"),
        ("expires", "2026-11-22T12:00:00"),
        ("expires", [30]),
        ("expired", "keep"),
        ("delayed", 1),
    ],
)
def test_what_cannot_be_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        JobPayload.model_validate({"type": "t", field: value})
    assert caught.value.errors()[0]["loc"] == (field,)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (30, 30.0),
        (timedelta(minutes=1), 60.0),
        (datetime(2026, 11, 22, 13, tzinfo=timezone(timedelta(hours=1))), datetime(2026, 11, 22, 12, tzinfo=UTC)),
        ("2026-11-22T12:00:00.5Z", datetime(2026, 11, 22, 12, 0, 0, 500_000, tzinfo=UTC)),
    ],
)
def test_an_expiry_is_seconds_or_a_moment(given: object, read: object) -> None:
    form = JobPayload.model_validate({"type": "t", "expires": given})
    assert form.expires == read
    assert JobPayload.model_validate(form.model_dump()) == form
    assert JobPayload.model_validate_json(form.model_dump_json(), strict=True) == form


def test_a_form_cannot_be_changed() -> None:
    form = JobPayload(type="t")
    with pytest.raises(ValidationError, match="frozen"):
        form.priority = Priority.LOW
