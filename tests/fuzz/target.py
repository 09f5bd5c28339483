"""What a fuzz target is, and what targets share."""

import asyncio
import atexit
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar

from mutating import Mutator

from jsjobs.jetstream.client.parser import Receiver
from jsjobs.jetstream.client.requests import Reply
from jsjobs.jetstream.protocol.names import Names

T = TypeVar("T")

SEPARATOR = b"\x1f"
"""Between the parts of an input that has several."""
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
NAMES = Names("jobs")
LONGEST_ERROR = 20_000
"""Characters that an error says of an input, at most, however large that is."""


@dataclass(frozen=True)
class Target:
    """Something that parses what comes from outside."""

    name: str
    run: Callable[[bytes], bool]
    """Whether the input could be used; one that cannot be is refused in the way that is meant. All else is a crash."""
    corpus: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()
    weight: float = 1
    """Its share of a run, where an input costs more, or less, than elsewhere."""


@dataclass
class Outcome:
    """What became of the inputs of one target."""

    taken: int = 0
    refused: int = 0
    slowest: float = 0
    """Seconds of processor time that one input took, at most."""
    slowest_input: bytes = b""
    crashes: list[tuple[bytes, BaseException]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.taken + self.refused + len(self.crashes)

    def feed(self, target: Target, data: bytes) -> None:
        """Give the target one input."""
        began = time.thread_time()
        try:
            if target.run(data):
                self.taken += 1
            else:
                self.refused += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is found
            self.crashes.append((data, error))
        took = time.thread_time() - began
        if took > self.slowest:
            self.slowest, self.slowest_input = took, data


def fuzzed(target: Target, seed: object, count: int, *, most_crashes: int = 5) -> Outcome:
    """Feed a target: its corpus, then mutated inputs until there were so many, or too many crashed."""
    outcome, mutator = Outcome(), Mutator((seed, target.name), target.corpus, target.words)
    for data in target.corpus:
        outcome.feed(target, data)
    while outcome.count < count and len(outcome.crashes) < most_crashes:
        outcome.feed(target, mutator.next())
    return outcome


def parts(data: bytes, count: int) -> list[bytes]:
    """The parts of an input, the last with what is left; those that are missing are empty."""
    found = data.split(SEPARATOR, count - 1)
    return found + [b""] * (count - len(found))


def joined(*pieces: bytes) -> bytes:
    """An input of such parts."""
    return SEPARATOR.join(pieces)


def refused(message: str) -> bool:
    """That an input was refused, in words that are not as long as an input may be."""
    assert len(message) <= LONGEST_ERROR
    return False


def text_of(data: bytes) -> str:
    """As a command line or the environment gives bytes to Python: with lone surrogates where they are no UTF-8."""
    return data.decode("utf-8", "surrogateescape")


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The value of a coroutine that has nothing to wait for."""
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    work.close()
    raise AssertionError("it waits for something")


def in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """The value of a coroutine that has tasks of its own."""
    return _loop().run_until_complete(work)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


class Answering:
    """In the place of a connection to a server that answers as no real one would."""

    max_payload = 2**20
    direct_gets_refused = None

    def __init__(self, header: bytes, data: bytes) -> None:
        self._reply = Reply(header, data)

    async def ask(self, *_: Any, **__: Any) -> Reply:
        return self._reply

    ask_soon = ask


class Recording:
    """In the place of a connection: remembers where it was told to publish."""

    def __init__(self) -> None:
        self.posted: list[bytes] = []
        self.receivers: list[Receiver] = []

    async def receive(self, _subject: bytes, receiver: Receiver) -> int:
        self.receivers.append(receiver)
        return len(self.receivers)

    def post(self, subject: bytes, *_: Any, **__: Any) -> None:
        self.posted.append(subject)
