"""Describe what `streams apply` does, step by step: one stream, consumer, entry or change of shards at a time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from jsjobs.jetstream.api.types import Declared
from jsjobs.jetstream.protocol.names import Generation
from jsjobs.jetstream.topology.consumers import FOR_GOOD, is_leftover
from jsjobs.jetstream.topology.generations import Live, Shards, Stored
from jsjobs.jetstream.topology.reshard import needs_one_copy
from jsjobs.model.job import Priority

UNLIMITED = -1
_AFTERWARDS = "shards afterwards"
_AMOUNTS = {"shards", _AFTERWARDS, "partitions", "num_replicas", "max_bytes", "max_msgs", "max_msgs_per_subject"}
"""Settings that, when lowered, leave less room for jobs or run fewer of them at a time."""


class Action(StrEnum):
    """The effect of a step."""

    CREATE = "create"
    UPDATE = "update"
    REPLACE = "replace"
    DELETE = "delete"
    KEEP = "keep"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing on the server, and what must be done so that it matches."""

    action: Action
    kind: str
    """`stream`, `consumer`, `consumers` (foreign ones of a stream), `generations` (an entry in the bucket) or `shards`
    (a change of their count)."""
    name: str
    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """The settings that differ, each with (the server's value, the declared value)."""
    reason: str = ""
    """Why it is refused, what it waits for, what is removed, or what cannot be made as declared."""
    stream: str = ""
    """The stream of the consumer."""
    config: Declared = field(default_factory=dict)
    """All settings that the stream or consumer is to have."""
    foreign: tuple[str, ...] = ()
    """The undeclared consumers that are removed."""
    live: Live | None = None
    """The content that the entry is to have."""
    priority: Priority | None = None
    """The priority of the queue or shards; None for what all priorities share."""

    @property
    def adds_copies(self) -> bool:
        """Return whether a stream gets more copies than it has."""
        had, wanted = self.changes.get("num_replicas", (1, 1))
        return self.action is Action.UPDATE and wanted > had

    def lowered(self) -> list[tuple[str, int, int]]:
        """Return the settings that would be lowered: the name, the server's value and the declared value."""
        return [
            (name, old, new)
            for name, (old, new) in self.changes.items()
            if name in _AMOUNTS
            and isinstance(old, int)
            and isinstance(new, int)
            and new >= 0
            and (new < old or old == UNLIMITED)
        ]


def still_expires(stream: str) -> str:
    """Warn that the jobs of a queue can expire: docs/server-quirks.md#a-time-to-live-is-never-taken-back."""
    return (
        "allow_msg_ttl is true, and the server cannot turn it off: a publisher's Nats-TTL deletes jobs, running ones"
        f" too. When no jobs wait and none come, delete the stream (nats stream rm {stream}), then "
        "`jsjobs streams apply`"
    )


def shards_step(
    priority: Priority,
    generations: tuple[Generation, ...],
    live: Live,
    stored: Stored,
    shards: Shards,
    wanted: int,
    *,
    one_copy: bool,
) -> Step | None:
    """Return the step that leads a priority to one generation with the wanted shard count; None if none is needed."""
    first, last = generations[0], generations[-1]
    changes = {"shards": (first.shards, wanted)}
    moves = stored.unlisted(generations) or stored.target != last or (len(generations) == 1 and first.shards != wanted)
    if moves and stored.copies > 1 and live.copies is None and not one_copy:
        return Step(Action.REFUSE, "shards", priority, changes, needs_one_copy(stored.copies), priority=priority)
    if len(generations) == 1 and first.shards != wanted:
        left = stored.jobs.total()
        reason = f"{left:,} {'job' if left == 1 else 'jobs'} in the old shards must end first" if left else ""
        return Step(Action.UPDATE, "shards", priority, changes, reason, priority=priority)
    held = any(shard.generation == first and info.paused_until == FOR_GOOD for shard, info in shards.items())
    leftovers = any(is_leftover(shard, first) for shard in shards)
    if len(generations) > 1 or moves or held or leftovers or live.paused_until or live.copies:
        changes = {"shards": (first.shards, last.shards)}
        if last.shards != wanted:
            changes[_AFTERWARDS] = (last.shards, wanted)
        reason = "an unfinished change is finished" + (", then another is made" if _AFTERWARDS in changes else "")
        return Step(Action.UPDATE, "shards", priority, changes, reason, priority=priority)
    return None


def partitions_step(step: Step, partitions: tuple[int | None, int], copies: int, *, one_copy: bool) -> Step:
    """Return the step of a lane's stream that sends its new jobs to another number of partitions.

    Args:
        step: The step as it follows from the settings of the stream.
        partitions: The number of partitions that new jobs go to now, and the wanted one.
        copies: How many copies the stream has.
        one_copy: Whether it may have a single copy meanwhile.
    """
    changes = {"partitions": partitions, **step.changes}
    del changes["subject_transform"]
    if copies > 1 and not one_copy and step.action is not Action.REFUSE:
        return replace(step, action=Action.REFUSE, changes=changes, reason=needs_one_copy(copies))
    return replace(step, changes=changes)
