"""Settings: from arguments, or from the environment."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from jsjobs.model.checks import problems
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.model.retry import ATTEMPTS_LIMIT, Retry

DEFAULT_POOLS = {Priority.CRITICAL: 4, Priority.HIGH: 3, Priority.NORMAL: 2, Priority.LOW: 1}
MAX_SHARDS = 64
HOUR = 3600.0


def _processors() -> int:
    # Those that this process may use, where the system tells.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Config(BaseSettings):
    """All settings; each is read from `JSJOBS_<NAME>` where it is not given.

    Durations are in seconds. Raises pydantic's `ValidationError` on values that cannot be; `load` gives a `JobError`.
    """

    model_config = SettingsConfigDict(
        env_prefix="JSJOBS_",
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,  # it may be a password
        env_ignore_empty=True,  # `NATS_URL=` is how a compose file says that there is none
    )

    nats_url: str = Field(
        default="nats://127.0.0.1:4222",
        validation_alias=AliasChoices("JSJOBS_NATS_URL", "NATS_URL", "nats_url"),
        repr=False,
    )
    """One URL, or several with commas between them; what holds a password is not shown."""
    nats_creds: Path | None = Field(default=None, repr=False)
    """File with a user's JWT and seed. No path is shown: somebody may have put the secret itself in its place."""
    nats_user: str | None = None
    nats_password: SecretStr | None = None
    nats_token: SecretStr | None = None
    nats_nkey: Path | None = Field(default=None, repr=False)
    """File with an nkey seed."""
    nats_inbox_prefix: str = Field(default="_INBOX", pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")
    """Begin of the subjects on which answers come: with one of its own a user's answers are not for others to read."""
    nats_tls_ca: Path | None = Field(default=None, repr=False)
    nats_tls_cert: Path | None = Field(default=None, repr=False)
    nats_tls_key: Path | None = Field(default=None, repr=False)
    database_url: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("JSJOBS_DATABASE_URL", "DATABASE_URL", "database_url")
    )
    """Where dead letters go, e.g. `postgresql://user@host/db`."""
    namespace: str = "jobs"
    app: str = Field(default="app", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """Whose periodic schedules this application's workers keep in line with its code; others' they leave alone."""
    replicas: int = Field(default=1, ge=1, le=5)
    """Copies of every stream; 3 survives the loss of a node."""
    scale: int = Field(default=1, ge=1, le=16)
    """Every pool's shards are multiplied by this."""
    pools: dict[Priority, Annotated[int, Field(ge=1, le=MAX_SHARDS)]] = DEFAULT_POOLS
    """Shards per priority; one that is left out has as many as `DEFAULT_POOLS` says, unless its server has others."""
    capacity: int = Field(default=1_000_000, ge=1)
    """Jobs that may wait per shard and type; when it is full, submit says so and queues nothing."""
    queue_bytes: int = Field(default=2 * 2**30, ge=2**20)
    """Bytes that each queue may hold; the server reserves them."""
    tenant_delayed_jobs: int = Field(default=100_000, ge=1)
    """Delayed jobs that one tenant may have waiting through the micro service, over all its instances. What comes on
    `jobs.rpc.submit` counts together as one tenant's."""
    tenant_delayed_bytes: int = Field(default=512 * 2**20, ge=2**20)
    """Bytes of those."""
    tenant_types: int = Field(default=200, ge=1)
    """Job types that one tenant may use within an hour through one instance of the micro service."""
    ack_wait: float = Field(default=30.0, ge=1, le=600)
    """Seconds after which the server gives a job to another worker, unless its own keeps it alive."""
    max_deliver: int = Field(default=10 * ATTEMPTS_LIMIT, ge=2 * ATTEMPTS_LIMIT)
    """Deliveries of one message, at most: the last backstop. Each attempt is one, and so is each return of the job by a
    worker: with fewer than twice the attempts that it may have, a job could be buried before it has had them."""
    duplicate_window: float = Field(default=120.0, ge=0.1)
    """Seconds in which a dedupe key is remembered."""
    result_ttl: float = Field(default=7 * 24 * HOUR, ge=HOUR)
    """Seconds that an ended job is remembered; at least an hour, since it keeps the job from running again."""
    retry: Retry = Retry()
    """When a failed job is tried again whose handler has no policy of its own; with `max_retries` in it, also how often
    a job that was submitted without `max_attempts`."""
    grace: float = Field(default=10.0, ge=0)
    """Seconds that running jobs get at a shutdown before they are given back."""
    concurrency: int | None = Field(default=None, ge=1, le=100_000)
    """Jobs that a worker runs at once, at most; None: one of each shard."""
    processes: int = Field(default_factory=_processors, ge=1, le=1024)
    """Processes that a worker has at once, at most, for the handlers with `run_in="process"`."""
    timeout: float = Field(default=5.0, gt=0)
    """Seconds to wait for the server's answer to one request."""

    @property
    def max_attempts(self) -> int | None:
        """Attempts of a job where neither its publisher nor its handler says how many; None: nor does `retry`."""
        return self.retry.attempts if "max_retries" in self.retry.model_fields_set else None

    def shards(self, priority: Priority) -> int:
        """Shards of a priority."""
        return min(self.pools.get(priority, DEFAULT_POOLS[priority]) * self.scale, MAX_SHARDS)

    def asks_for_shards(self, priority: Priority) -> bool:
        """Whether somebody has set how many shards a priority is to have; else that is only a default."""
        return "scale" in self.model_fields_set or ("pools" in self.model_fields_set and priority in self.pools)


def load(**given: object) -> Config:
    """The settings: what is given, else the environment, else the defaults.

    Raises:
        JobError: `Validation`, naming each setting that cannot be used; values are not repeated, they may be secret.
    """
    try:
        return Config(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        text = f"settings: {problems(error)} (in the environment each is JSJOBS_<NAME>)"
        raise JobError.from_validation(text) from None
    except SettingsError as error:  # names the setting, and not what was in it
        name = re.search(r'field "(\w+)"', str(error))
        text = f"{name[1]}: it must be JSON, in the environment JSJOBS_{name[1].upper()}" if name else str(error)
        raise JobError.from_validation(f"settings: {text}") from None
    except RecursionError:
        raise JobError.from_validation("settings: the JSON in one of them is nested too deeply") from None
