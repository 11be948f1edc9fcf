"""The schema of an operation, read once per operation, because torch rebuilds it at each request."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch._ops import HigherOrderOperator


@dataclass(frozen=True)
class _Schema:
    name: str
    arguments: tuple[str, ...]
    defaults: Mapping[str, Any]
    is_mutable: bool
    is_view: bool


FLEX_ATTENTION = ("query", "key", "value", "score_mod", "block_mask")
"""What the higher-order operation with a formula is given; these have no schema."""


@functools.cache
def _schema(func: Any) -> _Schema:
    if not hasattr(func, "_schema"):
        return _Schema(f"higher_order::{func.name()}", FLEX_ATTENTION, {}, is_mutable=False, is_view=False)
    schema = func._schema
    namespace, _, name = schema.name.partition("::")
    if schema.is_mutable:
        name = name.removesuffix("_")
    aliases = [result.alias_info for result in schema.returns]
    return _Schema(
        name if namespace == "aten" else f"{namespace}::{name}",
        tuple(argument.name for argument in schema.arguments),
        {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()},
        bool(schema.is_mutable),
        any(alias is not None and not alias.is_write for alias in aliases),
    )


def operation_name(func: Any) -> str:
    """Key of an operation in FORMULAS: `aten::add_.Tensor` is "add", other namespaces keep theirs."""
    return _schema(func).name


def bound(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call by the names of the operation's schema, defaults filled in."""
    schema = _schema(func)
    return {**schema.defaults, **dict(zip(schema.arguments, args, strict=False)), **kwargs}


def is_mutable(func: Any) -> bool:
    """Whether an operation writes to one of its arguments."""
    return _schema(func).is_mutable


def is_view(func: Any) -> bool:
    """Whether the result of an operation aliases an argument without writing to it."""
    return _schema(func).is_view


def is_higher_order(func: Any) -> bool:
    """Whether an operation takes functions, which torch runs out of a dispatch mode's sight."""
    return isinstance(func, HigherOrderOperator)
