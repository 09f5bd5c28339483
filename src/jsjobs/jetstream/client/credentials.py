"""Checks of key and credentials files before they are used; the contents are never repeated."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from jsjobs.model.errors import JobError

_JWT = re.compile(rb"BEGIN NATS USER JWT-*\r?\n([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)\r?\n")
_SEED = re.compile(rb"BEGIN USER NKEY SEED-*\r?\n(\S+)\r?\n")


def check_file(path: Path | None, what: str) -> None:
    """Check that a setting names a file.

    The value may be a secret instead of a path, so no error repeats it.

    Raises:
        JobError: `Validation`, if there is no such file.
    """
    try:
        is_there = path is None or path.is_file()
    except (OSError, ValueError):  # too long for a file name, as a key is
        is_there = False
    if not is_there:
        raise JobError.from_validation(
            f"{what}: there is no such file (its name is kept secret): give the path of a file, not its content"
        )


def check_creds(file: Path) -> None:
    """Check that a credentials file holds a user's JWT and seed, each on a line of its own.

    Raises:
        JobError: `Validation`, if it does not, or the file cannot be read.
    """
    _read_creds(file)


def user_jwt(file: Path) -> bytes:
    """Return the JWT in a credentials file.

    Raises:
        JobError: As in `check_creds`.
    """
    return _read_creds(file)[0]


def sign(file: Path, nonce: str) -> bytes:
    """Sign a server's nonce with the seed in a credentials file, and return the signature in base64.

    Raises:
        JobError: As in `check_creds`.
    """
    import nkeys

    keys = nkeys.from_seed(bytearray(_read_creds(file)[1]))
    signature = base64.b64encode(keys.sign(nonce.encode()))
    keys.wipe()
    return signature


def check_nkey(file: Path) -> None:
    """Check that a file holds an nkey seed.

    Raises:
        JobError: `Validation`, if it does not, or the file cannot be read.
    """
    if not _is_seed(_read(file, "nats_nkey").strip()):
        raise JobError.from_validation(f"nats_nkey: {str(file)!r} does not hold the seed of an nkey")


def _read_creds(file: Path) -> tuple[bytes, bytes]:
    content = _read(file, "nats_creds")
    jwt, seed = _JWT.search(content), _SEED.search(content)
    if jwt is None or seed is None or not _is_seed(seed[1]):
        raise JobError.from_validation(
            f"nats_creds: {str(file)!r} is not a credentials file with a user's JWT and seed"
        )
    return jwt[1], seed[1]


def _read(file: Path, what: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise JobError.from_validation(f"{what}: {str(file)!r} cannot be read: {error.strerror}") from None


def _is_seed(text: bytes) -> bool:
    import nkeys  # imports cryptography, which few connections need

    try:
        nkeys.from_seed(bytearray(text)).wipe()
    except (nkeys.NkeysError, ValueError, IndexError):
        return False
    return True
