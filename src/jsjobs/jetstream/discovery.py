"""What an instance of a micro service tells of itself: `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

from nats.micro.service import (
    DEFAULT_QUEUE_GROUP,
    EndpointInfo,
    EndpointStats,
    ServiceConfig,
    ServiceInfo,
    ServicePing,
    ServiceStats,
    ServiceVerb,
    control_subject,
)
from nats.nuid import NUID


class Discovery:
    """One instance, its endpoints and their counts.

    Args:
        name: Of the service, which all its instances share.
        version: A semantic version.
        description: For people.

    Raises:
        ValueError: If name or version are none that NATS takes.
    """

    def __init__(self, name: str, version: str, description: str) -> None:
        self._about = ServiceConfig(name=name, version=version, description=description)
        self._id = NUID().next().decode()
        self._infos: list[EndpointInfo] = []
        self._stats: list[EndpointStats] = []
        self._started = datetime.now(UTC)

    def add(self, name: str, subject: str, metadata: dict[str, str]) -> EndpointStats:
        """Tell of an endpoint; whoever serves it counts in what this returns."""
        self._infos.append(EndpointInfo(name, subject, DEFAULT_QUEUE_GROUP, metadata))
        self._stats.append(EndpointStats(name, subject, DEFAULT_QUEUE_GROUP, 0, 0, 0, 0))
        return self._stats[-1]

    @property
    def subjects(self) -> Iterator[tuple[str, ServiceVerb]]:
        """Where this instance is asked, and what for: with all services, with all of its name, and by itself."""
        for verb in ServiceVerb:
            for name, instance in ((None, None), (self._about.name, None), (self._about.name, self._id)):
                yield control_subject(verb, name, instance), verb

    def told(self, verb: ServiceVerb) -> bytes:
        """The answer to a question."""
        name, version, metadata = self._about.name, self._about.version, dict[str, str]()
        told: ServicePing | ServiceInfo | ServiceStats
        if verb is ServiceVerb.PING:
            told = ServicePing(self._id, name, version, metadata)
        elif verb is ServiceVerb.INFO:
            told = ServiceInfo(name, self._id, version, self._about.description, self._infos, metadata)
        else:
            told = ServiceStats(self._id, name, version, self._started, self._stats, metadata)
        return json.dumps(told.to_dict()).encode()
