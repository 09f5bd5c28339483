"""A job's entry as the JSON that is stored, and the last of them made of the one before.

From `processing` to `complete` most of an entry stays as it is: to make and encode the whole of it anew would take four
times as long as to change the text, and every job ends that way.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from jsjobs.model.job import HISTORY_FIRST, HISTORY_LAST, JobStatusResponse
from jsjobs.model.times import rfc3339

# Each stands once where it is looked for first: the quotes of a text that holds the same are escaped.
_PROCESSING = b'"status":"processing"'
_HISTORY_END = b'],"history_dropped":'


class EntryText(NamedTuple):
    """An entry that is JSON already."""

    job_id: str
    text: bytes


def text_of(entry: JobStatusResponse) -> EntryText:
    """The entry as it is stored."""
    return EntryText(entry.job_id, entry.to_json())


def completed_text(entry: JobStatusResponse, stored: EntryText, now: datetime, result: bytes | None) -> EntryText:
    """The entry of a job whose handler returned: what `entry.completed(now).to_json(result)` says.

    Args:
        entry: The job's, `processing`.
        stored: The same as text.
        now: When the handler returned.
        result: What it returned, as JSON; None: nothing.
    """
    job_id, text = stored
    before, processing, after = text.partition(_PROCESSING)
    items, history_end, rest = after.partition(_HISTORY_END)
    fields = entry.__dict__  # looked up there: a model's attributes take longer
    is_plain = processing and history_end and fields["next_attempt_at"] is None
    if not is_plain or len(fields["history"]) >= HISTORY_FIRST + HISTORY_LAST:
        return EntryText(job_id, entry.completed(now).to_json(result))
    at = rfc3339(now).encode()
    return EntryText(
        job_id,
        b'%b"status":"complete"%b,{"status":"complete","timestamp":"%b","attempt":%d}%b%b,"completed_at":"%b"%b}'
        % (
            before,
            items,
            at,
            fields["attempts"],
            history_end,
            rest[:-1],
            at,
            b"" if result is None else b',"result":%b' % result,
        ),
    )
