"""The process that `jsjobs dev` runs an application in: imports it, and runs its worker and a router.

`jsjobs dev` stays and keeps the servers, this is started anew whenever the application changes. It ends with its
parent, however that ends: they share a socket, and the system closes the parent's end.
"""

import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress

from jsjobs import JobService
from jsjobs.cli.dev import prepare, serving
from jsjobs.cli.exit_codes import BROKEN, WRONG_USE
from jsjobs.cli.load import load_application, say_what_is_ignored
from jsjobs.cli.options import be_verbose
from jsjobs.cli.problems import report
from jsjobs.cli.serving import run_until_stopped, start_logging
from jsjobs.cli.standard_streams import flush_output

_ORPHANS_GRACE = 3.0
_LAST_WORD = 6.0


def main(target: str, line: str, *flags: str) -> int:
    """Serve until told to stop, and return the exit code.

    Args:
        target: The application.
        line: Number of the file descriptor that leads to the parent.
        flags: `-v`, or nothing.
    """
    if flags:
        be_verbose()
    parent = socket.socket(fileno=int(line))
    parent.set_inheritable(False)
    threading.Thread(target=_end_with, args=(parent,), name="jsjobs-parent", daemon=True).start()
    try:
        service = load_application(target)
        say_what_is_ignored(service)
    except Exception as error:  # noqa: BLE001 - as for every command
        code = report(error)
        return code if code == WRONG_USE else BROKEN
    start_logging()
    try:
        run_until_stopped(_serve(service, parent))
    except Exception as error:  # noqa: BLE001 - as above
        return report(error)
    return 0


async def _serve(service: JobService, parent: socket.socket) -> None:
    async def before() -> None:
        await prepare(service)
        with suppress(OSError):  # it has gone, and we are about to go
            parent.sendall(str(service.config.grace).encode())

    await serving(service, works=True, before=before).run()


def _end_with(parent: socket.socket) -> None:
    """Wait for the parent's end, then stop as after a signal, and soon after as after a second one."""
    with suppress(OSError):
        parent.recv(1)  # nothing is ever sent: it returns when the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHANS_GRACE)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_LAST_WORD)
    os.killpg(os.getpid(), signal.SIGKILL)  # and what its handlers started


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    flush_output()
    sys.exit(code)
