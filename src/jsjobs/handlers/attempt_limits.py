"""Decide how often and how long a job may run if its publisher left that open. Pure."""

from __future__ import annotations

from dataclasses import replace

from jsjobs.jetstream.jobs.message import IncomingJob
from jsjobs.model.errors import JobError
from jsjobs.model.job import Duration


def with_terms(job: IncomingJob, attempts: int | None, short: float) -> IncomingJob:
    """Return the job with its worker's decisions added to its headers.

    Args:
        job: The job as its message has it.
        attempts: The attempts of a job whose publisher set none; None if nobody sets them.
        short: Seconds that a short job may run.

    Returns:
        The job. If it is marked short but has a timeout longer than a short job's, it cannot be run: that is its
        `problem`.
    """
    own = job.headers
    is_longer = own.timeout is not None and own.timeout > short
    headers = replace(
        own,
        max_attempts=own.max_attempts or attempts,
        duration=Duration.LONG if is_longer and own.duration is None else own.duration,
    )
    problem = job.problem
    if is_longer and own.duration is Duration.SHORT and problem is None:
        problem = too_long_for_short(own.timeout or 0, short)
    return job._replace(headers=headers, problem=problem)


def too_long_for_short(timeout: float, short: float) -> JobError:
    """Return the error of a job that is short but has a longer timeout."""
    return JobError.from_validation(
        f"a timeout of {timeout:g} s is longer than a short job may run, {short:g} s (ack_wait less a margin): leave "
        "the duration out, or make it long"
    )
