"""Key and credentials files, looked at before they are used: what stands in them is never repeated."""

from __future__ import annotations

import re
from pathlib import Path

from jsjobs.model.errors import JobError

_JWT = re.compile(rb"BEGIN NATS USER JWT-*\r?\n[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\r?\n")
_SEED = re.compile(rb"BEGIN USER NKEY SEED-*\r?\n(\S+)\r?\n")


def check_file(path: Path | None, what: str) -> None:
    """Whether a setting names a file; what it says instead may be a secret, and is not repeated.

    Raises:
        JobError: `Validation`, if it names none.
    """
    try:
        is_there = path is None or path.is_file()
    except (OSError, ValueError):  # too long for a name, as a key is
        is_there = False
    if not is_there:
        raise JobError.from_validation(
            f"{what}: there is no file of that name, which is not shown here: the path of a file belongs there, "
            "and not what stands in it"
        )


def check_creds(file: Path) -> None:
    """Whether a credentials file holds a user's JWT and its seed, each on a line of its own.

    Raises:
        JobError: `Validation`, if not, or it cannot be read.
    """
    content = _read(file, "nats_creds")
    seed = _SEED.search(content)
    if not _JWT.search(content) or seed is None or not _is_seed(seed[1]):
        raise JobError.from_validation(f"nats_creds: {str(file)!r} is no credentials file with a user's JWT and seed")


def check_nkey(file: Path) -> None:
    """Whether a file holds an nkey's seed.

    Raises:
        JobError: `Validation`, if not, or it cannot be read.
    """
    if not _is_seed(_read(file, "nats_nkey").strip()):
        raise JobError.from_validation(f"nats_nkey: {str(file)!r} does not hold the seed of an nkey")


def _read(file: Path, what: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise JobError.from_validation(f"{what}: {str(file)!r} cannot be read: {error.strerror}") from None


def _is_seed(text: bytes) -> bool:
    import nkeys  # it brings cryptography, which few connections need

    try:
        nkeys.from_seed(bytearray(text)).wipe()
    except (nkeys.NkeysError, ValueError, IndexError):
        return False
    return True
