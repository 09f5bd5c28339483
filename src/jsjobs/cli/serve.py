"""Commands that stay: worker, router, dev."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from jsjobs import JobService
from jsjobs.cli.connect import (
    find_servers,
    has_database,
    has_nats,
    service_with_database,
    settings,
    use_database,
    use_nats,
)
from jsjobs.cli.load import check_target, load_service
from jsjobs.cli.options import examples, with_servers
from jsjobs.cli.output import talk
from jsjobs.cli.problems import WrongUse
from jsjobs.cli.serving import Serving, run_until_stopped, start_logging
from jsjobs.cli.streams import apply_streams
from jsjobs.embedded import Endpoints, LocalServers
from jsjobs.jetstream.errors import without_secrets
from jsjobs.jetstream.topology import Action
from jsjobs.postgres.migrate import migrate

_SERVING = "Running"
_TARGET = "The application's JobService: module:attr, or path/to/file.py:attr."


def add_commands(app: typer.Typer) -> None:
    """Add the commands to the application."""
    dev_examples = examples("jsjobs dev", "jsjobs dev app:jobs", "NATS_URL=nats://127.0.0.1:4222 jsjobs dev app:jobs")
    app.command(rich_help_panel=_SERVING, epilog=dev_examples)(dev)
    worker_examples = examples("jsjobs worker app:jobs", "jsjobs worker src/shop/tasks.py:jobs --no-router")
    app.command(rich_help_panel=_SERVING, epilog=worker_examples)(worker)
    router_examples = examples("jsjobs router", "jsjobs router --database-url postgresql://app@db.internal/app")
    app.command(rich_help_panel=_SERVING, epilog=router_examples)(router)


@with_servers
def worker(
    *,
    target: Annotated[str, typer.Argument(metavar="MODULE:ATTR", help=_TARGET)],
    no_router: Annotated[bool, typer.Option("--no-router", help="Leave the dead letters to other routers.")] = False,
) -> None:
    """Run the jobs of an application.

    Brings dead letters into the database too, where one is set. SIGTERM and Ctrl-C let running jobs end within the
    grace time (JSJOBS_GRACE, 10 s) and give the rest back; a second signal interrupts them. What the application's own
    JobService.Config sets counts more than options and environment.
    """
    find_servers()
    service = _loaded(target)
    start_logging()
    routes = service.config.database_url is not None and not no_router
    if service.config.database_url is None:
        talk("no DATABASE_URL is set: dead letters wait in their stream until a router runs", style="yellow")
    run_until_stopped(Serving(service, works=True, routes=routes).run())


@with_servers
def router() -> None:
    """Bring dead letters into the database, without running jobs; any number of routers may run."""
    service = service_with_database()
    start_logging()
    run_until_stopped(Serving(service, works=False, routes=True).run())


@with_servers
def dev(
    *,
    target: Annotated[str | None, typer.Argument(metavar="[MODULE:ATTR]", help=_TARGET)] = None,
) -> None:
    """Start NATS and Postgres here, and run an application on them.

    Data and logs are in ./.jsjobs; every other command in this folder, or below it, finds the servers there. A server
    that the environment or an option names is used instead of starting one. Ctrl-C stops everything.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if target is not None:
        check_target(target)  # before servers are started for nothing
    servers = LocalServers(Path.cwd())
    with suppress(KeyboardInterrupt):
        try:
            started = _start(servers)
            service = _loaded(target) if target is not None else JobService(settings())
            _introduce(service, target, started)
            start_logging()
            routes = service.config.database_url is not None

            async def before() -> None:
                await _prepare(service)

            serving = Serving(service, works=target is not None, routes=routes, before=before)
            run_until_stopped(serving.run(), servers.stop)
        finally:
            servers.stop()


def _loaded(target: str) -> JobService:
    service = load_service(target)
    if not service.types:
        # Its worker would bury every job as HandlerMissing.
        raise WrongUse(f"{target} has no handlers: register them, with @jobs.handler(...), where it is imported")
    _say_what_is_ignored(service)
    return service


def _say_what_is_ignored(service: JobService) -> None:
    """An application may set in its code what the environment, an option or `jsjobs dev` sets too."""
    config = service.config
    database = None if config.database_url is None else config.database_url.get_secret_value()
    used = {"NATS_URL": config.nats_url, "DATABASE_URL": database, "NAMESPACE": config.namespace}
    ignored = [f"JSJOBS_{name}" for name, value in used.items() if os.environ.get(f"JSJOBS_{name}", value) != value]
    if ignored:
        talk(f"the application's own Config counts, not {', '.join(ignored)}", style="yellow")


def _start(servers: LocalServers) -> Endpoints:
    nats, postgres = not has_nats(), not has_database()
    if not (nats or postgres):
        return Endpoints(None, None)
    started = servers.start(nats=nats, postgres=postgres)
    if started.nats_url is not None:
        use_nats(started.nats_url)
    if started.database_url is not None:
        use_database(started.database_url)
    return started


def _introduce(service: JobService, target: str | None, started: Endpoints) -> None:
    config = service.config
    talk(f"NATS      {without_secrets(config.nats_url)}")
    if config.database_url is not None:
        # Our own has no password, and psql takes its whole address.
        talk(f"Postgres  {started.database_url or service.database().place}")
    if target is None:
        talk("no application was given: jobs wait until `jsjobs worker module:attr` runs")
    if started.nats_url or started.database_url:
        whose = "these servers" if started.nats_url and started.database_url else "what was started here"
        talk(f"other commands in this folder find {whose} by themselves; Ctrl-C stops it all", style="dim")
    if started.nats_url:
        talk(f"for plain NATS clients: export NATS_URL={started.nats_url}", style="dim")


async def _prepare(service: JobService) -> None:
    if service.config.database_url is not None:
        for name in await migrate(service.database()):
            talk(f"migration {name} applied", style="dim")
    steps = await apply_streams(service.config)
    created = sum(step.action is Action.CREATE for step in steps)
    if created:
        talk(f"{created} streams and consumers created", style="dim")
