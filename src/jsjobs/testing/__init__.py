"""Harness and pytest fixtures for users who test their handlers on a real nats-server."""

from jsjobs.testing.harness import Harness
from jsjobs.testing.queued import QueuedJob

__all__ = ["Harness", "QueuedJob"]
