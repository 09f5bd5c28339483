"""Which jobs are submitted: drawn from a seed, so that the same seed asks for the same jobs. Pure."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

PRIORITIES = {"critical": 38, "high": 30, "normal": 21, "low": 11}
KINDS = {
    "ok": 800,
    "flaky": 50,  # fails some times, then succeeds
    "dies": 20,  # fails every time
    "invalid": 10,  # fails for good at once
    "progress": 40,
    "snooze": 20,
    "plain": 40,  # a plain function, in a thread
    "slow": 5,  # short, but long enough to be met by a fault
    "late": 2,  # longer than its time limit
    "long": 2,  # longer than `ack_wait`
}
QUICK_KINDS = {"ok": 900, "flaky": 50, "dies": 20, "invalid": 30}
"""Of a run in which all jobs are to end soon after the last fault."""
PARALLEL_KINDS = {**KINDS, "flaky": 100, "snooze": 60, "slow": 40, "long": 20}
"""Of jobs without an entity: what takes long, or waits, holds up nobody."""
LIST_KINDS = ("ok", "flaky", "dies", "invalid", "progress")
"""A list's items have one type and one set of options."""
DOORS = {"submit": 600, "keyed": 120, "raw": 180, "delayed": 60, "list": 20}
"""Ways to submit a job; `raw` is one message of plain NATS, `keyed` has a dedupe key and is submitted until it is in."""
LONGEST_DELAY = 8.0
QUICK_DELAY = 2.0
PARALLEL = 0.45
"""The share of jobs that have no entity."""
MANY = 50
"""Items of a list without an entity, at most; with one, they are at most:"""
FEW = 12
TENANTS = (None, None, *(f"tenant-{number}" for number in range(8)))
SHARED_ENTITIES = 12
OWN_ENTITIES = 10
CANCELLED = 0.04
GATHERED = "gathered"
"""The file that lets the last jobs of a run end, once all of them have begun (`survival.gathering`)."""
SKEW = 10 * 365 * 86400.0
"""Seconds by which a publisher's clock is wrong, at most."""


@dataclass(frozen=True)
class Order:
    """One job to be submitted; of a list, one of its items."""

    uid: str
    kind: str
    door: str
    priority: str
    entity: str | None
    """None for a job of the parallel lane."""
    payload: dict[str, Any]
    tenant: str | None = None
    key: str | None = None
    delay: float | None = None
    max_attempts: int = 3
    options: dict[str, Any] = field(default_factory=dict)
    cancel_after: float | None = None
    """Seconds after which somebody cancels it."""

    @property
    def type(self) -> str:
        return "survival.plain" if self.kind == "plain" else "survival.work"


def orders(seed: int, publisher: str, ack_wait: float, *, quick: bool = False) -> Iterator[list[Order]]:
    """What a publisher submits, one after the other: single jobs, and lists of several for one entity."""
    longest_delay = QUICK_DELAY if quick else LONGEST_DELAY
    draw = random.Random(f"{seed}/{publisher}")
    number = 0
    while True:
        door = _one_of(draw, DOORS)
        priority = _one_of(draw, PRIORITIES)
        entity = _entity(draw, publisher)
        tenant = draw.choice(TENANTS)
        kinds = QUICK_KINDS if quick else KINDS if entity else PARALLEL_KINDS
        count = draw.randint(2, FEW if entity else MANY) if door == "list" else 1
        drawn = []
        for _ in range(count):
            kind = _one_of(draw, {one: kinds[one] for one in LIST_KINDS if one in kinds} if door == "list" else kinds)
            order = _order(draw, f"{publisher}.{number}", kind, door, priority, entity, ack_wait, longest_delay)
            drawn.append(replace(order, tenant=tenant))
            number += 1
        yield drawn


def _one_of(draw: random.Random, weights: dict[str, int]) -> str:
    return draw.choices(list(weights), list(weights.values()))[0]


def _entity(draw: random.Random, publisher: str) -> str | None:
    if draw.random() < PARALLEL:
        return None
    if draw.random() < 0.45:
        return f"shared-{draw.randrange(SHARED_ENTITIES)}"
    return f"{publisher}-{draw.randrange(OWN_ENTITIES)}"


def _order(
    draw: random.Random,
    uid: str,
    kind: str,
    door: str,
    priority: str,
    entity: str | None,
    ack_wait: float,
    longest_delay: float,
) -> Order:
    max_attempts = 3 if door == "list" else draw.choice([3, 3, 3, 4, 5])
    payload = {
        "uid": uid,
        "kind": kind,
        "lane": entity,
        "seconds": _seconds(draw, kind, ack_wait),
        "fails": draw.randint(1, max_attempts - 1),
        "snoozes": draw.randint(1, 2),
        "snooze": 0.2 if entity else draw.choice([0.2, 1.0, 1.2 * ack_wait]),
        "made_at": draw.uniform(-SKEW, SKEW),
    }
    return Order(
        uid=uid,
        kind=kind,
        door=door,
        priority=priority,
        entity=entity,
        payload=payload,
        key=f"key-{uid}" if door == "keyed" else None,
        delay=draw.choice([0, 0.2, draw.uniform(0, longest_delay)]) if door == "delayed" else None,
        max_attempts=max_attempts,
        options={"duration": "long"} if kind == "long" else {"timeout": 0.3} if kind == "late" else {},
        cancel_after=draw.choice([0, 0, draw.uniform(0, 0.1), draw.uniform(0, 4)])
        if draw.random() < CANCELLED
        else None,
    )


def _seconds(draw: random.Random, kind: str, ack_wait: float) -> float:
    match kind:
        case "long":
            return draw.uniform(1.1, 1.5) * ack_wait
        case "slow":
            return draw.uniform(0.1, 0.4) * ack_wait
        case "late":
            return 2.0
        case "ok":
            return draw.choice([0, 0, draw.uniform(0, 0.01)])
    return draw.uniform(0, 0.01)
