"""One clear error for an argument that does not fit."""

from __future__ import annotations

from torch import Tensor


def require(condition: bool, name: str, tensor: Tensor, allowed: str) -> None:
    """Raise a ValueError that names the argument, what it is, and what is allowed, unless the condition holds."""
    if not condition:
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{name}: shape {tuple(tensor.shape)} of {dtype} is not {allowed}")


def same_device(name: str, tensor: Tensor, other: Tensor) -> None:
    """Raise a ValueError unless both lie on one device: a loop handed a tensor of another reads foreign memory."""
    if tensor.device != other.device:
        raise ValueError(f"{name}: on {tensor.device}, but the other tensors are on {other.device}")
