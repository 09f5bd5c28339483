"""The subjects of the JetStream API: each function returns an endpoint, named as in permissions, after `$JS.API.`."""

from __future__ import annotations

ACCOUNT_INFO = "INFO"


def subject(endpoint: str) -> str:
    """Return the subject on which an endpoint answers."""
    return f"$JS.API.{endpoint}"


def stream_info(stream: str) -> str:
    """Return the endpoint that describes a stream; `>` stands for any stream."""
    return f"STREAM.INFO.{stream}"


def stream_create(stream: str) -> str:
    """Return the endpoint that creates a stream."""
    return f"STREAM.CREATE.{stream}"


def stream_update(stream: str) -> str:
    """Return the endpoint that changes a stream."""
    return f"STREAM.UPDATE.{stream}"


def stream_delete(stream: str) -> str:
    """Return the endpoint that deletes a stream."""
    return f"STREAM.DELETE.{stream}"


def stream_purge(stream: str) -> str:
    """Return the endpoint that deletes messages of a stream."""
    return f"STREAM.PURGE.{stream}"


def leader_stepdown(stream: str) -> str:
    """Return the endpoint that gives a stream another leader."""
    return f"STREAM.LEADER.STEPDOWN.{stream}"


def message_get(stream: str) -> str:
    """Return the endpoint at which a stream's leader reads one message; `>` stands for any stream."""
    return f"STREAM.MSG.GET.{stream}"


def message_delete(stream: str) -> str:
    """Return the endpoint that deletes one message."""
    return f"STREAM.MSG.DELETE.{stream}"


def direct_get(stream: str) -> str:
    """Return the endpoint at which any replica reads messages; `>` stands for any stream."""
    return f"DIRECT.GET.{stream}"


def consumer_list(stream: str) -> str:
    """Return the endpoint that describes all consumers of a stream; `>` stands for any stream."""
    return f"CONSUMER.LIST.{stream}"


def consumer_info(*consumer: str) -> str:
    """Return the endpoint that describes a consumer, given its stream and its name; `>` stands for any."""
    return ".".join(("CONSUMER.INFO", *consumer))


def next_messages(stream: str, consumer: str) -> str:
    """Return the endpoint that delivers a pull consumer's next messages."""
    return f"CONSUMER.MSG.NEXT.{stream}.{consumer}"


def consumer_create(stream: str, consumer: str) -> str:
    """Return the endpoint that creates or changes a durable consumer."""
    return f"CONSUMER.DURABLE.CREATE.{stream}.{consumer}"


def consumer_delete(stream: str, consumer: str) -> str:
    """Return the endpoint that deletes a consumer."""
    return f"CONSUMER.DELETE.{stream}.{consumer}"


def consumer_pause(stream: str, consumer: str) -> str:
    """Return the endpoint that pauses a consumer."""
    return f"CONSUMER.PAUSE.{stream}.{consumer}"


def changes_nothing(endpoint: str) -> bool:
    """Return whether an endpoint may be asked again when it is not known whether the server got the request."""
    kind, _, rest = endpoint.partition(".")
    return kind == ACCOUNT_INFO or rest.startswith(("INFO.", "LIST.", "MSG.GET."))
