"""What the servers hold at the end, written beside the journals: every version of every entry, and every letter."""

import hashlib
import json
from pathlib import Path
from typing import Any

import asyncpg
import nats
from nats.js.api import ConsumerConfig, DeliverPolicy

from jsjobs.jetstream.protocol.names import Names
from survival.journal import Journal

BATCH_WITHIN = 30.0


async def record_versions(url: str, names: Names, folder: Path) -> None:
    """Every write that the state bucket ever took, in its order."""
    journal = Journal(folder, "versions")
    client = await nats.connect(url.split(","))
    stream = client.jetstream()
    info = await stream.stream_info(names.state_stream)
    subscription = await stream.subscribe(
        ">",
        stream=names.state_stream,
        ordered_consumer=True,
        config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL),
    )
    for _ in range(info.state.messages):
        message = await subscription.next_msg(timeout=BATCH_WITHIN)
        version = _version(message.data) if message.data else None
        if (message.headers or {}).get("KV-Operation"):
            job = message.subject.rpartition(".")[2]
            journal.note("deleted", job=job, revision=message.metadata.sequence.stream)
        if version is not None:
            meta = message.metadata
            stored = meta.timestamp.timestamp()
            headers = message.headers or {}
            expires = "Nats-TTL" in headers and "Jsjobs-Provisional" not in headers
            journal.note("version", revision=meta.sequence.stream, stored=stored, expires=expires, **version)
    await subscription.unsubscribe()
    await client.close()
    journal.note("stream", first=info.state.first_seq, last=info.state.last_seq, deleted=info.state.num_deleted or 0)
    journal.close()


def _version(data: bytes) -> dict[str, Any] | None:
    """What the checker needs of an entry; None for the bucket's other entries."""
    entry = json.loads(data)
    if "job_id" not in entry:
        return None
    history = entry.get("history", [])
    is_end = entry["status"] in {"complete", "failed", "cancelled"}
    return {
        "job": entry["job_id"],
        "status": entry["status"],
        "attempts": entry["attempts"],
        "max_attempts": entry["max_attempts"],
        "order": entry["carrier"]["sequence"] if entry.get("carrier") else None,
        "due": entry.get("scheduled_for"),
        "worker": entry.get("worker"),
        "error": history[-1].get("error") if history else None,
        "errors": [item["error"] for item in history if item.get("error")] if is_end else [],
        "statuses": [item["status"] for item in history],
        "result": entry.get("result"),
        "digest": hashlib.blake2b(json.dumps(entry, sort_keys=True).encode(), digest_size=8).hexdigest(),
    }


async def record_letters(url: str, names: Names, folder: Path) -> None:
    """Every row of `job_dlq`."""
    journal = Journal(folder, "letters")
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(
        "select original_job_id, attempts, error_reason from jsjobs_data.job_dlq where namespace = $1", names.namespace
    )
    await connection.close()
    for row in rows:
        journal.note("letter", job=row["original_job_id"], attempts=row["attempts"], reason=row["error_reason"])
    journal.close()
