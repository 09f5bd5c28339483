"""The effects of JSON on a value: where something is changed, is left out, or cannot be written at all."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel, RootModel, Secret, SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import to_json

from jsjobs.model.checks import shortened

PLAIN = frozenset({dict, list, str, int, float, bool, type(None)})
"""The types that JSON has by itself."""

Place = tuple[Any, ...]
"""The place of a value: names of fields, keys and indices."""

_SECRETS = (SecretStr, SecretBytes, Secret)
_SEQUENCES = (list, tuple, deque)
_SIMPLE = frozenset({str, int, float, bool, bytes, date, timedelta, UUID})
"""Types whose values are the same if they are equal."""
_MISSING: Any = object()
_MAX_PLACE = 200
_DEEPEST = 200
"""The deepest nesting: JSON readers accept no more levels."""

_NOT_SENT = (
    "a secret is not sent, since its text would be stored in the stream: keep it elsewhere and send its name, or give "
    "the field a serializer of your own that writes its text"
)
_NO_NUMBER = "NaN and infinity are not JSON: leave the number out, or send a string"
_EXCLUDED = "it is excluded from what is written, so only its default can arrive"
_PRIVATE = "a private attribute is not sent"
_NO_KEY = "it is a key, which JSON writes as a string, and it cannot be read back from that"
_DECLARED = "the declared type leaves it out: declare its own type, or a union"


class Change(NamedTuple):
    """Something that is not as it was given, and its place; the text shows no value, which may be anything."""

    place: Place
    text: str

    def __str__(self) -> str:
        where = named(self.place)
        return f"{where}: {self.text}" if where else self.text


def named(place: Place) -> str:
    """Return a place as one line of at most 200 characters."""
    text = ".".join(part if isinstance(part, str) else repr(part) for part in place)
    return shortened(text.encode("utf-8", "backslashreplace").decode(), _MAX_PLACE)


def is_secret(value: object) -> bool:
    """Return whether pydantic shows asterisks instead of the value."""
    return isinstance(value, _SECRETS)


def is_no_number(value: object) -> bool:
    """Return whether the value is NaN or infinity."""
    return isinstance(value, float) and not math.isfinite(value)


# -- after a round trip


def change(given: Any, got: Any, place: Place = ()) -> Change | None:
    """Find the first thing that is not what was given: it has another value or type, or is missing.

    Models and dataclasses are compared field by field: their own `==` may compare anything.
    """
    kind = type(got)
    if type(given) is not kind and _kind(given) is not _kind(got) and not _is_plainer(given, got):
        return Change(place, _mismatch(given, kind))
    if isinstance(given, BaseModel):
        return _changed_model(given, got, place)
    if isinstance(given, dict):
        return _changed_dict(given, got, place)
    if isinstance(given, _SEQUENCES):
        return _changed_items(given, got, place)
    if dataclasses.is_dataclass(given):
        return _changed_dataclass(given, got, place)
    if _is_same(given, got):
        return None
    return Change(place, _NOT_SENT if is_secret(given) else f"{kind.__name__} would arrive with another value")


def _mismatch(given: Any, kind: type) -> str:
    if is_secret(given):
        return _NOT_SENT
    return _NO_NUMBER if is_no_number(given) else f"{type(given).__name__} would arrive as {kind.__name__}"


def _kind(value: Any) -> type:
    """Return the value's class; for a generic model the one without parameters, as its own `==` compares it."""
    generic = getattr(type(value), "__pydantic_generic_metadata__", None)
    return (generic and generic["origin"]) or type(value)


def _is_plainer(given: Any, got: Any) -> bool:
    """Return whether a value came back as the built-in type its own derives from, such as a dict for an OrderedDict."""
    kind = type(got)
    return kind in {*PLAIN, bytes, Decimal, datetime} and isinstance(given, kind) and not isinstance(given, Enum)


def _is_same(given: Any, got: Any) -> bool:
    if isinstance(given, Decimal):
        return bool(given.as_tuple() == got.as_tuple())  # its digits, and NaN
    if isinstance(given, float) and math.isnan(given):
        return math.isnan(got)
    if isinstance(given, datetime | time) and given.utcoffset() is None:
        # `==` overlooks the second of two hours that no zone tells apart, and the zone of a time of day.
        return bool(given == got and given.fold == got.fold and given.tzinfo is got.tzinfo)
    try:
        if given == got or _is_same_moment(given, got):
            return True
    except Exception:  # noqa: BLE001 - an equality of the application's own, such as an array's, that gives no bool
        return True
    # A value without an equality is compared by its content.
    return not _has_equality(given) and change(_content(given), _content(got)) is None


