"""Write dead jobs into the table, from a letter or from a message that no worker could end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jsjobs.dead_letters.row import row
from jsjobs.jetstream.api.errors import ApiError
from jsjobs.jetstream.api.lost_race import settled
from jsjobs.jetstream.api.messages import StoredMessage, find_at_leader
from jsjobs.jetstream.api.streams import delete_message
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionClosed
from jsjobs.jetstream.jobs.blocked_writes import BlockedWrite
from jsjobs.jetstream.jobs.dead_letter_message import Letter, send_letter
from jsjobs.jetstream.jobs.message import IncomingJob, read_job
from jsjobs.jetstream.jobs.state_store import Conflict, Found, StateStore
from jsjobs.jetstream.protocol.job_ids import is_given_id, parse_plain_id
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.unroutable import read_unfit
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse, Status, new_status, utc_now
from jsjobs.postgres.dead_letters import DeadLetters
from jsjobs.safe_log import get_logger

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry

logger = get_logger("jsjobs.router")

WRITE_WITHIN = 10.0
"""Seconds for which a write is tried; after that the letter waits, and is delivered again."""


def _is_failed(found: Found) -> bool:
    return found.entry is not None and found.entry.status is Status.FAILED


class DeadLetterRecorder:
    """Store letters and end messages; every step may be repeated."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        state: StateStore,
        letters: DeadLetters,
        *,
        result_ttl: float,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._connection = connection
        self._names = names
        self._state = state
        self._letters = letters
        self._ttl = result_ttl
        self._telemetry = telemetry

    async def store(self, letter: Letter, *, patient: bool) -> bool:
        """Store a letter, then give its job's entry a time to live.

        Args:
            letter: The letter that a worker published.
            patient: Whether to wait while the entry is missing or does not say `failed`: a new leader may lag behind.

        Returns:
            False if it should be tried again later.

        Raises:
            DatabaseError: If Postgres cannot take it now.
            JobError: If the server cannot be asked now.
        """
        is_id = parse_plain_id(letter.job_id) is not None or is_given_id(letter.job_id)
        found = await self._state.read(letter.job_id) if is_id else None
        if is_id and (found is None or found.problem is not None or not _is_failed(found)):
            found = await self._state.read_at_leader(letter.job_id)
        problem = found.problem if found else None
        entry = None if found is None or problem is not None else found.entry
        status = problem.status if problem is not None else entry.status if entry is not None else None
        if status in {Status.COMPLETE, Status.CANCELLED}:
            logger.warning("dead-letter message of job %s dropped: the job is %s", letter.job_id[:200], status)
            return True
        if is_id and patient and (entry is None or status is not Status.FAILED):
            return False
        if problem is not None:
            logger.warning("job %s: its dead letter is stored without its entry: %s", letter.job_id, problem.message)
        await self._letters.store(row(letter, entry, utc_now()))
        if found is not None and entry is not None and status is Status.FAILED:
            await self._let_age(entry, found)
        elif found is not None and problem is not None and not found.expires:
            known = new_status({"job_id": letter.job_id}).failed(utc_now(), letter.reason, problem.message)
            await self._let_age(known, found)
        return True

    async def _let_age(self, entry: JobStatusResponse, found: Found) -> bool:
        """Give the entry, unchanged, its time to live, since the letter is safe; return whether this call did so."""
        try:
            await self._state.write(entry, expected=found.revision, ttl=self._ttl, within=WRITE_WITHIN)
        except Conflict:
            logger.debug("another router set the time to live of the entry of %s", entry.job_id)
            return False
        return True

    async def _let_cancelled_age(self, job_id: str) -> None:
        """Give a cancelled job's entry its time to live, which its canceller left out while the message was there."""
        found = await self._state.read(job_id)
        entry = None if found is None or found.expires else found.entry
        if found is None or entry is None or not await self._let_age(entry, found):
            return
        if self._telemetry is not None:
            self._telemetry.count("jobs.cancellations", entry.type, "cancel", entry.priority)

    async def dead_letter(self, stream: str, sequence: int, filter_subject: str, why: JobError | None = None) -> None:
        """End a message that no worker could end: write `failed` unless it is there, store it, delete it.

        Args:
            stream: The queue.
            sequence: The message's sequence.
            filter_subject: The subjects of the consumer that gave it up; a message of another shard is left alone.
            why: What the job dies of; None if its deliveries are used up.

        Raises:
            DatabaseError: If Postgres cannot take it now.
            JobError: If the server cannot be asked now.
        """
        message = await find_at_leader(self._connection, stream, {"seq": sequence})
        if message is None:
            return  # it was ended meanwhile, and its entry tells how
        _, subject, stored_at, header, body = message
        if not subject.decode().startswith(filter_subject.removesuffix(">")):
            logger.warning("message %d of %s does not match %s and is left alone", sequence, stream, filter_subject)
            return
        job = read_job(self._names, subject, header, body, sequence=sequence, stored_at=stored_at)
        entry, needs_letter = await self._ended(job, why)
        if entry is not None and needs_letter:
            reason = entry.error_reason or Reason.MAX_RETRIES
            await self.store(Letter(entry.job_id, reason, header, body), patient=False)
        await self._delete(stream, sequence)
        if entry is not None and entry.status is Status.CANCELLED:
            await self._let_cancelled_age(job.job_id)
        logger.warning("the server gave up job %s, which is %s now", job.job_id, entry.status if entry else "ended")

    async def dead_letter_if_possible(
        self, stream: str, sequence: int, filter_subject: str, why: JobError | None = None
    ) -> None:
        """Call `dead_letter`, but log a terminal failure; the message stays, and blocks no other.

        Raises:
            DatabaseError: If Postgres cannot take it now.
            JobError: If the server cannot be asked now.
        """
        try:
            await self.dead_letter(stream, sequence, filter_subject, why)
        except JobError as error:
            if error.is_transient:
                raise
            # Retrying at once might go on for ever; each sweep finds the message as long as it is there.
            logger.error("message %d of %s could not be made a dead letter: %s", sequence, stream, error)  # noqa: TRY400 - it says why

    async def dead_letter_due(self, message: StoredMessage, why: JobError) -> None:
        """End a message that fired but fits no queue: write `failed`, send its letter, delete it.

        The letter goes through its stream, like a worker's: while Postgres is down, the message holds up nothing.

        Args:
            message: The message as it lies in the schedule stream.
            why: Why no queue takes it.

        Raises:
            JobError: If the server cannot be asked now, has no room, or refuses, for example for lack of a permission.
        """
        job = read_unfit(self._names, message)
        entry, needs_letter = await self._ended(job, why)
        if entry is not None and needs_letter:
            with BlockedWrite(self._state.blocked, None) as blocked:
                block, body = message.header, message.data
                await send_letter(
                    self._connection, self._names, entry, block, body, blocked=blocked, within=WRITE_WITHIN
                )
        await self._delete(self._names.schedule_stream, message.sequence)
        if entry is not None and entry.status is Status.CANCELLED:
            await self._let_cancelled_age(job.job_id)
        logger.warning("job %s, which was due, is %s now: %s", job.job_id, entry.status if entry else "ended", why)

    async def dead_letter_due_if_possible(self, message: StoredMessage, why: JobError) -> bool:
        """Call `dead_letter_due`, but log a failure and return False; the message stays, and blocks nothing.

        Raises:
            ConnectionClosed: If the router has been stopped.
        """
        try:
            await self.dead_letter_due(message, why)
        except ConnectionClosed:
            raise
        except JobError as error:
            place = f"message {message.sequence} of {self._names.schedule_stream}"
            logger.error("%s could not be made a dead letter: %s", place, error)  # noqa: TRY400 - it says why
            return False
        return True

    async def _delete(self, stream: str, sequence: int) -> None:
        try:
            await delete_message(self._connection, stream, sequence)
        except ApiError:
            # If the message is gone, another router was faster.
            if await find_at_leader(self._connection, stream, {"seq": sequence}) is not None:
                raise

    async def _ended(self, job: IncomingJob, why: JobError | None) -> tuple[JobStatusResponse | None, bool]:
        """End the job unless it has ended; return its entry, and whether its letter is still to be stored.

        The entry is None if the message is only a copy. An entry that expires needs no letter: it was stored already,
        or the job was dropped.
        """
        return await settled(lambda: self._end(job, why))

    async def _end(self, job: IncomingJob, why: JobError | None) -> tuple[JobStatusResponse | None, bool]:
        found = await self._state.read(job.job_id)
        problem = found.problem if found else None
        if found is not None and (found.is_over or found.has_expired):
            return None, False  # it ended long ago, or needs no letter
        entry = job.entry() if found is None or problem is not None or not found.entry else job.own(found.entry)
        if entry is None or entry.status.is_terminal:
            is_dead = entry is not None and entry.status is Status.FAILED
            return entry, is_dead and found is not None and not found.expires
        error = why or problem or _spent(entry)
        dead = entry.failed(utc_now(), error.reason, error.message)
        await self._state.write(dead, expected=found.revision if found else 0, within=WRITE_WITHIN)
        if self._telemetry is not None:
            self._telemetry.count("jobs.dead_lettered", dead.type, "dead_letter", dead.priority)
        return dead, True


def _spent(entry: JobStatusResponse) -> JobError:
    last = entry.history[-1] if entry.history else None
    released = last is not None and last.status is Status.QUEUED and not last.error
    reason = Reason.RUNNER_UNAVAILABLE if released else Reason.MAX_RETRIES
    if not entry.attempts:
        return JobError(reason, "no worker ever started it: the server gave it up, or skipped it without a delivery")
    return JobError(reason, "the server delivered it as often as it may, and no attempt ended it")
