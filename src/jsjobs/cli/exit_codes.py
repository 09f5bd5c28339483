"""What the exit codes of `jsjobs` mean."""

FAILED = 1
"""The job or the request failed."""
WRONG_USE = 2
"""What was given cannot be used."""
BROKEN = 3
"""Of the process that `jsjobs dev` runs an application in: it cannot be imported."""
INTERRUPTED = 130
"""After Ctrl-C, as shells know it."""
READER_GONE = 141
"""Nobody reads the output any more: what a shell says of a program that SIGPIPE ended."""
