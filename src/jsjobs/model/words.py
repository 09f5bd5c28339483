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
