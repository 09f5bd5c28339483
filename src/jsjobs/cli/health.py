"""Health endpoints of a command that stays: where they listen, and what they are told."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, NamedTuple

import typer

from jsjobs.cli.options import announce
from jsjobs.cli.problems import Failed
from jsjobs.dead_letters.router import Router
from jsjobs.health import HealthServer, Readiness
from jsjobs.rpc import Rpc
from jsjobs.worker.worker import Worker

HealthPort = Annotated[
    int | None,
    typer.Option(
        "--health-port",
        help="Answer GET /live and /ready on this port; 0: any free one, which is printed.",
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
        help="Listen for them on this address alone, not on every interface.",
        envvar="JSJOBS_HEALTH_HOST",
        show_envvar=False,
        metavar="ADDRESS",
    ),
]


class HealthPlace(NamedTuple):
    """Where to listen."""

    host: str | None
    """None: on every interface."""
    port: int | None
    """None: nowhere; 0: any free one."""


NOWHERE = HealthPlace(None, None)
"""No health endpoints."""


@contextmanager
def health_endpoints(
    place: HealthPlace, readiness: Callable[[], Readiness], trouble: Callable[[], list[str]] = list
) -> Iterator[None]:
    """Answer while the block runs; to be entered in the event loop.

    Args:
        place: Where.
        readiness: Whether work comes.
        trouble: Why others that this process answers for do not live.

    Raises:
        Failed: If nothing can listen there.
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
    """What a process says that runs these.

    Letters that cannot move block no job, so beside a worker they are worth a note. A router has no other work; but
    while Postgres is down it has its letters and can do nothing better than wait, which no restart would cure.
    """
    main = next((part for part in (worker, router, rpc) if part is not None), None)
    reason = "" if main is None else main.why_not_ready
    notes = []
    if router is not None and router.why_not_ready not in {"", reason}:
        notes.append(f"letters do not move: {router.why_not_ready}")
    if router is not None and router.trouble:
        notes.append(f"letters wait: {router.trouble}")
    if router is not None:
        notes += router.left
    return Readiness([reason] if reason else [], notes)
