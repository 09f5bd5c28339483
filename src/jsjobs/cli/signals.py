"""Which signals ask a command that stays to stop."""

import signal


def stop_signals() -> list[signal.Signals]:
    """SIGINT, SIGTERM and SIGHUP; the last not where whoever started this has it ignored, as `nohup` does."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if is_ignored else [signal.SIGHUP])]


def may_hurry(number: int) -> bool:
    """Whether the signal, where it is not the first one, asks to interrupt what still runs.

    That a terminal was closed is said twice as a rule: by the shell, and by the system.
    """
    return number != signal.SIGHUP
