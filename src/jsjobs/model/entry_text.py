"""A job's entry as the JSON that is stored, and the last of them made of the one before.

From `processing` to `complete` most of an entry stays as it is: to make and encode the whole of it anew would take four
times as long as to change the text, and most jobs end that way, in their first attempt.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from jsjobs.model.job import HISTORY_FIRST, HISTORY_LAST, JobStatusResponse, Status
from jsjobs.model.times import rfc3339

# The first of each is the entry's own: only texts, numbers and times stand before it, and a text's quotes are escaped.
_PROCESSING = b'"status":"processing"'
_HISTORY_END = b'],"history_dropped":'


class EntryText(NamedTuple):
    """An entry that is JSON already."""

    job_id: str
    text: bytes


def text_of(entry: JobStatusResponse, result: bytes | None = None) -> EntryText:
    """The entry as it is stored.

    Args:
        entry: What is to be stored.
        result: The handler's result, JSON already.
    """
    return EntryText(entry.job_id, entry.to_json(result))


def completed_text(
    entry: JobStatusResponse, stored: EntryText | None, now: datetime, result: bytes | None
) -> EntryText:
    """The entry of a job whose handler returned: what `entry.completed(now).to_json(result)` says.

    Args:
        entry: The job's, `processing`.
        stored: The same as text, where it is known.
        now: When the handler returned.
        result: What it returned, as JSON; None: nothing.
    """
    changed = None if stored is None else _changed(entry, stored.text, rfc3339(now).encode(), result)
    return text_of(entry.completed(now), result) if changed is None else EntryText(entry.job_id, changed)


def _changed(entry: JobStatusResponse, text: bytes, now: bytes, result: bytes | None) -> bytes | None:
    """The text, completed; None where more changes than its status and its history."""
    fields = entry.__dict__  # looked up there: a model's attributes take longer
    items = len(fields["history"])
    if (
        fields["status"] is not Status.PROCESSING
        or fields["next_attempt_at"] is not None
        or fields["result"] is not None  # it would stand before the history, and may hold anything
        or not 0 < items < HISTORY_FIRST + HISTORY_LAST
    ):
        return None
    before, processing, after = text.partition(_PROCESSING)
    history, history_end, rest = after.partition(_HISTORY_END)
    if not processing or not history_end:
        return None
    return b'%b"status":"complete"%b,{"status":"complete","timestamp":"%b","attempt":%d}%b%b,"completed_at":"%b"%b}' % (
        before,
        history,
        now,
        fields["attempts"],
        history_end,
        rest[:-1],
        now,
        b"" if result is None else b',"result":%b' % result,
    )
