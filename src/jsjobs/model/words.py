"""Enumerations of words that are the same in Python, in JSON and on the wire."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Word(StrEnum):
    """An enumeration whose members pydantic writes as the texts they are.

    By default pydantic asks each member for its `value`, which is a Python function up to Python 3.11. An entry holds
    several members.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema as pydantic makes it, but with members written as their texts."""
        schema: Any = handler(source)
        return {**schema, "serialization": core_schema.simple_ser_schema("str")}


def things(count: int, what: str) -> str:
    """Format a count of something, such as `1 job` or `2,000 jobs`.

    Args:
        count: The number.
        what: The word for one; its plural ends in s, or in es after an s.
    """
    plural = "es" if what.endswith("s") else "s"
    return f"{count:,} {what}{'' if count == 1 else plural}"
