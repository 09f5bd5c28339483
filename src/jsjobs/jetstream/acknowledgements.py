"""What the server answers to a publish, and what that means for who submitted the job."""

from __future__ import annotations

from typing import Any

from jsjobs.jetstream.answers import Reply
from jsjobs.jetstream.api import (
    MOST_TEXT,
    OVER_MAX_MSG_SIZE,
    STORE_FAILED,
    Garbled,
    LimitReached,
    api_error,
    is_full_disk,
    read_answer,
)
from jsjobs.jetstream.errors import ConnectionLost, Unanswered
from jsjobs.model.errors import JobError

IN_PROCESS = 10158
"""Another publish of the same message id is on its way to the replicas: its outcome is this one's, in a moment."""

TOO_MANY_BATCHES = 10210
"""The stream, or its server, has as many open atomic batches as it takes; nothing of this one was stored."""


def answer_of(reply: Reply) -> dict[str, Any]:
    """The acknowledgement, or the refusal, as the server wrote it.

    Raises:
        JobError: `RunnerUnavailable`, if somebody else answered.
    """
    answer = read_answer(reply.data, "publishing")
    if "error" not in answer and type(answer.get("seq")) is not int:
        raise Garbled(reply.data, "publishing")
    return answer


def unknown(error: ConnectionLost, advice: str) -> JobError:
    """The answer was lost."""
    if isinstance(error, Unanswered):
        advice += "; where this goes on, the disk of nats-server may be full"
    return JobError.from_runner_unavailable(f"{error.message}: it may or may not be queued; {advice}", cause=error)


def refusal(error: dict[str, Any]) -> JobError:
    """Why the server queued nothing."""
    code, text = error.get("err_code"), str(error.get("description", ""))[:MOST_TEXT]
    if code == IN_PROCESS:
        return JobError.from_runner_unavailable(
            "another submit of the same dedupe_key is not decided yet, as without a majority of the replicas: "
            "submit it again later, it will not be queued twice"
        )
    if code == STORE_FAILED and not is_full_disk(error):
        return JobError.from_runner_unavailable(f"the mailbox is full ({text}): nothing was queued, try again later")
    if isinstance(api_error(error, ""), LimitReached):
        return LimitReached(error, "nothing was queued")
    if code == TOO_MANY_BATCHES:
        return JobError.from_runner_unavailable(
            f"busy: too many lists are being submitted to this queue ({text}, code {code}): nothing was queued, "
            "try again in some seconds"
        )
    if code == OVER_MAX_MSG_SIZE:
        return JobError.from_validation(
            f"the job is too large for its queue, which takes 896 KiB with its headers unless the stream was changed "
            f"({text}): nothing was queued"
        )
    if error.get("code") == 503:  # noqa: PLR2004 - as in HTTP
        return JobError.from_runner_unavailable(f"the server refused it now: {text} (code {code})")
    return JobError.from_validation(f"the server refused it: {text} (code {code})")
