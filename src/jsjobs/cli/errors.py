"""Turn the error that a command ended in into one line for people, and an exit code."""

import sys
import traceback
from contextlib import suppress

from jsjobs.cli.exit_codes import FAILED, WRONG_USE
from jsjobs.cli.options import is_verbose
from jsjobs.cli.output import complain
from jsjobs.cli.standard_streams import NOBODY_READS, why_unwritable
from jsjobs.embedded.errors import EmbeddedError
from jsjobs.jetstream.client.errors import Unreachable
from jsjobs.model.errors import AlreadyDue, AlreadyEnded, JobError, Reason
from jsjobs.postgres.errors import (
    DatabaseError,
    DatabaseExhausted,
    DatabaseSilent,
    DatabaseUnavailable,
    InvalidDatabaseUrl,
    LetterError,
    TablesLocked,
)

HOW_TO_NATS = "start one with `jsjobs dev`, or set NATS_URL"
HOW_TO_DATABASE = "start one with `jsjobs dev`, or set DATABASE_URL"


class Failed(Exception):  # noqa: N818 - it says what happened
    """The request failed, and not by a mistake of whoever called the command."""


class WrongUse(Exception):  # noqa: N818 - as above
    """The command was given invalid arguments."""


def judge(error: Exception) -> tuple[str, int]:
    """Return the message for an error, and the exit code it means."""
    match error:
        case WrongUse():
            return str(error), WRONG_USE
        case AlreadyEnded() | AlreadyDue():
            return error.message, FAILED
        case JobError(reason=Reason.VALIDATION):
            return error.message, WRONG_USE
        case Unreachable():
            return f"{error.message}; {HOW_TO_NATS}", FAILED
        case JobError():
            return error.message, FAILED
        case InvalidDatabaseUrl():
            return str(error), WRONG_USE
        case DatabaseUnavailable() if not isinstance(error, DatabaseExhausted | DatabaseSilent | TablesLocked):
            return f"{error}; {HOW_TO_DATABASE}", FAILED
        case DatabaseError() | LetterError() | EmbeddedError() | Failed():
            return str(error), FAILED
        case OSError() if (text := why_unwritable(error)) is not None:
            return text, FAILED
        case _:
            return f"unexpected {type(error).__name__}: {error} (add -v for a traceback)", FAILED


def report(error: Exception) -> int:
    """Print the error that a command ended in, with its traceback if `-v` was given, and return the exit code."""
    text, code = judge(error)
    complain(text)
    if is_verbose():
        with suppress(*NOBODY_READS):
            traceback.print_exception(error, file=sys.stderr)
    return code
