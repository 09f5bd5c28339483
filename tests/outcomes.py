"""What a call ends in, where either a value or a `JobError` is right."""

from collections.abc import Callable
from typing import Any

from jsjobs.model.errors import JobError


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """The value, or the `JobError` that was raised; any other exception is a failure."""
    try:
        return function(*arguments)
    except JobError as error:
        return error
