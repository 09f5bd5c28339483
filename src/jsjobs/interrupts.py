"""Tell Ctrl-C from whatever else an application's code raises."""

from __future__ import annotations

import signal
import threading
import traceback
from functools import partial
from typing import Any


def is_ctrl_c(error: BaseException) -> bool:
    """Return whether a SIGINT may have raised this error, so that the process must end.

    Any other `KeyboardInterrupt` is treated like an ordinary exception.
    """
    if not isinstance(error, KeyboardInterrupt):
        return False
    if threading.current_thread() is not threading.main_thread():
        return False  # Python handles signals only in its main thread
    on_sigint: Any = signal.getsignal(signal.SIGINT)
    if on_sigint is signal.default_int_handler:
        return True  # it leaves no trace in the traceback, so nothing tells them apart
    while isinstance(on_sigint, partial):  # such as asyncio's own
        on_sigint = on_sigint.func
    code = getattr(on_sigint, "__code__", None)
    return any(frame.f_code is code for frame, _ in traceback.walk_tb(error.__traceback__))
