import pytest

from jsjobs.model.errors import TERMINAL, TRANSIENT, JobError, Reason

WORDS = {
    "NotFound",
    "AlreadyCancelled",
    "HandlerMissing",
    "Validation",
    "Processing",
    "MaxRetries",
    "RunnerUnavailable",
    "Timeout",
}


def test_there_are_exactly_these_eight_reasons() -> None:
    assert {str(reason) for reason in Reason} == WORDS


def test_what_is_terminal_and_what_is_transient() -> None:
    assert {str(reason) for reason in TERMINAL} == {"Validation", "HandlerMissing", "AlreadyCancelled", "NotFound"}
    assert {str(reason) for reason in TRANSIENT} == {"Timeout", "RunnerUnavailable"}
    for reason in Reason:
        error = JobError(reason, "x")
        assert (error.is_terminal, error.is_transient) == (reason in TERMINAL, reason in TRANSIENT)


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_has_a_constructor_of_its_name(reason: Reason) -> None:
    cause = ValueError("behind it")
    error = getattr(JobError, f"from_{reason.name.lower()}")("what was wrong", job_id="low-7", cause=cause)
    assert type(error) is JobError
    assert (error.reason, error.message, error.job_id, error.cause) == (reason, "what was wrong", "low-7", cause)
    assert str(error) == f"{reason}: what was wrong"


def test_a_reason_may_be_given_as_its_word_but_not_as_another() -> None:
    assert JobError("Timeout", "x").reason is Reason.TIMEOUT
    with pytest.raises(ValueError, match="Oops"):
        JobError("Oops", "x")
