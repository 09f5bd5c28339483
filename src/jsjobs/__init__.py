"""Jobs on NATS JetStream."""

from jsjobs.service import JobService

__all__ = ["JobService"]
