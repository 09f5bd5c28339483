"""Names on the server: subjects, streams, consumers and ids of one namespace."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self
from urllib.parse import quote

from jsjobs.jetstream.protocol.job_ids import digest_of, plain_id
from jsjobs.model.checks import checked_text
from jsjobs.model.context import checked_name
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Lane, Queue
from jsjobs.settings import MAX_PARTITIONS, MAX_SHARDS

_NAMESPACE = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_PUBLISHABLE = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")
_TYPE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
MAX_TYPE = 200
"""Maximum length of a job type, in characters: it is part of a subject, and there may be hundreds of types."""
_GENERATION = re.compile(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})")
_SHARD = re.compile(r"(critical|high|normal|low)-([0-9]+x[0-9]+)-(0|[1-9][0-9]{0,8})")
_PARTITION = re.compile(r"(critical|high|normal|low)-parallel-(0|[1-9][0-9]{0,8})")
NO_KEY = "-"
"""The fairness key of jobs of no tenant."""
_LAST_NUMBER = 999_999_999
_MOST_PARSED = 10_000
"""Limit for cached stored subjects. There are few, some per type and shard, but a stranger's may be many."""
_LONGEST_PARSED = 512
"""Limit for the length of a cached subject, in bytes: a stranger's may be long."""
_MAX_TOKEN = 1024  # the server's control line is 4,096 bytes at most, subject and reply subject included


class Generation(NamedTuple):
    """The shards of a priority between two changes of their count; `1x4` is the first, with four shards."""

    number: int
    """Not used again, as long as there are new numbers."""
    shards: int
    """`MAX_SHARDS` at most: a higher number in an entry or a subject is nonsense."""

    def __str__(self) -> str:
        return f"{self.number}x{self.shards}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a name such as `1x4`.

        Raises:
            ValueError: If it is not such a name.
        """
        match = _GENERATION.fullmatch(text)
        if match is None or int(match[2]) > MAX_SHARDS:
            raise ValueError(f"{text[:40]!r} is not a generation such as 1x4, with {MAX_SHARDS} shards at most")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def after(cls, others: Iterable[Self], shards: int) -> Self:
        """Return the generation after others.

        If somebody used up the numbers, it gets a number that none of these has.
        """
        used = {other.number for other in others}
        number = max(used) + 1
        if number > _LAST_NUMBER:
            number = next(free for free in range(1, len(used) + 2) if free not in used)
        return cls(number, shards)


@dataclass(frozen=True, slots=True)
class Shard:
    """One lane of a priority: jobs in it run one at a time, in order."""

    priority: Priority
    generation: Generation
    number: int

    @classmethod
    def of(cls, consumer: str) -> Self | None:
        """Return the shard of a consumer, or None if the consumer is not one of ours."""
        match = _SHARD.fullmatch(consumer)
        if match is None:
            return None
        try:
            shard = cls(Priority(match[1]), Generation.parse(match[2]), int(match[3]))
        except ValueError:
            return None
        return shard if shard.number < shard.generation.shards else None

    @property
    def queue(self) -> Queue:
        """Return the queue that it is a part of."""
        return Queue(self.priority)

    @property
    def consumer(self) -> str:
        """Return the name of the shard's durable consumer."""
        return f"{self.priority}-{self.generation}-{self.number}"


@dataclass(frozen=True, slots=True)
class Partition:
    """One part of a priority's parallel lane; the fairness key decides in which part a job waits."""

    priority: Priority
    number: int

    @classmethod
    def of(cls, consumer: str) -> Self | None:
        """Return the partition of a consumer, or None if the consumer is not one of ours."""
        match = _PARTITION.fullmatch(consumer)
        if match is None or int(match[2]) >= MAX_PARTITIONS:
            return None
        return cls(Priority(match[1]), int(match[2]))

    @property
    def queue(self) -> Queue:
        """Return the queue that it is a part of."""
        return Queue(self.priority, Lane.PARALLEL)

    @property
    def consumer(self) -> str:
        """Return the name of the partition's durable consumer."""
        return f"{self.priority}-parallel-{self.number}"


@dataclass(frozen=True, slots=True)
class StoredSubject:
    """The parts of a job's subject, once the server has partitioned it."""

    queue: Queue
    generation: str
    """Empty where the server has not partitioned the job, and in the parallel lane."""
    number: int
    """The number of its shard or partition."""
    type: str
    stream: str
    """The stream of its queue."""
    prefix: str
    """Prefix of the ids that places in this queue give."""


