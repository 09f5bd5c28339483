import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jsjobs.jetstream.protocol.job_ids import checked_id, is_given_id, parse_plain_id, plain_id
from jsjobs.jetstream.protocol.names import (
    Generation,
    Names,
    Partition,
    Shard,
    StoredSubject,
    checked_type,
    name_token,
)
from jsjobs.model.context import checked_name
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import Priority
from jsjobs.model.lanes import QUEUES, Lane, Queue
from outcomes import outcome

NAMES = st.text(st.just(" ") | st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40)


def valid_entity(name: str) -> bool:
    return outcome(checked_name, "x", name) == name


@given(NAMES.filter(valid_entity))
def test_an_entity_is_always_one_token_that_any_subject_may_hold(entity: str) -> None:
    token = name_token(entity)
    assert re.fullmatch(r"[A-Za-z0-9_%-]+", token)
    assert name_token(entity) == token


@given(NAMES.filter(valid_entity), NAMES.filter(valid_entity))
def test_two_entities_never_share_a_token(one: str, other: str) -> None:
    assume(one != other)
    assert name_token(one) != name_token(other)


@pytest.mark.parametrize("one", ["a.b", "a%2Eb", "a%b", "a b", "a*b", "a>b", "a~b", "a/b", "é", "e\u0301"])
@pytest.mark.parametrize("other", ["a%2Eb", "a%252Eb", "a%25b", "a+b", "a%2ab", "a%3eb", "a%7Eb", "a%2Fb", "%C3%A9"])
def test_names_that_look_encoded_keep_apart(one: str, other: str) -> None:
    assert (name_token(one) == name_token(other)) is (one == other)


@pytest.mark.parametrize("entity", ["", " ", "a\n", "a\0b", "\ud800", "x" * 257, "😀" * 200])
def test_an_entity_that_cannot_be_one_is_refused(entity: str) -> None:
    with pytest.raises(JobError, match="entity") as caught:
        name_token(entity)
    assert caught.value.reason is Reason.VALIDATION


@pytest.mark.parametrize("namespace", ["jobs", "a", "a-b_c9", "x" * 32])
def test_a_namespace_has_all_names_of_its_own(namespace: str) -> None:
    names, upper = Names(namespace), namespace.upper()
    assert names.stream(Priority.HIGH) == f"{upper}_HIGH"
    assert (names.progress_stream, names.dead_stream) == (f"{upper}_PROGRESS", f"{upper}_DEAD")
    assert (names.bucket, names.state_stream) == (namespace, f"KV_{namespace}")
    assert names.queue(Queue(Priority.HIGH)) == f"{upper}_HIGH"
    assert names.queue(Queue(Priority.HIGH, Lane.PARALLEL)) == f"{upper}_HIGH_PARALLEL"
    assert names.submit(Priority.LOW, "e", "a.b") == f"{namespace}.low.e.a.b"
    assert names.submit_parallel(Priority.LOW, "-", "a.b") == f"{namespace}.parallel.low.-.a.b"
    assert names.source(Queue(Priority.LOW, Lane.PARALLEL)) == "source-low-parallel"
    assert names.deliver(Shard(Priority.LOW, Generation(2, 8), 7)) == f"{namespace}.deliver.low.2x8.7"
    assert names.state("low-1") == f"$KV.{namespace}.low-1".encode()
    assert names.progress("low-1") == f"{namespace}.progress.low-1".encode()
    assert names.dead("low-1") == f"{namespace}.dead.low-1".encode()


@pytest.mark.parametrize("namespace", ["", "Jobs", "1a", "a.b", "a b", "a*", "x" * 33, "jobs\n", "é", "a>"])
def test_a_namespace_that_cannot_be_one_is_refused(namespace: str) -> None:
    with pytest.raises(JobError, match="namespace") as caught:
        Names(namespace)
    assert caught.value.reason is Reason.VALIDATION


