"""What lies behind an error is kept, and shown where no secret is in it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from jsjobs.model.errors import AlreadyDue, JobError, Reason
from jsjobs.model.job import JobStatusResponse, Status, failure, utc_now

SOURCES = Path(__file__).parents[2] / "src" / "jsjobs"
OTHERS = {"cli", "embedded", "postgres", "testing"}
"""What raises errors of its own kind, to people at a terminal or in a test."""

KEPT_OUT = {
    "settings.py": 3,  # settings hold passwords, and pydantic repeats them
    "jetstream/client/connect.py": 1,  # a secret may have been set in the place of a path
    "jetstream/client/credentials.py": 1,  # likewise
    "jetstream/client/nats_client.py": 1,  # a flush that timed out says so
    "jetstream/api/messages.py": 1,  # the error of the way that was tried first
}
"""How often the cause of a `JobError` stays out of it, by file, and why."""

NO_JOB_ERROR = {"ValueError", "OSError", "TimeoutError", "_Raised", "Refused", "refusal", "_no_result", "Error"}


def hidden() -> Iterator[tuple[str, ast.Raise]]:
    """Every `raise ... from None` of a `JobError` without a cause."""
    for file in SOURCES.rglob("*.py"):
        name = file.relative_to(SOURCES)
        if name.parts[0] in OTHERS or name.name == "health.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.cause, ast.Constant) and node.cause.value is None:
                raised = node.exc.value if isinstance(node.exc, ast.Await) else node.exc
                keywords = {keyword.arg for keyword in raised.keywords} if isinstance(raised, ast.Call) else set()
                called = raised.func if isinstance(raised, ast.Call) else raised
                word = getattr(called, "attr", getattr(called, "id", ""))
                if "cause" not in keywords and word not in NO_JOB_ERROR:
                    yield name.as_posix(), node


def test_an_error_that_is_made_of_another_says_of_which() -> None:
    found: dict[str, int] = {}
    for name, _ in hidden():
        found[name] = found.get(name, 0) + 1
    assert found == KEPT_OUT


def test_the_cause_is_what_was_given_or_what_it_was_raised_from() -> None:
    behind = KeyError("parent")
    assert JobError("Timeout", "x", cause="a text").cause == "a text"
    assert JobError("Timeout", "x").cause is None
    with pytest.raises(JobError) as caught:
        raise JobError.from_not_found("gone") from behind
    assert caught.value.cause is behind
    with pytest.raises(AlreadyDue) as due:
        raise AlreadyDue("late") from behind
    assert due.value.cause is behind
    with pytest.raises(JobError) as hides:
        raise JobError.from_not_found("gone", cause=behind) from None
    assert (hides.value.cause, hides.value.__cause__) == (behind, None)


def test_who_waits_for_a_job_whose_attempts_are_spent_learns_of_what() -> None:
    now = utc_now()
    entry = JobStatusResponse(job_id="low-1", status=Status.QUEUED).started(now, "w")
    error = failure(entry.failed(now, Reason.MAX_RETRIES, "ValueError: no"))
    assert (error.reason, error.cause, error.job_id) == (Reason.MAX_RETRIES, "ValueError: no", "low-1")
    assert failure(entry.failed(now, Reason.VALIDATION, "Validation: no")).cause is None
