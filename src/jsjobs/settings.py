"""Settings: from arguments, or from the environment."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from jsjobs.model.checks import problems
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.model.lanes import DEFAULT_PARTITIONS
from jsjobs.model.retry import ATTEMPTS_LIMIT, Retry

DEFAULT_POOLS = {Priority.CRITICAL: 4, Priority.HIGH: 3, Priority.NORMAL: 2, Priority.LOW: 1}
MAX_SHARDS = 64
MAX_CONCURRENCY = 100_000
MAX_PARTITIONS = 32
"""Each is a consumer that every worker asks, so many of them cost throughput."""
HOUR = 3600.0


def _processors() -> int:
    # Count the processors that this process may use, if the system tells.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_priorities(value: Any) -> Any:
    """Read a list of priorities, or words with commas between them."""
    words = [word.strip() for word in value.split(",")] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not words:
        return words
    if not all(word in tuple(Priority) for word in words):
        raise ValueError(f"each must be one of {', '.join(Priority)}, with commas between them")
    return tuple(priority for priority in Priority if priority in words)


class Config(BaseSettings):
    """All settings; each one that is not given is read from `JSJOBS_<NAME>`.

    Durations are in seconds. Invalid values raise pydantic's `ValidationError`, or a `JobError` when `load` is used.
    """

    model_config = SettingsConfigDict(
        env_prefix="JSJOBS_",
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,  # it may be a password
        env_ignore_empty=True,  # a compose file writes `NATS_URL=` for "none"
    )

    nats_url: str = Field(
        default="nats://127.0.0.1:4222",
        validation_alias=AliasChoices("JSJOBS_NATS_URL", "NATS_URL", "nats_url"),
        repr=False,
    )
    """One URL, or several separated by commas. It is not shown, since it may hold a password."""
    nats_creds: Path | None = Field(default=None, repr=False)
    """The file with a user's JWT and seed. The path is not shown: somebody may have given the secret itself instead."""
    nats_user: str | None = None
    nats_password: SecretStr | None = None
    nats_token: SecretStr | None = None
    nats_nkey: Path | None = Field(default=None, repr=False)
    """The file with an nkey seed."""
    nats_inbox_prefix: str = Field(default="_INBOX", pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")
    """The prefix of the subjects on which answers arrive. A user with a prefix of its own keeps its answers private."""
    nats_tls_ca: Path | None = Field(default=None, repr=False)
    nats_tls_cert: Path | None = Field(default=None, repr=False)
    nats_tls_key: Path | None = Field(default=None, repr=False)
    database_url: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("JSJOBS_DATABASE_URL", "DATABASE_URL", "database_url")
    )
    """The database for dead letters, such as `postgresql://user@host/db`."""
    namespace: str = "jobs"
    app: str = Field(default="app", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """The application whose periodic schedules its workers keep in line with its code; they leave others' alone."""
    replicas: int = Field(default=1, ge=1, le=5)
    """Copies of every stream; 3 copies survive the loss of a node."""
    scale: int = Field(default=1, ge=1, le=16)
    """The factor by which the shards of every pool are multiplied."""
    pools: dict[Priority, Annotated[int, Field(ge=1, le=MAX_SHARDS)]] = DEFAULT_POOLS
    """Shards per priority; one that is left out has as many as `DEFAULT_POOLS` says, unless its server has others."""
    capacity: int = Field(default=1_000_000, ge=1)
    """The most jobs that may wait per shard and type; when this is reached, submit fails and queues nothing."""
    queue_bytes: int = Field(default=2 * 2**30, ge=2**20)
    """Bytes that each queue may hold; the server reserves them."""
    lane_bytes: int = Field(default=2**30, ge=2**20)
    """Bytes that the parallel lane of each priority may hold; the server reserves them."""
    partitions: int = Field(default=DEFAULT_PARTITIONS, ge=1, le=MAX_PARTITIONS)
    """Parts of each priority's parallel lane that take turns; a tenant's jobs wait in one of them."""
    tenant_delayed_jobs: int = Field(default=100_000, ge=1)
    """The most delayed jobs that one tenant may have waiting through the micro service, over all its instances. Jobs
    submitted on `jobs.rpc.submit` count together as one tenant's."""
    tenant_delayed_bytes: int = Field(default=512 * 2**20, ge=2**20)
    """The most bytes of those delayed jobs."""
    tenant_types: int = Field(default=200, ge=1)
    """The most job types that one tenant may use within an hour through one instance of the micro service."""
    ack_wait: float = Field(default=30.0, ge=1, le=600)
    """Seconds after which the server gives a job to another worker, unless its own worker keeps it alive."""
    max_deliver: int = Field(default=10 * ATTEMPTS_LIMIT, ge=2 * ATTEMPTS_LIMIT)
    """The most deliveries of one message: the last backstop. Each attempt is a delivery, and so is each release by a
    worker. With fewer than twice its possible attempts, a job could become a dead letter before it has had them."""
    duplicate_window: float = Field(default=120.0, ge=0.1)
    """Seconds for which a dedupe key is remembered."""
    result_ttl: float = Field(default=7 * 24 * HOUR, ge=HOUR)
    """Seconds for which an ended job is remembered; at least an hour, since this keeps the job from running again."""
    retry: Retry = Retry()
    """The retry policy of handlers without their own. If it sets `max_retries`, that also gives the attempts of a job
    submitted without `max_attempts`."""
    grace: float = Field(default=10.0, ge=0)
    """Seconds that running jobs get at a shutdown before they are released."""
    concurrency: int = Field(default=100, ge=1, le=MAX_CONCURRENCY)
    """The most jobs that a worker process runs at once, ordered and parallel ones together."""
    priorities: Annotated[tuple[Priority, ...], NoDecode, BeforeValidator(_read_priorities)] = Field(
        default=tuple(Priority), min_length=1
    )
    """The priorities that a worker takes jobs of; in the environment words with commas: `critical,high`."""
    processes: int = Field(default_factory=_processors, ge=1, le=1024)
    """The most processes that a worker has at once, for handlers with `run_in="process"`."""
    timeout: float = Field(default=5.0, gt=0)
    """Seconds to wait for the server's answer to one request."""

    @property
    def max_attempts(self) -> int | None:
        """Return the attempts of a job if neither its publisher nor its handler sets them; None: nor does `retry`."""
        return self.retry.attempts if "max_retries" in self.retry.model_fields_set else None

    def shards(self, priority: Priority) -> int:
        """Return the number of shards of a priority."""
        return min(self.pools.get(priority, DEFAULT_POOLS[priority]) * self.scale, MAX_SHARDS)

    def asks_for_shards(self, priority: Priority) -> bool:
        """Return whether the shard count of a priority was set explicitly; else it is only a default."""
        return "scale" in self.model_fields_set or ("pools" in self.model_fields_set and priority in self.pools)


def load(**given: object) -> Config:
    """Load the settings: those that are given, else from the environment, else the defaults.

    Raises:
        JobError: `Validation`, naming each setting that cannot be used; values, which may be secret, are not repeated.
    """
    try:
        return Config(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        text = f"settings: {problems(error)} (in the environment each is JSJOBS_<NAME>)"
        raise JobError.from_validation(text) from None
    except SettingsError as error:  # it names the setting, but not its value
        name = re.search(r'field "(\w+)"', str(error))
        text = f"{name[1]}: it must be JSON, in the environment JSJOBS_{name[1].upper()}" if name else str(error)
        raise JobError.from_validation(f"settings: {text}") from None
    except RecursionError:
        raise JobError.from_validation("settings: the JSON in one of them is nested too deeply") from None
