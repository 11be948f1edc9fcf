"""One clear error for an invalid argument.

Sizes are put into words on failure alone: a sentence made on every call would tie torch.compile and torch.export to the
sizes that it names.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch.autograd import forward_ad

CHECKED = os.environ.get("NASLAB_KERNELS") == "checked"
"""Look at the values of indices on GPUs too, which waits for the device."""


def misfit(name: str, tensor: Tensor, allowed: str) -> ValueError:
    """The error that names the argument, what it is, and what is allowed."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return ValueError(f"{name}: shape {tuple(tensor.shape)} of {dtype} is not {allowed}")


def same_device(name: str, tensor: Tensor, other: Tensor) -> None:
    """Raise a ValueError unless both lie on one device: a loop handed a tensor of another reads foreign memory."""
    if tensor.device != other.device:
        raise ValueError(f"{name}: on {tensor.device}, but the other tensors are on {other.device}")


def check_indices(name: str, indices: Tensor, shape: tuple[int, ...], upper: int, other: Tensor) -> None:
    """Raise a ValueError unless they are int64 of this shape on the device of `other`, and each is 0 to upper - 1.

    Values are looked at where that does not wait for a device, or with NASLAB_KERNELS=checked.
    """
    if indices.dtype != torch.int64 or indices.shape != shape:
        raise misfit(name, indices, f"int64 {tuple(shape)}")
    same_device(name, indices, other)
    if (indices.is_cpu or CHECKED) and has_values(indices) and indices.numel():
        values = indices.detach().cpu().numpy()  # unseen by counters of operations
        for worst in (values.min(), values.max()):
            if not 0 <= worst < upper:
                raise ValueError(f"{name}: index {worst} is not 0 to {upper - 1}")


def has_values(tensor: Tensor) -> bool:
    """Whether it holds numbers that Python may see: not while a program is traced, and not under torch.func."""
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and not tensor.is_meta
    return plain and not torch.compiler.is_compiling() and not transformed()


def transformed() -> bool:
    """Whether torch.func maps or differentiates what runs here, or tensors carry forward-mode gradients."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
