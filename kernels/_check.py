"""One clear error for an argument that does not fit."""

from __future__ import annotations

from torch import Tensor


def require(condition: bool, name: str, tensor: Tensor, allowed: str) -> None:
    """Raise a ValueError that names the argument, what it is, and what is allowed, unless the condition holds."""
    if not condition:
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{name}: shape {tuple(tensor.shape)} of {dtype} is not {allowed}")