def _has_equality(value: Any) -> bool:
    return getattr(type(value), "__eq__", None) is not object.__eq__


def _is_same_moment(given: Any, got: Any) -> bool:
    # In an hour that comes twice, no moment of one zone equals one of another.
    if not isinstance(given, datetime) or given.utcoffset() is None or got.utcoffset() is None:
        return False
    return bool(given.astimezone(UTC) == got.astimezone(UTC))


def _content(value: Any) -> dict[str, Any]:
    return getattr(value, "__dict__", {})


def _changed_part(parts: Iterable[tuple[Any, Any, Any]], place: Place) -> Change | None:
    for name, one, other in parts:
        if one is other or (type(one) in _SIMPLE and type(one) is type(other) and one == other):
            continue  # this covers most values
        found = change(one, other, (*place, name))
        if found is not None:
            return found
    return None


def _changed_model(given: BaseModel, got: BaseModel, place: Place) -> Change | None:
    before, after, fields = given.__dict__, got.__dict__, type(given).__pydantic_fields__
    if isinstance(given, RootModel):
        return change(before.get("root"), after.get("root"), place)
    found = _changed_part(((name, before.get(name, _MISSING), after.get(name, _MISSING)) for name in fields), place)
    if found is not None:
        return _explained(found, place, fields)
    if given.__pydantic_extra__ or got.__pydantic_extra__:
        found = change(given.__pydantic_extra__ or {}, got.__pydantic_extra__ or {}, place)
    return found if found is not None or not given.__pydantic_private__ else _changed_privates(given, got, place)


def _explained(found: Change, place: Place, fields: Mapping[str, FieldInfo]) -> Change:
    """Return the change of a field; where its declaration excludes the field, the text says so."""
    name = found.place[len(place)]
    return Change((*place, name), _EXCLUDED) if name in fields and fields[name].exclude else found


def _changed_privates(given: BaseModel, got: BaseModel, place: Place) -> Change | None:
    """Find a private attribute with another value than its default; a factory makes a new one, which may differ."""
    before, after = given.__pydantic_private__ or {}, got.__pydantic_private__ or {}
    for name, attribute in type(given).__private_attributes__.items():
        one, other = before.get(name, _MISSING), after.get(name, _MISSING)
        if attribute.default_factory is None and one is not other and not _is_equal(one, other):
            return Change((*place, name), _PRIVATE)
    return None


def _is_equal(one: Any, other: Any) -> bool:
    """Return whether they are equal, as far as that can be told."""
    try:
        return bool(one == other) or (type(one) is type(other) and not _has_equality(one))
    except Exception:  # noqa: BLE001 - as above
        return True


def _changed_dataclass(given: Any, got: Any, place: Place) -> Change | None:
    own = [field.name for field in dataclasses.fields(given)]
    # Also the values that `extra` has kept. A cached property is not one of them: its class knows it.
    more = [name for name in _content(given) if name not in own and not hasattr(type(given), name)]
    parts = ((name, getattr(given, name, _MISSING), getattr(got, name, _MISSING)) for name in own + more)
    found = _changed_part(parts, place)
    return found and _explained(found, place, getattr(type(given), "__pydantic_fields__", {}))


def _changed_dict(given: dict[Any, Any], got: dict[Any, Any], place: Place) -> Change | None:
    for key in given:
        if key not in got:
            what = "it would be left out" if type(key) is str else f"keys are strings in JSON, not {type(key).__name__}"
            return Change((*place, key), what)
    found = _changed_part(((key, value, got[key]) for key, value in given.items()), place)
    return found or (None if len(given) == len(got) else Change(place, "it would arrive with more keys than it has"))


def _changed_items(given: Sequence[Any], got: Sequence[Any], place: Place) -> Change | None:
    if len(given) != len(got):
        return Change(place, f"{len(given)} items would arrive as {len(got)}")
    return _changed_part(zip(range(len(given)), given, got, strict=True), place)


