"""The server's advisories that it has given a message up, read from whatever anybody may have published there. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from pydantic_core import from_json

from jsjobs.jetstream.subjects import Shard

_MAX_SEQUENCE = 2**63


class Advisory(NamedTuple):
    """What a max-deliver advisory says, in a form that the server can be asked about."""

    stream: str
    consumer: str
    sequence: int


def read_advisory(data: bytes, queues: Collection[str]) -> Advisory | None:
    """The advisory; None where it can be none of a queue: a question that the server refuses would be asked for ever.

    Args:
        data: The message's body.
        queues: Names of the queues' streams.
    """
    try:
        value = from_json(data)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    stream, consumer, sequence = value.get("stream"), value.get("consumer"), value.get("stream_seq")
    if not isinstance(stream, str) or not isinstance(consumer, str) or type(sequence) is not int:
        return None
    if stream not in queues or Shard.of(consumer) is None or not 0 < sequence < _MAX_SEQUENCE:
        return None
    return Advisory(stream, consumer, sequence)
