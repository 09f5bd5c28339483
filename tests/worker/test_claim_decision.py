"""What a delivery means for its job."""

from datetime import UTC, datetime, timedelta

import pytest

from jsjobs.jetstream.jobs.message import IncomingJob
from jsjobs.jetstream.jobs.state_store import Found, UnreadableEntry
from jsjobs.jetstream.protocol.headers import JobHeaders
from jsjobs.model.errors import JobError
from jsjobs.model.job import Carrier, Duration, JobStatusResponse, Priority, Status
from jsjobs.model.lanes import Queue
from jsjobs.model.retry import RetryState
from jsjobs.worker.claim_decision import (
    Dead,
    Decision,
    Ended,
    Expire,
    Ignore,
    ResendDeadLetter,
    Sleep,
    Start,
    Wait,
    decide,
    taken_over,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
STORED = NOW - timedelta(minutes=1)


def job(
    job_id: str = "normal-7",
    sequence: int = 7,
    given: str | None = None,
    stored: datetime = STORED,
    *,
    expires: datetime | None = None,
    drop: bool = False,
    problem: JobError | None = None,
    duration: Duration = Duration.SHORT,
) -> IncomingJob:
    return IncomingJob(
        job_id=given or job_id,
        type="t",
        queue=Queue(Priority.NORMAL),
        shard=0,
        headers=JobHeaders(
            given_id=given, max_attempts=2, tenant="acme", duration=duration, expires=expires, drop_expired=drop
        ),
        problem=problem,
        carrier=Carrier(stream="JOBS_NORMAL", sequence=sequence, stored_at=stored),
        data=b"{}",
    )


def decided(
    entry: JobStatusResponse | None,
    of: IncomingJob | None = None,
    *,
    age: float = 0,
    marker: bool = False,
    deleted: bool = False,
    expires: bool = True,
    sleeps: bool = True,
) -> Decision:
    found = None
    if entry is not None or marker or deleted:
        found = Found(entry, 42, NOW - timedelta(seconds=age), b"w", expires, deleted)
    return decide(found, of or job(), worker="w2", now=NOW, server_now=NOW, ack_wait=30, margin=5, sleeps=sleeps)


def processing(attempts: int = 1) -> JobStatusResponse:
    entry = job().entry()
    for number in range(attempts):
        if number:
            entry = entry.retried(NOW, "bad", due=NOW, retry=RetryState(failures=number))
        entry = entry.started(NOW, "w1")
    return entry


def test_a_new_job_starts_and_its_write_expects_no_entry() -> None:
    decision = decided(None)
    assert isinstance(decision, Start)
    assert (decision.expected, decision.entry.status, decision.entry.attempts) == (0, Status.PROCESSING, 1)
    assert (decision.entry.tenant, decision.entry.created_at, decision.entry.max_attempts) == ("acme", STORED, 2)


def test_a_first_attempt_is_the_same_whether_the_entry_was_looked_for() -> None:
    start = Start(job().begun(NOW, "w2"), 0)
    assert start == decided(None)
    assert isinstance(start, Start)
    assert start.entry.to_json() == job().entry().started(NOW, "w2").to_json()


def test_an_ended_job_is_never_run() -> None:
    complete, cancelled = processing().completed(NOW), processing().cancelled(NOW)
    dead = processing().failed(NOW, "MaxRetries", "bad")
    assert isinstance(decided(complete), Ended)
    assert isinstance(decided(cancelled), Ended)
    assert isinstance(decided(dead, expires=False), ResendDeadLetter)
    assert isinstance(decided(dead), Ended)  # its letter is stored, or none is wanted
    assert isinstance(decided(None, marker=True), Ended)


def test_a_job_whose_entry_was_deleted_starts_as_a_new_one_once_nobody_can_run_it_any_more() -> None:
    assert decided(None, deleted=True, age=30) == decided(None)._replace(expected=42)
    assert decided(None, deleted=True, age=10) == Wait(20)
    assert decided(None, deleted=True, age=-500) == Wait(30)  # a clock that was set back


def test_a_waiting_job_starts_its_next_attempt_on_the_revision_found() -> None:
    waiting = processing().retried(NOW, "bad", due=NOW, retry=RetryState(failures=1))
    decision = decided(waiting)
    assert isinstance(decision, Start)
    assert (decision.expected, decision.entry.attempts, decision.entry.worker) == (42, 2, "w2")


def test_a_released_attempt_does_not_count() -> None:
    decision = decided(processing().released(NOW))
    assert isinstance(decision, Start)
    assert decision.entry.attempts == 1
    assert [item.attempt for item in decision.entry.history] == [1, 1, 1]


def snoozed(seconds: float = 60) -> JobStatusResponse:
    return processing().snoozed(NOW, NOW + timedelta(seconds=seconds))


def test_a_snoozed_job_waits_for_as_long_as_the_server_says() -> None:
    assert decided(snoozed(), age=10) == Sleep(50, 42)
    assert decided(snoozed(), age=-500) == Sleep(60, 42)  # a clock that was set back


def test_a_snooze_that_is_over_costs_no_attempt() -> None:
    for decision in (decided(snoozed(), age=60), decided(snoozed(), age=1, sleeps=False)):
        assert isinstance(decision, Start)
        assert decision.after_snooze
        assert (decision.expected, decision.entry.attempts, decision.entry.snoozed_until) == (42, 1, None)
        assert [item.status for item in decision.entry.history] == ["processing", "queued", "processing"]


def test_a_cancelled_snooze_is_not_waited_out() -> None:
    assert isinstance(decided(snoozed().cancelled(NOW)), Ended)


PAST, FUTURE = NOW - timedelta(seconds=10), NOW + timedelta(seconds=10)


def test_a_job_that_was_not_started_in_time_is_dead() -> None:
    decision = decided(None, job(expires=PAST))
    assert isinstance(decision, Expire)
    assert (decision.expected, decision.drop, decision.entry.status) == (0, False, Status.QUEUED)
    assert decision.error == ("the job expired at 2026-11-22T11:59:50Z, before it was started; it had waited 60.0 s")
    assert isinstance(decided(None, job(expires=NOW)), Expire)
    assert isinstance(decided(None, job(expires=FUTURE)), Start)


def test_a_job_is_dropped_where_that_was_asked_for() -> None:
    decision = decided(None, job(expires=PAST, drop=True))
    assert isinstance(decision, Expire)
    assert decision.drop
    assert isinstance(decided(None, job(drop=True)), Start)


def test_how_long_a_delayed_job_waited_counts_from_when_it_was_due() -> None:
    submitted = JobStatusResponse(job_id="at-1-x", status=Status.QUEUED, created_at=STORED, scheduled_for=PAST)
    decision = decided(submitted, job(given="at-1-x", expires=NOW))
    assert isinstance(decision, Expire)
    assert "it had waited 10.0 s" in decision.error


def test_a_job_that_started_once_does_not_expire() -> None:
    late = job(expires=PAST)
    retried = processing().retried(NOW, "bad", due=NOW, retry=None)
    for entry in (retried, processing().released(NOW), snoozed(-1)):
        assert isinstance(decided(entry, late), Start)
    assert isinstance(decided(processing(), late), Wait)
    assert isinstance(decided(processing(), late, age=31), Start)


def test_a_header_that_cannot_be_read_is_what_an_expired_job_dies_of() -> None:
    assert isinstance(decided(None, job(expires=PAST, problem=JobError.from_validation("bad"))), Start)


def test_a_long_job_that_is_delivered_long_before_its_lease_is_over_is_let_go() -> None:
    long = job(duration=Duration.LONG)
    assert isinstance(decided(processing(), long, age=24.9), Ignore)
    assert isinstance(decided(processing(), age=24.9), Wait)
    assert isinstance(decided(processing(), long, age=25.1), Wait)
    assert isinstance(decided(processing(), long, age=30.1), Start)


def test_a_young_lease_is_waited_out_and_never_longer_than_ack_wait() -> None:
    assert decided(processing(), age=10) == Wait(20)
    assert decided(processing(), age=-500) == Wait(30)


def test_an_entry_that_cannot_be_read_is_waited_for_as_any_other_lease() -> None:
    def decided_of(status: Status | None, age: float) -> Decision:
        problem = UnreadableEntry("$KV.jobs.normal-7", "normal-7", "garbage", status)
        found = Found(problem, 42, NOW - timedelta(seconds=age), None, expires=False)
        return decide(found, job(), worker="w2", now=NOW, server_now=NOW, ack_wait=30, margin=5)

    for status in (None, Status.QUEUED, Status.PROCESSING):
        assert decided_of(status, 10) == Wait(20)
        assert isinstance(decided_of(status, 30), Dead)
    assert isinstance(decided_of(Status.FAILED, 10), Dead)
    assert isinstance(decided_of(Status.COMPLETE, 30), Ended)


def test_a_lost_worker_s_job_is_taken_over_with_the_loss_in_its_history() -> None:
    decision = decided(processing(), age=31)
    assert isinstance(decision, Start)
    assert (decision.entry.attempts, decision.expected) == (2, 42)
    assert [item.status for item in decision.entry.history] == ["processing", "queued", "processing"]
    assert "worker was lost" in (decision.entry.history[1].error or "")


def test_a_job_whose_workers_keep_dying_is_dead_when_its_attempts_are_spent() -> None:
    decision = decided(processing(attempts=2), age=31)
    assert isinstance(decision, Dead)
    assert (decision.reason, decision.expected) == ("MaxRetries", 42)
    assert "worker was lost" in decision.error


@pytest.mark.parametrize(("attempt", "of", "is_last"), [(1, 1, True), (1, 2, False), (2, 3, False), (3, 3, True)])
def test_workers_that_die_have_max_attempts_and_not_one_more_or_less(attempt: int, of: int, *, is_last: bool) -> None:
    lost = processing(attempt).model_copy(update={"max_attempts": of})
    decision = taken_over(lost, 42, NOW, "w2")
    assert isinstance(decision, Dead) is is_last
    if isinstance(decision, Start):
        assert decision.entry.attempts == attempt + 1


def test_a_given_id_runs_from_one_copy_only() -> None:
    copy, other = job(given="replay-1-x", sequence=8), job(given="replay-1-x", sequence=9)
    submitted = JobStatusResponse(job_id="replay-1-x", status=Status.QUEUED)
    first = decided(submitted, copy)
    assert isinstance(first, Start)
    assert (first.entry.carrier, first.entry.type, first.entry.max_attempts) == (copy.carrier, "t", 2)
    assert isinstance(decided(first.entry, other), Ended)
    assert isinstance(decided(first.entry.retried(NOW, "bad", due=NOW, retry=None), copy), Start)


def test_an_entry_of_another_job_with_the_same_id_is_replaced() -> None:
    old = job(stored=STORED - timedelta(days=3)).entry().started(NOW, "w0").completed(NOW)
    decision = decided(old)
    assert isinstance(decision, Start)
    assert (decision.expected, decision.entry.attempts, decision.entry.created_at) == (42, 1, STORED)