# -- before a round trip


def dropped(given: Any, taken: Any, place: Place = ()) -> Change | None:
    """Find the first key of a dict that its type does not accept and so leaves out."""
    if isinstance(given, dict) and isinstance(taken, dict):
        if len(given) > len(taken):
            left = next(key for key in given if key not in taken)
            return Change((*place, left), "the type has no such key")
        pairs = [(key, value, taken[key]) for key, value in given.items() if key in taken]
    elif isinstance(given, _SEQUENCES) and isinstance(taken, _SEQUENCES):
        pairs = [(index, one, other) for index, (one, other) in enumerate(zip(given, taken, strict=False))]
    else:
        return None
    for name, one, other in pairs:
        found = dropped(one, other, (*place, name))
        if found is not None:
            return found
    return None


# -- as JSON values


def untold(value: Any, written: Any, place: Place = ()) -> Change | None:
    """Find the first thing that a value's JSON lacks: a secret, NaN or infinity, an omitted field, or a lost key."""
    if is_secret(value):
        return Change(place, _NOT_SENT) if isinstance(written, str) and written == str(value) != "" else None
    if is_no_number(value):
        return Change(place, _NO_NUMBER) if written is None else None
    if isinstance(value, BaseModel) or dataclasses.is_dataclass(value):
        if isinstance(value, RootModel):
            return untold(value.root, written, place)
        return _untold_fields(value, written, place) if isinstance(written, dict) else None
    if isinstance(value, dict) and isinstance(written, dict):
        lost = _untold_key(value, written, place)
        if lost is not None:
            return lost
        texts: Iterable[Any] = written.values()
    elif isinstance(value, (*_SEQUENCES, set, frozenset)) and isinstance(written, list):
        texts = written
    else:
        return None
    for (name, each), text in zip(_parts(value), texts, strict=False):
        found = untold(each, text, (*place, name))
        if found is not None:
            return found
    return None


def _untold_key(value: dict[Any, Any], written: dict[str, Any], place: Place) -> Change | None:
    if len(written) < len(value):
        return Change(place, "two of its keys are the same in JSON, where keys are strings")
    return next(
        (Change((*place, key), _NO_KEY) for key in value if key is None or isinstance(key, tuple | frozenset)), None
    )


def _untold_fields(value: Any, written: dict[str, Any], place: Place) -> Change | None:
    kind = type(value)
    decorators = getattr(kind, "__pydantic_decorators__", None)
    if decorators is not None and decorators.model_serializers:
        return None  # its own serializer decides what is written
    fields = getattr(kind, "__pydantic_fields__", {})
    for name, each in _parts(value):
        field = fields.get(name)
        names = {name} if field is None else {name, field.serialization_alias, field.alias}
        key = next((one for one in names if one in written), None)
        if key is not None:
            found = untold(each, written[key], (*place, name))
            if found is not None:
                return found
        elif field is None or not (field.exclude or getattr(field, "exclude_if", None)):
            return Change((*place, name), _DECLARED)
    return None


# -- where it cannot be written


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        yield from ((name, part) for name, part in value.__dict__.items() if name in fields)
        yield from (value.__pydantic_extra__ or {}).items()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))
    elif isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, (*_SEQUENCES, set, frozenset)):
        yield from enumerate(value)


def place_of(value: Any, is_it: Callable[[Any], bool], place: Place = ()) -> Place | None:
    """Return the place of the first such value in another; None where there is none."""
    if is_it(value):
        return place
    if len(place) > _DEEPEST or type(value) is str:
        return None
    for name, part in _parts(value):
        found = place_of(part, is_it, (*place, name))
        if found is not None:
            return found
    return None


def unwritable(value: Any) -> Place:
    """Return the place of the part of a value that cannot be written as JSON."""
    place: Place = ()
    while len(place) <= _DEEPEST:
        part = next(((name, part) for name, part in _parts(value) if not _can_be_written(part)), None)
        if part is None:
            break
        place, value = (*place, part[0]), part[1]
    return place


def _can_be_written(value: Any) -> bool:
    try:
        to_json(value)
    except Exception:  # noqa: BLE001 - a serializer is code, and may raise anything
        return False
    return True
