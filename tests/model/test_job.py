import copy
import json
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jsjobs.jetstream.protocol.headers import encode_json
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import (
    HISTORY_FIRST,
    HISTORY_LAST,
    MAX_ERROR_BYTES,
    MAX_ERRORS_BYTES,
    Carrier,
    HistoryItem,
    JobId,
    JobStatusResponse,
    Priority,
    Status,
    clipped,
    random_token,
    utc_now,
)
from jsjobs.model.retry import RetryState
from outcomes import outcome

NOW = datetime(2026, 1, 1, tzinfo=UTC)
# Everything Python calls text, lone surrogates included.
TEXTS = st.text(alphabet=st.characters())
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)
QUEUED = JobStatusResponse(job_id="high-7", status=Status.QUEUED)


class Life(RuleBasedStateMachine):
    """One job's transitions in any order that a worker may make them."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = QUEUED
        self.seen: list[HistoryItem] = []
        self.started = self.released = 0
        self.now = NOW

    def took(self, entry: JobStatusResponse) -> None:
        self.seen.append(entry.history[-1])
        self.entry = entry

    def tick(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now

    @precondition(lambda self: self.entry.status is Status.QUEUED)
    @rule()
    def start(self) -> None:
        self.started += 1
        self.took(self.entry.started(self.tick(), "w1"))
        assert self.entry.history[-1].attempt == self.entry.attempts == self.started - self.released

    @precondition(lambda self: self.entry.status is Status.PROCESSING)
    @rule(error=TEXTS)
    def retry(self, error: str) -> None:
        due = self.tick() + timedelta(seconds=1)
        self.took(self.entry.retried(self.now, error, due=due, retry=RetryState(failures=1)))
        assert self.entry.status is Status.QUEUED
        assert self.entry.next_attempt_at == due
        assert self.entry.last_error == self.entry.history[-1].error == clipped(error)

    @precondition(lambda self: self.entry.status is Status.PROCESSING)
    @rule()
    def release(self) -> None:
        self.released += 1
        self.took(self.entry.released(self.tick()))
        assert self.entry.history[-1].error is None

    @precondition(lambda self: self.entry.status is Status.PROCESSING)
    @rule(rounds=st.integers(1, 120))
    def fail_often(self, rounds: int) -> None:
        for _ in range(rounds):
            self.took(self.entry.retried(self.tick(), "again", due=self.now, retry=None))
            self.started += 1
            self.took(self.entry.started(self.tick(), "w2"))

    @precondition(lambda self: self.entry.status is Status.PROCESSING)
    @rule()
    def complete(self) -> None:
        self.took(self.entry.completed(self.tick()))

    @precondition(lambda self: not self.entry.status.is_terminal)
    @rule(error=TEXTS, reason=st.sampled_from(Reason))
    def fail(self, error: str, reason: Reason) -> None:
        self.took(self.entry.failed(self.tick(), reason, error))
        assert (self.entry.error_reason, self.entry.last_error) == (reason, clipped(error))

    @precondition(lambda self: not self.entry.status.is_terminal)
    @rule()
    def cancel(self) -> None:
        self.took(self.entry.cancelled(self.tick()))

    @precondition(lambda self: self.entry.status.is_terminal)
    @rule()
    def an_ended_job_stays_as_it_is(self) -> None:
        for change in changes(self.entry):
            with pytest.raises(JobError, match=f"high-7 has ended as {self.entry.status}"):
                change()
        assert self.entry.completed_at == self.now
        assert self.entry.next_attempt_at is None

    @invariant()
    def attempts_are_what_was_started_less_what_was_given_back(self) -> None:
        assert self.entry.attempts == self.started - self.released

    @invariant()
    def the_history_keeps_its_begin_its_end_and_every_failure_and_counts_the_rest(self) -> None:
        kept, first, last = self.entry.history, HISTORY_FIRST, HISTORY_LAST
        if len(self.seen) <= first + last:
            assert (list(kept), self.entry.history_dropped) == (self.seen, 0)
        else:
            failures = [item for item in self.seen[first:-last] if item.error is not None]
            assert list(kept) == self.seen[:first] + failures + self.seen[-last:]
            assert self.entry.history_dropped == len(self.seen) - len(kept)
        assert self.entry.errors_dropped == 0

    @invariant()
    def the_entry_survives_its_way_over_the_wire(self) -> None:
        assert JobStatusResponse.model_validate_json(self.entry.to_json()) == self.entry


def changes(entry: JobStatusResponse) -> list[Any]:
    return [
        lambda: entry.started(NOW, "w"),
        lambda: entry.completed(NOW),
        lambda: entry.retried(NOW, "e", due=NOW, retry=None),
        lambda: entry.released(NOW),
        lambda: entry.failed(NOW, Reason.PROCESSING, "e"),
        lambda: entry.cancelled(NOW),
    ]


TestLife = Life.TestCase


def test_exactly_five_statuses_three_of_them_ends() -> None:
    assert [str(status) for status in Status] == ["queued", "processing", "complete", "failed", "cancelled"]
    assert [status.is_terminal for status in Status] == [False, False, True, True, True]


def test_a_transition_leaves_the_old_entry_as_it_was() -> None:
    before = QUEUED.to_json()
    started = QUEUED.started(NOW, "w")
    assert QUEUED.to_json() == before
    assert started.history != QUEUED.history
    started.completed(NOW)
    assert started.status is Status.PROCESSING


@given(JSON)
def test_a_result_is_spliced_in_as_it_is_whatever_it_holds(result: Any) -> None:
    entry = QUEUED.started(NOW, "w").completed(NOW)
    raw = entry.to_json(encode_json(result, "the result"))
    assert json.loads(raw)["result"] == result
    assert json.loads(raw)["status"] == "complete"
    again = JobStatusResponse.model_validate_json(raw)
    assert again.result == result
    assert again.model_copy(update={"result": None}) == entry


@pytest.mark.parametrize("result", ['","status":"failed"}', '{"status": "failed"}', "}", "\\", '"', "\0\r\n"])
def test_a_result_cannot_break_out_of_its_place(result: str) -> None:
    entry = QUEUED.started(NOW, "w").completed(NOW)
    again = JobStatusResponse.model_validate_json(entry.to_json(encode_json(result, "the result")))
    assert (again.status, again.result) == (Status.COMPLETE, result)


@pytest.mark.parametrize("depth", [150, 170, 190, 199, 200, 254, 1000])
def test_whatever_result_is_taken_can_be_read_again(depth: int) -> None:
    result: Any = 1
    for _ in range(depth):
        result = [result]
    raw = outcome(encode_json, result, "the result")
    if isinstance(raw, JobError):
        assert raw.reason is Reason.VALIDATION
        assert depth > 170, "such a depth is nothing unusual"
    else:
        assert depth < 199, "pydantic reads no deeper"
        assert JobStatusResponse.model_validate_json(QUEUED.to_json(raw)).result == result


def test_every_field_survives_its_way_over_the_wire() -> None:
    carrier = Carrier(stream="JOBS_LOW", sequence=2**53 - 1, stored_at=NOW.replace(microsecond=123456))
    entry = JobStatusResponse(
        job_id="at-x",
        status=Status.QUEUED,
        type="a.b",
        priority=Priority.LOW,
        entity="Größe 😀",
        tenant='te"nant',
        batch_id="b",
        created_at=NOW,
        scheduled_for=NOW,
        next_attempt_at=NOW,
        max_attempts=1000,
        carrier=carrier,
        retry=RetryState(failures=3, backoff=0.7),
    )
    assert JobStatusResponse.model_validate_json(entry.to_json()) == entry


@given(TEXTS)
def test_an_error_that_fits_is_kept_but_for_controls_and_lone_surrogates(text: str) -> None:
    kept = clipped(text)
    assert len(kept) == len(text)
    for before, after in zip(text, kept, strict=True):
        odd = "\ud800" <= before <= "\udfff" or (before < " " and before not in "\t\n\r")
        assert after == ("?" if odd else before)


@given(st.text(alphabet=st.sampled_from(["a", "é", "€", "😀", "\ud800", "\0", "\n"]), min_size=1, max_size=12), TEXTS)
def test_an_error_never_needs_more_than_4_kib(pattern: str, end: str) -> None:
    text = "BEGIN" + pattern * 5000 + end + "END"
    short = clipped(text)
    assert len(short.encode()) <= MAX_ERROR_BYTES
    assert len(short.encode()) > MAX_ERROR_BYTES - 32, "no more is cut than must be"
    assert short.startswith("BEGIN")
    assert short.endswith("END")
    assert "\N{REPLACEMENT CHARACTER}" not in short, "no character is cut through"
    assert clipped(short) == short


@pytest.mark.parametrize("size", [4095, 4096, 4097])
def test_the_limit_itself_is_kept_whole(size: int) -> None:
    assert (len(clipped("x" * size)) == size) is (size <= 4096)


@pytest.mark.parametrize("character", ["x", "\0", '"', "\\", "\n", "€", "\ud800"])
def test_an_entry_full_of_the_longest_errors_fits_into_one_message(character: str) -> None:
    entry = failed_often(1000, character * 5000)
    assert len(entry.to_json()) < 2**20 * 2 // 3, "there is room for a result"


@pytest.mark.parametrize("attempts", [49, 50, 51, 60, 1000])
def test_every_failure_is_kept_however_many_attempts_a_job_may_have(attempts: int) -> None:
    entry = failed_often(attempts, "e" * 250)
    assert [item.attempt for item in entry.history if item.error is not None] == list(range(1, attempts + 1))
    assert entry.errors_dropped == 0
    assert len(entry.to_json()) < 2**20 // 2


def test_failures_without_room_are_counted_and_the_first_and_the_latest_are_kept() -> None:
    entry = failed_often(1000, "e" * 5000)
    kept = [item for item in entry.history if item.error is not None]
    assert len(kept) == MAX_ERRORS_BYTES // MAX_ERROR_BYTES
    assert entry.errors_dropped == 1000 - len(kept)
    assert entry.history_dropped == 2000 - len(entry.history)
    first = [item.attempt for item in kept[: HISTORY_FIRST // 2]]
    latest = [item.attempt for item in kept[HISTORY_FIRST // 2 :]]
    assert (first, latest) == (list(range(1, 11)), list(range(1001 - len(latest), 1001)))


def test_a_job_that_snoozes_without_end_keeps_its_failures() -> None:
    entry = QUEUED
    for call in range(1, 139):
        entry = entry.started(NOW, "w")
        if call in {16, 77, 138}:
            entry = entry.retried(NOW, f"call {call}", due=NOW, retry=None)
        else:
            entry = entry.snoozed(NOW, NOW)
    assert [item.error for item in entry.history if item.error] == ["call 16", "call 77", "call 138"]
    assert (len(entry.history), entry.history_dropped, entry.errors_dropped) == (102, 2 * 138 - 102, 0)


def failed_often(attempts: int, error: str) -> JobStatusResponse:
    """An entry of a job that failed in each of its attempts."""
    entry = QUEUED
    for _ in range(attempts):
        entry = entry.started(NOW, "w").retried(NOW, error, due=NOW, retry=None)
    return entry


def test_an_id_is_a_string_that_knows_whether_it_is_a_duplicates() -> None:
    job_id = JobId("high-7", duplicate=True)
    assert job_id == "high-7"
    assert {job_id: 1}["high-7"] == 1
    assert json.dumps([job_id]) == '["high-7"]'
    assert job_id.duplicate
    assert not JobId("high-7").duplicate
    for again in (pickle.loads(pickle.dumps(job_id)), copy.deepcopy(job_id)):
        assert (again, type(again), again.duplicate) == ("high-7", JobId, True)


def test_tokens_are_nobody_elses_and_times_are_utc() -> None:
    assert len({random_token() for _ in range(1000)}) == 1000
    assert utc_now().utcoffset() == timedelta(0)
