"""Letting somebody edit a text in the editor of their choice, without ever losing what they wrote."""

import json
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jsjobs.cli.output import talk
from jsjobs.cli.problems import Failed, WrongUse


def readable(payload: bytes) -> bytes:
    """The payload with a line for each value, where that changes nothing but white space; else as it is."""
    try:
        value = json.loads(payload)
        plainly = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        return payload
    # Numbers that Python would write otherwise, and names that stand twice, do not come back as they were.
    if plainly != payload:
        return payload
    return json.dumps(value, ensure_ascii=False, indent=2).encode() + b"\n"


@contextmanager
def draft(content: bytes, command: str) -> Iterator[Path]:
    """A file to edit; if the block fails after it was changed it is kept, and said where.

    Args:
        content: What is in it at first.
        command: What takes the file, after `@`, once it is put right.
    """
    handle, name = tempfile.mkstemp(prefix="jsjobs-payload-", suffix=".json")
    file = Path(name)
    with os.fdopen(handle, "wb") as opened:
        opened.write(content)
    try:
        yield file
    except BaseException:
        if file.exists() and file.read_bytes().strip() != content.strip():
            talk(f"your text is kept in {file}; put it right there, then: {command} @{file}", style="yellow")
        else:
            file.unlink(missing_ok=True)
        raise
    file.unlink(missing_ok=True)


def open_editor(file: Path) -> bytes:
    """What the file holds once the editor has ended, without white space around it.

    Raises:
        WrongUse: If no editor is set, or it cannot be started.
        Failed: If it ended with an error, or the file is gone.
    """
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not command:
        raise WrongUse("no editor is set: set EDITOR, or give the payload, as JSON or as @file")
    # Ctrl-C is the editor's while it runs: were the signal ignored here, an editor would inherit that.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        # Its own words may be options, such as `code --wait`.
        code = subprocess.call([*shlex.split(command), str(file)])  # noqa: S603 - the user's own
    except (OSError, ValueError) as error:
        raise WrongUse(f"the editor {command!r} cannot be started: {error}") from None
    finally:
        signal.signal(signal.SIGINT, before)
    if code:
        raise Failed(f"the editor {command!r} ended with exit code {code}: nothing was changed")
    try:
        return file.read_bytes().strip()
    except OSError as error:
        raise Failed(f"the edited payload cannot be read: {error.strerror}") from None
