"""Testing an application's handlers on a real nats-server: see docs/testing.md. The fixtures are in `fixtures`."""

from jsjobs.testing.harness import Harness
from jsjobs.testing.queued import QueuedJob

__all__ = ["Harness", "QueuedJob"]
