"""Publish jobs: one message each, or an atomic batch. The acknowledgement is the job's receipt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jsjobs.jetstream.api.errors import Refusal
from jsjobs.jetstream.api.publish import (
    ASK_AGAIN,
    IN_PROCESS,
    MAX_BATCH,
    NOTHING_MORE_QUEUED,
    NOTHING_QUEUED,
    Outgoing,
    PubAck,
    answer_of,
    comes_back,
    refusal,
    send_batch,
    unknown,
)
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionLost, NoResponders
from jsjobs.jetstream.protocol.headers import MSG_ID, TENANT, header_block
from jsjobs.jetstream.protocol.job_ids import plain_id
from jsjobs.jetstream.protocol.names import NO_KEY, Names, name_token
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobId, Priority, random_token
from jsjobs.model.lanes import QUEUES, Lane, Queue

MAX_MESSAGE = 896 * 1024
"""Maximum bytes of header and body of one job: `max_msg_size` of the queues, see `streams/`."""
_OF_A_BATCH = 160
"""Maximum bytes added by the headers of a batch and of its message ids."""
_MOST_HEADERS = 16 * 1024
"""Bytes that a job's headers never reach."""
IN_FLIGHT = 512
"""Number of single publishes in flight at once when a list is probed."""

_DUPLICATE_IN_BATCH = 10201


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingJob(Outgoing):
    """A job as it is published into its queue."""

    queue: Queue
    type: str


