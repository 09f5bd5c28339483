"""Open a connection according to the settings."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.credentials import check_creds, check_file, check_nkey
from jsjobs.jetstream.client.interface import Login
from jsjobs.model.errors import JobError
from jsjobs.settings import Config


async def connect(config: Config, *, name: str = "jsjobs") -> Connection:
    """Open a connection and return it once it is up.

    Raises:
        JobError: `Validation`, if a credentials or certificate file cannot be read; `RunnerUnavailable`, if no server
            can be reached, it refuses us, or it is too old.
    """
    login: Login = {"name": name}
    for what in ("nats_creds", "nats_nkey", "nats_tls_ca", "nats_tls_cert", "nats_tls_key"):
        check_file(getattr(config, what), what)
    if config.nats_creds is not None:
        check_creds(config.nats_creds)
        login["creds"] = config.nats_creds
    if config.nats_nkey is not None:
        check_nkey(config.nats_nkey)
        login["nkey"] = config.nats_nkey
    if config.nats_user is not None:
        login["user"] = config.nats_user
    if config.nats_password is not None:
        login["password"] = config.nats_password.get_secret_value()
    if config.nats_token is not None:
        login["token"] = config.nats_token.get_secret_value()
    if config.nats_tls_ca is not None or config.nats_tls_cert is not None:
        _tls(config)  # each connection builds its own context; this checks that the files are usable now
        login["tls"] = partial(_tls, config)
    connection = Connection()
    await connection.open(config.nats_url, timeout=config.timeout, inbox_prefix=config.nats_inbox_prefix, **login)
    return connection


@asynccontextmanager
async def connected(config: Config, *, name: str = "jsjobs") -> AsyncIterator[Connection]:
    """Open a connection for the duration of a block.

    Raises:
        JobError: As in `connect`.
    """
    connection = await connect(config, name=name)
    try:
        yield connection
    finally:
        await connection.close()


def _tls(config: Config) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.nats_tls_ca)
        if config.nats_tls_cert is not None:
            context.load_cert_chain(config.nats_tls_cert, config.nats_tls_key)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise JobError.from_validation(f"the TLS files cannot be used: {error}") from None
    return context
