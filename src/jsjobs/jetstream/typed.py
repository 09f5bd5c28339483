"""Values of a declared type, written so that whoever reads them as that type has the same values again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import is_dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

from pydantic import (
    BaseModel,
    JsonValue,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import from_json, to_json

from jsjobs.jetstream.wire import check_told, encode_json
from jsjobs.model.checks import problems
from jsjobs.model.errors import JobError
from jsjobs.model.through_json import PLAIN, change, dropped

_PLAIN = frozenset(
    {"str", "int", "float", "bool", "none", "nullable", "literal", "list", "tuple", "dict", "definitions"}
    | {"definition-ref", "default"}
)
"""Parts of types that are in JSON what they are in Python."""
_EQUAL = _PLAIN | {"any", "set", "frozenset", "date", "timedelta", "uuid", "decimal", "bytes", "enum"}
"""Parts of types whose equal values are the same."""
_FIELDS = frozenset({"model", "dataclass"})
_JSONS_OWN: Any = TypeAdapter(JsonValue).validator
"""Knows what JSON has by itself, keys included."""
_NO_PARTS = frozenset({"metadata", "config", "cls", "default", "expected", "members"})


class Travel(NamedTuple):
    """What the parts of a type mean for the way of its values."""

    write: Callable[[Any], bytes] | None
    """None: as any JSON; nothing can get lost."""
    by_name: bool | None
    """Whether fields are read by their names too, beside their aliases; None where none has an alias."""
    by_equality: bool
    """Whether what is equal afterwards is the same."""
    has_fields: bool
    """Whether there are models or dataclasses in it, whose fields may be left out."""
    has_keys: bool
    """Whether there are dicts in it that take some keys alone."""


class Typed:
    """A type that a handler declares, or that a payload has."""

    __slots__ = ("adapter", "travel")

    def __init__(self, adapter: TypeAdapter[Any]) -> None:
        self.adapter = adapter
        self.travel: Travel | None = None
        """None: not looked at yet: it may name types that are defined later."""

    def look(self) -> Travel:
        """Find out from the type's schema how its values travel.

        Raises:
            JobError: `Validation`, if it names a type that is not there.
        """
        if not self.adapter.pydantic_complete:
            try:
                self.adapter.rebuild()  # it named types that were defined after it
            except (PydanticUserError, NameError) as error:
                reason = str(error).partition("\n")[0]
                raise JobError.from_validation(f"the type of a payload or result is not complete: {reason}") from error
        travel = self.travel = _travel(self.adapter)
        return travel

    def write(self, value: Any, what: str) -> bytes:
        """What this type makes of a caller's value, as JSON from which a worker reads the same again.

        Raises:
            JobError: `Validation`, listing what does not fit, or naming what would not arrive as it is.
        """
        travel, validator = self.travel or self.look(), self.adapter.validator
        by_name, found, misfit = travel.by_name, None, ""
        try:
            taken = validator.validate_python(value, by_alias=by_name, by_name=by_name)
        except ValidationError as error:
            taken = self._taken_as_json(value, what, error)
        if travel.has_keys or travel.has_fields:
            _check_taken(travel, value, taken, what)
        raw = encode_json(taken, what, travel.write)
        if travel.write is None:
            return raw
        try:
            got = validator.validate_json(raw, by_alias=by_name, by_name=by_name)
            if travel.by_equality and got == taken:
                return raw
            found = change(taken, got)
        except ValidationError as error:
            misfit = problems(error)
        except Exception as error:
            told = f"{what} could not be read again: reading it raised {type(error).__name__}"
            raise JobError.from_validation(told) from error
        if misfit:
            check_told(taken, raw, what)  # it says better what a secret or NaN comes to
            raise JobError.from_validation(f"{what} could not be read again: {misfit}")
        if found is not None:
            raise JobError.from_validation(f"{what} would not arrive as it is: {found}")
        return raw

    def _taken_as_json(self, value: Any, what: str, error: ValidationError) -> Any:
        """JSON's own values as JSON is read: a strict type takes a date from a text there, and nowhere else."""
        by_name = self.travel and self.travel.by_name
        with suppress(ValueError):
            raw = to_json(value) if type(value) in PLAIN else b""
            if raw and from_json(raw) == value:
                return self.adapter.validator.validate_json(raw, by_alias=by_name, by_name=by_name)
        raise JobError.from_validation(f"{what} does not fit: {problems(error)}", cause=error) from None


@lru_cache(maxsize=1024)
def typed_as(kind: type) -> Typed | None:
    """The type of a model or dataclass; None: another one, or one that is no type of pydantic's."""
    if not issubclass(kind, BaseModel) and not is_dataclass(kind):
        return None
    try:
        typed = Typed(TypeAdapter(kind))
        typed.look()
    except (PydanticSchemaGenerationError, PydanticUserError, NameError, JobError):
        return None
    return typed


def write_untyped(value: Any, what: str) -> bytes:
    """A caller's value as JSON, where nobody here knows what type the worker reads it as.

    Raises:
        JobError: `Validation`, naming what JSON does not tell.
    """
    raw = encode_json(value, what)
    if not _JSONS_OWN.isinstance_python(value, strict=True):
        check_told(value, raw, what)
    return raw


def _check_taken(travel: Travel, value: Any, taken: Any, what: str) -> None:
    """Refuse what a type leaves out of a value: unknown keys, or what a subclass has beside."""
    found = dropped(value, taken) if travel.has_keys else None
    kind = type(taken)
    if kind is not type(value) and isinstance(value, kind) and (issubclass(kind, BaseModel) or is_dataclass(kind)):
        found = change(value, taken)
    if found is not None:
        raise JobError.from_validation(f"{what} does not fit: {found}")


def _travel(adapter: TypeAdapter[Any]) -> Travel:
    parts = list(_parts(adapter.core_schema))
    kinds = {part["type"] for part in parts}
    names = [(part.get("validation_alias"), part.get("serialization_alias")) for part in parts]
    write = partial(
        adapter.serializer.to_json,
        by_alias=all(written is None or _reads(read, written) for read, written in names),
        round_trip=True,
        warnings=False,  # what they would warn of is looked for
    )
    has_aliases = any(read is not None or written is not None for read, written in names)
    return Travel(
        write=None if kinds <= _PLAIN and all(map(_is_plain, parts)) else write,
        by_name=True if has_aliases else None,
        by_equality=kinds <= _EQUAL,
        has_fields=not kinds.isdisjoint(_FIELDS),
        has_keys="typed-dict" in kinds and not has_aliases,
    )


def _is_plain(part: dict[str, Any]) -> bool:
    """Whether keys are the texts that they are in JSON, and literals its own values."""
    if part["type"] == "dict":
        return bool(part.get("keys_schema", part)["type"] == "str")
    return part["type"] != "literal" or PLAIN.issuperset(map(type, part["expected"]))


def _reads(read: Any, written: str) -> bool:
    """Whether a field is read by the alias that it is written under."""
    return read == written or (isinstance(read, list) and (read == [written] or [written] in read))


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """All parts of a schema, itself included."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            is_part = isinstance(part.get("type"), str)  # else names, and what they stand for
            if is_part:
                yield part
            waiting.extend(each for name, each in part.items() if not (is_part and name in _NO_PARTS))
        elif isinstance(part, list | tuple):
            waiting.extend(part)
