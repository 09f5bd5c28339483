"""Errors of local servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class EmbeddedError(RuntimeError):
    """A local server could not be found, started or stopped; the text says why and shows the end of its log."""


class ServersAlreadyRunning(EmbeddedError):  # noqa: N818 - it says what is the case
    """Another process runs the servers of this folder.

    Args:
        folder: The folder that the servers belong to.
        pid: The process that owns them, if it is known.
    """

    def __init__(self, folder: Path, pid: int | None) -> None:
        """See the class."""
        owner = "another process" if pid is None else f"process {pid}"
        super().__init__(f"the servers of {folder} are already running: {owner} owns them; use those, or end it first")
        self.folder = folder
        self.pid = pid
