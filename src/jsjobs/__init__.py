"""Jobs on NATS JetStream."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsjobs.service import JobService

__all__ = ["JobService"]


def __getattr__(name: str) -> Any:
    # Imported only when it is used: `jsjobs --help` does not need it.
    if name != "JobService":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jsjobs.service import JobService

    globals()[name] = JobService
    return JobService


def __dir__() -> list[str]:
    return [*globals(), *__all__]
