"""Which faults are done, when and to whom: drawn from a seed, so that the same seed plans the same run. Pure."""

import random
from dataclasses import dataclass

WEIGHTS = {
    "worker.kill": 14,
    "worker.freeze": 14,
    "worker.nap": 4,
    "worker.term": 9,
    "early.worker": 4,
    "consumer.delete": 5,
    "entry.delete": 6,
    "clock.jump": 6,
    "router.kill": 4,
    "router.freeze": 3,
    "router.term": 3,
    "publisher.kill": 3,
    "canceller.kill": 2,
    "net.cut": 8,
    "net.refuse": 5,
    "net.slow": 5,
    "net.half-open": 6,
    "server.kill": 9,
    "server.term": 6,
    "server.freeze": 4,
    "postgres.kill": 3,
    "postgres.stop": 4,
    "full.queue": 4,
    "full.state": 3,
    "full.dead": 2,
    "disk.fill": 3,
}
ON_CLUSTERS = {"leader.kill": 7, "leader.stepdown": 8}
"""Of a stream: where there are copies."""


@dataclass(frozen=True)
class Fault:
    """One fault."""

    at: float
    """Seconds after the run's begin at which it is due; it waits for the one before it in its lane."""
    kind: str
    target: int
    """Which of those that can be hurt so: taken modulo their number."""
    seconds: float
    """How long it lasts."""

    @property
    def lane(self) -> str:
        """Faults of one lane come one after the other, those of different lanes as they fall."""
        what = self.kind.partition(".")[0]
        return {"worker": "processes", "router": "processes", "publisher": "processes", "canceller": "processes"}.get(
            what, "servers" if what in {"server", "leader", "full", "disk", "early"} else what
        )


def plan(seed: int, *, seconds: float, faults: int, ack_wait: float, nodes: int) -> list[Fault]:
    """So many faults over so many seconds, in order; each kind once before any comes again by its weight."""
    draw = random.Random(f"{seed}/faults/{nodes}")
    weights = WEIGHTS | (ON_CLUSTERS if nodes > 1 else {})
    once = list(weights)
    draw.shuffle(once)
    # The heavier ones first: a short run has no room for all.
    once.sort(key=lambda kind: -weights[kind])
    kinds = once[:faults]
    kinds += draw.choices(list(weights), list(weights.values()), k=faults - len(kinds))
    draw.shuffle(kinds)
    every = seconds / max(1, faults)
    return [
        Fault((number + draw.uniform(0, 0.8)) * every, kind, draw.randrange(1000), _seconds(draw, kind, ack_wait))
        for number, kind in enumerate(kinds)
    ]


def _seconds(draw: random.Random, kind: str, ack_wait: float) -> float:
    match kind:
        case "worker.freeze" | "router.freeze":
            return draw.uniform(1.2, 2.2) * ack_wait
        case "worker.nap":
            return draw.uniform(0.2, 0.9) * ack_wait
        case "net.half-open":
            return draw.choice([0.3, 1.5]) * ack_wait
        case "clock.jump":
            return draw.uniform(1, 2 * ack_wait)
        case "net.slow":
            return draw.uniform(1, 4)
        case "net.cut" | "leader.stepdown":
            return 0
        case "postgres.kill" | "postgres.stop":
            return draw.uniform(1, 6)
    return draw.uniform(0.2, 2)
