"""A guard that ends a server when its owner process is gone, however that ended: after SIGKILL nothing else can.

It is a shell in a session of its own that reads from a pipe. Only the owner has the other end of the pipe, and the
system closes it when the owner dies, on Linux and macOS alike. PR_SET_PDEATHSIG of Linux would not do: it fires when
the *thread* that spawned the server ends, and servers are started from short-lived threads.
"""

from __future__ import annotations

import os
import signal
import subprocess
import weakref
from contextlib import suppress

_SCRIPT = """
read -r word
[ -z "$word" ] || exit 0
kill -s "$2" "$1"
kill -s CONT "$1"
left=100
while [ "$left" -gt 0 ] && kill -s 0 "$1"; do
    sleep 0.1
    left=$((left - 1))
done
kill -s KILL "$1"
"""
"""The guard's script, which gives the server ten seconds to end gracefully."""


class Guard:
    """The guard of one child process; `dismiss` it once the child has ended, since its id may be used again.

    Args:
        pid: The child process.
        how: The signal sent to it when this process is gone.
    """

    def __init__(self, pid: int, how: signal.Signals) -> None:
        """See the class."""
        theirs, ours = os.pipe()
        self._pipe: int | None = ours
        try:
            self._process = subprocess.Popen(  # noqa: S603 - a script of ours
                ["/bin/sh", "-c", _SCRIPT, "jsjobs-guard", str(pid), how.name.removeprefix("SIG")],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        _guards.add(self)

    def dismiss(self) -> None:
        """End the guard and leave its process alone; a guard that is already dismissed is left as it is."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            with suppress(BrokenPipeError):  # somebody killed the guard
                os.write(pipe, b"over\n")
            os.close(pipe)
            self._process.wait()

    def let_go(self) -> None:
        """Close this process's end of the pipe without a word to the guard."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            os.close(pipe)


_guards: weakref.WeakSet[Guard] = weakref.WeakSet()


def _let_go_of_all() -> None:
    for guard in list(_guards):
        guard.let_go()


# A forked process also has the owner's end of each pipe, and may outlive the owner.
os.register_at_fork(after_in_child=_let_go_of_all)
