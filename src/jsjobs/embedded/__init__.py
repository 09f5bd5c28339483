"""Real servers on this machine, from PyPI packages: nobody installs one by hand."""

from __future__ import annotations

from jsjobs.embedded.errors import EmbeddedError
from jsjobs.embedded.home import Endpoints, LocalServers, discover
from jsjobs.embedded.nats import NatsServer
from jsjobs.embedded.postgres import PostgresServer

__all__ = ["EmbeddedError", "Endpoints", "LocalServers", "NatsServer", "PostgresServer", "discover"]
