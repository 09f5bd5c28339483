"""Find out which functions a new process can run: those that it can import by name."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from multiprocessing import spawn
from types import FunctionType
from typing import Any

from jsjobs.model.errors import JobError

MAX_BODY = 2**26
"""Bytes of the body of a frame to or from a process, at most. No nats-server takes a message of more than 64 MiB, so no
payload or result that can be stored is larger."""
_WHAT_TO_DO = (
    "define it with `def` at the top level of a module, with no other decorator above the handler's, or leave out "
    "run_in to run it in a thread"
)
_is_importing = False


def check_function(job_type: str, function: Callable[..., Any]) -> None:
    """Check at registration that a new process can import the function.

    A function that is being decorated has no name in its module yet; `pickled` checks the rest when a worker starts.

    Raises:
        JobError: `Validation`, if it cannot, with what to do about it.
    """
    if not isinstance(function, FunctionType):
        pickled(job_type, function)
    elif "<" in function.__qualname__:  # <lambda>, <locals>
        raise _refused(job_type, f"{function.__module__}.{function.__qualname__} has no name that can be imported")
    elif function.__module__ == "__main__" and not main_module():
        raise _refused(job_type, "it was typed in, and is in no file")


def pickled(job_type: str, function: Callable[..., Any]) -> bytes:
    """Pickle the function for a new process: its name, and the state of a bound method, partial or callable object.

    Raises:
        JobError: `Validation`, if a new process could not import it, with what to do about it.
    """
    try:
        data = pickle.dumps(function)
    except Exception as error:
        raise _refused(job_type, f"{type(error).__name__}: {error}") from error
    if len(data) > MAX_BODY:
        raise _refused(job_type, f"it carries {len(data)} bytes of data")
    return data


def _refused(job_type: str, why: str) -> JobError:
    return JobError.from_validation(f"the handler of {job_type} cannot run in a process ({why}): {_WHAT_TO_DO}")


def main_module() -> dict[str, Any]:
    """Return where a new process finds this one's `__main__`, as multiprocessing does; empty if it is not a file."""
    data = spawn.get_preparation_data("jsjobs")
    found = {name: value for name, value in data.items() if name.startswith("init_main")}
    return {**found, "sys_argv": data["sys_argv"]} if found else {}


def search_path() -> list[str]:
    """Return this process's module search path, for new processes: the command line adds an application's folder."""
    return [place for place in spawn.get_preparation_data("jsjobs")["sys_path"] if isinstance(place, str)]


def load(data: bytes, main: dict[str, Any]) -> Callable[..., Any]:
    """Unpickle, in a new process, the function that was pickled for it."""
    global _is_importing  # noqa: PLW0603 - of this process, which imports one thing at a time
    _is_importing = True
    try:
        if b"__main__" in data:
            # The worker's own script: imported under another name, so that its last lines do not start a worker again.
            spawn.prepare(dict(main))
        function = pickle.loads(data)  # noqa: S301 - from the worker that started this process
    finally:
        _is_importing = False
    return function  # type: ignore[no-any-return]


def check_not_importing() -> None:
    """Check that this process is not importing a handler at the moment.

    A module that starts a worker when it is imported would do so in each process of that worker.

    Raises:
        JobError: `Validation`, if it is.
    """
    if _is_importing:
        raise JobError.from_validation(
            "a process imports this script for its handlers: put what starts the worker below "
            '`if __name__ == "__main__":`'
        )
