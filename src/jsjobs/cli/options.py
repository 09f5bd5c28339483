"""Options that many commands share, and the examples below their help."""

import functools
import inspect
import logging
import os
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.markup import escape

from jsjobs.cli.durations import parse_duration, parse_moment
from jsjobs.cli.output import talk
from jsjobs.logs import LogFormat, log_to_stderr
from jsjobs.safe_log import get_logger

_PANEL = "Servers and logging"
_LOG_FORMAT = "JSJOBS_LOG_FORMAT"

TARGET = "The application's JobService: module:attr, or path/to/file.py:attr."
"""The help of the argument that names an application."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def duration_option(help_text: str, *names: str) -> Any:
    """Return an option that takes a duration and gives seconds."""
    return typer.Option(*names, help=help_text, parser=_duration, metavar="DURATION")


def moment_option(help_text: str, *names: str) -> Any:
    """Return an option that takes a moment and gives an aware datetime."""
    return typer.Option(*names, help=help_text, parser=_moment, metavar="TIME")


def _moment(text: str) -> datetime:
    try:
        return parse_moment(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _shared(
    *,
    namespace: Annotated[
        str | None,
        typer.Option(
            help="Namespace of the jobs [dim](JSJOBS_NAMESPACE, else jobs)[/]", rich_help_panel=_PANEL, metavar="NAME"
        ),
    ] = None,
    nats_url: Annotated[
        str | None,
        typer.Option(help="NATS server [dim](JSJOBS_NATS_URL, NATS_URL)[/]", rich_help_panel=_PANEL, metavar="URL"),
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="Postgres server [dim](JSJOBS_DATABASE_URL, DATABASE_URL)[/]", rich_help_panel=_PANEL, metavar="URL"
        ),
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Log everything, and show tracebacks of errors", rich_help_panel=_PANEL),
    ] = False,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            envvar=_LOG_FORMAT,
            help="Log lines of text for people, or of JSON for programs",
            rich_help_panel=_PANEL,
            show_envvar=True,
        ),
    ] = LogFormat.TEXT,
) -> None:
    # Options become environment variables, since an application that makes its own JobService() must see them too.
    given = {"JSJOBS_NAMESPACE": namespace, "JSJOBS_NATS_URL": nats_url, "JSJOBS_DATABASE_URL": database_url}
    os.environ.update({name: value for name, value in given.items() if value is not None})
    os.environ[_LOG_FORMAT] = log_format
    if verbose:
        be_verbose()


def with_servers(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which servers it talks to, and `--verbose`."""
    own, shared = inspect.signature(command), inspect.signature(_shared)

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        _shared(**{name: given.pop(name) for name in shared.parameters})
        command(**given)

    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in (*own.parameters.values(), *shared.parameters.values())
    ]
    # typer reads a command's parameters from here.
    vars(with_options)["__signature__"] = own.replace(parameters=parameters)
    with_options.__annotations__ = {**command.__annotations__, **_shared.__annotations__}
    return with_options


def be_verbose() -> None:
    """Log everything, as `-v` asks."""
    logging.getLogger("jsjobs").setLevel(logging.DEBUG)


def start_log(level: int, text: str) -> None:
    """Log to standard error, as `--log-format` says; an application's own logging stays as it is.

    Args:
        level: The least level that is logged.
        text: The format of a line of text.
    """
    log_to_stderr(level, text, os.environ.get(_LOG_FORMAT, LogFormat.TEXT))


def announce(text: str, *, style: str = "") -> None:
    """Print what a long-running command says of itself, or log it where the log is JSON."""
    if os.environ.get(_LOG_FORMAT) == LogFormat.JSON:
        get_logger("jsjobs.cli").info("%s", text)
    else:
        talk(text, style=style)


def is_verbose() -> bool:
    """Return whether `-v` was given."""
    return logging.getLogger("jsjobs").level == logging.DEBUG


def examples(*lines: str) -> str:
    """Format examples for the end of a command's help."""
    return "\n\n".join(["[bold]Examples[/bold]", *(f"[cyan]{escape(line)}[/cyan]" for line in lines)])
