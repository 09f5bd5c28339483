"""Describe exceptions in bounded space and time: a handler may raise anything, of any size."""

from __future__ import annotations

import reprlib
from collections import deque
from itertools import chain, islice
from types import TracebackType
from typing import Any

from jsjobs.interrupts import is_ctrl_c

MOST = 8192
"""The most characters of one exception's own text: more than an entry has room for."""
_FRAMES = 100
"""The most frames of one traceback; a deeper one, of a recursion for example, keeps half of them at each end."""
_CHAIN = 20
"""The most exceptions that are described together: causes, contexts, members of groups."""
_GROUP = 15
"""The most members of one group: as many as Python's own traceback shows."""
_NOTES = 20
_MOST_NAME = 200
_NO_TEXT = "(its text cannot be read)"


def text_of(error: BaseException) -> str:
    """Return the exception's own text, without the middle of a long one; this works even if it has no readable text."""
    return cut(_own_text(error), MOST)


def in_bounds(error: BaseException) -> BaseException:
    """Return the exception itself if everything a log would show of it is short; else a short one of the same name.

    Its text, its notes, its traceback, its members if it is a group, and its causes may each be too long.
    """
    try:
        return error if _is_short(error) else _Short().of(error)
    except BaseException as broken:
        if is_ctrl_c(broken):
            raise
        return RuntimeError(f"an exception that cannot be inspected: {cut(type(error).__name__, _MOST_NAME)}")


def cut(text: str, most: int) -> str:
    """Cut the text to `most` characters or a few more by leaving out its middle."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} … {len(text) - 2 * half} characters are left out … {text[-half:]}"


def _own_text(error: BaseException) -> str:
    try:
        if _has_large_arguments(error):
            return _shown(error)
        return str.__str__(str(error))  # for a subclass of `str`, the characters alone
    except BaseException as broken:
        if is_ctrl_c(broken):
            raise
        return _NO_TEXT


_PYTHONS_OWN = (BaseException.__str__, KeyError.__str__)
"""The methods that write an exception's arguments, however large they are."""


def _has_large_arguments(error: BaseException) -> bool:
    return type(error).__str__ in _PYTHONS_OWN and not _is_small(error.args)


def _shown(error: BaseException) -> str:
    """Write large arguments as Python would, but leave out most of them before they are written."""
    only = error.args[0] if len(error.args) == 1 else error.args
    if type(only) is str and type(error).__str__ is BaseException.__str__:
        return only
    return _BRIEF.repr(only)


def _is_small(value: object) -> bool:
    """Return whether Python writes a value in few characters; a value with its own `repr` is assumed to be small."""
    todo: deque[Any] = deque((value,))
    room = MOST
    while todo and room > 0:
        one = todo.popleft()
        kind = type(one)
        room -= 1
        if kind in {str, bytes, bytearray}:
            room -= len(one)
        elif kind in {tuple, list, set, frozenset, deque}:
            todo.extend(islice(one, room))
        elif kind is dict:
            todo.extend(islice(chain.from_iterable(one.items()), room))
    return room > 0


class _Brief(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 2 * MOST // 10
        self.maxlevel = 4
        self.fillvalue = "…"

    def repr_bytes(self, value: bytes, _level: int) -> str:
        return repr(value[: self.maxstring]) + (self.fillvalue if len(value) > self.maxstring else "")

    repr_bytearray = repr_bytes  # reprlib chooses by the type's name


_BRIEF = _Brief()


def _is_short(error: BaseException) -> bool:
    todo, left = [error], _CHAIN
    while todo:
        one = todo.pop()
        left -= 1
        if left < 0 or not _is_small(_notes(one)) or _depth(one) > _FRAMES:
            return False
        if _has_large_arguments(one) or len(_own_text(one)) > MOST or len(type(one).__qualname__) > _MOST_NAME:
            return False
        if isinstance(one, BaseExceptionGroup):
            if len(one.exceptions) > _GROUP:
                return False
            todo += one.exceptions
        todo += _behind(one)
    return True


def _behind(error: BaseException) -> list[BaseException]:
    """Return the exceptions that a traceback shows before this one."""
    if error.__cause__ is not None:
        return [error.__cause__]
    return [] if error.__suppress_context__ or error.__context__ is None else [error.__context__]


def _notes(error: BaseException) -> list[Any]:
    notes = getattr(error, "__notes__", None)
    return notes if type(notes) is list else []


def _depth(error: BaseException) -> int:
    """Return the number of frames of its traceback; counting stops once there are too many."""
    count, trace = 0, error.__traceback__
    while trace is not None and count <= _FRAMES:
        count, trace = count + 1, trace.tb_next
    return count


class _Short:
    """Make short exceptions that stand for long ones."""

    def __init__(self) -> None:
        self._left = _CHAIN
        self._made: dict[int, Exception] = {}

    def of(self, error: BaseException) -> Exception:
        known = self._made.get(id(error))
        if known is not None:
            return known
        self._left -= 1
        kind = type(error)
        named = {"__module__": kind.__module__, "__qualname__": cut(kind.__qualname__, _MOST_NAME)}
        made: Exception
        if isinstance(error, BaseExceptionGroup) and self._left > 0:
            made = self._group(error, named)
        else:
            made = type(cut(kind.__name__, _MOST_NAME), (Exception,), named)(text_of(error))
        self._made[id(error)] = made
        made.__traceback__ = _trimmed(error)
        for note in _notes(error)[:_NOTES]:
            made.add_note(cut(note, MOST // _NOTES) if type(note) is str else _NO_TEXT)
        for one in _behind(error):
            if self._left <= 0:
                made.add_note("(its causes are left out)")
            elif error.__cause__ is one:
                made.__cause__ = self.of(one)
            else:
                made.__context__ = self.of(one)
        return made

    def _group(self, error: BaseExceptionGroup[BaseException], named: dict[str, str]) -> Exception:
        members = error.exceptions[: min(_GROUP, self._left)]
        shown = [self.of(member) for member in members]
        group = type(cut(type(error).__name__, _MOST_NAME), (ExceptionGroup,), named)
        made: Exception = group(cut(error.message, MOST), shown)
        if len(shown) < len(error.exceptions):
            made.add_note(f"({len(error.exceptions) - len(shown)} more are left out)")
        return made


def _trimmed(error: BaseException) -> TracebackType | None:
    """Return a traceback that has only the beginning and the end of a long one."""
    frames: list[TracebackType] = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    if len(frames) > _FRAMES:
        frames = frames[: _FRAMES // 2] + frames[-_FRAMES // 2 :]
    kept: TracebackType | None = None
    for one in reversed(frames):
        kept = TracebackType(kept, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return kept
