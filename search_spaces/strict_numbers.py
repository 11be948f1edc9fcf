"""Strict numbers: pydantic's schemas without the conversions that would hide a typo in a study file."""

from __future__ import annotations

from typing import Any

from pydantic_core import PydanticCustomError, core_schema

LARGEST = 2**63 - 1
"""The largest integer that a database keeps."""


def strict_numbers(schema: Any, one_of_several: bool = False) -> Any:
    """The schema with booleans and real numbers taken as they are, and integers from whole numbers alone.

    Args:
        one_of_several: of a union, where 2.0 may be meant as the real number that it is.
    """
    if isinstance(schema, list | tuple):
        return type(schema)(strict_numbers(part, one_of_several) for part in schema)
    if not isinstance(schema, dict):
        return schema
    match schema.get("type"):
        case "bool" | "float":
            return {**schema, "strict": True}
        case "int":
            limited: Any = {"le": LARGEST, "ge": -LARGEST, **schema, "strict": True}
            return limited if one_of_several else core_schema.no_info_before_validator_function(_whole, limited)
    several = schema.get("type") == "union"
    return {name: part if name == "metadata" else strict_numbers(part, several) for name, part in schema.items()}


def _whole(value: Any) -> Any:
    """1e6 is an integer to whoever writes it; True, "3" and infinity are none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise PydanticCustomError("whole_number", "must be an integer")
    return value
