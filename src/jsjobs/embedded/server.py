"""The common base of the servers: one process, stopped gracefully or killed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from jsjobs.embedded.processes import Child


class Server(ABC):
    """A server that runs as a child process; a context manager that starts and stops it."""

    _child: Child | None = None

    @abstractmethod
    def start(self) -> None:
        """Start the server, and return when it accepts connections; do nothing if it runs."""

    @abstractmethod
    def stop(self) -> None:
        """Stop the server gracefully."""

    def kill(self) -> None:
        """Kill the server and what it started at once with SIGKILL, as a crash would."""
        if self._child is not None:
            self._child.kill()

    @property
    def pid(self) -> int | None:
        """Return its process id while it runs, else None."""
        return self._child.pid if self._child is not None and self._child.running else None

    @property
    def running(self) -> bool:
        """Return whether its process exists; a suspended one does."""
        return self.pid is not None

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        self.stop()
