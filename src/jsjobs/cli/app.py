"""The command `jsjobs`: its options, and what becomes of errors."""

import errno
import gc
import sys
from typing import Annotated

import typer

from jsjobs.cli.command_table import CommandTable
from jsjobs.cli.exit_codes import FAILED, INTERRUPTED, READER_GONE
from jsjobs.cli.standard_streams import flush_output, open_missing, why_unwritable, write_every_character

_HELP = """Background jobs on NATS JetStream: run workers, submit jobs, and see how they ended.

If you have no server, `jsjobs dev` starts one in this folder, and every other command finds it there. Give
--namespace, --nats-url and --database-url after a command's name, or set JSJOBS_NAMESPACE, NATS_URL and
DATABASE_URL. Exit codes: 0 success, 1 the job or the request failed, 2 invalid arguments."""

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
    """Take the options that stand before a command."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code; errors become one line.

    Args:
        arguments: The arguments, instead of those the process was given.
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
        from jsjobs.cli.errors import report

        code = report(error)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else FAILED
        if isinstance(end.__context__, BrokenPipeError):  # typer and rich turn it into a SystemExit
            code = READER_GONE
    gc.freeze()  # else the interpreter would search all of it at its end, to free memory that the system frees anyway
    sys.exit(_flushed(code))


def _flushed(code: int) -> int:
    """Write what waits to be written, and return the exit code; a reader that has gone is not reported."""
    error = flush_output()
    if error is None or error.errno == errno.EPIPE:
        return code
    if code == 0:
        from jsjobs.cli.output import complain

        complain(why_unwritable(error) or str(error))
    return code or FAILED
