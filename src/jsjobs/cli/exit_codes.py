"""The exit codes of `jsjobs`."""

FAILED = 1
"""The job or the request failed."""
WRONG_USE = 2
"""The command was given invalid arguments."""
BROKEN = 3
"""The application cannot be imported; only the process that `jsjobs dev` runs it in ends so."""
INTERRUPTED = 130
"""Ctrl-C was pressed; shells use this code too."""
READER_GONE = 141
"""Nobody reads the output any more; shells report a program that SIGPIPE ended with this code."""
