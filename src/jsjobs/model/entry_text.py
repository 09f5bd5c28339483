"""A job's entry as stored JSON; the text of a completed entry is made from the one before it.

From `processing` to `complete` most of an entry stays the same. Building and encoding all of it again would take four
times as long as changing the text, and most jobs end that way, in their first attempt.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from jsjobs.model.job import HISTORY_FIRST, HISTORY_LAST, JobStatusResponse, Status
from jsjobs.model.times import rfc3339

# The first match of each is the entry's own: only texts, numbers and times precede it, and quotes in texts are escaped.
_PROCESSING = b'"status":"processing"'
_HISTORY_END = b'],"history_dropped":'


class EntryText(NamedTuple):
    """An entry that is already JSON."""

    job_id: str
    text: bytes


def text_of(entry: JobStatusResponse, result: bytes | None = None) -> EntryText:
    """Return the entry as it is stored.

    Args:
        entry: The entry to store.
        result: The handler's result, which is already JSON.
    """
    return EntryText(entry.job_id, entry.to_json(result))


def completed_text(
    entry: JobStatusResponse, stored: EntryText | None, now: datetime, result: bytes | None
) -> EntryText:
    """Return the entry of a job whose handler returned, as `entry.completed(now).to_json(result)` would write it.

    Args:
        entry: The job's entry, `processing`.
        stored: The same entry as text, where it is known.
        now: When the handler returned.
        result: What the handler returned, as JSON; None: nothing.
    """
    changed = None if stored is None else _changed(entry, stored.text, rfc3339(now).encode(), result)
    return text_of(entry.completed(now), result) if changed is None else EntryText(entry.job_id, changed)


def _changed(entry: JobStatusResponse, text: bytes, now: bytes, result: bytes | None) -> bytes | None:
    """Return the text, completed; None where more than its status and its history would change."""
    fields = entry.__dict__  # read directly: a model's attributes take longer
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
