"""The health endpoints of a long-running command: where they listen, and what they answer."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, NamedTuple

import typer

from jsjobs.cli.errors import Failed
from jsjobs.cli.options import announce
from jsjobs.health import HealthServer, Readiness
from jsjobs.maintenance.router import Router
from jsjobs.rpc import Rpc
from jsjobs.worker.worker import Worker

HealthPort = Annotated[
    int | None,
    typer.Option(
        "--health-port",
        help="Answer GET /live and /ready on this port; 0 takes any free one and prints it.",
        envvar="JSJOBS_HEALTH_PORT",
        show_envvar=False,
        min=0,
        max=65535,
        metavar="PORT",
    ),
]
HealthHost = Annotated[
    str | None,
    typer.Option(
        "--health-host",
        help="Listen on this address only, not on every interface.",
        envvar="JSJOBS_HEALTH_HOST",
        show_envvar=False,
        metavar="ADDRESS",
    ),
]


class HealthPlace(NamedTuple):
    """The address that the health endpoints listen on."""

    host: str | None
    """The address; None: every interface."""
    port: int | None
    """The port; None: there are no health endpoints; 0: any free port."""


NOWHERE = HealthPlace(None, None)
"""No health endpoints."""


@contextmanager
def health_endpoints(
    place: HealthPlace, readiness: Callable[[], Readiness], trouble: Callable[[], list[str]] = list
) -> Iterator[None]:
    """Serve the health endpoints while the block runs; enter it in the event loop.

    Args:
        place: Where to listen.
        readiness: Returns whether work reaches this process.
        trouble: Returns why other processes, which this one answers for, are not alive.

    Raises:
        Failed: If it is not possible to listen there.
    """
    if place.port is None:
        yield
        return
    with ExitStack() as parts:
        try:
            server = parts.enter_context(HealthServer(readiness, host=place.host, port=place.port, trouble=trouble))
        except OSError as error:
            where = f"port {place.port}" if place.host is None else f"{place.host} port {place.port}"
            raise Failed(
                f"the health endpoints cannot listen on {where}: {error.strerror}; "
                "choose with --health-port and --health-host"
            ) from None
        announce(f"health endpoints /live and /ready on port {server.port}", style="dim")
        yield


def readiness_of(worker: Worker | None, router: Router | None, rpc: Rpc | None = None) -> Readiness:
    """Return the readiness of a process that runs these.

    Letters that cannot move block no job, so beside a worker they are only worth a note. A router has no other work.
    But while Postgres is down it has its letters and can do nothing better than wait, which no restart would cure.
    """
    main = next((part for part in (worker, router, rpc) if part is not None), None)
    reason = "" if main is None else main.why_not_ready
    notes = []
    if router is not None and router.why_not_ready not in {"", reason}:
        notes.append(f"dead letters are not stored: {router.why_not_ready}")
    if router is not None and router.trouble:
        notes.append(f"dead letters are pending: {router.trouble}")
    if router is not None:
        notes += router.left
    return Readiness([reason] if reason else [], notes)
