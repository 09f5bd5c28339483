"""What submit accepts the handler receives as it was; what cannot be is refused at submit, naming the field."""

import enum
import math
import re
import uuid
from collections import OrderedDict, defaultdict, deque
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field, fields, is_dataclass, make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AliasPath,
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    Json,
    PrivateAttr,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    computed_field,
    create_model,
    field_serializer,
    field_validator,
    model_serializer,
)
from pydantic.dataclasses import dataclass as checked_dataclass
from pydantic_core import to_json
from typing_extensions import TypedDict

import process_handlers
from jsjobs import JobService
from jsjobs.handlers.registry import Registration, Registry, read_handler
from jsjobs.model.errors import JobError
from jsjobs.operations.compose import body_of

UNTYPED: Any = object()
NOBODY = Registry()
"""Of a process that has no handlers."""


def handler_of(payload: Any = UNTYPED, result: Any = UNTYPED) -> Registration:
    def handler(payload): ...

    handler.__annotations__ = {
        name: one for name, one in (("payload", payload), ("return", result)) if one is not UNTYPED
    }
    return read_handler("t", handler)


def registry_of(handler: Registration) -> Registry:
    registry = Registry()
    registry.register(handler.type, handler.function)
    return registry


def sent(annotation: Any, payload: Any, *, from_elsewhere: bool = False) -> Any:
    """What a handler gets of a payload that was submitted beside it, or in a process that does not know it."""
    handler = handler_of(annotation)
    return handler.read_payload(body_of(NOBODY if from_elsewhere else registry_of(handler), "t", payload))


