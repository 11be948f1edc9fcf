"""A model's state outside itself: in its class, and in the globals of its functions."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

LIBRARIES = ("torch", "torchvision", "timm", "transformers", "numpy", "builtins", "collections")
"""Packages whose classes and functions keep no state of a model's in themselves."""
KEPT = (int, float, complex, str, bytes, bool, type(None), list, dict, set, deque, bytearray, np.ndarray, Tensor)
"""What a class, or a function's module, may keep state in."""


def own_classes(thing: Any) -> list[type]:
    """Classes of a module, outside libraries, whose attributes may be its state."""
    if not isinstance(thing, nn.Module):
        return []
    return [kind for kind in type(thing).__mro__ if not _of_library(kind)]


def kept_by(kind: type) -> dict[str, Any]:
    """Attributes of a class that are values, by name."""
    return {name: value for name, value in vars(kind).items() if not name.startswith("__") and isinstance(value, KEPT)}


def functions_of(kind: type) -> list[types.FunctionType]:
    """Functions that a class defines."""
    return [value for value in vars(kind).values() if isinstance(value, types.FunctionType)]


def rebind_class(kind: type, saved: Mapping[str, Any]) -> None:
    """Give a class the values that it had, and no others."""
    for name in kept_by(kind).keys() - saved.keys():
        delattr(kind, name)
    for name, value in saved.items():
        setattr(kind, name, value)


def globals_of(function: types.FunctionType) -> list[str]:
    """Names of a function's globals that hold state, or are functions of the same module."""
    variables = function.__globals__
    if _of_library(function):
        return []

    def counts(value: Any) -> bool:
        return isinstance(value, KEPT) or (isinstance(value, types.FunctionType) and value.__globals__ is variables)

    return [name for name in function.__code__.co_names if name in variables and counts(variables[name])]


def rebind(variables: dict[str, Any], names: list[str], values: list[Any]) -> None:
    """Give globals the values that they had."""
    variables.update(zip(names, values, strict=True))


def _of_library(thing: Any) -> bool:
    return str(thing.__module__).partition(".")[0] in LIBRARIES
