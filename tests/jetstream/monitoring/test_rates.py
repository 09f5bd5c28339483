from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsjobs.jetstream.monitoring.overview import (
    ConsumerLook,
    Overview,
    PartitionLook,
    PriorityLook,
    QueueLook,
    ShardLook,
    per_second,
    with_rates,
)
from jsjobs.jetstream.protocol.names import Generation, Partition, Shard
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Lane, Queue

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def shard(deliveries: int, *, after: float = 0.0, created_at: datetime = BEGAN, number: int = 0) -> ShardLook:
    return ShardLook(
        shard=Shard(Priority.HIGH, Generation(1, 3), number),
        is_next=False,
        waiting=0,
        running=0,
        redelivered=0,
        paused=False,
        paused_until=None,
        has_worker=True,
        deliveries=deliveries,
        last_delivered=0,
        created_at=created_at,
        seen_at=NOON + timedelta(seconds=after),
    )


def queue(
    last: int, stored: int, *, after: float = 0.0, created_at: datetime = BEGAN, lane: Lane = Lane.ORDERED
) -> QueueLook:
    return QueueLook(
        queue=Queue(Priority.HIGH, lane),
        stored=stored,
        last_sequence=last,
        created_at=created_at,
        seen_at=NOON + timedelta(seconds=after),
    )


def look(last: int, stored: int, *shards: ShardLook, after: float = 0.0, created_at: datetime = BEGAN) -> Overview:
    priority = PriorityLook(
        priority=Priority.HIGH,
        waiting=0,
        running=0,
        redelivered=0,
        oldest_waiting_seconds=None,
        queues=(queue(last, stored, after=after, created_at=created_at),),
        shards=shards,
        partitions=(),
    )
    return Overview("jobs", NOON + timedelta(seconds=after), (priority,), (), 0, 0)


def rates(now: Overview, before: Overview | None) -> tuple[float | None, float | None]:
    found = with_rates(now, before).priorities[0]
    return found.submitted_per_second, found.finished_per_second


def test_the_first_look_has_no_rates() -> None:
    assert rates(look(100, 10), None) == (None, None)


def test_what_came_and_what_left_the_queue_is_counted_per_second() -> None:
    # 60 came and the queue grew by 20, so 40 left.
    assert rates(look(160, 30, after=2), look(100, 10)) == (30, 20)


def test_a_quiet_queue_has_rates_of_zero() -> None:
    assert rates(look(100, 10, after=1), look(100, 10)) == (0, 0)


def test_a_stream_made_anew_has_nothing_to_compare_though_its_numbers_grew() -> None:
    later = look(100_000, 0, shard(5, after=1), after=1, created_at=NOON)
    assert rates(later, look(100, 10, shard(1))) == (None, None)
    assert with_rates(later, look(100, 10, shard(1))).priorities[0].shards[0].deliveries_per_second is None


def test_a_look_that_an_older_replica_answered_gives_no_negative_rate() -> None:
    assert rates(look(90, 10, after=1), look(100, 10)) == (None, None)
    assert rates(look(110, 30, after=1), look(100, 10)) == (10, None)


def test_shards_are_compared_by_name_and_age() -> None:
    before = look(1, 0, shard(10), shard(10, number=1))
    anew = shard(50, after=2, created_at=NOON, number=1)
    now = look(1, 0, shard(16, after=2), anew, shard(7, after=2, number=2), after=2)
    found = [shard.deliveries_per_second for shard in with_rates(now, before).priorities[0].shards]
    assert found == [3, None, None]


def both_lanes(ordered: QueueLook, parallel: QueueLook, deliveries: int, after: float = 0.0) -> Overview:
    like = shard(deliveries, after=after)
    shared = {field.name: getattr(like, field.name) for field in fields(ConsumerLook)}
    partition = PartitionLook(partition=Partition(Priority.HIGH, 0), **shared)
    whole = look(0, 0, after=after)
    priority = replace(whole.priorities[0], queues=(ordered, parallel), partitions=(partition,))
    return replace(whole, priorities=(priority,))


def test_the_rates_of_a_priority_are_those_of_both_lanes_together() -> None:
    before = both_lanes(queue(100, 10), queue(1000, 500, lane=Lane.PARALLEL), 7)
    now = both_lanes(queue(160, 30, after=2), queue(1500, 400, after=2, lane=Lane.PARALLEL), 307, after=2)
    found = with_rates(now, before).priorities[0]
    assert [(each.submitted_per_second, each.finished_per_second) for each in found.queues] == [(30, 20), (250, 300)]
    assert rates(now, before) == (280, 320)
    assert [each.deliveries_per_second for each in found.partitions] == [150]


def test_a_lane_that_was_created_meanwhile_has_no_rates_and_those_of_the_other_count() -> None:
    before = both_lanes(queue(100, 10), queue(1000, 500, lane=Lane.PARALLEL), 7)
    new = queue(9, 0, after=2, created_at=NOON, lane=Lane.PARALLEL)
    assert rates(both_lanes(queue(160, 30, after=2), new, 307, after=2), before) == (30, 20)


def test_a_priority_that_was_not_there_before_has_no_rates() -> None:
    before = replace(look(1, 0), priorities=())
    assert rates(look(100, 10, after=1), before) == (None, None)


@given(st.integers(0, 2**53), st.integers(0, 2**53), st.integers(-(10**6), 10**6))
def test_a_rate_is_never_negative(now: int, before: int, seconds: int) -> None:
    rate = per_second(now, before, NOON + timedelta(seconds=seconds), NOON)
    assert (rate is None) == (seconds <= 0 or now < before)
    assert rate is None or rate >= 0


@pytest.mark.parametrize("seconds", [0.25, 1, 60])
def test_time_counts(seconds: float) -> None:
    assert per_second(1100, 1000, NOON + timedelta(seconds=seconds), NOON) == pytest.approx(100 / seconds)
