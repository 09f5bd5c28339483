"""Whose turn it is: pure."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from jsjobs.jetstream.protocol.names import Generation, Shard
from jsjobs.model.job import Priority
from jsjobs.worker.slots import WEIGHTS, Patience, SlotRequest, first

SHARDS = [Shard(priority, Generation(1, 4), number) for priority in Priority for number in range(4)]


def request(shard: Shard, since: float) -> SlotRequest:
    return SlotRequest(shard, since, lambda: None)


def test_critical_ones_are_first_where_all_have_waited_alike() -> None:
    assert first([request(shard, 5) for shard in reversed(SHARDS)], 6).shard.priority is Priority.CRITICAL


def test_turns_are_shared_by_weight_and_none_waits_for_ever() -> None:
    waiting = {shard: request(shard, 0) for shard in SHARDS}
    turns: Counter[Priority] = Counter()
    last = dict.fromkeys(SHARDS, 0)
    for now in range(1, 3001):
        shard = first(waiting.values(), now).shard
        turns[shard.priority] += 1
        # A round of all shards' turns by weight, and some more: nobody waits longer.
        assert now - last[shard] <= 2 * 4 * sum(WEIGHTS.values()), shard
        last[shard] = now
        waiting[shard] = request(shard, now)
    for priority, weight in WEIGHTS.items():
        assert 0.85 < turns[priority] / 3000 / (weight / sum(WEIGHTS.values())) < 1.15


@given(st.lists(st.floats(0, 100), max_size=60))
def test_patience_follows_what_it_sees_within_bounds(seen: list[float]) -> None:
    patience = Patience()
    for seconds in seen:
        patience.learn(seconds)
        assert 0.01 <= patience.seconds <= 2
        assert patience.seconds >= min(2, seconds)


def test_patience_grows_at_once_and_shrinks_slowly() -> None:
    patience = Patience()
    patience.learn(0.2)
    assert patience.seconds >= 0.8
    for _ in range(100):
        patience.learn(0.001)
    assert patience.seconds == 0.01
