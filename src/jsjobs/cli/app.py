"""The command `jsjobs`: its options, and what becomes of errors."""

import errno
import gc
import sys
from typing import Annotated

import typer

from jsjobs.cli.command_table import CommandTable
from jsjobs.cli.exit_codes import FAILED, INTERRUPTED, READER_GONE
from jsjobs.cli.standard_streams import flush_output, open_missing, why_unwritable, write_every_character

_HELP = """Jobs on NATS JetStream: run workers, submit jobs, see what became of them.

Without a server at hand, `jsjobs dev` starts one in this folder, and every other command finds it there. Each command
takes --namespace, --nats-url and --database-url after its name; the environment says the same with JSJOBS_NAMESPACE,
NATS_URL and DATABASE_URL. Exit codes: 0 done, 1 the job or the request failed, 2 wrong use."""

app = typer.Typer(
    cls=CommandTable, help=_HELP, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"jsjobs {version('jsjobs')}")
        raise typer.Exit


@app.callback()
def _jsjobs(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Takes the options that stand before a command."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code; errors become one line.

    Args:
        arguments: Instead of those the process was given.
    """
    open_missing()
    write_every_character()
    try:
        app(arguments, prog_name="jsjobs")
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = READER_GONE
    except Exception as error:  # noqa: BLE001 - nobody at a terminal wants a traceback
        from jsjobs.cli.problems import report

        code = report(error)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else FAILED
        if isinstance(end.__context__, BrokenPipeError):  # what typer and rich make of it
            code = READER_GONE
    gc.freeze()  # what the interpreter would look through at its end, to free memory that the system frees
    sys.exit(_flushed(code))


def _flushed(code: int) -> int:
    """The exit code, once everything is written; a reader that has gone is no error worth a word."""
    error = flush_output()
    if error is None or error.errno == errno.EPIPE:
        return code
    if code == 0:
        from jsjobs.cli.output import complain

        complain(why_unwritable(error) or str(error))
    return code or FAILED
