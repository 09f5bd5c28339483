"""Files that ship with the package and are read at run time, wherever it is installed."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """Return a folder such as `streams` from the installed package, or from the checkout it is developed in.

    Raises:
        FileNotFoundError: If the installation is broken.
    """
    for root in (_PACKAGE / "_shipped", _PACKAGE.parent.parent):
        if (root / name).is_dir():
            return root / name
    raise FileNotFoundError(f"jsjobs was installed without its {name!r} folder: please install it again")