def told(value: Any) -> Any:
    """All that a value is, its types included, to be compared: an equality of its own may overlook something."""
    kind = type(value)
    if isinstance(value, BaseModel):
        own = {name: told(value.__dict__[name]) for name in kind.model_fields}
        return kind, own, told(value.__pydantic_extra__ or {})
    if is_dataclass(value):
        return kind, {one.name: told(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, dict):
        return kind, {repr(told(key)): told(each) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        return kind, sorted(repr(told(each)) for each in value)
    if isinstance(value, list | tuple | deque):
        return kind, [told(each) for each in value]
    if isinstance(value, datetime) and value.utcoffset() is not None:
        return kind, repr(value.astimezone(UTC))
    if isinstance(value, time) and value.utcoffset() is not None:
        return kind, repr(value.replace(tzinfo=None, fold=0)), value.utcoffset()
    if isinstance(value, SecretStr | SecretBytes | Secret):
        return kind, repr(value.get_secret_value())
    return kind, repr(value)


# -- what arrives


class Colour(enum.Enum):
    RED = "r"
    GREEN = 2


class Size(enum.IntEnum):
    S = 1


class Mode(enum.StrEnum):
    FAST = "fast"


class ReadByAlias(BaseModel):
    user_id: int = Field(validation_alias="userId")


class ReadByMany(BaseModel):
    user_id: int = Field(validation_alias=AliasChoices("userId", AliasPath("user", "id")), serialization_alias="uid")


class WrittenByAlias(BaseModel):
    user_id: int = Field(serialization_alias="userId")


class Aliased(BaseModel):
    model_config = ConfigDict(extra="forbid")
    user_id: int = Field(alias="userId")


class AliasedByName(BaseModel):
    model_config = ConfigDict(validate_by_alias=False, validate_by_name=True)
    user_id: int = Field(alias="userId")


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int
    numbers: Json[list[int]] = []

    @computed_field
    @property
    def twice(self) -> int:
        return self.a * 2


class Revealed(BaseModel):
    password: SecretStr

    @field_serializer("password")
    def write(self, value: SecretStr) -> str:
        return value.get_secret_value()


class Encoded(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    data: bytes


class NamedNumbers(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")
    x: float


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    when: datetime
    id: uuid.UUID
    tags: set[str]


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Cat(BaseModel):
    kind: Literal["cat"] = Field(default="cat", validation_alias="kindOf")
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = Field(default="dog", validation_alias="kindOf")


class Fish(BaseModel):
    kind: Literal["fish"] = "fish"


class Bird(BaseModel):
    kind: Literal["bird"] = "bird"
    wings: int = 2


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    x: T


class Node(BaseModel):
    value: int
    children: "list[Node]" = []


class Ids(RootModel[list[uuid.UUID]]): ...


class NamesOfParts(BaseModel):
    type: uuid.UUID
    default: int = Field(default=1, validation_alias="d")
    metadata: dict[int, str] = {}


class Point(NamedTuple):
    x: int
    y: Decimal


class Private(BaseModel):
    a: int
    _seen: int = PrivateAttr(default=0)
    _made: datetime = PrivateAttr(default_factory=lambda: datetime.now(UTC))
    _lock: object = PrivateAttr(default_factory=object)


@dataclass
class Derived:
    a: int
    b: int = field(init=False)
    note: list[str] = field(default_factory=list, compare=False)

    def __post_init__(self) -> None:
        self.b = self.a + 1


@dataclass(eq=False)
class WithoutEquality:
    a: int


@dataclass
class WithInit:
    a: int
    scale: InitVar[int] = 1


@checked_dataclass
class Checked:
    a: int = Field(default=1, exclude=True)
    b: int = Field(default=2, alias="bee")


class Options(TypedDict):
    a: int
    more: NotRequired[dict[int, str]]


class CannotEqual:
    """What an array does."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value is ambiguous")

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema  # noqa: PLC0415 - here alone

        made = core_schema.no_info_plain_validator_function(lambda v: v if isinstance(v, cls) else cls(v))
        made["serialization"] = core_schema.plain_serializer_function_ser_schema(lambda v: v.text)
        return made


ID = uuid.UUID("9f9b5cd2-4f4b-4c4e-8a94-0d5a0d9e2c11")
TWICE_THERE = datetime(2020, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)


@pytest.mark.parametrize("from_elsewhere", [False, True])
@pytest.mark.parametrize(
    "payload",
    [
        ReadByAlias(userId=1),
        ReadByMany(userId=1),
        WrittenByAlias(user_id=1),
        Aliased(userId=1),
        AliasedByName(user_id=1),
        Computed(a=1, numbers="[1, 2]"),
        Revealed(password="a****b"),
        Encoded(data=b"\xff\x00"),
        NamedNumbers(x=math.nan),
        NamedNumbers(x=math.inf),
        Strict(when=datetime(2026, 1, 1), id=ID, tags={"a", "b"}),  # noqa: DTZ001 - this is the point
        Open(a=1, b=[1], c={"d": None}),
        Box[set[int]](x={1, 2}),
        Box[dict[int, Decimal]](x={1: Decimal("1.10")}),
        Box[dict[tuple[int, int], str] | None](x=None),
        Box[datetime](x=TWICE_THERE),
        Box[bytes](x=b"text"),
        Box[Colour](x=Colour.GREEN),
        Box[Path](x=Path("/a/b")),
        Box[timedelta](x=timedelta(days=-3, microseconds=7)),
        Box[Point](x=Point(1, Decimal("2.0"))),
        Box[Any](x={"a": [1, None, True, 1.5]}),
        Box[CannotEqual](x=CannotEqual("a")),
        Node(value=1, children=[Node(value=2)]),
        Ids([ID]),
        NamesOfParts(type=ID, d=5, metadata={1: "a"}),
        Private(a=1),
        Derived(1, ["a"]),
        WithoutEquality(1),
        WithInit(1),
        Checked(bee=5),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_model_or_dataclass_arrives_as_it_is(payload: Any, from_elsewhere: bool) -> None:
    got = sent(type(payload), payload, from_elsewhere=from_elsewhere)
    if not isinstance(payload, Box) or not isinstance(payload.x, CannotEqual):
        assert told(got) == told(payload)
    else:
        assert got.x.text == payload.x.text


@pytest.mark.parametrize(
    ("annotation", "payload"),
    [
        (dict[int, str], {1: "a"}),
        (set[uuid.UUID], {ID}),
        (frozenset[int], frozenset({1})),
        (deque[int], deque([1])),
        (defaultdict[str, int], defaultdict(int, {"a": 1})),
        (tuple[int, str], (1, "a")),
        (list[bytes], [b"a"]),
        (datetime, datetime(2026, 1, 1)),  # noqa: DTZ001 - this is the point
        (list[time], [time(2, 30, tzinfo=UTC)]),
        (Decimal, Decimal("-0.00")),
        (float | Decimal, Decimal("1.1")),
        (int | Decimal, Decimal(1)),
        (date | datetime, datetime(2020, 1, 1, tzinfo=UTC)),
        (Colour, Colour.RED),
        (Annotated[Cat | Dog, Field(discriminator="kind")], Dog()),
        (Fish | Bird, Bird()),
        (Options, {"a": 1, "more": {1: "b"}}),
        (Box, Box(x=1)),
        (dict[str, Any], {"a": [1, {"b": None}], "c": Mode.FAST}),
        (UNTYPED, {"password": "****", "x": [1, 2.5, None]}),
        (UNTYPED, None),
    ],
)
def test_a_value_of_a_declared_type_arrives_as_it_is(annotation: Any, payload: Any) -> None:
    assert sent(annotation, payload) == payload
    if annotation not in {UNTYPED, dict[str, Any]}:
        assert told(sent(annotation, payload)) == told(payload)


@pytest.mark.parametrize(
    ("annotation", "payload", "value"),
    [
        (ReadByAlias, {"userId": 1}, ReadByAlias(userId=1)),
        (ReadByAlias, {"user_id": 1}, ReadByAlias(userId=1)),
        (ReadByMany, {"user": {"id": 1}}, ReadByMany(userId=1)),
        (Strict, {"when": "2026-01-01T00:00:00Z", "id": str(ID), "tags": ["a"]},
         Strict(when=datetime(2026, 1, 1, tzinfo=UTC), id=ID, tags={"a"})),
        (Bird, {"wings": 4, "unknown": 1}, Bird(wings=4)),
        (Box[int], Box(x=1), Box[int](x=1)),
        (int, "5", 5),
        (dict[str, Any], {"a": OrderedDict(b=1)}, {"a": {"b": 1}}),
        (UNTYPED, Bird(), {"kind": "bird", "wings": 2}),
    ],
)  # fmt: skip
def test_a_handler_gets_what_its_annotation_makes_of_a_payload(annotation: Any, payload: Any, value: Any) -> None:
    assert sent(annotation, payload) == value


# -- what is refused


class Login(BaseModel):
    password: SecretStr | None = None
    key: SecretBytes | None = None
    pin: Secret[int] | None = None


class Numbers(BaseModel):
    x: float | None = None
    more: dict[str, list[float | None]] = {}
    all: list[float] = []


class Animal(BaseModel):
    name: str = "a"


class Lion(Animal):
    roars: bool = True


class Zoo(BaseModel):
    animals: list[Animal] = []


class Excluding(BaseModel):
    a: int = Field(default=1, exclude=True)
    b: int = 2


class ExcludingAlways(BaseModel):
    a: int = Field(exclude=True)


class Hashing(BaseModel):
    password: str

    @field_validator("password", mode="before")
    def hashed(cls, value: str) -> str:  # noqa: N805 - a class method
        return f"#{value}"


class Swapped(BaseModel):
    a: int = Field(validation_alias="b", serialization_alias="x")
    b: int = Field(validation_alias="a", serialization_alias="y")


class Summed(BaseModel):
    a: int
    b: int = 0

    @model_serializer
    def write(self) -> dict[str, int]:
        return {"a": self.a + self.b}


class Mixed(BaseModel):
    either: str | Mode = ""
    text: str | uuid.UUID = ""
    items: Sequence[int] = []
    any: Any = None


def changed(value: Any, **values: Any) -> Any:
    """The same object, changed behind the back of its validation."""
    for name, one in values.items():
        setattr(value, name, one)
    return value


REFUSED = [
    (Login(password="x"), r"password: a secret is not sent.*keep it elsewhere"),
    (Login(key=b"x"), r"key: a secret is not sent"),
    (Login(pin=5), r"pin: a secret is not sent"),
    (Numbers(x=math.nan), r"x: NaN and infinity are not JSON"),
    (Numbers(more={"a": [1.0, math.inf]}), r"more\.a\.1: NaN and infinity"),
    (Numbers(all=[1.0, math.nan]), r"all\.1: NaN and infinity"),
    (Zoo(animals=[Animal(), Lion()]), r"animals\.1: Lion would arrive as Animal"),
    (Excluding(a=5), r"a: it is excluded"),
    (ExcludingAlways(a=5), r"a: Field required"),
    (Hashing(password="x"), r"password: str would arrive with another value"),
    (Swapped(b=1, a=2), r"a: int would arrive with another value"),
    (Summed(a=1, b=2), r"a: int would arrive with another value"),
    (Mixed(either=Mode.FAST), r"either: Mode would arrive as str"),
    (Mixed(text=str(ID)), r"text: str would arrive as UUID"),
    (Mixed(items=(1, 2)), r"items: tuple would arrive as list"),
    (Mixed(any={1: "a"}), r"any\.1: keys are strings in JSON, not int"),
    (Mixed(any={None: "a"}), r"any\.None: keys are strings"),
    (Mixed(any={(1, 2): "a"}), r"any\.\(1, 2\): keys are strings"),
    (Mixed(any={"x": {ID}}), r"any\.x: set would arrive as list"),
    (Mixed(any=[datetime(2026, 1, 1, tzinfo=UTC)]), r"any\.0: datetime would arrive as str"),
    (Mixed(any=[Animal()]), r"any\.0: Animal would arrive as dict"),
    (Mixed(any=[b"\xff"]), r"cannot be written as JSON at any\.0"),
    (Mixed(any={"x": object()}), r"cannot be written as JSON at any\.x"),
    (Open(a=1, b=ID), r"b: UUID would arrive as str"),
    (Box[bytes](x=b"\xff"), r"cannot be written as JSON at x"),
    (Box[datetime](x=datetime(2020, 1, 1, tzinfo=timezone(timedelta(seconds=1)))), r"x: datetime would arrive"),
    (Box[time](x=time(2, 30, fold=1)), r"x: time would arrive with another value"),
    (Box[time](x=time(2, 30, tzinfo=ZoneInfo("Europe/Berlin"))), r"x: time would arrive with another value"),
    (Box[datetime](x=datetime(2020, 10, 25, 2, 30, fold=1)), r"x: datetime would arrive"),  # noqa: DTZ001 - no zone
    (changed(Private(a=1), _seen=5), r"_seen: a private attribute is not sent"),
    (changed(Animal(), name=5), r"name: Input should be a valid string"),
    (changed(Derived(1), b=7), r"b: int would arrive with another value"),
    (Derived(1, [ID]), r"note\.0: "),  # type: ignore[list-item]
    (Checked(a=5), r"a: it is excluded"),
]


@pytest.mark.parametrize("from_elsewhere", [False, True])
@pytest.mark.parametrize(("payload", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_what_would_not_arrive_is_refused_by_its_name(payload: Any, why: str, from_elsewhere: bool) -> None:
    with pytest.raises(JobError, match=rf"the payload of t .*{why}") as caught:
        sent(type(payload), payload, from_elsewhere=from_elsewhere)
    assert caught.value.reason == "Validation"
    assert "x" not in caught.value.message.partition("password")[2].partition(":")[0]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        ({(1, 2): 3}, r"\(1, 2\): it is a key, which JSON writes as a string"),
        ([{"a": {None: 3}}], r"0\.a\.None: it is a key"),
        ({"a": {1: "x", "1": "y"}}, r"a: two of its keys are the same"),
        ({"a": [SecretStr("s")]}, r"a\.0: a secret is not sent"),
        ({"a": Numbers(x=math.nan)}, r"a\.x: NaN and infinity"),
    ],
)
@pytest.mark.parametrize("is_known", [False, True])
def test_what_json_does_not_tell_is_refused_without_a_type_too(payload: Any, why: str, is_known: bool) -> None:
    registry = Registry()
    if is_known:
        registry.register("t", lambda payload: None)
    with pytest.raises(JobError, match=rf"the payload of t .*{why}"):
        body_of(registry, "t", payload)


@pytest.mark.parametrize(
    "payload", [{1: "a", ID: {2.5: [datetime(2026, 1, 1, tzinfo=UTC)]}}, (1, {2}), {"a": Animal()}]
)
def test_what_json_tells_in_its_own_way_is_sent_without_a_type(payload: Any) -> None:
    assert body_of(Registry(), "t", payload) == to_json(payload)


def test_a_number_too_large_for_a_float_is_infinity_unless_the_type_says_finite() -> None:
    def loose(payload: list[float]) -> None: ...

    def strict(payload: list[FiniteFloat]) -> None: ...

    assert read_handler("t", loose).read_payload(b"[1E400]") == [math.inf]
    with pytest.raises(JobError, match="finite number"):
        read_handler("t", strict).read_payload(b"[1E400]")


@pytest.mark.parametrize(
    ("annotation", "payload", "why"),
    [
        (Animal, Lion(), "Lion would arrive as Animal"),
        (list[Animal], [Lion()], r"0: Lion would arrive as Animal"),
        (list[float], [1.0, math.nan], r"is not JSON.*see 1"),
        (dict[str, bytes], {"k": b"\xff"}, r"at k"),
        (dict[tuple[int, int], str], {(1, 2): "a"}, r"\(1, 2\): it is a key"),
        (dict[str | None, int], {None: 1}, r"None: keys are strings"),
        (dict[str, Any], {"when": datetime(2026, 1, 1, tzinfo=UTC)}, r"when: datetime would arrive as str"),
        (dict[str, str], {1: "a"}, r"1.*valid string"),
        (list[int] | set[int], {1}, "set would arrive as list"),
        (Options, {"a": 1, "b": 2}, r"b: the type has no such key"),
        (list[Options], [{"a": 1}, {"a": 1, "more": {}, "b": 2}], r"1\.b: the type has no such key"),
        (Box, Box[uuid.UUID](x=ID), r"x: UUID would arrive as str"),
        (UNTYPED, {"a": [Login(password="y")]}, r"a\.0\.password: a secret is not sent"),
        (UNTYPED, {"a": SecretStr("y")}, r"a: a secret is not sent"),
        (UNTYPED, {"a": {"b": math.nan}}, r"is not JSON.*see a\.b"),
        (UNTYPED, {"a": [1, "\ud800"]}, r"at a\.1"),
        (UNTYPED, Numbers(x=math.nan), r"x: NaN and infinity"),
    ],
)
def test_what_would_not_arrive_of_a_declared_type_is_refused(annotation: Any, payload: Any, why: str) -> None:
    with pytest.raises(JobError, match=why) as caught:
        sent(annotation, payload)
    assert caught.value.reason == "Validation"


def test_no_error_shows_a_secret_or_a_value() -> None:
    for payload in (Login(password="hunter2"), Hashing(password="hunter2"), {"a": SecretStr("hunter2")}):
        with pytest.raises(JobError) as caught:
            sent(UNTYPED if isinstance(payload, dict) else type(payload), payload)
        assert "hunter2" not in str(caught.value)


def test_the_deepest_payload_is_compared_too() -> None:
    deep = Node(value=0)
    for number in range(85):
        deep = Node(value=number, children=[deep])
    assert sent(Node, deep) == deep


def test_a_plain_type_is_not_looked_at_again() -> None:
    for annotation in (int, str, list[str], dict[str, float], tuple[int, str], str | None, Literal["a", 1]):
        assert handler_of(annotation).payload.look().write is None, annotation
    for annotation in (Any, dict[int, str], Literal[Colour.RED], set[int], Animal, int | str):
        assert handler_of(list[annotation]).payload.look().write is not None, annotation


# -- any type, any value

LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers()),
    (bool, st.booleans()),
    (str, st.text()),
    (float, st.floats()),
    (Decimal, st.decimals()),
    (bytes, st.binary()),
    (Base64Bytes, st.binary()),
    (uuid.UUID, st.uuids()),
    (date, st.dates()),
    (time, st.times(timezones=st.none() | st.just(UTC))),
    (datetime, st.datetimes(timezones=st.none() | st.timezones())),
    (timedelta, st.timedeltas()),
    (Colour, st.sampled_from(Colour)),
    (Size, st.sampled_from(Size)),
    (Mode, st.sampled_from(Mode)),
    (Path, st.from_regex(r"[a-z]{1,5}(/[a-z]{1,5}){0,2}", fullmatch=True).map(Path)),
    (SecretStr, st.text().map(SecretStr)),
    (type(None), st.none()),
]
KEYS = [pair for pair in LEAVES if pair[0] in {int, str, uuid.UUID, date, Colour, bool}]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=5,
)
"""And a little more: keys, and numbers, that JSON does not have."""
OPTIONS = [(), (), ("alias",), ("validation_alias",), ("serialization_alias",), ("exclude",)]
"""What a field may say."""


@st.composite
def any_pair(draw: st.DrawFn, depth: int = 2) -> tuple[Any, Any]:
    """A type and a value of it."""
    if depth == 0 or draw(st.booleans()):
        kind, values = draw(st.sampled_from(LEAVES))
        return kind, draw(values)
    how = draw(st.sampled_from(["list", "set", "dict", "tuple", "union", "any", "model", "dataclass"]))
    if how == "any":
        return Any, draw(JSON | st.uuids())
    if how in {"set", "dict"}:
        kind, keys = draw(st.sampled_from(KEYS))
        if how == "set":
            return set[kind], draw(st.sets(keys, max_size=3))
        of, value = draw(any_pair(depth - 1))
        return dict[kind, of], dict.fromkeys(draw(st.sets(keys, max_size=2)), value)
    one, value = draw(any_pair(depth - 1))
    if how == "list":
        return list[one], [value] * draw(st.integers(0, 2))
    if how in {"model", "dataclass"}:
        payload = draw(any_object(depth - 1))
        return type(payload), payload
    other, beside = draw(any_pair(depth - 1))
    if how == "tuple":
        return tuple[one, other], (value, beside)
    return one | other if isinstance(one, type) and isinstance(other, type) else (one, value)[0], value


@st.composite
def any_object(draw: st.DrawFn, depth: int = 2) -> Any:
    """A model or dataclass, some of whose fields have aliases, or are left out."""
    pairs = draw(st.lists(any_pair(depth), min_size=1, max_size=3))
    values = {f"f{number}": value for number, (_, value) in enumerate(pairs)}
    if draw(st.booleans()):
        return make_dataclass("Drawn", [(f"f{number}", kind) for number, (kind, _) in enumerate(pairs)])(**values)
    options = [
        {name: True if name == "exclude" else f"f{number}{name[0]}" for name in draw(st.sampled_from(OPTIONS))}
        for number in range(len(pairs))
    ]
    of = {f"f{n}": (kind, Field(**option)) for n, ((kind, _), option) in enumerate(zip(pairs, options, strict=True))}
    payload = create_model("Drawn", **of).model_construct()
    payload.__dict__.update(values)
    return payload


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(any_object(), st.booleans())
def test_any_value_arrives_as_it_is_or_is_refused_by_its_name(payload: Any, from_elsewhere: bool) -> None:
    handler = handler_of(type(payload))
    registry = NOBODY if from_elsewhere else registry_of(handler)
    try:
        body = body_of(registry, "t", payload)
    except JobError as error:
        refusal = error
    else:
        assert told(handler.read_payload(body)) == told(payload)
        return
    assert refusal.reason == "Validation"
    assert re.search(r"\bf\d", refusal.message), refusal.message


# -- results


@pytest.mark.parametrize("is_declared", [False, True])
@pytest.mark.parametrize(
    ("result", "why"),
    [
        (Numbers(x=math.nan), r"x: NaN and infinity"),
        (Login(password="x"), r"password: a secret"),
        (Login(pin=5), r"pin: a secret"),
        (Zoo(animals=[Lion()]), r"animals\.0\.roars: the declared type leaves it out"),
        (Box[dict[Any, int]](x={1: 1, "1": 2}), r"x: two of its keys are the same"),
        (Box[bytes](x=b"\xff"), r"at x"),
    ],
)
def test_a_result_that_json_does_not_tell_is_refused(result: Any, why: str, is_declared: bool) -> None:
    with pytest.raises(JobError, match=rf"the result of t .*{why}") as caught:
        handler_of(result=type(result) if is_declared else UNTYPED).write_result(result)
    assert caught.value.reason == "Validation"


@pytest.mark.parametrize("kind", [UNTYPED, list[SecretStr], list[Any]])
def test_a_secret_outside_of_a_model_is_no_result(kind: Any) -> None:
    with pytest.raises(JobError, match=r"the result of t .* 1: a secret is not sent"):
        handler_of(result=kind).write_result([SecretStr(""), SecretStr("hunter2")])


@pytest.mark.parametrize(
    ("result", "written"),
    [
        (Computed(a=1, numbers="[1]"), b'{"a":1,"numbers":[1],"twice":2}'),
        (Excluding(a=5), b'{"b":2}'),
        (Derived(1, ["x"]), b'{"a":1,"b":2,"note":["x"]}'),
        (Checked(a=5, bee=7), b'{"bee":7}'),
        (Private(a=1), b'{"a":1}'),
        (Revealed(password="a****"), b'{"password":"a****"}'),
        (Summed(a=1, b=2), b'{"a":3}'),
        (Ids([ID]), b'["%b"]' % str(ID).encode()),
        (Zoo(animals=[Animal()]), b'{"animals":[{"name":"a"}]}'),
        (Numbers(), b'{"x":null,"more":{},"all":[]}'),
        ({"when": datetime(2026, 1, 1, tzinfo=UTC)}, b'{"when":"2026-01-01T00:00:00Z"}'),
        ({"text": "****"}, b'{"text":"****"}'),
    ],
)
def test_a_result_is_given_as_its_json_tells_it(result: Any, written: bytes) -> None:
    declared = dict[str, Any] if isinstance(result, dict) else type(result)
    assert handler_of(result=declared).write_result(result) == written
    assert handler_of().write_result(result) == written


# -- jobs


async def test_handlers_of_every_kind_receive_what_was_submitted(jobs: JobService) -> None:
    payloads = [
        ReadByAlias(userId=1),
        Computed(a=1, numbers="[1]"),
        Encoded(data=b"\xff"),
        Box[dict[int, set[uuid.UUID]]](x={1: {ID}}),
        Derived(1),
        Dog(),
    ]
    received: dict[str, Any] = {}

    def listen(name: str, annotation: Any, is_async: bool) -> None:
        def plain(payload: Any) -> None:
            received[name] = payload

        async def asynchronous(payload: Any) -> None:
            received[name] = payload

        handler = asynchronous if is_async else plain
        handler.__annotations__["payload"] = annotation
        jobs.register_handler(name, handler)

    async with JobService(jobs.config) as elsewhere:
        for number, payload in enumerate(payloads):
            listen(f"here-{number}", type(payload), is_async=True)
            listen(f"elsewhere-{number}", type(payload), is_async=False)
        jobs.register_handler("in-process", process_handlers.named, run_in="process")
        async with jobs.worker():
            ids = [await jobs.submit(f"here-{number}", payload) for number, payload in enumerate(payloads)]
            ids += [await elsewhere.submit(f"elsewhere-{number}", payload) for number, payload in enumerate(payloads)]
            await jobs.results(ids)
            assert await jobs.result(await jobs.submit("in-process", process_handlers.Named(userId=7))) == 7
    for number, payload in enumerate(payloads):
        assert told(received[f"here-{number}"]) == told(received[f"elsewhere-{number}"]) == told(payload)


async def test_every_way_to_submit_refuses_what_would_not_arrive(jobs: JobService) -> None:
    bad, good = Numbers(x=math.nan), Numbers(x=1.5)
    for submitting in (
        jobs.submit("t", bad),
        jobs.submit("t", [good, bad]),
        jobs.submit("t", bad, delay=60),
        jobs.submit_payloads([JobService.Payload(type="t", payload=good), JobService.Payload(type="t", payload=bad)]),
        jobs.schedules.add("nightly", "t", bad, cron="@daily"),
    ):
        with pytest.raises(JobService.Error, match="x: NaN and infinity are not JSON") as caught:
            await submitting
        assert caught.value.reason == "Validation"
    assert await jobs.schedules.list() == []


async def test_a_result_that_json_does_not_tell_fails_its_job(jobs: JobService) -> None:
    @jobs.handler("t")
    async def handler(payload: object) -> Numbers:
        return Numbers(x=math.inf)

    async with jobs.worker():
        with pytest.raises(JobService.Error, match=r"the result of t .*x: NaN and infinity") as caught:
            await jobs.result(await jobs.submit("t"))
    assert caught.value.reason == "Validation"
