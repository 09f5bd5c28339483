"""Commands that run until stopped: worker, router, rpc."""

import os
from typing import Annotated

import typer

from jsjobs.cli.app_loader import check_target, load_application, say_what_is_ignored
from jsjobs.cli.errors import WrongUse
from jsjobs.cli.options import TARGET, examples, is_verbose, with_servers
from jsjobs.cli.run.health import HealthHost, HealthPlace, HealthPort
from jsjobs.cli.run.serving import Serving, introduce, run_until_stopped, say_without_database, start_logging
from jsjobs.cli.run.supervisor import Supervisor
from jsjobs.cli.run.worker_child import NO_ROUTER, QUEUE_METRICS, VERBOSE
from jsjobs.cli.runtime import find_servers, service, service_with_database
from jsjobs.model.errors import JobError
from jsjobs.model.job import checked_priority
from jsjobs.settings import MAX_CONCURRENCY

app = typer.Typer()

QueueMetrics = Annotated[
    bool,
    typer.Option("--queue-metrics", envvar="JSJOBS_QUEUE_METRICS", help="Export OpenTelemetry metrics of the queues."),
]


@app.command(
    epilog=examples(
        "jsjobs worker app:jobs",
        "jsjobs worker src/shop/tasks.py:jobs --no-router",
        "jsjobs worker app:jobs --processes 4 --concurrency 50",
        "jsjobs worker app:jobs --priorities critical,high",
    )
)
@with_servers
def worker(
    *,
    target: Annotated[str, typer.Argument(metavar="MODULE:ATTR", help=TARGET)],
    processes: Annotated[
        int | None,
        typer.Option("--processes", help="Run in this many processes, and restart those that die.", min=1, metavar="N"),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency",
            help="Run at most this many jobs at once in each process. [dim](JSJOBS_CONCURRENCY, else 100)[/]",
            min=1,
            max=MAX_CONCURRENCY,
            metavar="N",
        ),
    ] = None,
    priorities: Annotated[
        str | None,
        typer.Option(
            "--priorities",
            help="Take jobs of these priorities only, such as critical,high. [dim](JSJOBS_PRIORITIES, else all)[/]",
            metavar="NAMES",
        ),
    ] = None,
    no_router: Annotated[
        bool, typer.Option("--no-router", help="Store no dead letters: leave them to other routers.")
    ] = False,
    queue_metrics: QueueMetrics = False,
    health_port: HealthPort = None,
    health_host: HealthHost = None,
) -> None:
    """Run an application's jobs.

    It also stores dead letters, if a database is set, and serves the micro service. SIGTERM and Ctrl-C let
    running jobs end within the grace time (JSJOBS_GRACE, 10 s) and return the others; a second signal interrupts them.
    With --processes, the first process has the router. The application's own JobService.Config overrides options and
    environment.
    """
    find_servers()
    if concurrency is not None:
        # As with the servers: the application, and its processes, make their own settings.
        os.environ["JSJOBS_CONCURRENCY"] = str(concurrency)
    if priorities is not None:
        os.environ["JSJOBS_PRIORITIES"] = ",".join(_checked_priorities(priorities))
    health = HealthPlace(health_host, health_port)
    if processes is not None:
        flags = {NO_ROUTER: no_router, QUEUE_METRICS: queue_metrics, VERBOSE: is_verbose()}
        supervise(target, processes, [flag for flag, on in flags.items() if on], health)
        return
    service = load_application(target)
    start_logging()
    routes = service.config.database_url is not None and not no_router
    introduce(service, routes=routes)
    say_what_is_ignored(service)
    if service.config.database_url is None:
        say_without_database()
    serving = Serving(service, works=True, routes=routes, answers=True, health=health, measures=queue_metrics)
    run_until_stopped(serving.run())


def _checked_priorities(words: str) -> list[str]:
    """Return the priorities in words with commas between them."""
    try:
        return [checked_priority(word.strip()) for word in words.split(",")]
    except JobError as error:
        raise WrongUse(f"--priorities: {error.message}") from None


def supervise(target: str, processes: int, flags: list[str], health: HealthPlace) -> None:
    """Run a worker in several processes until a signal ends them."""
    check_target(target)
    start_logging()
    supervisor = Supervisor(target, processes, flags, health)
    run_until_stopped(supervisor.run())
    if supervisor.code:
        raise typer.Exit(supervisor.code)


@app.command(epilog=examples("jsjobs router", "jsjobs router --database-url postgresql://app@db.internal/app"))
@with_servers
def router(
    *, queue_metrics: QueueMetrics = False, health_port: HealthPort = None, health_host: HealthHost = None
) -> None:
    """Store dead letters in Postgres, without running jobs; you can run several routers."""
    service = service_with_database()
    start_logging()
    introduce(service, routes=True)
    health = HealthPlace(health_host, health_port)
    run_until_stopped(Serving(service, works=False, routes=True, health=health, measures=queue_metrics).run())


@app.command(epilog=examples("jsjobs rpc", "jsjobs rpc --namespace shop --health-port 8080", "nats micro info jobs"))
@with_servers
def rpc(*, health_port: HealthPort = None, health_host: HealthHost = None) -> None:
    """Serve the micro service without running jobs; you can run several, and every worker serves it too.

    With it, any NATS client can submit, follow, cancel and replay jobs. SIGTERM and Ctrl-C let requests in progress be
    answered within the grace time (JSJOBS_GRACE, 10 s); a second signal interrupts them.
    """
    made = service()
    start_logging()
    introduce(made, routes=False)
    health = HealthPlace(health_host, health_port)
    run_until_stopped(Serving(made, works=False, routes=False, answers=True, health=health).run())
