"""The signals that ask a long-running command to stop."""

import signal


def stop_signals() -> list[signal.Signals]:
    """Return SIGINT, SIGTERM and SIGHUP, the last unless this process was started with it ignored, as under `nohup`."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if is_ignored else [signal.SIGHUP])]


def may_hurry(number: int) -> bool:
    """Return whether the signal, if it is not the first one, asks to interrupt what still runs.

    SIGHUP does not: when a terminal is closed it usually comes twice, from the shell and from the system.
    """
    return number != signal.SIGHUP
