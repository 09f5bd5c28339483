"""Publishing jobs: one message each, or an atomic batch. The acknowledgement is the job's receipt."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from jsjobs.jetstream.acknowledgements import IN_PROCESS, answer_of, refusal, unknown
from jsjobs.jetstream.atomic import MAX_BATCH, send_batch
from jsjobs.jetstream.away import ASK_AGAIN, comes_back
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionLost, NoResponders
from jsjobs.jetstream.ids import plain_id
from jsjobs.jetstream.outgoing import Outgoing
from jsjobs.jetstream.subjects import Names, entity_token
from jsjobs.jetstream.wire import MSG_ID, header_block
from jsjobs.model.errors import JobError
from jsjobs.model.ids import JobId
from jsjobs.model.job import Priority, random_token

MAX_MESSAGE = 896 * 1024
"""Header and body of one job, at most: `max_msg_size` of the queues, see `streams/`."""
_OF_A_BATCH = 160
"""Bytes that the headers of a batch and of its message ids add, at most."""
_MOST_HEADERS = 16 * 1024
"""Bytes that a job's headers surely stay below."""
IN_FLIGHT = 512
"""Single publishes under way at once when a list is probed."""

_DUPLICATE_IN_BATCH = 10201


class JobQueue:
    """Publishes jobs into the streams of one namespace."""

    def __init__(self, connection: Connection, names: Names, *, timeout: float = 5.0) -> None:
        self._connection = connection
        self._names = names
        self._timeout = timeout
        self._spread = itertools.count(int.from_bytes(os.urandom(4)))
        self._priorities = {names.stream(priority): priority for priority in Priority}

    def stream(self, priority: Priority) -> str:
        """The stream that holds the jobs of a priority."""
        return self._names.stream(priority)

    def subject(self, priority: Priority, entity: str | None, job_type: str) -> bytes:
        """Where a job goes; one without an entity gets a token of its own, so that such jobs cycle over the shards."""
        token = f"_{next(self._spread):x}" if entity is None else entity_token(entity)
        return self._names.submit(priority, token, job_type).encode()

    async def publish(self, job: Outgoing) -> JobId:
        """Publish one job; its id.

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
                if not await self._comes_back(job.subject, deadline):
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
            if (answer.get("error") or {}).get("err_code") != IN_PROCESS or time.monotonic() > deadline:
                return self._receipt(answer)
            tries += 1
            await asyncio.sleep(ASK_AGAIN)

    def misfit(self, job: Outgoing) -> str | None:
        """Why a job of a list cannot be queued, if it is too large for that; None, if it is not."""
        limit = min(MAX_MESSAGE, self._connection.max_payload)
        if len(job.data) + _MOST_HEADERS <= limit:
            return None
        size = len(header_block(job.headers)) + _OF_A_BATCH + len(job.data)
        return None if size <= limit else f"{size} bytes with its headers, {limit} are taken"

    async def publish_batch(
        self,
        jobs: Sequence[Outgoing],
        receipts: list[JobId] | None = None,
        on_queued: Callable[[int], None] | None = None,
    ) -> list[JobId]:
        """Publish a list: all or nothing up to 1,000 jobs, in chunks of 1,000 above that.

        Args:
            jobs: The jobs.
            receipts: Each chunk's ids are added here as soon as it is queued, for who must know though the next fails.
            on_queued: Called with the number of receipts after each chunk.

        Raises:
            JobError: As `publish`. Of a list above 1,000 the chunks before the refused one stay queued; the message
                says how many jobs that are.
        """
        receipts = [] if receipts is None else receipts
        before = len(receipts)
        for start in range(0, len(jobs), MAX_BATCH):
            try:
                await self._publish_chunk(jobs[start : start + MAX_BATCH], receipts)
            except JobError as error:
                if not receipts:
                    raise
                text = error.message.replace("nothing was queued", "nothing more was queued")
                raise JobError(error.reason, f"{text} ({len(receipts)} jobs of the list are queued)") from error
            if on_queued is not None:
                on_queued(len(receipts))
        return receipts[before:]

    async def _publish_chunk(self, jobs: Sequence[Outgoing], receipts: list[JobId]) -> None:
        keyed = any(MSG_ID in job.headers for job in jobs)
        # Without keys one message id for the whole batch makes sending it again harmless, and its place findable. Where
        # some have keys, each gets one: any of them may turn out to be queued already, and the others not.
        batch, unkeyed = random_token(), len(jobs) if keyed else 1
        jobs = [
            job
            if index >= unkeyed or MSG_ID in job.headers
            else Outgoing(job.subject, job.data, {**job.headers, MSG_ID: f"batch/{batch}/{index}"})
            for index, job in enumerate(jobs)
        ]
        deadline = time.monotonic() + self._timeout
        try:
            answer = await self._send_batch(jobs, deadline)
        except ConnectionLost:
            try:
                answer = await self._send_batch(jobs, deadline)
            except ConnectionLost as error:
                advice = "submit it again with the same dedupe_key" if keyed else "give it a dedupe_key"
                raise unknown(error, f"{advice}, it will not be queued twice") from error
        refused = answer.get("error") or {}
        if refused.get("err_code") != _DUPLICATE_IN_BATCH:
            # A committed batch stands without gaps: n jobs acknowledged at s are s-n+1 to s.
            receipts += _consecutive(self._receipt(answer), 1 - len(jobs), len(jobs))
        elif keyed:
            await self._probe(jobs, receipts)
        else:
            # Our own batch was committed and its acknowledgement lost: its first message tells where it stands.
            receipts += _consecutive(await self.publish(jobs[0]), 0, len(jobs))

    async def _send_batch(self, jobs: Sequence[Outgoing], deadline: float) -> dict[str, Any]:
        while True:
            try:
                return await send_batch(self._connection, jobs, most_bytes=MAX_MESSAGE, timeout=self._timeout)
            except NoResponders as error:
                if not await self._comes_back(jobs[-1].subject, deadline):
                    raise self._no_stream() from error

    async def _probe(self, jobs: Sequence[Outgoing], receipts: list[JobId]) -> None:
        """Some of the list was submitted before: one by one, each answers with its own or its original's id."""
        for start in range(0, len(jobs), IN_FLIGHT):
            some = (self.publish(job) for job in jobs[start : start + IN_FLIGHT])
            outcomes = await asyncio.gather(*some, return_exceptions=True)
            receipts += [outcome for outcome in outcomes if isinstance(outcome, JobId)]
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome

    async def _comes_back(self, subject: bytes, deadline: float) -> bool:
        priority = subject.split(b".", 2)[1].decode()
        return await comes_back(self._connection, self._names.stream(priority), deadline)

    def _receipt(self, answer: dict[str, Any]) -> JobId:
        error = answer.get("error")
        if error is not None:
            raise refusal(error)
        priority = self._priorities.get(answer.get("stream", ""))
        if priority is None:
            raise JobError.from_runner_unavailable(
                f"the subject belongs to stream {answer.get('stream')}, which is no queue: run `jsjobs streams plan`"
            )
        return JobId(plain_id(priority, answer["seq"]), duplicate=bool(answer.get("duplicate")))

    def _no_stream(self) -> JobError:
        return JobError.from_runner_unavailable(
            f"no stream takes jobs of namespace {self._names.namespace!r}: run `jsjobs streams apply`, "
            "or wait, where its replicas have no majority just now"
        )


def _consecutive(receipt: JobId, offset: int, count: int) -> list[JobId]:
    """The ids of a batch, the first of which stands `offset` places behind the one that a receipt names."""
    priority, _, sequence = receipt.partition("-")
    return [JobId(f"{priority}-{int(sequence) + offset + index}") for index in range(count)]


def _block(headers: dict[str, str]) -> bytes:
    return header_block(headers) if headers else b""
