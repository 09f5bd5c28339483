"""The command line many times over at the price of one start: each command is a fork of a process that imported it."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory


@dataclass
class Ended:
    code: int
    out: str
    err: str


async def commands(*calls: tuple[Mapping[str, str], tuple[str, ...]], within: float = 120) -> list[Ended]:
    """Run them all at once, each with an environment and arguments of its own."""
    with TemporaryDirectory() as folder:
        asked = json.dumps([[dict(env), list(words)] for env, words in calls])
        child = await asyncio.create_subprocess_exec(
            sys.executable, __file__, folder, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(within):
                codes, _ = await child.communicate(asked.encode())
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        said = [[_text(folder, number, what) for what in ("out", "err")] for number in range(len(calls))]
    return [Ended(code, *texts) for code, texts in zip(json.loads(codes), said, strict=True)]


def _text(folder: str, number: int, what: str) -> str:
    return Path(folder, f"{number}.{what}").read_text()


def _run(folder: Path) -> None:
    from jsjobs.cli.app import main  # noqa: PLC0415 - the tests themselves do without

    children = []
    for number, (env, words) in enumerate(json.load(sys.stdin)):
        child = os.fork()
        if child == 0:
            for what, stream in (("out", 1), ("err", 2)):
                os.dup2(os.open(folder / f"{number}.{what}", os.O_WRONLY | os.O_CREAT), stream)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.environ.clear()
            os.environ.update(env)
            os.chdir(folder)
            main(words)
        children.append(child)
    json.dump([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], sys.stdout)


if __name__ == "__main__":
    _run(Path(sys.argv[1]))
