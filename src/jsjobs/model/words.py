"""Enumerations of words, which are the same in Python, in JSON and on the wire."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Word(StrEnum):
    """An enumeration whose members pydantic writes as the texts that they are.

    By itself it asks each for its `value`, which is a Python function up to Python 3.11; an entry holds several.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """As pydantic's, but for how it is written."""
        schema: Any = handler(source)
        return {**schema, "serialization": core_schema.simple_ser_schema("str")}


def things(count: int, what: str) -> str:
    """Say how many there are of something, as `1 job` or `2,000 jobs`.

    Args:
        count: How many.
        what: The word for one; its plural ends with an s, or with es after an s.
    """
    plural = "es" if what.endswith("s") else "s"
    return f"{count:,} {what}{'' if count == 1 else plural}"
