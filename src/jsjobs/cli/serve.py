"""Commands that stay: worker, router, rpc, dev."""

from typing import Annotated

import typer

from jsjobs.cli.connect import find_servers, service, service_with_database
from jsjobs.cli.dev import dev
from jsjobs.cli.health import HealthHost, HealthPlace, HealthPort
from jsjobs.cli.load import load_application
from jsjobs.cli.options import TARGET, announce, examples, with_servers
from jsjobs.cli.serving import Serving, run_until_stopped, start_logging

_SERVING = "Running"


def add_commands(app: typer.Typer) -> None:
    """Add the commands to the application."""
    dev_examples = examples("jsjobs dev", "jsjobs dev app:jobs", "NATS_URL=nats://127.0.0.1:4222 jsjobs dev app:jobs")
    app.command(rich_help_panel=_SERVING, epilog=dev_examples)(dev)
    worker_examples = examples("jsjobs worker app:jobs", "jsjobs worker src/shop/tasks.py:jobs --no-router")
    app.command(rich_help_panel=_SERVING, epilog=worker_examples)(worker)
    router_examples = examples("jsjobs router", "jsjobs router --database-url postgresql://app@db.internal/app")
    app.command(rich_help_panel=_SERVING, epilog=router_examples)(router)
    rpc_examples = examples("jsjobs rpc", "jsjobs rpc --namespace shop --health-port 8080", "nats micro info jobs")
    app.command(rich_help_panel=_SERVING, epilog=rpc_examples)(rpc)


QueueMetrics = Annotated[
    bool,
    typer.Option(
        "--queue-metrics", envvar="JSJOBS_QUEUE_METRICS", help="Keep OpenTelemetry gauges of the queues' depths."
    ),
]


@with_servers
def worker(
    *,
    target: Annotated[str, typer.Argument(metavar="MODULE:ATTR", help=TARGET)],
    no_router: Annotated[bool, typer.Option("--no-router", help="Leave the dead letters to other routers.")] = False,
    queue_metrics: QueueMetrics = False,
    health_port: HealthPort = None,
    health_host: HealthHost = None,
) -> None:
    """Run the jobs of an application.

    Brings dead letters into the database too, where one is set, and serves the micro service. SIGTERM and Ctrl-C let
    running jobs end within the grace time (JSJOBS_GRACE, 10 s) and give the rest back; a second signal interrupts them.
    What the application's own JobService.Config sets counts more than options and environment.
    """
    find_servers()
    service = load_application(target)
    start_logging()
    routes = service.config.database_url is not None and not no_router
    if service.config.database_url is None:
        announce("no DATABASE_URL is set: dead letters wait in their stream until a router runs", style="yellow")
    health = HealthPlace(health_host, health_port)
    serving = Serving(service, works=True, routes=routes, answers=True, health=health, measures=queue_metrics)
    run_until_stopped(serving.run())


@with_servers
def router(
    *, queue_metrics: QueueMetrics = False, health_port: HealthPort = None, health_host: HealthHost = None
) -> None:
    """Bring dead letters into the database, without running jobs; any number of routers may run."""
    service = service_with_database()
    start_logging()
    health = HealthPlace(health_host, health_port)
    run_until_stopped(Serving(service, works=False, routes=True, health=health, measures=queue_metrics).run())


@with_servers
def rpc(*, health_port: HealthPort = None, health_host: HealthHost = None) -> None:
    """Serve the micro service alone; any number of these may run, and every worker serves it too.

    With it any NATS client can submit, follow, cancel and replay jobs. SIGTERM and Ctrl-C let requests under way be
    answered within the grace time (JSJOBS_GRACE, 10 s); a second signal interrupts them.
    """
    made = service()
    start_logging()
    health = HealthPlace(health_host, health_port)
    run_until_stopped(Serving(made, works=False, routes=False, answers=True, health=health).run())
