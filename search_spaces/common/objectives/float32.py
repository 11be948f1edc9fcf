"""Losses in float32, whatever number format the network before them ran in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from naslab.kernels._dispatch import autocasting

P = ParamSpec("P")


def in_float32(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """`function` of float32 tensors, with autocast off: also the products inside, which autocast would round.

    Float64 stays. Outside of autocast, and of float32 tensors, nothing changes.
    """

    @wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        tensor = next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        with torch.autocast(tensor.device.type, enabled=False) if autocasting(tensor) else nullcontext():
            return function(*tree_map(_widened, args), **tree_map(_widened, kwargs))

    return computed


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16) else value
