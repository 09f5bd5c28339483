"""The text of a completed job's entry says what the model would have written."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jsjobs.model.entry_text import EntryText, completed_text, text_of
from jsjobs.model.errors import JobError
from jsjobs.model.job import Carrier, JobStatusResponse, Priority, Status, new_status
from jsjobs.model.retry import RetryState

NOW = datetime(2026, 11, 27, 12, 0, 0, 123456, UTC)
LATER = NOW + timedelta(seconds=2.5)
NASTY = '"status":"processing"],"history_dropped":0,"status":"processing"\\"],"history_dropped":{}\x7f\u2028\U0001f600'
RESULTS = [None, b"null", b"[1]", b'{"status":"processing","history_dropped":9}', b'"],\\"history_dropped\\":"']


def queued(**more: Any) -> JobStatusResponse:
    carrier = Carrier(stream="JOBS_HIGH", sequence=7, stored_at=NOW)
    return new_status(
        {"job_id": "high-7", "type": "t", "priority": Priority.HIGH, "created_at": NOW, "carrier": carrier} | more
    )


def retried(times: int) -> JobStatusResponse:
    entry = queued(max_attempts=1000)
    for _ in range(times):
        entry = entry.started(NOW, "w").retried(NOW, NASTY, due=LATER, retry=RetryState(failures=1))
    return entry.started(NOW, "w")


def failed(times: int) -> JobStatusResponse:
    """So many attempts before the last, each with an error, and no time of a next one: the text is changed."""
    return retried(times).model_copy(update={"next_attempt_at": None})


PLAIN = {
    "plain": queued().started(NOW, "w"),
    "names": queued(entity=NASTY, tenant=NASTY, batch_id=NASTY, type=NASTY, job_id=NASTY).started(NOW, NASTY),
    "released": queued().started(NOW, "v").released(NOW).started(NOW, "w"),
    "scheduled": queued(scheduled_for=LATER).started(NOW, "w"),
    "errors": failed(3),
    "almost full": failed(49),
    "history left out": queued(history_dropped=5).started(NOW, "w"),
}
"""What is changed in the text."""
OTHERS = {
    "snoozed": queued().started(NOW, "v").snoozed(NOW, LATER).started(NOW, "w"),
    "retried": retried(1),
    "full": queued(history=(retried(1).history[0],) * 99).started(NOW, "w"),
    "overfull": failed(70),
    "with a result": queued(result={"x": [], "history_dropped": 3}).started(NOW, "w"),
    "with a list as a result": queued(result={"status": "processing", "x": [1], "history_dropped": 3}).started(
        NOW, "w"
    ),
    "without a history": queued(status=Status.PROCESSING, attempts=1),
}
"""What is made anew."""
ENTRIES = PLAIN | OTHERS


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("now", [LATER, LATER.replace(microsecond=0)])
@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_it_is_what_the_model_writes(entry: JobStatusResponse, now: datetime, result: bytes | None) -> None:
    job_id, text = completed_text(entry, text_of(entry), now, result)
    assert job_id == entry.job_id
    assert json.loads(text) == json.loads(entry.completed(now).to_json(result))
    assert JobStatusResponse.model_validate_json(text).status is Status.COMPLETE


@pytest.mark.parametrize("name", ENTRIES)
def test_what_is_plain_is_changed_and_all_else_made_anew(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, made = ENTRIES[name], []
    completed = JobStatusResponse.completed
    monkeypatch.setattr(JobStatusResponse, "completed", lambda *of: made.append(of) or completed(*of))
    text = completed_text(entry, text_of(entry), LATER, b"1").text
    assert bool(made) == (name in OTHERS)
    if not made:
        fields = [field for field, _ in json.loads(text, object_pairs_hook=list)]
        assert len(fields) == len(set(fields)), "each stands once"


@pytest.mark.parametrize(
    "stored", [None, b"{}", b'{"status":"processing"}', b'{"history":[],"history_dropped":0}', b""]
)
def test_without_a_text_of_its_kind_it_is_made_anew(stored: bytes | None) -> None:
    entry = PLAIN["plain"]
    text = completed_text(entry, None if stored is None else EntryText(entry.job_id, stored), LATER, b"1").text
    assert text == entry.completed(LATER).to_json(b"1")


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.PROCESSING])
def test_only_a_job_that_runs_can_complete(status: Status) -> None:
    entry = PLAIN["released"].model_copy(update={"status": status})
    if status.is_terminal:
        with pytest.raises(JobError, match="has ended"):
            completed_text(entry, text_of(entry), LATER, b"1")
    else:
        assert completed_text(entry, text_of(entry), LATER, b"1").text == entry.completed(LATER).to_json(b"1")