class JobQueue:
    """Publish jobs into the streams of one namespace."""

    def __init__(self, connection: Connection, names: Names, *, timeout: float = 5.0) -> None:
        self._connection = connection
        self._names = names
        self._timeout = timeout
        self._queues = {names.queue(queue): queue for queue in QUEUES}

    def stream(self, priority: Priority, entity: str | None) -> str:
        """Return the stream that holds the jobs of a priority and an entity, or those without one."""
        return self._names.queue(Queue(priority, Lane.PARALLEL if entity is None else Lane.ORDERED))

    def job(
        self,
        priority: Priority,
        entity: str | None,
        job_type: str,
        data: bytes,
        headers: dict[str, str] | None = None,
    ) -> OutgoingJob:
        """Return a job to publish.

        Args:
            priority: The job's priority.
            entity: The job's entity. A job without one goes to the parallel lane, where its tenant is its fairness key.
            job_type: The job's type.
            data: The job's payload, as JSON.
            headers: The job's headers.
        """
        headers = {} if headers is None else headers
        if entity is not None:
            subject, queue = self._names.submit(priority, name_token(entity), job_type), Queue(priority)
        else:
            tenant = headers.get(TENANT)
            key = NO_KEY if tenant is None else name_token(tenant, "the tenant")
            subject = self._names.submit_parallel(priority, key, job_type)
            queue = Queue(priority, Lane.PARALLEL)
        return OutgoingJob(subject.encode(), data, headers, queue=queue, type=job_type)

    async def publish(self, job: OutgoingJob) -> JobId:
        """Publish one job and return its id.

        Raises:
            JobError: `RunnerUnavailable` if the queue is full, does not exist or cannot be reached (the message says
                whether the job may have been queued); `Validation` if it is too large.
        """
        header = _block(job.headers)
        # The same message id again is the same job: the server says so in its answer.
        tries = 2 if MSG_ID in job.headers else 1
        deadline = time.monotonic() + self._timeout
        while True:
            tries -= 1
            try:
                ask = self._connection.ask(job.subject, job.data, header=header, timeout=self._timeout, once=True)
                reply = await ask
            except NoResponders as error:
                if not await self._comes_back(job.queue, deadline):
                    raise self._no_stream() from error
                tries += 1
                continue
            except ConnectionLost as error:
                if tries:
                    continue
                advice = "submit it again with the same dedupe_key, it will not be queued twice"
                if MSG_ID not in job.headers:
                    advice = "give the job a dedupe_key to make submitting it again safe"
                raise unknown(error, advice) from error
            answer = answer_of(reply)
            in_process = isinstance(answer, Refusal) and answer.err_code == IN_PROCESS
            if not in_process or time.monotonic() > deadline:
                return self._receipt(answer)
            tries += 1
            await asyncio.sleep(ASK_AGAIN)

    def misfit(self, job: Outgoing) -> str | None:
        """Return why a job of a list is too large to be queued, or None if it is not."""
        limit = min(MAX_MESSAGE, self._connection.max_payload)
        if len(job.data) + _MOST_HEADERS <= limit:
            return None
        size = len(header_block(job.headers)) + _OF_A_BATCH + len(job.data)
        return None if size <= limit else f"{size} bytes with its headers, the limit is {limit}"

    async def publish_batch(
        self,
        jobs: Sequence[OutgoingJob],
        receipts: list[JobId] | None = None,
        on_queued: Callable[[int], None] | None = None,
    ) -> list[JobId]:
        """Publish a list: all or nothing up to 1,000 jobs, in chunks of 1,000 above that.

        Args:
            jobs: The jobs.
            receipts: Each chunk's ids are added here as soon as it is queued, so that a later failure hides none.
            on_queued: Called with the number of receipts after each chunk.

        Raises:
            JobError: As in `publish`. Of a list above 1,000 the chunks before the refused one stay queued; the message
                says how many jobs they hold.
        """
        receipts = [] if receipts is None else receipts
        before = len(receipts)
        for start in range(0, len(jobs), MAX_BATCH):
            try:
                await self._publish_chunk(jobs[start : start + MAX_BATCH], receipts)
            except JobError as error:
                if not receipts:
                    raise
                text = f"{error.message} ({len(receipts)} jobs of the list are queued)"
                raise JobError(error.reason, text) from error
            if on_queued is not None:
                on_queued(len(receipts))
        return receipts[before:]

    async def _publish_chunk(self, jobs: Sequence[OutgoingJob], receipts: list[JobId]) -> None:
        keyed = any(MSG_ID in job.headers for job in jobs)
        # Without keys, one message id for the whole batch makes it safe to send again, and its place can be found. If
        # some jobs have keys, each job gets an id: any of them may be queued already while the others are not.
        batch, unkeyed = random_token(), len(jobs) if keyed else 1
        jobs = [
            job
            if index >= unkeyed or MSG_ID in job.headers
            else replace(job, headers={**job.headers, MSG_ID: f"batch/{batch}/{index}"})
            for index, job in enumerate(jobs)
        ]
        deadline = time.monotonic() + self._timeout
        outcome = NOTHING_MORE_QUEUED if receipts else NOTHING_QUEUED
        try:
            answer = await self._send_batch(jobs, deadline, outcome)
        except ConnectionLost:
            try:
                answer = await self._send_batch(jobs, deadline, outcome)
            except ConnectionLost as error:
                advice = "submit it again with the same dedupe_key" if keyed else "give it a dedupe_key"
                raise unknown(error, f"{advice}, it will not be queued twice") from error
        if not (isinstance(answer, Refusal) and answer.err_code == _DUPLICATE_IN_BATCH):
            # A committed batch has no gaps: n jobs acknowledged at s are s-n+1 to s.
            receipts += _consecutive(self._receipt(answer, outcome), 1 - len(jobs), len(jobs))
        elif keyed:
            await self._probe(jobs, receipts)
        else:
            # Our own batch was committed and its acknowledgement lost: its first message tells its place.
            receipts += _consecutive(await self.publish(jobs[0]), 0, len(jobs))

    async def _send_batch(self, jobs: Sequence[OutgoingJob], deadline: float, outcome: str) -> PubAck | Refusal:
        while True:
            try:
                return await send_batch(
                    self._connection, jobs, most_bytes=MAX_MESSAGE, timeout=self._timeout, outcome=outcome
                )
            except NoResponders as error:
                if not await self._comes_back(jobs[-1].queue, deadline):
                    raise self._no_stream() from error

    async def _probe(self, jobs: Sequence[OutgoingJob], receipts: list[JobId]) -> None:
        """Publish a list job by job, because some of it was submitted before.

        Each job gets its own id or that of its original.
        """
        for start in range(0, len(jobs), IN_FLIGHT):
            some = (self.publish(job) for job in jobs[start : start + IN_FLIGHT])
            outcomes = await asyncio.gather(*some, return_exceptions=True)
            receipts += [outcome for outcome in outcomes if isinstance(outcome, JobId)]
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome

    async def _comes_back(self, queue: Queue, deadline: float) -> bool:
        return await comes_back(self._connection, self._names.queue(queue), deadline)

    def _receipt(self, answer: PubAck | Refusal, outcome: str = NOTHING_QUEUED) -> JobId:
        if isinstance(answer, Refusal):
            raise refusal(answer, outcome)
        queue = self._queues.get(answer.stream)
        if queue is None:
            raise JobError.from_runner_unavailable(
                f"the subject belongs to stream {answer.stream}, which is not a queue: run `jsjobs streams plan`"
            )
        return JobId(plain_id(queue, answer.sequence), duplicate=answer.duplicate)

    def _no_stream(self) -> JobError:
        return JobError.from_runner_unavailable(
            f"no stream takes jobs of namespace {self._names.namespace!r}: run `jsjobs streams apply`, "
            "or wait if its replicas have no majority now"
        )


def _consecutive(receipt: JobId, offset: int, count: int) -> list[JobId]:
    """Return the ids of a batch whose first job is `offset` places after the one that a receipt names."""
    queue, _, sequence = receipt.rpartition("-")
    return [JobId(f"{queue}-{int(sequence) + offset + index}") for index in range(count)]


def _block(headers: dict[str, str]) -> bytes:
    return header_block(headers) if headers else b""
