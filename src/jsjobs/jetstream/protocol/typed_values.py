"""Values of a declared type, written so that reading them as that type gives the same values again."""

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

from jsjobs.jetstream.protocol.headers import check_told, encode_json
from jsjobs.model.checks import problems
from jsjobs.model.errors import JobError
from jsjobs.model.through_json import PLAIN, change, dropped

_PLAIN = frozenset(
    {"str", "int", "float", "bool", "none", "nullable", "literal", "list", "tuple", "dict", "definitions"}
    | {"definition-ref", "default"}
)
"""Parts of types that are the same in JSON as in Python."""
_EQUAL = _PLAIN | {"any", "set", "frozenset", "date", "timedelta", "uuid", "decimal", "bytes", "enum"}
"""Parts of types for which equal values are the same."""
_FIELDS = frozenset({"model", "dataclass"})
_JSONS_OWN: Any = TypeAdapter(JsonValue).validator
"""Validates the values that JSON itself has, keys included."""
_NO_PARTS = frozenset({"metadata", "config", "cls", "default", "expected", "members"})


class Travel(NamedTuple):
    """The consequences of a type's parts for writing and reading its values."""

    write: Callable[[Any], bytes] | None
    """None: values are written as any JSON, and nothing can get lost."""
    by_name: bool | None
    """Whether fields are read by their names too, besides their aliases; None if none has an alias."""
    by_equality: bool
    """Whether values that are equal after reading are the same."""
    has_fields: bool
    """Whether it contains models or dataclasses, whose fields may be left out."""
    has_keys: bool
    """Whether it contains dicts that take certain keys only."""


class Typed:
    """A type that a handler declares, or that a payload has."""

    __slots__ = ("adapter", "travel")

    def __init__(self, adapter: TypeAdapter[Any]) -> None:
        self.adapter = adapter
        self.travel: Travel | None = None
        """None until it is looked up: the type may name types that are defined later."""

    def look(self) -> Travel:
        """Find out from the type's schema how its values are written and read.

        Raises:
            JobError: `Validation`, if it names a type that does not exist.
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
        """Return a caller's value, validated as this type, as JSON from which a worker reads the same value.

        Raises:
            JobError: `Validation`; the message lists what does not fit, or names what would not arrive unchanged.
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
            told = f"{what} could not be read back: reading it raised {type(error).__name__}"
            raise JobError.from_validation(told) from error
        if misfit:
            check_told(taken, raw, what)  # its message is clearer about secrets and NaN
            raise JobError.from_validation(f"{what} could not be read back: {misfit}")
        if found is not None:
            raise JobError.from_validation(f"{what} would not arrive unchanged: {found}")
        return raw

    def _taken_as_json(self, value: Any, what: str, error: ValidationError) -> Any:
        """Validate JSON's own values as if they were read from JSON.

        Only there does a strict type take a date from a text.
        """
        by_name = self.travel and self.travel.by_name
        with suppress(ValueError):
            raw = to_json(value) if type(value) in PLAIN else b""
            if raw and from_json(raw) == value:
                return self.adapter.validator.validate_json(raw, by_alias=by_name, by_name=by_name)
        raise JobError.from_validation(f"{what} is invalid: {problems(error)}", cause=error) from None


@lru_cache(maxsize=1024)
def typed_as(kind: type) -> Typed | None:
    """Return the type of a model or dataclass, or None for any other class or one that pydantic cannot handle."""
    if not issubclass(kind, BaseModel) and not is_dataclass(kind):
        return None
    try:
        typed = Typed(TypeAdapter(kind))
        typed.look()
    except (PydanticSchemaGenerationError, PydanticUserError, NameError, JobError):
        return None
    return typed


def write_untyped(value: Any, what: str) -> bytes:
    """Return a caller's value as JSON, if nobody here knows the type as which the worker reads it.

    Raises:
        JobError: `Validation`; the message names what JSON cannot express.
    """
    raw = encode_json(value, what)
    if not _JSONS_OWN.isinstance_python(value, strict=True):
        check_told(value, raw, what)
    return raw


def _check_taken(travel: Travel, value: Any, taken: Any, what: str) -> None:
    """Refuse values of which a type would leave something out: unknown keys, or what a subclass adds."""
    found = dropped(value, taken) if travel.has_keys else None
    kind = type(taken)
    if kind is not type(value) and isinstance(value, kind) and (issubclass(kind, BaseModel) or is_dataclass(kind)):
        found = change(value, taken)
    if found is not None:
        raise JobError.from_validation(f"{what} is invalid: {found}")


def _travel(adapter: TypeAdapter[Any]) -> Travel:
    parts = list(_parts(adapter.core_schema))
    kinds = {part["type"] for part in parts}
    names = [(part.get("validation_alias"), part.get("serialization_alias")) for part in parts]
    write = partial(
        adapter.serializer.to_json,
        by_alias=all(written is None or _reads(read, written) for read, written in names),
        round_trip=True,
        warnings=False,  # what they would warn of is checked here
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
    """Return whether a dict's keys are texts as in JSON, and a literal's values are JSON's own."""
    if part["type"] == "dict":
        return bool(part.get("keys_schema", part)["type"] == "str")
    return part["type"] != "literal" or PLAIN.issuperset(map(type, part["expected"]))


def _reads(read: Any, written: str) -> bool:
    """Return whether a field is read by the alias under which it is written."""
    return read == written or (isinstance(read, list) and (read == [written] or [written] in read))


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield all parts of a schema, itself included."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            is_part = isinstance(part.get("type"), str)  # otherwise a mapping of names to their meanings
            if is_part:
                yield part
            waiting.extend(each for name, each in part.items() if not (is_part and name in _NO_PARTS))
        elif isinstance(part, list | tuple):
            waiting.extend(part)
