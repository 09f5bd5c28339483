"""The text of a completed job's entry says what the model would have written."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jsjobs.model.entry_text import EntryText, completed_text, text_of
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


ENTRIES = {
    "plain": queued().started(NOW, "w"),
    "names": queued(entity=NASTY, tenant=NASTY, batch_id=NASTY, type=NASTY).started(NOW, NASTY),
    "released": queued().started(NOW, "v").released(NOW).started(NOW, "w"),
    "snoozed": queued().started(NOW, "v").snoozed(NOW, LATER).started(NOW, "w"),
    "scheduled": queued(scheduled_for=LATER).started(NOW, "w"),
    "retried": retried(1),
    "long": retried(48),
    "full": retried(50),
    "overfull": retried(70),
    "no errors, and full": queued().model_copy(update={"history": (retried(1).history[0],) * 99}).started(NOW, "w"),
    "history left out": queued().model_copy(update={"history_dropped": 5}).started(NOW, "w"),
}


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("now", [LATER, LATER.replace(microsecond=0)])
@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_it_is_what_the_model_writes(entry: JobStatusResponse, now: datetime, result: bytes | None) -> None:
    job_id, text = completed_text(entry, text_of(entry), now, result)
    assert job_id == entry.job_id
    assert json.loads(text) == json.loads(entry.completed(now).to_json(result))
    names = [name for name, _ in json.loads(text, object_pairs_hook=list)]
    assert len(names) == len(set(names)), "each field stands once"
    assert JobStatusResponse.model_validate_json(text).status is Status.COMPLETE


def test_a_text_of_another_kind_is_made_anew() -> None:
    """Whatever stands there: the model decides what is written then."""
    entry = ENTRIES["plain"]
    for stored in (b"{}", b'{"status":"processing"}', b'{"history":[],"history_dropped":0}', b""):
        text = completed_text(entry, EntryText(entry.job_id, stored), LATER, b"1").text
        assert text == entry.completed(LATER).to_json(b"1")
