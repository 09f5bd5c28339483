"""Error texts in the room that an entry and a letter have for them."""

from __future__ import annotations

MAX_ERROR_BYTES = 4096
"""One error text is kept to 4 KiB."""
_CONTROLS = {code: "?" for code in range(32) if chr(code) not in "\t\n\r"}


def clipped(text: str) -> str:
    """The text in at most 4 KiB of UTF-8, its middle left out.

    Control characters, each of which JSON would write in six, and what UTF-8 does not know become `?`.
    """
    if len(text) > 2 * MAX_ERROR_BYTES:
        # What is left out anyway is not looked at: it may be a hundred megabytes.
        text = text[:MAX_ERROR_BYTES] + text[-MAX_ERROR_BYTES:]
    raw = text.translate(_CONTROLS).encode("utf-8", "replace")
    if len(raw) <= MAX_ERROR_BYTES:
        return raw.decode()
    half = (MAX_ERROR_BYTES - 16) // 2
    return raw[:half].decode("utf-8", "ignore") + " … " + raw[-half:].decode("utf-8", "ignore")
