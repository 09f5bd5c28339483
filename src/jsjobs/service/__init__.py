"""JobService, the one export, and the parts it is made of."""

from jsjobs.service.job_service import JobService

__all__ = ["JobService"]
