"""Deciding on many letters: several at a time, with a bar, and each failure on its own."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from jsjobs.cli.bars import Bar, bar
from jsjobs.cli.output import complain, print_json, talk
from jsjobs.cli.problems import judge
from jsjobs.model.errors import JobError
from jsjobs.model.words import things
from jsjobs.postgres.errors import DatabaseError, LetterError

_AT_ONCE = 16
_IN_VAIN = 16
"""Failures in a row that are a server's, and no letter's own, after which the rest is left alone."""

Decide = Callable[[str], Awaitable[dict[str, Any]]]
"""Decides on one letter; what it gives is printed for programs."""


class Bulk:
    """Does the same to many letters, and tells how it went."""

    def __init__(self, decide: Decide, done: str, said: str, *, as_json: bool) -> None:
        """What is done to each.

        Args:
            decide: To be called with an id.
            done: The word for it, such as `replayed`.
            said: What to say of one, with fields of what `decide` gave.
            as_json: Whether to print JSON.
        """
        self._decide = decide
        self._done = done
        self._said = said
        self._as_json = as_json
        self._outcomes: list[dict[str, Any]] = []
        self._failed = 0
        self._in_vain = 0

    async def each(self, ids: Sequence[str]) -> bool:
        """Take letters that were named, one after the other, and say what became of each; whether all went well."""
        for reference in ids:
            outcome = await self._one(reference)
            if outcome is not None and not self._as_json:
                talk(f"{reference}: {self._said.format(**outcome)}")
            if self._in_vain:
                break  # the server is away, the next would only wait for it too
        self._print()
        return not self._failed

    async def all(self, lanes: Sequence[Sequence[str]]) -> bool:
        """Take all letters, many lanes at a time, those of a lane one after the other; whether all went well."""
        total = sum(map(len, lanes))
        if not total and not self._as_json:
            talk("no undecided letters match", style="dim")
            return True
        rest = iter(lanes)
        try:
            with bar(total, self._done, counted=True) as shown:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(_AT_ONCE, len(lanes))):
                        group.create_task(self._take(rest, shown))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            self._sum_up(total)
        return not self._failed

    async def _take(self, rest: Iterator[Sequence[str]], shown: Bar) -> None:
        for lane in rest:
            for reference in lane:
                if self._in_vain >= _IN_VAIN:
                    return
                await self._one(reference)
                shown.advance()

    async def _one(self, reference: str) -> dict[str, Any] | None:
        """Decide on one; what came of it, None if that failed."""
        try:
            outcome = await self._decide(reference)
        except (JobError, LetterError, DatabaseError) as error:
            text, _ = judge(error)
            complain(text if reference in text else f"{reference}: {text}")
            self._failed += 1
            self._in_vain = self._in_vain + 1 if _is_a_servers(error) else 0
            self._outcomes.append({"id": reference, "error": text})
            return None
        self._in_vain = 0
        self._outcomes.append(outcome)
        return outcome

    def _sum_up(self, total: int) -> None:
        """Also where it was interrupted: what is done is done."""
        self._print()
        done = len(self._outcomes) - self._failed
        if not self._as_json and total:
            how_many = things(total, "letter") if done == total else f"{done:,} of {things(total, 'letter')}"
            talk(f"{self._done} {how_many}" + (f"; {self._failed:,} failed" if self._failed else ""))
        if len(self._outcomes) < total:
            talk("stopped before the end: the same command goes on with the rest", style="yellow")

    def _print(self) -> None:
        if self._as_json:
            print_json(self._outcomes)


def _is_a_servers(error: Exception) -> bool:
    return isinstance(error, DatabaseError) or (isinstance(error, JobError) and error.is_transient)
