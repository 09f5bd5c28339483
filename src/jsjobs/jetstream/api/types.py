"""Typed answers of the JetStream API about streams, consumers and the account.

Only what jsjobs reads is declared; the server tells more. Names are the server's own, durations are in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Required, Self, TypedDict

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from jsjobs.jetstream.api.errors import InvalidResponse
from jsjobs.model.times import parse_rfc3339

Declared = dict[str, Any]
"""Settings of a stream or consumer in the server's format: any setting that the server knows may be declared."""


class MessageRequest(TypedDict, total=False):
    """A request for one message of a stream, in the server's format."""

    seq: int
    """The message's sequence; with `next_by_subj`, the sequence to start from."""
    start_time: str
    """The time to start from, in RFC 3339; only together with `next_by_subj`."""
    next_by_subj: str
    last_by_subj: str


class BatchRequest(MessageRequest, total=False):
    """A request for many messages of a stream."""

    batch: Required[int]
    """Maximum number of messages."""
    max_bytes: int
    """Maximum number of bytes."""


def _moment(value: object) -> datetime | None:
    return parse_rfc3339(value) if isinstance(value, str) else None


def _none_is_empty(value: object) -> object:
    return () if value is None else value


def _none_is_no_subject(value: object) -> object:
    return {} if value is None else value


Moment = Annotated[datetime | None, BeforeValidator(_moment)]
"""A time of the server, with nanoseconds cut to microseconds."""


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Position(_Told):
    """A position in a consumer's deliveries and in its stream."""

    consumer_seq: int = 0
    stream_seq: int = 0
    last_active: Moment = None


class Replica(_Told):
    """Another server that has a copy, as seen by the leader."""

    name: str
    current: bool = False
    offline: bool = False
    active: int = 0
    """Nanoseconds since the leader heard from it."""


class Cluster(_Told):
    """The servers that have copies of a stream."""

    leader: str = ""
    replicas: Annotated[tuple[Replica, ...], BeforeValidator(_none_is_empty)] = ()
    """All of them but the leader."""


class Source(_Told):
    """A stream from which another stream takes messages."""

    active: int = -1
    """Nanoseconds since it was heard from; -1 if it never was."""
    seq: int = 0
    """The last delivery from it that was taken."""


class SubjectTransform(_Told):
    """Maps the subjects on which a stream receives messages to those under which it stores them."""

    src: str = ""
    dest: str = ""


class _Config(_Told):
    as_told: Declared
    """All settings, as the server sent them."""

    @model_validator(mode="before")
    @classmethod
    def _keep(cls, value: object) -> object:
        return {**value, "as_told": value} if isinstance(value, dict) else value


class StreamConfig(_Config):
    """The settings of a stream."""

    name: str
    num_replicas: int = 1
    max_bytes: int = -1
    max_msg_size: int = -1
    max_msgs_per_subject: int = -1
    duplicate_window: int = 0
    first_seq: int = 0
    subject_transform: SubjectTransform | None = None


class StreamState(_Told):
    """The contents of a stream, in numbers."""

    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    first_ts: Moment = None
    last_seq: int = 0
    num_subjects: int = 0
    consumer_count: int = 0
    subjects: Annotated[Mapping[str, int], BeforeValidator(_none_is_no_subject)] = Field(default_factory=dict)
    """Number of messages on each of the requested subjects."""


class _Info(_Told):
    @classmethod
    def of(cls, answer: dict[str, Any], what: str) -> Self:
        """Read an answer.

        Raises:
            InvalidResponse: If it is not an answer of the server.
        """
        try:
            return cls.model_validate(answer)
        except ValidationError as error:
            raise InvalidResponse(repr(answer).encode(), what) from error


class StreamInfo(_Info):
    """A stream as the server describes it."""

    config: StreamConfig
    state: StreamState
    created: Annotated[datetime, BeforeValidator(_moment)]
    ts: Annotated[datetime, BeforeValidator(_moment)]
    """The server's time."""
    cluster: Cluster | None = None
    """None if the server is in no cluster."""
    sources: Annotated[tuple[Source, ...], BeforeValidator(_none_is_empty)] = ()
    total: int = 0
    """Number of subjects to report, where they were requested."""

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """Return the other servers that have a copy."""
        return () if self.cluster is None else self.cluster.replicas


class ConsumerConfig(_Config):
    """The settings of a consumer."""

    ack_wait: int = 0
    filter_subject: str = ""
    max_ack_pending: int = 0
    max_deliver: int = -1
    pause_until: Moment = None


class ConsumerInfo(_Info):
    """A consumer as the server describes it."""

    stream_name: str
    name: str
    config: ConsumerConfig
    created: Annotated[datetime, BeforeValidator(_moment)]
    ts: Annotated[datetime, BeforeValidator(_moment)]
    """The server's time."""
    delivered: Position
    ack_floor: Position
    num_pending: int
    """Number of messages not delivered yet."""
    num_ack_pending: int
    """Number of messages delivered and not acknowledged."""
    num_redelivered: int
    num_waiting: int = 0
    """Number of requests that wait for messages; only of a consumer from which messages are pulled."""
    push_bound: bool = False
    """Whether somebody is subscribed to its deliver subject."""
    paused: bool = False

    @property
    def paused_until(self) -> datetime | None:
        """Return when its pause ends, or None if it is not paused."""
        return self.config.pause_until if self.paused else None

    @property
    def last_active(self) -> datetime:
        """Return when it last delivered something, or the server's time if it never did."""
        active = self.delivered.last_active
        return self.ts if active is None else active.astimezone(UTC)


class Limits(_Told):
    """The limits of an account; -1 means no limit."""

    max_memory: int = -1
    max_storage: int = -1
    max_streams: int = -1
    max_consumers: int = -1


class Usage(_Info):
    """Usage and limits of an account, or of one of its tiers."""

    memory: int = 0
    storage: int = 0
    reserved_memory: int = 0
    reserved_storage: int = 0
    streams: int = 0
    limits: Limits = Limits()


class AccountInfo(Usage):
    """The account of a connection as JetStream describes it."""

    tiers: Annotated[Mapping[str, Usage], BeforeValidator(_none_is_no_subject)] = Field(default_factory=dict)
    """Usage and limits for streams with a given number of replicas, by the tier's name, if the server has tiers."""
