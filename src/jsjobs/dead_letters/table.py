"""Opening the dead-letter table that the settings name."""

from __future__ import annotations

from jsjobs.model.errors import JobError
from jsjobs.postgres.database import Database
from jsjobs.postgres.errors import InvalidDatabaseUrl
from jsjobs.settings import Config


def database_of(config: Config) -> Database:
    """The database of the settings; nothing is connected yet.

    Raises:
        JobError: `Validation`, if none is set or its URL cannot be read.
    """
    if config.database_url is None:
        raise JobError.from_validation("no database is set: give JSJOBS_DATABASE_URL or DATABASE_URL")
    try:
        return Database(config.database_url.get_secret_value())
    except InvalidDatabaseUrl as error:
        raise JobError.from_validation(str(error)) from error
