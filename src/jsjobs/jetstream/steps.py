"""What `streams apply` does, one stream, consumer, entry or change of shards at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from jsjobs.jetstream.generation_consumers import Infos, is_leftover
from jsjobs.jetstream.generations import Live, Stored
from jsjobs.jetstream.reshard import needs_one_copy
from jsjobs.jetstream.shard_consumers import FOR_GOOD, paused_until
from jsjobs.jetstream.subjects import Generation
from jsjobs.model.job import Priority

UNLIMITED = -1
_AFTERWARDS = "shards afterwards"
_AMOUNTS = {"shards", _AFTERWARDS, "num_replicas", "max_bytes", "max_msgs", "max_msgs_per_subject"}
"""Settings of which less means less room for jobs, or fewer of them at a time."""


class Action(StrEnum):
    """What a step does."""

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
    """Setting to (what the server has, what is declared)."""
    reason: str = ""
    """Why it is refused, what it waits for, what is removed, or what cannot be made as declared."""
    endpoint: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    priority: Priority | None = None
    """Whose queue or shards; None for what all share."""

    @property
    def adds_copies(self) -> bool:
        """Whether a stream gets more copies than it has."""
        had, wanted = self.changes.get("num_replicas", (1, 1))
        return self.action is Action.UPDATE and wanted > had

    def lowered(self) -> list[tuple[str, int, int]]:
        """Return what would be less than it is: its name, how much the server has, and how much is declared."""
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
    """What is to be said of a queue whose jobs can expire; nats-server 2.15.1 never takes that setting off a stream."""
    return (
        "allow_msg_ttl is true, and the server cannot turn it off: a publisher's Nats-TTL takes jobs away, running ones"
        f" too. When no jobs wait and none come, delete the stream (nats stream rm {stream}), then "
        "`jsjobs streams apply`"
    )


def shards_step(
    priority: Priority,
    generations: tuple[Generation, ...],
    live: Live,
    stored: Stored,
    shards: Infos,
    wanted: int,
    *,
    one_copy: bool,
) -> Step | None:
    """What is left to do until a priority's shards are one generation of the wanted count; None: nothing."""
    first, last = generations[0], generations[-1]
    changes = {"shards": (first.shards, wanted)}
    moves = stored.strays(generations) or stored.target != last or (len(generations) == 1 and first.shards != wanted)
    if moves and stored.copies > 1 and live.copies is None and not one_copy:
        return Step(Action.REFUSE, "shards", priority, changes, needs_one_copy(stored.copies), priority=priority)
    if len(generations) == 1 and first.shards != wanted:
        left = stored.jobs.total()
        reason = f"{left:,} {'job' if left == 1 else 'jobs'} in the old shards to end first" if left else ""
        return Step(Action.UPDATE, "shards", priority, changes, reason, priority=priority)
    held = any(shard.generation == first and paused_until(info) == FOR_GOOD for shard, info in shards.items())
    leftovers = any(is_leftover(shard, first) for shard in shards)
    if len(generations) > 1 or moves or held or leftovers or live.paused_until or live.copies:
        changes = {"shards": (first.shards, last.shards)}
        if last.shards != wanted:
            changes[_AFTERWARDS] = (last.shards, wanted)
        reason = "an unfinished change is finished" + (", then another is made" if _AFTERWARDS in changes else "")
        return Step(Action.UPDATE, "shards", priority, changes, reason, priority=priority)
    return None
