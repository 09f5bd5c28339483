"""The settings of a test's own namespace."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from jsjobs.model.checks import problems
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority, random_token
from jsjobs.settings import Config

_DEFAULTS: dict[str, Any] = {
    # One shard for each priority, so that its jobs run one after the other, in the order submitted.
    "pools": dict.fromkeys(Priority, 1),
    "partitions": 1,
    # The server reserves this much for each queue of each test.
    "queue_bytes": 64 * 2**20,
    "lane_bytes": 64 * 2**20,
}


class _GivenSettings(Config):
    """Settings that are read from the arguments alone: the environment's are meant for other servers."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def harness_settings(given: dict[str, Any]) -> Config:
    """Return settings with a namespace that nobody else has.

    Raises:
        JobError: `Validation`, naming each setting that is invalid.
    """
    if "namespace" in given:
        raise JobError.from_validation("namespace: every harness has a fresh one, which cannot be chosen")
    try:
        return _GivenSettings(**_DEFAULTS | given, namespace=f"test{random_token()}")
    except ValidationError as error:
        raise JobError.from_validation(f"settings of the harness: {problems(error)}") from None


def runs_in_order(config: Config, priority: Priority) -> bool:
    """Return whether the jobs of a priority run one after the other: no setting says that several run at once."""
    return config.shards(priority) == 1 and "concurrency" not in config.model_fields_set
