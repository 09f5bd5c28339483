"""Log records that say which job they are about, as text or as JSON."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from jsjobs.error_text import cut, in_bounds
from jsjobs.model.context import DEFAULT_TENANT, current_context
from jsjobs.model.trace import trace_id

FIELDS = ("job_id", "job_type", "tenant", "trace_id")
"""The attributes of a record that was made while a job was being handled."""
MOST = 64 * 1024
"""The most characters of a record's message, of its traceback and of each extra text; a record may hold anything."""
_OWN = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", *FIELDS}


class LogFormat(StrEnum):
    """The format in which log records are written."""

    TEXT = "text"
    JSON = "json"


class JobFields(logging.Filter):
    """Add the fields of the current job to each record that a log handler gets; add it to your own log handlers too.

    It is a filter, because a record factory would keep job handlers from logging with an `extra` of the same name.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields, and let every record through."""
        context = current_context()
        if context.job_id is not None:
            values = (
                context.job_id,
                context.entity_type,
                context.tenant_id or DEFAULT_TENANT,
                trace_id(context.trace.traceparent),
            )
            for name, value in zip(FIELDS, values, strict=True):
                if value is not None:
                    record.__dict__.setdefault(name, value)
        return True


class _BoundedFormatter(logging.Formatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        """Format a traceback in bounded space and time."""
        if (error := ei[1]) is not None:
            short = in_bounds(error)
            ei = (type(short), short, ei[2] if short is error else short.__traceback__)
        return cut(super().formatException(ei), MOST)


class TextFormatter(_BoundedFormatter):
    """Format a record as one line for people, followed by the job's fields that its message does not name.

    A text of several lines, such as a traceback, is indented from the second line on, and control characters are
    escaped: a stranger's text can neither pass for a line of its own nor control a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format the line, followed by a traceback if there is one."""
        text = super().format(record)
        if text.isprintable():
            return text
        escaped = (char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)
        return "".join(escaped).replace("\n", "\n  ")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Format the line, without a traceback."""
        record.message = cut(record.message, MOST)
        line = super().formatMessage(record)
        fields = ((name, getattr(record, name, None)) for name in FIELDS)
        missing = [f"{name}={_plain(value)}" for name, value in fields if value and str(value) not in record.message]
        if not missing:
            return line
        first, newline, more = line.partition("\n")
        return f"{first} [{' '.join(missing)}]{newline}{more}"


class JsonFormatter(_BoundedFormatter):
    """Format a record as one JSON object in one line, with the `extra` it was logged with."""

    def format(self, record: logging.LogRecord) -> str:
        """Format the line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": cut(record.getMessage(), MOST),
        }
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        more = {name: value for name, value in vars(record).items() if name not in _OWN and name not in line}
        line |= {name: cut(value, MOST) if type(value) is str else value for name, value in more.items()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return json.dumps(line, default=str, allow_nan=False)
        except Exception:  # noqa: BLE001 - an extra may be anything, and no handler fails because of what it logs
            return json.dumps({str(name): _writable(value) for name, value in line.items()})


def log_to_stderr(level: int, text: str, log_format: str = LogFormat.TEXT) -> None:
    """Log to standard error, unless the application has set up logging itself; its records get the fields too.

    Args:
        level: The lowest level that is logged.
        text: The format of a line of text.
        log_format: `text` or `json`.
    """
    root = logging.getLogger()
    if not root.handlers:
        ours = logging.StreamHandler()
        ours.setFormatter(JsonFormatter() if log_format == LogFormat.JSON else TextFormatter(text))
        root.addHandler(ours)
        root.setLevel(level)
    for handler in root.handlers:
        if not any(isinstance(known, JobFields) for known in handler.filters):
            handler.addFilter(JobFields())


def _writable(value: object) -> object:
    """Return the value if JSON can hold it: no NaN, no deep nesting, and texts as keys; else its text."""
    try:
        json.dumps(value, default=str, allow_nan=False)
    except Exception:  # noqa: BLE001 - as above
        try:
            return str(value)
        except Exception:  # noqa: BLE001 - as above
            return f"({type(value).__name__})"
    return value


def _plain(value: object) -> str:
    """Return a stranger's text as one word, quoted and escaped where needed, that cannot be mistaken for two."""
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)