class Names:
    """All names of one namespace.

    Raises:
        JobError: `Validation`, if the namespace is not a lower-case word.
    """

    def __init__(self, namespace: str = "jobs") -> None:
        if not _NAMESPACE.fullmatch(namespace):
            raise JobError.from_validation(
                f"namespace {namespace[:80]!r} must be 1 to 32 of a-z, 0-9, '_' and '-', and begin with a letter"
            )
        self.namespace = namespace
        self.bucket = namespace
        self.state_stream = f"KV_{namespace}"
        self.progress_stream = self.stream("PROGRESS")
        self.dead_stream = self.stream("DEAD")
        self.schedule_stream = self.stream("SCHEDULE")
        self._parsed: dict[bytes, StoredSubject] = {}
        self._state = f"$KV.{self.bucket}.".encode()
        self.router = "router"
        self.router_deliver = f"{namespace}.deliver.dead"

    def stream(self, name: str) -> str:
        """Return the name of a stream: `JOBS_<NAME>` in the namespace `jobs`."""
        return f"{self.namespace.upper()}_{name.upper()}"

    def queue(self, queue: Queue) -> str:
        """Return the name of a queue's stream: `JOBS_NORMAL`, or `JOBS_NORMAL_PARALLEL`."""
        return self.stream(queue.name.replace("-", "_"))

    def submit(self, priority: Priority, entity: str, job_type: str) -> str:
        """Return the subject on which a job of an entity is published."""
        return f"{self.namespace}.{priority}.{entity}.{job_type}"

    def submit_parallel(self, priority: Priority, key: str, job_type: str) -> str:
        """Return the subject on which a job without an entity is published; `key` is its fairness key."""
        return f"{self.namespace}.parallel.{priority}.{key}.{job_type}"

    def subject_of(self, queue: Queue, token: str, job_type: str) -> str:
        """Return the subject on which a queue's jobs are published; `token` is the entity, or the fairness key."""
        publish = self.submit if queue.lane is Lane.ORDERED else self.submit_parallel
        return publish(queue.priority, token, job_type)

    def lane(self, priority: Priority) -> str:
        """Return the prefix of the subjects under which the jobs of a parallel lane are stored."""
        return f"{self.namespace}.lane.{priority}"

    def partition_of(self, subject: bytes, priority: Priority) -> Partition | None:
        """Return the partition under which a lane stores a message, or None if it is in none."""
        begin = f"{self.lane(priority)}.".encode()
        number = subject[len(begin) :].partition(b".")[0] if subject.startswith(begin) else b""
        return Partition.of(f"{priority}-parallel-{number.decode('ascii', 'replace')}")

    def stored(self, priority: Priority, generation: Generation) -> str:
        """Return the prefix of the subjects under which a generation's jobs are stored."""
        return f"{self.namespace}.work.{priority}.{generation}"

    def stored_in(self, place: Shard | Partition) -> str:
        """Return the subjects under which the jobs of a shard or partition are stored."""
        if isinstance(place, Shard):
            return f"{self.stored(place.priority, place.generation)}.{place.number}.>"
        return f"{self.lane(place.priority)}.{place.number}.>"

    def generation_of(self, subject: str, priority: Priority) -> Generation | None:
        """Return the generation of a stored subject or a transform's destination, or None if there is none."""
        begin = f"{self.namespace}.work.{priority}."
        if not subject.startswith(begin):
            return None
        try:
            return Generation.parse(subject[len(begin) :].partition(".")[0])
        except ValueError:
            return None

    def deliver(self, shard: Shard) -> str:
        """Return the subject on which the server pushes a shard's jobs."""
        return f"{self.namespace}.deliver.{shard.priority}.{shard.generation}.{shard.number}"

    def schedule(self, job_id: str) -> bytes:
        """Return the subject of a delayed job's schedule; debounced jobs of one key share a subject."""
        digest = digest_of(job_id)
        place = job_id if digest is None else f"debounce.{digest}"
        return f"{self.namespace}.at.{place}".encode()

    def schedule_key(self, digest: str) -> bytes:
        """Return the subject on which it is noted which delayed job a dedupe key was given to."""
        return f"{self.namespace}.at.key.{digest}".encode()

    def periodic(self, name: str) -> bytes:
        """Return the subject of a periodic schedule; `*` stands for all."""
        return f"{self.namespace}.at.schedule.{name}".encode()

    def source(self, queue: Queue) -> str:
        """Return the name of the consumer through which a queue sources the jobs that are due."""
        return f"source-{queue.name}"

    def due(self, subject: bytes) -> bytes:
        """Return the subject on which the server publishes a job when it is due, in place of its queue's subject."""
        return b"%b.due.%b" % (self.namespace.encode(), subject.partition(b".")[2])

    def queue_subject(self, due: bytes) -> bytes:
        """Return the queue's subject on which to publish a job at once, given the one for when it is due."""
        return b"%b.%b" % (self.namespace.encode(), due.split(b".", 2)[2])

    def queue_of_due(self, subject: bytes) -> tuple[Queue, str]:
        """Return queue and type of a job that is to be published on such a subject when it is due.

        Raises:
            JobError: `Validation`, if no queue takes jobs from that subject.
        """
        words = subject.decode("utf-8", "backslashreplace").split(".")
        with suppress(ValueError):
            namespace, due, *place = words
            queue, token, job_type = _place(place)
            if (namespace, due) == (self.namespace, "due") and all(map(_PUBLISHABLE.fullmatch, (token, job_type))):
                return queue, job_type
        raise JobError.from_validation(f"{subject[:200]!r} is not a subject from which a queue takes due jobs")

    def parse_stored(self, subject: bytes) -> StoredSubject:
        """Parse the subject under which a job is stored; its type may be anything a stranger can publish.

        If one of its words is a wildcard, the server stores the job under the subject it came with, in no shard.

        Raises:
            JobError: `Validation`, if it is not a queue's subject.
        """
        known = self._parsed.get(subject)
        if known is not None:
            return known
        words = subject.decode("utf-8", "backslashreplace").split(".")
        generation, number = "", "0"
        try:
            if words[1:2] == ["work"]:
                _, _, priority, generation, number, *kind = words
                queue = Queue(Priority(priority))
            elif words[1:2] == ["lane"]:
                _, _, priority, number, *kind = words
                queue = Queue(Priority(priority), Lane.PARALLEL)
            else:
                queue, _, *kind = _place(words[2:] if words[1:2] == ["due"] else words[1:])
            parsed = StoredSubject(
                queue, generation, int(number), ".".join(kind), self.queue(queue), plain_id(queue, "")
            )
        except ValueError as error:
            raise JobError.from_validation(f"{subject[:200]!r} is not a subject of a queue") from error
        if len(subject) <= _LONGEST_PARSED:
            if len(self._parsed) >= _MOST_PARSED:
                self._parsed.clear()
            self._parsed[subject] = parsed
        return parsed

    def state(self, job_id: str) -> bytes:
        """Return the subject of a job's entry in the state bucket."""
        return self._state + job_id.encode()

    def topology_key(self, priority: Priority | Literal["*"]) -> str:
        """Return the state bucket's key for the live generations of a priority, or of all."""
        return f"topology.{priority}"

    def progress(self, job_id: str) -> bytes:
        """Return the subject on which a job's progress is published."""
        return f"{self.namespace}.progress.{job_id}".encode()

    def batch(self, batch_id: str, part: int = 0) -> bytes:
        """Return the subject of a batch's record in the state bucket, or of a further part of it."""
        more = f".{part}" if part else ""
        return f"$KV.{self.bucket}.batch.{batch_id}{more}".encode()

    def quota(self, digest: str) -> bytes:
        """Return the subject of a tenant's count of delayed jobs in the state bucket."""
        return f"$KV.{self.bucket}.quota.{digest}".encode()

    def cancel(self, job_id: str) -> bytes:
        """Return the subject on which the worker that runs a job is asked to stop it."""
        return f"{self.namespace}.cancel.{job_id}".encode()

    def dead(self, job_id: str) -> bytes:
        """Return the subject on which a dead job's letter is published."""
        return f"{self.namespace}.dead.{job_id}".encode()


