"""What the servers have in common: one process, ended in good order or at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from jsjobs.embedded.processes import Child


class Server(ABC):
    """A server process of this one; a context manager that starts and stops it."""

    _child: Child | None = None

    @abstractmethod
    def start(self) -> None:
        """Start it, and return when it takes connections; nothing happens if it runs."""

    @abstractmethod
    def stop(self) -> None:
        """End it in good order."""

    def kill(self) -> None:
        """End it, and what it started, at once with SIGKILL, as a crash would."""
        if self._child is not None:
            self._child.kill()

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._child.pid if self._child is not None and self._child.running else None

    @property
    def running(self) -> bool:
        """Whether its process is there; a suspended one is."""
        return self.pid is not None

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()
