"""Let somebody edit a text in the editor of their choice, without ever losing what they wrote."""

import json
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jsjobs.cli.errors import Failed, WrongUse
from jsjobs.cli.output import talk


def readable(payload: bytes) -> bytes:
    """Return the payload with a line for each value if that changes only white space, else the payload as it is."""
    try:
        value = json.loads(payload)
        plainly = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        return payload
    # Numbers that Python writes differently, and names that occur twice, would not come back as they were.
    if plainly != payload:
        return payload
    return json.dumps(value, ensure_ascii=False, indent=2).encode() + b"\n"


@contextmanager
def draft(content: bytes, command: str) -> Iterator[Path]:
    """Create a file to edit; if the block fails after the file was changed, keep it and say where it is.

    Args:
        content: The content of the file at first.
        command: The command that takes the corrected file, after `@`.
    """
    handle, name = tempfile.mkstemp(prefix="jsjobs-payload-", suffix=".json")
    file = Path(name)
    with os.fdopen(handle, "wb") as opened:
        opened.write(content)
    try:
        yield file
    except BaseException:
        if file.exists() and file.read_bytes().strip() != content.strip():
            talk(f"your text is kept in {file}; fix it there, then run: {command} @{file}", style="yellow")
        else:
            file.unlink(missing_ok=True)
        raise
    file.unlink(missing_ok=True)


def open_editor(file: Path) -> bytes:
    """Open the file in the editor, and return its content without surrounding white space once the editor has ended.

    Raises:
        WrongUse: If no editor is set, or it cannot be started.
        Failed: If the editor ended with an error, or the file is gone.
    """
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not command:
        raise WrongUse("no editor is set: set EDITOR, or give the payload, as JSON or as @file")
    # While the editor runs, Ctrl-C is for the editor. If the signal were ignored here, the editor would inherit that.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        # The command may include options, such as `code --wait`.
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
