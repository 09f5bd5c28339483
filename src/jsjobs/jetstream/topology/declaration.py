"""Read what the server should have: the files of `streams/`, overlaid with the settings."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from jsjobs.jetstream.api.types import Declared
from jsjobs.jetstream.protocol.names import Generation, Names, Partition, Shard
from jsjobs.model.job import Priority
from jsjobs.model.lanes import ORDERED, PARALLEL, Queue
from jsjobs.resources import shipped
from jsjobs.settings import Config

NANOSECONDS = 10**9
_NOT_OF_A_CONSUMER = frozenset({"metadata", "pause_until"})
"""Settings of a consumer that the server itself writes, or that operators set."""
_NOT_OF_A_STREAM = (
    "republish",
    "mirror",
    "sources",
    "subject_transform",
    "no_ack",
    "sealed",
    "deny_purge",
    "deny_delete",
    "consumer_limits",
    "max_consumers",
    "max_msgs",
    "max_msgs_per_subject",
    "max_msg_size",
    "max_bytes",
    "max_age",
    "discard_new_per_subject",
    "allow_rollup_hdrs",
    "allow_msg_ttl",
    "allow_msg_counter",
    "allow_msg_schedules",
    "allow_atomic",
    "allow_batched",
    "allow_direct",
    "mirror_direct",
    "subject_delete_marker_ttl",
    "persist_mode",
)
"""Settings that our streams have only where they are declared. They move messages in or out, delete or reject them, or
let publishers or readers do so."""
_OWN_BUSINESS = frozenset({"description", "sample_freq", "num_replicas", "mem_storage"})
"""Settings of a consumer that deliveries do not depend on."""


@cache
def _file(name: str) -> str:
    return (shipped("streams") / f"{name}.json").read_text(encoding="utf-8")


def _read(name: str, names: Names) -> Declared:
    """Read a shipped file and replace its literal `jobs` tokens with the namespace."""
    text = _file(name)
    if names.namespace != "jobs":
        text = re.sub(r'(?<=["$.])jobs(?=\.)|(?<=KV\.)jobs(?=\.)|(?<=KV_)jobs\b', names.namespace, text)
        text = re.sub(r"\bJOBS(?=_)", names.namespace.upper(), text)
    declared: Declared = json.loads(text)
    return declared


def queue_stream(config: Config, names: Names, priority: Priority, generation: Generation) -> Declared:
    """Return the stream of a priority; its transform partitions the jobs over the generation's shards."""
    stream = _read(f"JOBS_{priority.upper()}", names)
    stream["subject_transform"] = {
        "src": stream["subjects"][0],
        "dest": f"{names.stored(priority, generation)}.{{{{partition({generation.shards},1)}}}}.>",
    }
    stream["max_msgs_per_subject"] = config.capacity
    stream["max_bytes"] = config.queue_bytes
    stream["duplicate_window"] = int(config.duplicate_window * NANOSECONDS)
    return stream | {"num_replicas": config.replicas}


def lane_stream(config: Config, names: Names, priority: Priority) -> Declared:
    """Return the stream of a priority's parallel lane; its transform partitions the jobs by their fairness key."""
    stream = _read(f"JOBS_{priority.upper()}_PARALLEL", names)
    stream["subject_transform"] = {
        "src": stream["subjects"][0],
        "dest": f"{names.lane(priority)}.{{{{partition({config.partitions},1)}}}}.>",
    }
    stream["max_msgs_per_subject"] = config.capacity
    stream["max_bytes"] = config.lane_bytes
    stream["duplicate_window"] = int(config.duplicate_window * NANOSECONDS)
    return stream | {"num_replicas": config.replicas}


def reservation(config: Config, names: Names) -> str:
    """Return in words what the queues and lanes reserve on each server that holds a copy of them."""
    ordered, lanes = (", ".join(map(names.queue, queues)) for queues in (ORDERED, PARALLEL))
    return (
        f"{ordered} reserve {config.queue_bytes:,} bytes each (JSJOBS_QUEUE_BYTES), and {lanes} "
        f"{config.lane_bytes:,} bytes each (JSJOBS_LANE_BYTES)"
    )


def partition_consumer(config: Config, names: Names, partition: Partition) -> Declared:
    """Return the durable pull consumer of one partition; the file of partition 0 is the pattern for all.

    It has no `max_deliver`: a job may be given back very often, and the workers end one that kills them.
    """
    consumer = _read(f"consumers/{partition.priority}-parallel-0", names)
    consumer["durable_name"] = consumer["name"] = partition.consumer
    consumer["description"] = (
        f"Partition {partition.number} of {partition.priority}: jobs without an entity, side by side"
    )
    consumer["filter_subject"] = f"{names.lane(partition.priority)}.{partition.number}.>"
    consumer["ack_wait"] = int(config.ack_wait * NANOSECONDS)
    return consumer


