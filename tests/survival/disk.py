"""A disk of a server's own, in memory, that can be full at once: where this user may mount one."""

import os
import subprocess
from pathlib import Path
from typing import Self

ROOM = "4g"


class Disk:
    """Mounted at a place for the length of a block."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.is_mounted = False

    def __enter__(self) -> Self:
        self._place.mkdir(parents=True)
        self.is_mounted = _mount(f"size={ROOM}", "tmpfs", str(self._place))
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", str(self._place)], check=True)

    def fill(self) -> None:
        """Let nothing more be written: its size is what is on it."""
        is_full = False
        for _ in range(20):  # something is written between the look and the change, which is then refused
            used = os.statvfs(self._place)
            size = (used.f_blocks - used.f_bfree) * used.f_frsize
            if is_full := _mount(f"remount,size={size}", str(self._place)):
                break
        assert is_full, "the disk could not be made smaller"

    def make_room(self) -> None:
        assert _mount(f"remount,size={ROOM}", str(self._place))


def _mount(options: str, *what: str) -> bool:
    command = ["mount", "-o", options, *what]
    if len(what) > 1:
        command[1:1] = ["-t", "tmpfs"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