@pytest.mark.parametrize("job_type", ["a", "email.send", "A-b_9.c", "x" * 200])
def test_a_type_is_words_with_dots(job_type: str) -> None:
    assert checked_type(job_type) == job_type
    stored = f"{Names().stored(Priority.HIGH, Generation(1, 3))}.2.{job_type}".encode()
    assert Names().parse_stored(stored) == StoredSubject(Queue(Priority.HIGH), "1x3", 2, job_type, "JOBS_HIGH", "high-")
    in_lane, lane = f"{Names().lane(Priority.HIGH)}.2.{job_type}".encode(), Queue(Priority.HIGH, Lane.PARALLEL)
    assert Names().parse_stored(in_lane) == StoredSubject(lane, "", 2, job_type, "JOBS_HIGH_PARALLEL", "high-parallel-")


@pytest.mark.parametrize("queue", QUEUES)
def test_a_queues_subjects_lead_back_to_it(queue: Queue) -> None:
    names = Names()
    subject = names.subject_of(queue, "token", "a.b").encode()
    due = names.due(subject)
    assert names.queue_subject(due) == subject
    assert names.queue_of_due(due) == (queue, "a.b")
    for on_its_way in (subject, due):  # a subject with a wildcard among its words is stored as it came
        stored = names.parse_stored(on_its_way)
        assert (stored.queue, stored.generation, stored.type) == (queue, "", "a.b")
        assert stored.stream == names.queue(queue)


@pytest.mark.parametrize("job_type", ["", ".", "a.", ".a", "a..b", "a b", "a*", ">", "a\n", "é", "x" * 201])
def test_a_type_that_cannot_be_one_is_refused(job_type: str) -> None:
    with pytest.raises(JobError, match="job type") as caught:
        checked_type(job_type)
    assert caught.value.reason is Reason.VALIDATION


@given(st.binary(max_size=60))
def test_a_strangers_subject_is_read_or_refused(subject: bytes) -> None:
    for whole in (subject, b"jobs.work.high.1x3.0." + subject, b"jobs.lane.high.0." + subject):
        stored = outcome(Names().parse_stored, whole)
        if isinstance(stored, JobError):
            assert stored.reason is Reason.VALIDATION
        else:
            assert stored.type.encode().decode() == stored.type


@given(st.sampled_from(QUEUES), st.integers(1, 2**53))
def test_a_plain_id_says_its_place(queue: Queue, sequence: int) -> None:
    assert parse_plain_id(plain_id(queue, sequence)) == (queue, sequence)
    assert checked_id(plain_id(queue, sequence)) == plain_id(queue, sequence)
    assert not is_given_id(plain_id(queue, sequence))


@given(st.text(max_size=30))
def test_any_text_is_an_id_or_is_not_found(text: str) -> None:
    for candidate in (text, f"high-{text}", f"at-{text}"):
        taken = outcome(checked_id, candidate)
        if isinstance(taken, JobError):
            assert taken.reason is Reason.NOT_FOUND
        else:
            assert re.fullmatch(r"[A-Za-z0-9_-]+", candidate), "an id is one token of a subject and a key of the bucket"


@pytest.mark.parametrize(
    "job_id",
    [
        "high-parallel-0",
        "high-parallel-",
        "high-parallel-parallel-1",
        "parallel-1",
        "high-0",
        "high-01",
        "high--1",
        "high-1 ",
        "High-1",
        "high-1\n",
        "high-\u0661",
        "at-",
    ],
)
def test_what_is_almost_an_id_is_none(job_id: str) -> None:
    assert parse_plain_id(job_id) is None
    assert not is_given_id(job_id)


def test_a_generation_is_its_number_and_its_shards() -> None:
    assert str(Generation(12, 8)) == "12x8"
    assert Shard(Priority.NORMAL, Generation(12, 8), 7).consumer == "normal-12x8-7"


def test_a_partition_is_known_by_its_consumer() -> None:
    partition = Partition(Priority.NORMAL, 31)
    assert partition.consumer == "normal-parallel-31"
    assert Partition.of(partition.consumer) == partition
    assert partition.queue == Queue(Priority.NORMAL, Lane.PARALLEL)
    assert Shard.of(partition.consumer) is None
    for other in ("normal-parallel-32", "normal-parallel-01", "normal-parallel-", "urgent-parallel-0", "normal-1x2-0"):
        assert Partition.of(other) is None
