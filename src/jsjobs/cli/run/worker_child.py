"""One of the processes of `jsjobs worker --processes N`: a worker like any other, which reports to its parent.

It ends when its parent ends, for whatever reason: they share a socket, and the system closes the parent's end.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress

from jsjobs.cli.app_loader import load_application, say_what_is_ignored
from jsjobs.cli.errors import report
from jsjobs.cli.options import be_verbose
from jsjobs.cli.run.serving import Serving, introduce, run_until_stopped, say_without_database, start_logging
from jsjobs.cli.standard_streams import flush_output
from jsjobs.health import Readiness

FIRST, NO_ROUTER, QUEUE_METRICS, VERBOSE = "--first", "--no-router", "--queue-metrics", "--verbose"
"""The flags: the first process has the router and the metrics of the queues, and prints for all where they run."""
PATIENCE = 15.0
"""Seconds after the grace time in which a responsive process has given its jobs back and ended."""


def main(target: str, line: str, *flags: str) -> int:
    """Serve until told to stop, and return the exit code.

    Args:
        target: The application.
        line: The number of the file descriptor that leads to the parent.
        flags: The flags above, or none.
    """
    if VERBOSE in flags:
        be_verbose()
    # It stays open to the end: once it is closed, on either side, `_Orphan` ends this process.
    parent = socket.socket(fileno=int(line))
    parent.set_inheritable(False)
    orphan = _Orphan(parent)
    threading.Thread(target=orphan.wait, name="jsjobs-parent", daemon=True).start()
    try:
        service = load_application(target)
        start_logging()
        routes = FIRST in flags and NO_ROUTER not in flags and service.config.database_url is not None
        if FIRST in flags:
            introduce(service, routes=routes)
            say_what_is_ignored(service)
            if service.config.database_url is None:
                say_without_database()
        grace = orphan.grace = service.config.grace

        def tell(is_up: bool, readiness: Readiness) -> None:
            told = {"up": is_up, "grace": grace, "reasons": readiness.reasons, "notes": readiness.notes}
            with suppress(OSError):  # the parent has gone, and so this process ends soon; or it reads nothing now
                parent.send(json.dumps(told).encode() + b"\n", socket.MSG_DONTWAIT)

        serving = Serving(
            service,
            works=True,
            routes=routes,
            answers=True,
            measures=FIRST in flags and QUEUE_METRICS in flags,
            tell=tell,
            announces=FIRST in flags,
        )
        run_until_stopped(serving.run())
    except Exception as error:  # noqa: BLE001 - as for every command
        return report(error)
    return 0


class _Orphan:
    """Make sure that this process ends gracefully once its parent has ended."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        self.grace = 0.0
        """The grace time of running jobs, in seconds."""

    def wait(self) -> None:
        """Wait until the parent has ended, then stop as if after a signal, and by force when that takes too long."""
        with suppress(OSError):
            self._parent.recv(1)  # nothing is ever sent: it returns when the other end is closed
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self.grace + PATIENCE)
        os.killpg(os.getpid(), signal.SIGKILL)  # together with what its handlers started


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    flush_output()
    sys.exit(code)
