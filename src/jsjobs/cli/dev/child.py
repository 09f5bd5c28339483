"""The process that `jsjobs dev` runs an application in: it imports the application, and runs its worker and a router.

It tells its parent which files it has imported, and when it runs jobs.

`jsjobs dev` stays and keeps the servers; this process is started anew whenever the application changes. It ends when
its parent ends, for whatever reason: they share a socket, and the system closes the parent's end.
"""

import json
import os
import select
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from jsjobs import JobService
from jsjobs.cli.app_loader import load_application, say_what_is_ignored, source_folders
from jsjobs.cli.dev.command import prepare, serving
from jsjobs.cli.errors import report
from jsjobs.cli.exit_codes import BROKEN, WRONG_USE
from jsjobs.cli.options import be_verbose
from jsjobs.cli.run.serving import run_until_stopped, start_logging
from jsjobs.cli.standard_streams import flush_output

_ORPHANS_GRACE = 3.0
_LAST_WORD = 6.0
_LOOK = 0.25
"""Seconds between two looks for further imported files, since handlers may import too."""


class Parent:
    """The `jsjobs dev` that has started this process.

    Args:
        line: The number of the file descriptor that leads to it.
    """

    def __init__(self, line: int) -> None:
        self._line = socket.socket(fileno=line)
        self._line.set_inheritable(False)
        self._folders: list[Path] | None = None
        self._looked_at: set[str] = set()

    def tell(self, **what: object) -> None:
        """Send the parent a message."""
        with suppress(OSError):  # the parent has gone, and this process is about to end
            self._line.sendall(json.dumps(what).encode() + b"\n")

    def tell_imported(self, folders: list[Path]) -> None:
        """Tell the parent which files below these folders were imported, and from now on of further ones."""
        self.tell(imported=self._imported(folders))
        self._folders = folders

    def stay_with(self) -> None:
        """Return when the parent has gone."""
        # The parent sends nothing, so there is something to read only at its end.
        while not select.select((self._line,), (), (), _LOOK)[0]:
            if self._folders is not None and (further := self._imported(self._folders)):
                self.tell(imported=further)

    def _imported(self, folders: list[Path]) -> list[str]:
        """Return the files below these folders that were imported since the last look."""
        further = set(sys.modules) - self._looked_at
        self._looked_at |= further
        files = [file for name in further if (file := _file_of(sys.modules.get(name))) is not None]
        # Each file as it was found, and its real path: the folder may hold it under either name.
        found = {each for file in files for each in (file, file.resolve())}
        return sorted(str(file) for file in found if any(file.is_relative_to(folder) for folder in folders))


def _file_of(module: object) -> Path | None:
    if not isinstance(module, ModuleType):
        return None
    file = object.__getattribute__(module, "__dict__").get("__file__")  # getattr would load a lazy module
    return Path(file) if isinstance(file, str) else None


def main(target: str, line: str, *flags: str) -> int:
    """Serve until told to stop, and return the exit code.

    Args:
        target: The application.
        line: The number of the file descriptor that leads to the parent.
        flags: `-v`, or nothing.
    """
    if flags:
        be_verbose()
    parent = Parent(int(line))
    threading.Thread(target=_end_with, args=(parent,), name="jsjobs-parent", daemon=True).start()
    try:
        service = load_application(target)
        say_what_is_ignored(service)
    except Exception as error:  # noqa: BLE001 - as for every command
        code = report(error)
        return code if code == WRONG_USE else BROKEN
    parent.tell_imported(source_folders(target))
    start_logging()
    try:
        run_until_stopped(_serve(service, parent))
    except Exception as error:  # noqa: BLE001 - as above
        return report(error)
    return 0


async def _serve(service: JobService, parent: Parent) -> None:
    async def before() -> None:
        await prepare(service)
        parent.tell(grace=service.config.grace)

    await serving(service, works=True, before=before).run()


def _end_with(parent: Parent) -> None:
    """Wait until the parent has ended, then stop as if after a signal, and soon as if after a second one."""
    parent.stay_with()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHANS_GRACE)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_LAST_WORD)
    os.killpg(os.getpid(), signal.SIGKILL)  # together with what its handlers started


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    flush_output()
    sys.exit(code)
