"""`jsjobs streams apply`, whole, or in processes that are killed right after their first request that changed something.

Run again and again it is stopped at every one of its steps once; how often that was is printed at the end.
"""

import os
import signal
import sys
from typing import Any

from jsjobs.cli.app import main
from jsjobs.jetstream.client.connection import Connection

CHANGES = ("STREAM.UPDATE", "CONSUMER.DURABLE", "CONSUMER.PAUSE", "CONSUMER.DELETE")
ask = Connection.ask


async def ask_and_die(connection: Connection, subject: bytes, *args: Any, **kwargs: Any) -> Any:
    answer = await ask(connection, subject, *args, **kwargs)
    if subject.startswith((b"$KV.", *(f"$JS.API.{change}".encode() for change in CHANGES))):
        os.kill(os.getpid(), signal.SIGKILL)
    return answer


def killed_at_each_step(arguments: list[str]) -> int:
    """Fork rather than start anew: a start takes longer than a step."""
    killed = 0
    while True:
        child = os.fork()
        if child == 0:
            Connection.ask = ask_and_die  # type: ignore[method-assign]
            main(arguments)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.stdout.write(f"{killed}\n")
            return os.waitstatus_to_exitcode(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
        killed += 1


if __name__ == "__main__":
    how, *shards = sys.argv[1:]
    command = ["streams", "apply", "--yes", *shards]
    if how == "whole":
        main(command)
    sys.exit(killed_at_each_step(command))
