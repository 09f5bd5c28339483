"""Check a database URL before it is used, and name its place without the secrets in it."""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl, unquote, urlsplit

from jsjobs.postgres.errors import InvalidDatabaseUrl

_ESCAPE = "in a user name or password write @ as %40, : as %3A, / as %2F, ? as %3F and # as %23"

_PORT = re.compile(r"0{0,99}[1-9][0-9]{0,4}")
_LAST_PORT = 65535
_LOCAL = re.compile(r"(localhost|127\.[0-9.]+|\[::1\]):[0-9]+", re.IGNORECASE)


def place(url: str) -> str:
    """Return where a URL points, for messages: only hosts, ports and database.

    Args:
        url: A libpq URL, `postgresql://user:password@host:port/database?name=value`.

    Raises:
        InvalidDatabaseUrl: It says what is wrong without quoting the URL: parts may be of a badly escaped password.
    """
    if not url.lower().startswith(("postgresql://", "postgres://")):
        raise InvalidDatabaseUrl("it must begin with postgresql:// or postgres://")
    try:
        url.encode()
    except UnicodeError:
        raise InvalidDatabaseUrl("some of it is not UTF-8") from None
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidDatabaseUrl("its host cannot be read") from None
    if "#" in url or "@" in parts.path or parts.netloc.count("@") > 1:
        raise InvalidDatabaseUrl(f"it has a stray @ or #; {_ESCAPE}")
    try:
        query = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        raise InvalidDatabaseUrl(f"what follows the ? must be name=value pairs; {_ESCAPE}") from None
    hosts = parts.netloc.rpartition("@")[2] or query.get("host") or os.environ.get("PGHOST") or "localhost"
    ports = query.get("port") or os.environ.get("PGPORT") or "5432"
    database = unquote(parts.path[1:]) or query.get("dbname") or query.get("database") or os.environ.get("PGDATABASE")
    _check_ports(ports.split(","))
    named = ",".join(_with_port(host, ports) for host in hosts.split(","))
    return f"{named}/{database}" if database else named


def is_local(place: str) -> bool:
    """Return whether all hosts of a `place` are this machine: nobody is on the way to it."""
    if place.startswith("/"):
        return True  # the folder of a socket
    return all(_LOCAL.fullmatch(host) for host in place.partition("/")[0].split(","))


def _with_port(host: str, default: str) -> str:
    name, colon, port = host.rpartition(":")
    # The colons of an IPv6 address stand inside its brackets.
    if not colon or port.endswith("]"):
        return f"{_checked_host(unquote(host))}:{default}"
    _check_ports([port])
    return f"{_checked_host(unquote(name))}:{port}"


def _checked_host(host: str) -> str:
    try:
        if not host.startswith("/"):  # that would be the folder of a socket
            host.encode("idna")
    except UnicodeError:
        raise InvalidDatabaseUrl("its host is not a valid name") from None
    return host


def _check_ports(ports: list[str]) -> None:
    for port in ports:
        if not _PORT.fullmatch(port) or int(port) > _LAST_PORT:
            raise InvalidDatabaseUrl(f"a port must be a number from 1 to 65535; {_ESCAPE}")
