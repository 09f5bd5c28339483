"""What a delivery means for its job."""

from datetime import UTC, datetime, timedelta

from jsjobs.jetstream.incoming import IncomingJob
from jsjobs.jetstream.state import Found
from jsjobs.jetstream.wire import JobHeaders
from jsjobs.model.job import Carrier, JobStatusResponse, Priority, Status
from jsjobs.model.retry import RetryState
from jsjobs.worker.decision import Bury, Decision, Ended, Rebury, Start, Wait, decide

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
STORED = NOW - timedelta(minutes=1)


def job(
    job_id: str = "normal-7", sequence: int = 7, given: str | None = None, stored: datetime = STORED
) -> IncomingJob:
    return IncomingJob(
        job_id=given or job_id,
        type="t",
        priority=Priority.NORMAL,
        shard=0,
        headers=JobHeaders(given_id=given, max_attempts=2, tenant="acme"),
        problem=None,
        carrier=Carrier(stream="JOBS_NORMAL", sequence=sequence, stored_at=stored),
        data=b"{}",
    )


def decided(
    entry: JobStatusResponse | None, of: IncomingJob | None = None, *, age: float = 0, marker: bool = False
) -> Decision:
    found = None
    if entry is not None or marker:
        found = Found(entry, 42, NOW - timedelta(seconds=age), b"w", expires=True)
    return decide(found, of or job(), worker="w2", now=NOW, server_now=NOW, ack_wait=30)


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


def test_an_ended_job_is_never_run() -> None:
    complete, cancelled = processing().completed(NOW), processing().cancelled(NOW)
    dead = processing().failed(NOW, "MaxRetries", "bad")
    assert isinstance(decided(complete), Ended)
    assert isinstance(decided(cancelled), Ended)
    assert isinstance(decided(dead), Rebury)
    assert isinstance(decided(None, marker=True), Ended)


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


def test_a_young_lease_is_waited_out_and_never_longer_than_ack_wait() -> None:
    assert decided(processing(), age=10) == Wait(20)
    assert decided(processing(), age=-500) == Wait(30)


def test_a_lost_worker_s_job_is_taken_over_with_the_loss_in_its_history() -> None:
    decision = decided(processing(), age=31)
    assert isinstance(decision, Start)
    assert (decision.entry.attempts, decision.expected) == (2, 42)
    assert [item.status for item in decision.entry.history] == ["processing", "queued", "processing"]
    assert "worker was lost" in (decision.entry.history[1].error or "")


def test_a_job_whose_workers_keep_dying_is_dead_when_its_attempts_are_spent() -> None:
    decision = decided(processing(attempts=2), age=31)
    assert isinstance(decision, Bury)
    assert (decision.reason, decision.expected) == ("MaxRetries", 42)
    assert "worker was lost" in decision.error


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
