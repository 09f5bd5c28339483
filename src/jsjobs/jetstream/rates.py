"""What happened per second between two looks at a namespace."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from jsjobs.jetstream.overview import Overview, PriorityLook, ShardLook


def with_rates(now: Overview, before: Overview | None) -> Overview:
    """The later look, with its rates since the earlier one.

    A rate stays None where there is nothing to compare: at the first look, or when the stream or consumer was made
    anew between the two.
    """
    if before is None:
        return now
    earlier = {look.priority: look for look in before.priorities}
    return replace(now, priorities=tuple(_priority(look, earlier.get(look.priority)) for look in now.priorities))


def _priority(now: PriorityLook, before: PriorityLook | None) -> PriorityLook:
    if before is None or now.created_at != before.created_at:
        return now
    moments = (now.seen_at, before.seen_at)
    earlier = {look.shard: look for look in before.shards}
    return replace(
        now,
        submitted_per_second=per_second(now.last_sequence, before.last_sequence, *moments),
        finished_per_second=per_second(now.last_sequence - now.stored, before.last_sequence - before.stored, *moments),
        shards=tuple(_shard(look, earlier.get(look.shard)) for look in now.shards),
    )


def _shard(now: ShardLook, before: ShardLook | None) -> ShardLook:
    if before is None or now.created_at != before.created_at:
        return now
    rate = per_second(now.deliveries, before.deliveries, now.seen_at, before.seen_at)
    return replace(now, deliveries_per_second=rate)


def per_second(now: int, before: int, at: datetime, earlier: datetime) -> float | None:
    """How fast a counter grew; None where it or the clock went back, since another server of the cluster answered."""
    seconds = (at - earlier).total_seconds()
    return (now - before) / seconds if seconds > 0 and now >= before else None
