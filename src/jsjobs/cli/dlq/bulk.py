"""Decide on many letters: several at a time, with a bar, and with a message for each failure."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from jsjobs.cli.errors import judge
from jsjobs.cli.output import complain, print_json, talk
from jsjobs.cli.progress import Bar, bar
from jsjobs.model.errors import JobError
from jsjobs.model.words import things
from jsjobs.postgres.errors import DatabaseError, LetterError

_AT_ONCE = 16
_IN_VAIN = 16
"""Consecutive failures of a server, not of a letter, after which the remaining letters are left alone."""

Decide = Callable[[str], Awaitable[dict[str, Any]]]
"""A function that decides on one letter; its result is printed for programs."""


class Bulk:
    """Do the same to many letters, and report the outcome."""

    def __init__(self, decide: Decide, done: str, said: str, *, as_json: bool) -> None:
        """Set what is done to each letter.

        Args:
            decide: Called with the id of each letter.
            done: The word for the decision, such as `replayed`.
            said: The message for one letter, a format with the fields of `decide`'s result.
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
        """Decide on the letters with these ids, one by one, report each, and return whether all succeeded."""
        for reference in ids:
            outcome = await self._one(reference)
            if outcome is not None and not self._as_json:
                talk(f"{reference}: {self._said.format(**outcome)}")
            if self._in_vain:
                break  # the server is away, and the next letter would only wait for it too
        self._print()
        return not self._failed

    async def all(self, lanes: Sequence[Sequence[str]]) -> bool:
        """Decide on all letters and return whether all succeeded; lanes run concurrently, a lane's letters in order."""
        total = sum(map(len, lanes))
        if not total and not self._as_json:
            talk("no open letters match", style="dim")
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
        """Decide on one letter, and return the outcome; None if that failed."""
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
        """Report the outcomes, also after an interruption: the decisions made so far stand."""
        self._print()
        done = len(self._outcomes) - self._failed
        if not self._as_json and total:
            how_many = things(total, "letter") if done == total else f"{done:,} of {things(total, 'letter')}"
            talk(f"{self._done} {how_many}" + (f"; {self._failed:,} failed" if self._failed else ""))
        if len(self._outcomes) < total:
            talk("stopped: run the same command again to continue with the rest", style="yellow")

    def _print(self) -> None:
        if self._as_json:
            print_json(self._outcomes)


def _is_a_servers(error: Exception) -> bool:
    return isinstance(error, DatabaseError) or (isinstance(error, JobError) and error.is_transient)