def shard_consumer(config: Config, names: Names, shard: Shard) -> Declared:
    """Return the durable push consumer of one shard; the file of shard 0 is the pattern for all."""
    pattern = f"{shard.priority}-{Generation(1, _shipped_shards(shard.priority))}-0"
    consumer = _read(f"consumers/{pattern}", names)
    consumer["durable_name"] = consumer["name"] = shard.consumer
    consumer["description"] = f"Shard {shard.number} of {shard.priority}: one job at a time, in order"
    consumer["deliver_subject"] = names.deliver(shard)
    consumer["filter_subject"] = f"{names.stored(shard.priority, shard.generation)}.{shard.number}.>"
    consumer["ack_wait"] = int(config.ack_wait * NANOSECONDS)
    consumer["max_deliver"] = config.max_deliver
    return consumer


def _shipped_shards(priority: Priority) -> int:
    return {Priority.CRITICAL: 4, Priority.HIGH: 3, Priority.NORMAL: 2, Priority.LOW: 1}[priority]


def side_streams(config: Config, names: Names) -> list[Declared]:
    """Return the streams beside the queues: state, progress, dead letters and schedules."""
    streams = [_read(name, names) for name in ("KV_jobs", "JOBS_PROGRESS", "JOBS_DEAD", "JOBS_SCHEDULE")]
    return [stream | {"num_replicas": config.replicas} for stream in streams]


def source_consumer(names: Names, queue: Queue) -> Declared:
    """Return the durable consumer through which a queue sources its due jobs."""
    return _read(f"consumers/{names.source(queue)}", names)


def router_consumer(names: Names) -> Declared:
    """Return the durable consumer that all routers share."""
    return _read("consumers/router", names)


def differences(declared: Declared, actual: Declared) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, as name to (actual, declared).

    A setting that the server leaves out counts as its zero value.
    """
    return {
        key: (actual.get(key), wanted) for key, wanted in declared.items() if _plain(actual.get(key)) != _plain(wanted)
    }


def consumer_differences(declared: Declared, actual: Declared) -> dict[str, tuple[Any, Any]]:
    """Return differences as `differences` does, and also a consumer's undeclared settings, except for pauses."""
    foreign = dict.fromkeys(actual.keys() - declared.keys() - _NOT_OF_A_CONSUMER)
    return differences({**declared, **foreign}, actual)


def stream_differences(declared: Declared, actual: Declared) -> dict[str, tuple[Any, Any]]:
    """Return differences as `differences` does, and also undeclared settings that divert or keep away messages."""
    return differences({**dict.fromkeys(_NOT_OF_A_STREAM), "compression": "none", **declared}, actual)


def shard_faults(config: Config, names: Names, shard: Shard, actual: Declared) -> list[str]:
    """Return the settings of a shard's consumer that keep jobs from being delivered as they should.

    A setting that an operator may have chosen differently is no fault, as long as its value is plausible.
    """
    changes = consumer_differences(shard_consumer(config, names, shard), actual)
    return sorted(name for name, (found, wanted) in changes.items() if not is_plausible(name, found, wanted))


def partition_faults(config: Config, names: Names, partition: Partition, actual: Declared) -> list[str]:
    """Return the settings of a partition's consumer that keep jobs from being delivered, as `shard_faults` does."""
    changes = consumer_differences(partition_consumer(config, names, partition), actual)
    return sorted(name for name, (found, wanted) in changes.items() if not is_plausible(name, found, wanted))


def router_faults(names: Names, actual: Declared) -> list[str]:
    """Return the settings of the routers' consumer that keep letters from being delivered as they should."""
    changes = consumer_differences(router_consumer(names), actual)
    return sorted(name for name, (found, wanted) in changes.items() if not is_plausible(name, found, wanted))


def is_plausible(name: str, actual: Any, wanted: Any = None) -> bool:
    """Return whether deliveries go on with a consumer's setting that differs from this process's declaration."""
    match name:
        case "ack_wait":
            return isinstance(actual, int) and NANOSECONDS <= actual <= 600 * NANOSECONDS
        case "max_deliver":
            return _plain(wanted) is not None  # shards have this setting, the consumer of letters does not
    return name in _OWN_BUSINESS


def _plain(value: Any) -> Any:
    # The server writes "no limit" as -1 and leaves empty values out.
    return None if value in (0, -1, "", False, [], {}) else value