def _place(words: list[str]) -> tuple[Queue, str, str]:
    """Return queue, entity or fairness key, and type of the words of a subject after its namespace.

    Raises:
        ValueError: If no queue has such subjects.
    """
    lane = Lane.ORDERED
    if words[:1] == ["parallel"]:
        lane, words = Lane.PARALLEL, words[1:]
    priority, token, *kind = words
    return Queue(Priority(priority), lane), token, ".".join(kind)


def may_be_answered(reply: bytes, namespace: str) -> bool:
    """Return whether an answer may go to the reply subject that a stranger named.

    It is published with rights that the stranger may not have. A subject of the namespace may be a queue; one of the
    server's may be an entry, an acknowledgement or a request to it.
    """
    return bool(reply) and not reply.startswith((b"$", f"{namespace}.".encode())) and not set(reply) & set(b"*>")


def checked_type(job_type: str) -> str:
    """Return the job type itself, if it can be part of a subject.

    Raises:
        JobError: `Validation`; the message says what a type looks like.
    """
    checked_text("a job type", job_type)
    if len(job_type) > MAX_TYPE or not _TYPE.fullmatch(job_type):
        raise JobError.from_validation(
            f"job type {job_type[:80]!r} must be words of A-Z, a-z, 0-9, '_' and '-' with single dots between them, "
            f"at most {MAX_TYPE} characters"
        )
    return job_type


def name_token(name: str, what: str = "the entity") -> str:
    """Return an entity or a tenant as one subject token.

    Characters that a token cannot hold are percent-encoded, always in the same way.

    Raises:
        JobError: `Validation`, if it is not a name, or its token would be longer than 1,024 characters.
    """
    token = quote(checked_name(what, name), safe="").replace(".", "%2E").replace("~", "%7E")
    if len(token) > _MAX_TOKEN:
        raise JobError.from_validation(f"{what} is too long for a subject once it is encoded: {name[:40]!r}…")
    return token
