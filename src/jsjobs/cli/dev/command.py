"""`jsjobs dev`: run servers for a folder, and an application on them that is loaded again when it changes."""

import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from jsjobs import JobService
from jsjobs.cli.app_loader import check_target
from jsjobs.cli.commands.streams import apply_streams, finish_changes
from jsjobs.cli.dev.reloader import Reloading
from jsjobs.cli.errors import WrongUse
from jsjobs.cli.options import TARGET, examples, is_verbose, with_servers
from jsjobs.cli.output import talk
from jsjobs.cli.run.serving import Serving, run_until_stopped, start_logging
from jsjobs.cli.run.signals import stop_signals
from jsjobs.cli.runtime import has_database, has_nats, settings, use_database, use_nats
from jsjobs.embedded.discovery import Endpoints
from jsjobs.embedded.home import LocalServers
from jsjobs.embedded.nats import STANDARD_PORT
from jsjobs.jetstream.client.errors import without_secrets
from jsjobs.jetstream.topology.plan import Action
from jsjobs.local import share
from jsjobs.postgres.migrate import migrate

app = typer.Typer()


@app.command(epilog=examples("jsjobs dev", "jsjobs dev app:jobs", "NATS_URL=nats://127.0.0.1:4222 jsjobs dev app:jobs"))
@with_servers
def dev(
    *,
    target: Annotated[str | None, typer.Argument(metavar="[MODULE:ATTR]", help=TARGET)] = None,
    nats_port: Annotated[
        int | None,
        typer.Option(
            help=f"Port of the NATS server; 0 means any free one. [dim](else {STANDARD_PORT} if free, or any)[/]",
            min=0,
            max=65535,
            metavar="PORT",
        ),
    ] = None,
) -> None:
    """Start NATS and Postgres in this folder, run an application on them, and reload it when its files change.

    Data and logs are kept in ./.jsjobs; every other command in this folder, or below it, finds the servers. A server
    that the environment or an option names is used, and none is started in its place. Ctrl-C stops everything.
    """
    for number in stop_signals():
        signal.signal(number, signal.default_int_handler)
    if target is not None:
        check_target(target)  # before servers are started for nothing
    if nats_port is not None and has_nats():
        raise WrongUse("--nats-port is for the server that dev starts, but NATS_URL or --nats-url names another one")
    standard = STANDARD_PORT if nats_port is None else None
    servers = LocalServers(Path.cwd(), nats_port=nats_port or None, preferred_nats_port=standard)
    code = 0
    with suppress(KeyboardInterrupt):
        try:
            started = _start(servers)
            service = JobService(settings())
            if standard and started.nats_url and not started.nats_url.endswith(f":{standard}"):
                talk(f"port {standard} is taken by another process, so NATS uses another one", style="yellow")
            _introduce(service, target, started)
            if target is None:
                _route(service, servers)
            else:
                code = Reloading(target, verbose=is_verbose()).run()
        finally:
            _stop(servers)
    if code:
        raise typer.Exit(code)


async def prepare(service: JobService) -> None:
    """Bring an application's table and streams to what this version and its settings ask for."""
    if service.config.database_url is not None:
        for name in await migrate(service.database()):
            talk(f"migration {name} applied", style="dim")
    # A change of the shard count waits for jobs that only the worker can run, and the worker starts after this.
    steps = await apply_streams(service.config, wait=False)
    for step in steps:
        for name, (old, new) in step.changes.items() if step.action is Action.UPDATE else ():
            talk(f"{step.kind} {step.name}: {name} changed from {old} to {new}, as the settings say", style="yellow")
    share(service.config)
    created = sum(step.action is Action.CREATE for step in steps)
    if created:
        talk(f"streams and consumers created: {created}", style="dim")


def _route(service: JobService, servers: LocalServers) -> None:
    start_logging()

    async def before() -> None:
        await prepare(service)

    run_until_stopped(serving(service, works=False, before=before).run(), lambda: _stop(servers))


def serving(service: JobService, *, works: bool, before: Callable[[], Awaitable[None]]) -> Serving:
    """Return what runs in development: the micro service, a router if a database is set, and a change of shards."""
    routes = service.config.database_url is not None
    return Serving(
        service,
        works=works,
        routes=routes,
        answers=True,
        before=before,
        beside=lambda: finish_changes(service.config),
    )


def _start(servers: LocalServers) -> Endpoints:
    nats, postgres = not has_nats(), not has_database()
    if not (nats or postgres):
        return Endpoints(None, None)
    what = " and ".join(name for name, wanted in (("NATS", nats), ("Postgres", postgres)) if wanted)
    talk(f"starting {what} for {servers.folder}", style="dim")
    started = servers.start(nats=nats, postgres=postgres)
    if started.nats_url is not None:
        use_nats(started.nats_url)
    if started.database_url is not None:
        use_database(started.database_url)
    return started


def _stop(servers: LocalServers) -> None:
    if servers.started:
        servers.stop()
        places = " and ".join(map(str, servers.data))
        talk(f"stopped; the data is kept in {places} for the next `jsjobs dev` here", style="dim")


def _introduce(service: JobService, target: str | None, started: Endpoints) -> None:
    config = service.config
    talk(f"NATS      {without_secrets(config.nats_url)}")
    if config.database_url is not None:
        # Our own database has no password, and psql takes its whole address.
        talk(f"Postgres  {started.database_url or service.database().place}")
    if target is None:
        talk("no application was given: jobs wait until `jsjobs worker module:attr` runs")
    if started.nats_url or started.database_url:
        whose = "these servers" if started.nats_url and started.database_url else "what was started here"
        talk(f"other commands in this folder find {whose} by themselves; Ctrl-C stops everything", style="dim")
    if started.nats_url and not started.nats_url.endswith(f":{STANDARD_PORT}"):
        talk(f"for plain NATS clients: export NATS_URL={started.nats_url}", style="dim")
